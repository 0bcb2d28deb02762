// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

#include <nibble/core/error.hpp>

using nibble::errc;

namespace {
constexpr errc all_codes[] = {
    errc::ok,
    errc::bad_shape,
    errc::bad_value,
    errc::scale_overflow,
    errc::unsupported_format,
    errc::unsupported_layout,
    errc::unsupported_isa,
    errc::scratch_too_small,
    errc::bad_alignment,
    errc::aliasing,
    errc::bad_file,
    errc::io_failed,
    errc::out_of_memory,
};
}

TEST_CASE("error: every code has a name of its own") {
  std::set<std::string> names;
  for (const errc code : all_codes) names.insert(nibble::name_of(code));
  CHECK(names.size() == std::size(all_codes));
  CHECK(names.count("unknown") == 0);
  CHECK(nibble::name_of(static_cast<errc>(12345)) == std::string_view("unknown"));
}

TEST_CASE("error: fail throws the code and a message with the pieces and the code's name") {
  try {
    nibble::core::fail(errc::bad_shape, "K = ", std::size_t{130}, " of row ", 7, ", limit ", 128u, ' ', -1.5f);
    FAIL("fail returned");
  } catch (const nibble::error& e) {
    CHECK(e.code() == errc::bad_shape);
    CHECK(std::string(e.what()) == "nibble: K = 130 of row 7, limit 128 -1.5 [bad_shape]");
  }
}

TEST_CASE("error: is a std::runtime_error") {
  CHECK_THROWS_AS(nibble::core::fail(errc::bad_file, "x"), std::runtime_error);
}

TEST_CASE("error: message keeps nine significant digits of a float and all of an integer") {
  CHECK(nibble::core::message(0.1f) == "0.100000001");
  CHECK(nibble::core::message(16777217.0) == "16777217");
  CHECK(nibble::core::message(18446744073709551615ull) == "18446744073709551615");
  CHECK(nibble::core::message(std::string("a"), std::string_view("b"), "c", 'd') == "abcd");
  CHECK(nibble::core::message().empty());
}
