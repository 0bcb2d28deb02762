// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <nibble/core/round.hpp>

TEST_CASE("round: half to even agrees with the C library on every quarter up to 2^22") {
  // Quarters below 2^22 are exact in float, so all ties and both sides of each are among them.
  int wrong = 0;
  for (std::int32_t quarters = -(1 << 24); quarters <= 1 << 24; ++quarters) {
    const float x = static_cast<float>(quarters) * 0.25f;
    wrong += nibble::round_half_even_f(x) != std::nearbyint(x);
  }
  CHECK(wrong == 0);
}

TEST_CASE("round: the floats beside a tie go to the nearer integer") {
  int wrong = 0;
  for (int n = -300; n <= 300; ++n) {
    const float tie = static_cast<float>(n) + 0.5f;
    wrong += nibble::round_half_even(std::nextafter(tie, -1e9f)) != n;
    wrong += nibble::round_half_even(std::nextafter(tie, 1e9f)) != n + 1;
    wrong += nibble::round_half_even(tie) != n + (n & 1);
  }
  CHECK(wrong == 0);
}

TEST_CASE("round: fused_multiply_add rounds once") {
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last term is lost when the product is rounded by itself.
  const float a = 1.0f + 0x1p-12f;
  volatile float vb = a;
  CHECK(nibble::fused_multiply_add(a, vb, -1.0f) == 0x1p-11f + 0x1p-24f);
  // Below the smallest normal and with an exact cancellation.
  CHECK(nibble::fused_multiply_add(0x1p-100f, vb * 0x1p-40f, 0x1p-140f) == 0x1p-139f);
  CHECK(nibble::fused_multiply_add(3.0f, vb, -3.0f * a) == std::fma(3.0f, static_cast<float>(vb), -3.0f * a));
}

TEST_CASE("round: multiply_add is the fused form or two roundings, by the target and not by the optimizer") {
  const float a = 1.0f + 0x1p-12f;
  volatile float vb = a;
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  const float expected = 0x1p-11f + 0x1p-24f;
#else
  const float expected = 0x1p-11f;
#endif
  CHECK(nibble::multiply_add(a, vb, -1.0f) == expected);
}

TEST_CASE("round: is_finite is false for infinities and NaNs only") {
  CHECK(nibble::is_finite(0.0f));
  CHECK(nibble::is_finite(-0.0f));
  CHECK(nibble::is_finite(std::numeric_limits<float>::max()));
  CHECK(nibble::is_finite(-std::numeric_limits<float>::denorm_min()));
  CHECK_FALSE(nibble::is_finite(std::numeric_limits<float>::infinity()));
  CHECK_FALSE(nibble::is_finite(-std::numeric_limits<float>::infinity()));
  CHECK_FALSE(nibble::is_finite(std::numeric_limits<float>::quiet_NaN()));
  CHECK_FALSE(nibble::is_finite(std::bit_cast<float>(0xff800001u)));
}

TEST_CASE("round: ceil_div and round_up do not overflow at the top of the range") {
  constexpr std::size_t top = std::numeric_limits<std::size_t>::max();
  CHECK(nibble::ceil_div(top, std::size_t{2}) == top / 2 + 1);
  CHECK(nibble::ceil_div(std::size_t{0}, std::size_t{7}) == 0);
  CHECK(nibble::ceil_div(std::size_t{7}, std::size_t{7}) == 1);
  CHECK(nibble::ceil_div(std::size_t{8}, std::size_t{7}) == 2);
  CHECK(nibble::round_up(std::size_t{65}, std::size_t{64}) == 128);
  CHECK(nibble::round_up(std::size_t{64}, std::size_t{64}) == 64);
}
