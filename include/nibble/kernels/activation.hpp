// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of elementwise functions with an exponential in them.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// The exponential: n = rne(x log2 e), r = x - n ln 2 with ln 2 in two parts, the Taylor polynomial of degree 7 in r
/// (|r| <= 0.35: its rest is below 6e-9), times 2^n. Error at most 1.5 units in the last place where the result is normal,
/// at most 2^-149 more where it is subnormal; 0 below -104, infinity above 88.73; NaN stays NaN. Every step is a named
/// operation: the same bits on every ISA with FMA and on every compiler, and one value for each target without.
struct exp_constants {
  static constexpr float least = -104.0f, greatest = 89.0f;
  static constexpr float log2e = 0x1.715476p0f;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;  // n * ln2_high is exact
  static constexpr float taylor[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
};

/// The part of a standard normal distribution above a >= 0: Q(a) = exp(-a^2/2) t P(t), t = 1 / (1 + slope a). P is the
/// polynomial of degree 8 whose greatest relative error on [0, 14.5], where the exponential ends, is least: 2.4e-8 before its
/// coefficients are rounded, highest power first; the slope is the multiple of 0.005 with the least such error. (Form:
/// Abramowitz and Stegun 26.2.17.) Every step is a named operation, as in the exponential.
struct normal_tail_constants {
  static constexpr float slope = 0.345f;
  static constexpr float polynomial[] = {-0.0281517636f, 0.14423345f, -0.269153327f, 0.185054407f, -0.0362377837f,
                                         0.111267664f,   0.117362f,   0.138005242f,  0.137620106f};
};

/// Functions of each element of an array, in place: x[i] = f(x[i]), i in [0, n). An element's result does not depend on
/// its place.
///
///   exp_scaled(x, n, shift, scale)   exp((x - shift) * scale)
///   silu(x, n)                       x / (1 + exp(-x))
///   gelu(x, n)                       x Q(-x), x/2 (1 + erf(x / sqrt 2)): relative error below 4.2e-7 for x > -1, below 4.5e-6
///                                    on the way down to 2^-126, because a^2/2 is rounded before its exponential
///   gelu_tanh(x, n)                  x / (1 + exp(-2 u)), u = sqrt(2/pi) (x + 0.044715 x^3): x/2 (1 + tanh u)
template <class Isa>
struct activation : activation<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
