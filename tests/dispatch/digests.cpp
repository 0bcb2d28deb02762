// SPDX-License-Identifier: MIT
//
// Every tier that this CPU runs gives the committed bits: all formats, few rows and many, other scales and types.

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include <nibble/dispatch/dispatch.hpp>

#include "dispatch/child.hpp"
#include "support/digests.hpp"

using namespace nibble;
namespace digests = test::digests;

TEST_CASE("digests: integer products of every tier are those committed") {
  REQUIRE(!dispatch::available().empty());
  for (const std::string_view tier : dispatch::available()) {
    CAPTURE(tier);
    CHECK(test::in_child(std::string(tier).c_str(), [] {
            return digests::differing(digests::of_products<dispatch::backend>(layout_id::panel16), "product ");
          }) == "");
  }
}

TEST_CASE("digests: on every tier products with other scales of activations and other types are those committed") {
  REQUIRE(!dispatch::available().empty());
  for (const std::string_view tier : dispatch::available()) {
    CAPTURE(tier);
    CHECK(test::in_child(std::string(tier).c_str(),
                         [] { return digests::differing(digests::of_modes<dispatch::backend>(), "mode "); }) == "");
  }
}
