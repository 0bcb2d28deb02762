// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include <nibble/core/half.hpp>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using nibble::bfloat16;
using nibble::half;

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }
float float_of(std::uint32_t u) { return std::bit_cast<float>(u); }
constexpr float infinity = std::numeric_limits<float>::infinity();

/// The value of a 16-bit float by its definition, in double: exact.
double value_of(std::uint16_t bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

/// Round to nearest, ties to even, by arithmetic in double: x is cut into units of the target's last place and rounded
/// by the C library. Independent of the bit tricks under test. Finite x only.
double rounded(double x, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent = 0;
  std::frexp(x, &exponent);  // |x| in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 1, 1 - bias) - fraction_bits;
  const double r = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  const double limit = std::ldexp(1.0, bias + 1);
  return std::fabs(r) >= limit ? std::copysign(std::numeric_limits<double>::infinity(), x) : r;
}

bool is_nan(half h) { return (h.bits & 0x7fffu) > 0x7c00u; }
bool is_nan(bfloat16 b) { return (b.bits & 0x7fffu) > 0x7f80u; }

/// Every float where the rounding to 16 bits changes its mind, with its neighbours: for each pattern the value itself and
/// the middle between it and the next larger magnitude, each with the floats below and above. Rounding is a step
/// function, so a wrong step shows at one of these.
template <class F>
void for_each_critical_float(int exponent_bits, F&& f) {
  const std::uint32_t infinity_bits = ((1u << exponent_bits) - 1u) << (15 - exponent_bits);
  for (std::uint32_t p = 0; p < infinity_bits; ++p) {
    const double a = value_of(static_cast<std::uint16_t>(p), exponent_bits);
    // The pattern of infinity, read as a finite number, is the first value out of range: ties there overflow.
    const double b = value_of(static_cast<std::uint16_t>(p + 1), exponent_bits);
    for (const double point : {a, 0.5 * (a + b)}) {
      const float x = static_cast<float>(point);
      for (const float y : {std::nextafter(x, 0.0f), x, std::nextafter(x, infinity)}) {
        if (!std::isfinite(y)) continue;
        f(y);
        f(-y);
      }
    }
  }
}

}  // namespace

TEST_CASE("half: all 65536 patterns have the value of IEEE 754 binary16") {
  int wrong = 0;
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const half h{static_cast<std::uint16_t>(p)};
    const float x = nibble::to_float(h);
    if ((p & 0x7c00u) != 0x7c00u) {
      const double expected = value_of(h.bits, 5);
      wrong += static_cast<double>(x) != expected || std::signbit(x) != std::signbit(expected);
    } else if ((p & 0x3ffu) == 0) {
      wrong += x != ((p & 0x8000u) != 0 ? -infinity : infinity);
    } else {
      wrong += !std::isnan(x) || (bits_of(x) >> 13 & 0x3ffu) != (p & 0x3ffu) || std::signbit(x) != ((p & 0x8000u) != 0);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: float and back gives all 65536 patterns again, signalling NaNs quietly") {
  int wrong = 0;
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const half h{static_cast<std::uint16_t>(p)};
    const std::uint32_t expected = is_nan(h) ? p | 0x200u : p;
    wrong += nibble::to_half(nibble::to_float(h)).bits != expected;
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: rounding is to nearest, ties to even, at and beside every step") {
  int wrong = 0;
  float first = 0.0f;
  for_each_critical_float(5, [&](float x) {
    const float got = nibble::to_float(nibble::to_half(x));
    const double expected = rounded(x, 5);
    if (static_cast<double>(got) == expected && std::signbit(got) == std::signbit(x)) return;
    if (wrong++ == 0) first = x;
  });
  CAPTURE(first);
  CHECK(wrong == 0);
}

TEST_CASE("half: rounding agrees with double arithmetic on floats spread over all exponents") {
  int wrong = 0;
  for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32); u += 4099) {  // a prime step: all low bits occur
    const float x = float_of(static_cast<std::uint32_t>(u));
    const half h = nibble::to_half(x);
    if (std::isnan(x)) wrong += !is_nan(h);
    else if (std::isinf(x)) wrong += h.bits != (x < 0.0f ? 0xfc00 : 0x7c00);
    else wrong += static_cast<double>(nibble::to_float(h)) != rounded(x, 5);
  }
  CHECK(wrong == 0);
}

