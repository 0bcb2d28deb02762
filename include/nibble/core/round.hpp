// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Rounding, fused multiply-add and finiteness with one meaning on every compiler, flag and ISA.

#include <bit>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// Round half to even, for |x| <= 2^22 (quantized codes are far below). Adding 1.5 * 2^23 leaves no fraction bits, so the
/// addition itself rounds, ties to even, as the SIMD converts do; needs the default rounding mode.
constexpr float round_half_even_f(float x) noexcept {
  const float shifted = x + 12582912.0f;
  return shifted - 12582912.0f;
}
constexpr int round_half_even(float x) noexcept { return static_cast<int>(round_half_even_f(x)); }

/// a * b + c with one rounding. The builtin is an instruction where the target has one and libm's exact routine where
/// not; it is named directly because std::fma would be one more weak inline function shared between units.
NIBBLE_ALWAYS_INLINE float fused_multiply_add(float a, float b, float c) noexcept { return __builtin_fmaf(a, b, c); }

/// a * b rounded to its type, float or double, before anything else happens to it, for sums that copy the rounding of another
/// program. Without the barrier -ffp-contract=fast fuses the product into a following addition (gcc 12 even through a detour
/// over double).
template <class T>
  requires std::is_floating_point_v<T>
constexpr T rounded_product(T a, std::type_identity_t<T> b) noexcept {
  T p = a * b;
#if defined(__x86_64__)
  if (!std::is_constant_evaluated()) __asm__("" : "+x"(p));
#elif defined(__aarch64__)
  if (!std::is_constant_evaluated()) __asm__("" : "+w"(p));
#endif
  return p;
}

#if defined(__FMA__) || defined(__FMA4__) || defined(__AVX512F__) || defined(__ARM_FEATURE_FMA)
#define NIBBLE_HAS_FMA 1
#else
#define NIBBLE_HAS_FMA 0
#endif

/// a * b + c for the float (weight-only) path: fused where the target has such an instruction, else rounded twice; then
/// the compiler has nothing to contract it to. One result per target, whatever -ffp-contract says.
NIBBLE_ALWAYS_INLINE float multiply_add(float a, float b, float c) noexcept {
#if NIBBLE_HAS_FMA
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/// True unless x is NaN or an infinity; looks at the bits.
constexpr bool is_finite(float x) noexcept { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

/// ceil(a / b) for unsigned counts, b > 0.
template <class T>
constexpr T ceil_div(T a, T b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}
/// The least multiple of b that is >= a.
template <class T>
constexpr T round_up(T a, T b) noexcept {
  return ceil_div(a, b) * b;
}

static_assert(round_half_even(2.5f) == 2 && round_half_even(3.5f) == 4 && round_half_even(-0.5f) == 0);

}  // namespace NIBBLE_ABI
}  // namespace nibble
