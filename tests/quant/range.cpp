// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/range.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/random.hpp"

using namespace nibble;

TEST_CASE("range: equals the minimum and maximum for every length, in one piece or several") {
  const auto x = test::adversarial(500, 3);
  for (std::size_t n = 1; n <= 130; ++n)
    for (std::size_t first = 0; first + n <= x.size(); first += 37) {
      const float* begin = x.data() + first;
      const auto [lo, hi] = std::minmax_element(begin, begin + n);
      quant::range_scan whole, parts;
      whole.add(begin, n);
      parts.add(begin, n / 3);
      parts.add(begin + n / 3, n - n / 3);
      REQUIRE(whole.finite());
      REQUIRE(whole.range().lo == *lo);
      REQUIRE(whole.range().hi == *hi);
      REQUIRE(parts.range().lo == *lo);
      REQUIRE(parts.range().hi == *hi);
    }
}

TEST_CASE("range: a NaN or infinity of either sign at any position is seen") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan, -nan})
    for (std::size_t n : {1u, 5u, 32u, 33u, 71u})
      for (std::size_t at = 0; at < n; ++at) {
        auto x = test::gaussian(n, at);
        x[at] = bad;
        quant::range_scan scan;
        scan.add(x.data(), n);
        REQUIRE_FALSE(scan.finite());
      }
  const float greatest[] = {-std::numeric_limits<float>::max(), std::numeric_limits<float>::max()};
  quant::range_scan scan;
  scan.add(greatest, 2);
  CHECK(scan.finite());
  CHECK_FALSE(quant::range_scan{}.finite());
}

TEST_CASE("range: greatest_magnitude looks at both ends") {
  CHECK(quant::greatest_magnitude({-3.0f, 2.0f}) == 3.0f);
  CHECK(quant::greatest_magnitude({-1.0f, 2.0f}) == 2.0f);
  CHECK(quant::greatest_magnitude({-3.0f, -2.0f}) == 3.0f);
}

TEST_CASE("lane_sum: the pieces do not change the result") {
  const auto x = test::gaussian(1000, 4);
  const auto square = [](float v) { return static_cast<double>(v) * static_cast<double>(v); };
  quant::lane_sum whole;
  whole.add(x.data(), x.size(), square);
  test::generator g(5);
  for (int trial = 0; trial < 50; ++trial) {
    quant::lane_sum parts;
    for (std::size_t i = 0; i < x.size();) {
      const std::size_t n = std::min(x.size() - i, g.below(40));
      parts.add(x.data() + i, n, square);
      i += n;
    }
    REQUIRE(parts.total() == whole.total());
  }
  double plain = 0.0;
  for (const float v : x) plain += square(v);
  CHECK(whole.total() == doctest::Approx(plain).epsilon(1e-14));
}
