// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Scales on two levels, as the K-quants of GGUF files have them: 256 consecutive weights of a row share a half d, and each
/// group among them a whole number in [-128, 127].
///
///   scale[g] = code[g] * d            offset[g] = offset_code[g] * m        (asymmetric_offset: m is a second half)
///
/// A half has 11 significant bits and a code 8, so both products are exact in float.
///
/// bits for each weight   groups of 16    + 8/16 + 16/256 = 0.5625, with offsets twice that
///                        groups of 32    + 8/32 + 16/256 = 0.3125

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/format.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// Weights of a row that share one half.
inline constexpr std::size_t super_block_k = 256;

/// Halves beside a row: one for each 256 k, and with offsets as many for these; 0 for other scale storage.
constexpr std::size_t block_scales_per_row(const format_desc& f, std::size_t K) noexcept {
  if (f.scale != scale_storage::super_block) return 0;
  return ceil_div(K, super_block_k) * (f.rule == code_rule::asymmetric_offset ? 2 : 1);
}

/// The scale or offset that a code stands for.
constexpr float super_block_value(std::int8_t code, half block) noexcept {
  return static_cast<float>(code) * to_float(block);
}

/// What becomes of a value that is less than half a step.
enum class small_value : std::uint8_t {
  zero,  ///< 0, the nearest: for offsets
  step,  ///< one step of its sign, unless it is 0: a group whose scale were 0 would lose all of its values
};

/// Values v[0, count) of one super-block to a half, the nearest to 1/127 of the greatest magnitude, and codes, the nearest
/// multiples of it, ties to even: off by at most one step, half a step where that is not the least multiple, and for the greatest
/// 127 times the rounding of the half. A half of 0 (the greatest below 2^-25 * 127) makes all codes 0; a greatest above 127 *
/// 65504 gives infinity.
inline half quantize_super_block(const float* v, std::size_t count, small_value small, std::int8_t* codes) noexcept {
  float most = 0.0f;
  for (std::size_t i = 0; i < count; ++i) {
    const float a = v[i] < 0.0f ? -v[i] : v[i];
    most = a > most ? a : most;
  }
  const half d = to_half(most / 127.0f);
  const float step = to_float(d);
  for (std::size_t i = 0; i < count; ++i) {
    const float t = step > 0.0f && is_finite(step) ? v[i] / step : 0.0f;
    int code = round_half_even(t < -127.0f ? -127.0f : t > 127.0f ? 127.0f : t);
    if (code == 0 && t != 0.0f && small == small_value::step) code = t < 0.0f ? -1 : 1;
    codes[i] = static_cast<std::int8_t>(code);
  }
  return d;
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
