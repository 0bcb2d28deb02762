// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Storage types binary16 and bfloat16 with exact conversions. Arithmetic is always done in float.

#include <bit>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits; a storage type without arithmetic.
struct half {
  std::uint16_t bits = 0;
};
/// bfloat16: the upper 16 bits of a binary32; a storage type without arithmetic.
struct bfloat16 {
  std::uint16_t bits = 0;
};

inline namespace NIBBLE_ABI {

constexpr bool operator==(half a, half b) noexcept { return a.bits == b.bits; }
constexpr bool operator==(bfloat16 a, bfloat16 b) noexcept { return a.bits == b.bits; }

/// The value of a binary16 (exact; NaN payloads are kept).
constexpr float to_float(half h) noexcept {
  const std::uint32_t sign = std::uint32_t{h.bits & 0x8000u} << 16;
  const std::uint32_t magnitude = h.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));        // normal
  // Zero and subnormals are multiples of 2^-24: exact in float.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

/// The value of a bfloat16 (exact).
constexpr float to_float(bfloat16 b) noexcept { return std::bit_cast<float>(std::uint32_t{b.bits} << 16); }
constexpr float to_float(float x) noexcept { return x; }

/// Rounds to binary16, ties to even; overflow gives infinity, NaN stays NaN (quiet, upper payload kept), as F16C does.
constexpr half to_half(float x) noexcept {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  const std::uint32_t a = u & 0x7fffffffu;
  std::uint32_t r;
  if (a > 0x7f800000u) {
    r = 0x7e00u | (a >> 13 & 0x3ffu);
  } else if (a >= 0x477ff000u) {  // >= 65520: rounds to infinity
    r = 0x7c00u;
  } else if (a >= 0x38800000u) {  // >= 2^-14: normal
    r = (a + 0xfffu + (a >> 13 & 1u) - (112u << 23)) >> 13;
  } else if (a < 0x33000000u) {  // < 2^-25: rounds to zero (2^-25 itself is a tie and goes to even, zero)
    r = 0;
  } else {
    const std::uint32_t shift = 126u - (a >> 23);  // subnormal: units of 2^-24, 14..24 bits fall away
    const std::uint32_t m = (a & 0x7fffffu) | 0x800000u;
    const std::uint32_t rest = m & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
    r = m >> shift;
    r += (rest > tie || (rest == tie && (r & 1u))) ? 1u : 0u;
  }
  return half{static_cast<std::uint16_t>(sign | r)};
}

/// Rounds to bfloat16, ties to even; NaN stays NaN.
constexpr bfloat16 to_bfloat16(float x) noexcept {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bfloat16{static_cast<std::uint16_t>(u >> 16 | 0x40u)};
  return bfloat16{static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

/// Rounds x to the storage type T: float, half or bfloat16.
template <class T>
constexpr T round_to(float x) noexcept {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16>,
                "round_to: float, half or bfloat16");
  if constexpr (std::is_same_v<T, half>) return to_half(x);
  else if constexpr (std::is_same_v<T, bfloat16>) return to_bfloat16(x);
  else return x;
}

static_assert(to_float(to_half(65519.0f)) == 65504.0f && to_half(65520.0f).bits == 0x7c00);
static_assert(to_half(0x1p-24f).bits == 1 && to_half(0x1p-25f).bits == 0 && to_half(0x1.000002p-25f).bits == 1);
static_assert(to_bfloat16(1.00390625f).bits == 0x3f80 && to_bfloat16(1.01171875f).bits == 0x3f82);  // ties to even

}  // namespace NIBBLE_ABI
}  // namespace nibble
