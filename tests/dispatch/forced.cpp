// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/dispatch/dispatch.hpp>

#include "dispatch/child.hpp"
#include "dispatch/compare.hpp"
#include "support/coverage.hpp"

using namespace nibble;
using test::in_child;

namespace {

/// The message that a product throws, or what happened instead.
std::string message_of_product() {
  const any_qmatrix q = test::random_qmatrix({.bits = 4}, 5, 64, 1);
  const packed_matrix packed = pack_matrix(q.view());
  const std::vector<float> x(64, 1.0f);
  std::vector<float> y(5, 42.0f);
  try {
    dispatch::multiply(make_span2d(x.data(), 1, 64), packed, make_span2d(y.data(), 1, 5));
  } catch (const error& e) {
    if (e.code() != errc::unsupported_isa) return std::string("another error: ") + e.what();
    if (y != std::vector<float>(5, 42.0f)) return "Y was written before the error";
    return e.what();
  }
  return "no error";
}

bool contains(const std::string& text, std::string_view piece) { return text.find(piece) != std::string::npos; }

}  // namespace

TEST_CASE("forced: every tier that this CPU runs multiplies like the scalar backend, integers bit for bit") {
  const std::vector<std::string_view> tiers = dispatch::available();
  REQUIRE(!tiers.empty());
  for (const std::string_view tier : tiers) {
    CAPTURE(tier);
    const std::string answer = in_child(std::string(tier).c_str(), [&]() -> std::string {
      if (dispatch::active() != tier) return "active: " + std::string(dispatch::active());
      if (NIBBLE_HAS_XSIMD && dispatch::active_kernels() != tier)
        return "kernels: " + std::string(dispatch::active_kernels());
      const test::compared result = test::compare_with_scalar();
      if (!result.wrong.empty()) return "differs: " + result.wrong;
      return result.products > 2000 ? "equal" : "only " + std::to_string(result.products) + " products";
    });
    CHECK(answer == "equal");
    if (answer == "equal") nibble_test_record_covered(tier);
  }
  MESSAGE("tiers that ran: " << dispatch::detail::list(tiers));
}

TEST_CASE("forced: an unknown name is an error that names it and lists what is there") {
  for (const char* const value : {"avx9000", "AVX2", "avx", "sse2 ", "native"}) {
    CAPTURE(value);
    const std::string message = in_child(value, message_of_product);
    CHECK(contains(message, "NIBBLE_FORCE_ISA is \"" + std::string(value) + "\""));
    CHECK(contains(message, "names no tier of this build"));
    CHECK(contains(message, "available here: " + dispatch::detail::list(dispatch::available())));
    CHECK(contains(message, "unsupported_isa"));
  }
}

TEST_CASE("forced: a tier of this build that this CPU lacks is an error, not a lower tier") {
  const std::vector<std::string_view> here = dispatch::available();
  for (const std::string_view tier : dispatch::detail::tiers(true)) {
    if (std::find(here.begin(), here.end(), tier) != here.end()) continue;
    CAPTURE(tier);
    const std::string message = in_child(std::string(tier).c_str(), message_of_product);
    CHECK(contains(message, "\"" + std::string(tier) + "\", which this CPU does not run"));
  }
}

TEST_CASE("forced: scratch sizes, the active tier and backend answer the same way") {
  const std::string answer = in_child("none", []() -> std::string {
    const any_qmatrix q = test::random_qmatrix({.bits = 4}, 5, 64, 1);
    const packed_matrix packed = pack_matrix(q.view());
    int errors = 0;
    const auto count = [&](auto&& f) {
      try {
        f();
      } catch (const error& e) {
        errors += e.code() == errc::unsupported_isa;
      }
    };
    count([&] { dispatch::gemm_scratch_bytes(packed.view(), 1); });
    count([&] { dispatch::active(); });
    count([&] { dispatch::active_kernels(); });
    const bool refused =
        !dispatch::backend::runs_here() && dispatch::backend::can_multiply(packed.view(), {}) == errc::unsupported_isa;
    return std::to_string(errors) + (refused ? " refused" : " accepted");
  });
  CHECK(answer == "3 refused");
}

TEST_CASE("forced: not set or empty, the best available tier serves") {
  for (const char* const value : {static_cast<const char*>(nullptr), ""})
    CHECK(in_child(value, [] { return std::string(dispatch::active()); }) == dispatch::available().back());
}

TEST_CASE("forced: the choice holds for the life of the process") {
  const std::string first(dispatch::available().front());
  const std::string answer = in_child(first.c_str(), [] {
    std::string seen(dispatch::active());
    setenv("NIBBLE_FORCE_ISA", "avx9000", 1);
    return seen + " " + std::string(dispatch::active());
  });
  CHECK(answer == first + " " + first);
}