#if defined(__x86_64__)
namespace {
[[gnu::target("avx,f16c")]] std::uint16_t hardware_half(float x) {
  return static_cast<std::uint16_t>(
      _mm_extract_epi16(_mm_cvtps_ph(_mm_set1_ps(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), 0));
}
[[gnu::target("avx,f16c")]] float hardware_float(std::uint16_t h) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16(static_cast<short>(h))));
}
}  // namespace

TEST_CASE("half: both directions agree with F16C bit for bit, NaN payloads included") {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return;  // every CPU with AVX2 has F16C
  int wrong = 0;
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const auto h = static_cast<std::uint16_t>(p);
    // The instruction makes signalling NaNs quiet; to_float keeps the payload as it is.
    const std::uint32_t quiet = is_nan(half{h}) ? 0x400000u : 0u;
    wrong += (bits_of(nibble::to_float(half{h})) | quiet) != bits_of(hardware_float(h));
  }
  CHECK(wrong == 0);
  for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32); u += 257) {
    const float x = float_of(static_cast<std::uint32_t>(u));
    wrong += nibble::to_half(x).bits != hardware_half(x);
  }
  CHECK(wrong == 0);
}
#endif

TEST_CASE("bfloat16: all 65536 patterns have their value, and float and back gives them again") {
  int wrong = 0;
  for (std::uint32_t p = 0; p < 65536; ++p) {
    const bfloat16 b{static_cast<std::uint16_t>(p)};
    const float x = nibble::to_float(b);
    if ((p & 0x7f80u) != 0x7f80u) wrong += static_cast<double>(x) != value_of(b.bits, 8);
    else if ((p & 0x7fu) == 0) wrong += !std::isinf(x);
    else wrong += !std::isnan(x);
    wrong += std::signbit(x) != ((p & 0x8000u) != 0);
    wrong += nibble::to_bfloat16(x).bits != (is_nan(b) ? p | 0x40u : p);
  }
  CHECK(wrong == 0);
}

TEST_CASE("bfloat16: rounding is to nearest, ties to even, at and beside every step") {
  int wrong = 0;
  float first = 0.0f;
  for_each_critical_float(8, [&](float x) {
    const float got = nibble::to_float(nibble::to_bfloat16(x));
    if (static_cast<double>(got) == rounded(x, 8) && std::signbit(got) == std::signbit(x)) return;
    if (wrong++ == 0) first = x;
  });
  CAPTURE(first);
  CHECK(wrong == 0);
}

TEST_CASE("bfloat16: every NaN stays a NaN with its sign") {
  int wrong = 0;
  for (std::uint32_t fraction = 1; fraction < 0x800000u; fraction += 61) {
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const bfloat16 b = nibble::to_bfloat16(float_of(sign | 0x7f800000u | fraction));
      wrong += !is_nan(b) || (b.bits & 0x8000u) != sign >> 16;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: conversions are constant expressions and equal the run-time ones") {
  constexpr half h = nibble::to_half(0.1f);
  constexpr bfloat16 b = nibble::to_bfloat16(0.1f);
  volatile float x = 0.1f;
  CHECK(h == nibble::to_half(x));
  CHECK(b == nibble::to_bfloat16(x));
  CHECK(nibble::round_to<float>(0.1f) == 0.1f);
  CHECK(nibble::round_to<half>(0.1f) == h);
  CHECK(nibble::round_to<bfloat16>(0.1f) == b);
}
