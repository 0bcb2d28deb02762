// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/granularity.hpp>

#include <vector>

using namespace nibble;

namespace {

format_desc with(granularity_kind kind, std::uint32_t size) {
  return {code_rule::symmetric, 4, kind, scale_storage::f32, size};
}

errc code_of_check(const format_desc& f) {
  try {
    quant::check_format(f, "test");
  } catch (const error& e) {
    return e.code();
  }
  return errc::ok;
}

}  // namespace

TEST_CASE("granularity: extents cover every element once, in the group that group_of names") {
  std::vector<format_desc> formats{with(granularity_kind::per_tensor, 0), with(granularity_kind::per_channel, 0)};
  for (const std::uint32_t size : {4u, 8u, 12u, 32u}) formats.push_back(with(granularity_kind::grouped, size));
  for (const std::uint32_t size : {8u, 16u, 64u}) formats.push_back(with(granularity_kind::flat, size));
  for (const format_desc& f : formats)
    for (std::size_t N = 1; N <= 4; ++N)
      for (std::size_t K = 1; K <= 67; ++K) {
        std::vector<int> seen(N * K);
        for (std::size_t g = 0; g < quant::scale_count(f, N, K); ++g) {
          const quant::group_extent e = quant::extent_of(f, N, K, g);
          REQUIRE(e.count > 0);
          for (std::size_t i = 0; i < e.count; ++i) {
            const std::size_t at = e.n * K + e.k + i;
            REQUIRE(at < N * K);
            ++seen[at];
            REQUIRE(quant::group_of(f, K, at / K, at % K) == g);
          }
        }
        for (const int times : seen) REQUIRE(times == 1);
      }
}

TEST_CASE("granularity: counts of very large matrices need 64 bits") {
  const std::size_t N = std::size_t{1} << 33, K = std::size_t{1} << 20;
  CHECK(quant::scale_count(with(granularity_kind::grouped, 32), N, K) == std::size_t{1} << 48);
  CHECK(quant::group_of(with(granularity_kind::flat, 64), K, N - 1, K - 1) == (std::size_t{1} << 47) - 1);
}

TEST_CASE("granularity: check_format accepts what the library supports and nothing else") {
  CHECK(code_of_check(with(granularity_kind::grouped, 4)) == errc::ok);
  CHECK(code_of_check(with(granularity_kind::flat, 4096)) == errc::ok);
  CHECK(code_of_check(with(granularity_kind::grouped, 0)) == errc::unsupported_format);
  CHECK(code_of_check(with(granularity_kind::grouped, 6)) == errc::unsupported_format);
  CHECK(code_of_check(with(granularity_kind::flat, 12)) == errc::unsupported_format);
  CHECK(code_of_check(with(granularity_kind::flat, 8192)) == errc::unsupported_format);
  CHECK(code_of_check(with(granularity_kind::per_channel, 32)) == errc::unsupported_format);
  format_desc f = with(granularity_kind::per_channel, 0);
  for (const int bits : {0, 1, 9, 255}) {
    f.bits = static_cast<std::uint8_t>(bits);
    CHECK(code_of_check(f) == errc::unsupported_format);
  }
  f.bits = 4;
  f.rule = static_cast<code_rule>(77);
  CHECK(code_of_check(f) == errc::unsupported_format);
}

TEST_CASE("granularity: extents of zero or beyond the address space are refused") {
  CHECK_THROWS_AS(quant::check_extents(0, 5, "test"), error);
  CHECK_THROWS_AS(quant::check_extents(5, 0, "test"), error);
  CHECK_THROWS_AS(quant::check_extents(std::size_t{1} << 32, std::size_t{1} << 32, "test"), error);
  CHECK_NOTHROW(quant::check_extents(std::size_t{1} << 20, std::size_t{1} << 20, "test"));
}
