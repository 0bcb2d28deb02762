// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Activation quantization in plain C++.

#include <bit>
#include <limits>

#include <nibble/kernels/quantize_row.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct quantize_row<isa::scalar> {
  using isa_type = isa::scalar;

  static float run(const float* x, std::size_t K, std::int8_t* codes, std::size_t padded) noexcept {
    const float scale = scale_of(greatest_magnitude_bits(x, K));
    if (!(scale > 0.0f)) {
      for (std::size_t k = 0; k < padded; ++k) codes[k] = 0;
      return scale;
    }
    for (std::size_t k = 0; k < K; ++k) codes[k] = code_of(x[k], scale);
    for (std::size_t k = K; k < padded; ++k) codes[k] = 0;
    return scale;
  }

  static float scale_of(std::uint32_t largest_magnitude_bits) noexcept {
    if (largest_magnitude_bits >= not_finite_bits) return std::numeric_limits<float>::quiet_NaN();
    return std::bit_cast<float>(largest_magnitude_bits) / 127.0f;
  }
  static std::int8_t code_of(float x, float scale) noexcept {
    const float q = x / scale;
    return static_cast<std::int8_t>(round_half_even(q < -127.0f ? -127.0f : (q > 127.0f ? 127.0f : q)));
  }
};

/// The codes for a scale from outside, finite and greater than 0 (static quantization). Returns `scale`, or NaN with codes 0
/// for a row that is not finite. Otherwise as quantize_row.
inline float quantize_row_fixed(const float* x, std::size_t K, float scale, std::int8_t* codes,
                                std::size_t padded) noexcept {
  const bool finite = greatest_magnitude_bits(x, K) < not_finite_bits;
  for (std::size_t k = 0; k < K; ++k)
    codes[k] = finite ? quantize_row<isa::scalar>::code_of(x[k], scale) : std::int8_t{0};
  for (std::size_t k = K; k < padded; ++k) codes[k] = 0;
  return finite ? scale : std::numeric_limits<float>::quiet_NaN();
}

template <>
struct sum_groups<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const std::int8_t* codes, std::size_t K, std::size_t group, std::int32_t* sums) noexcept {
    for (std::size_t k = 0; k < K; ++sums) {
      const std::size_t stop = K - k > group ? k + group : K;
      std::int32_t sum = 0;
      for (; k < stop; ++k) sum += codes[k];
      *sums = sum;
    }
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
