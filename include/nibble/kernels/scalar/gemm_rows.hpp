// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One output column against canonical row-major codes: the numeric law of kernels/gemm_panel.hpp for any granularity,
/// flat blocks that begin inside a row included, and for groups longer than exact_k. The fallback for whatever has no
/// panel form.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/kernels/gemm_panel.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// The unpacked codes of one row and its parameters, by segment: a run of k that shares a group.
struct row_call {
  std::size_t K = 0;
  const std::uint8_t* codes = nullptr;  ///< [K]
  std::size_t first_segment = 0;  ///< k of the first segment, in 1..group (shorter when a flat block began before)
  std::size_t group = 0;          ///< k of every further segment but the last
  const float* scales = nullptr;  ///< [segments]
  const std::int32_t* zeros = nullptr;  ///< integer path: [segments]
  const float* zero_values = nullptr;   ///< float path: [segments], subtracted from the code
  const float* offsets = nullptr;       ///< [segments] or nullptr
  const float* table = nullptr;         ///< float path of codebooks, else nullptr
  int shift = 0;                        ///< integer path: 1 for mid_rise
};

struct gemm_rows {
  using isa_type = isa::scalar;

  /// Before the token's scale: the accumulator of the law. x[K] s8; `acc` is the value to start from.
  static float integer(const row_call& c, const std::int8_t* x, float acc) noexcept {
    const float unit = c.shift == 0 ? 1.0f : 0.5f;
    std::size_t g = 0;
    for (std::size_t k = 0; k < c.K; ++g) {
      const std::size_t stop = end_of(c, k, g);
      std::int64_t sum = 0, x_sum = 0;
      while (k < stop) {
        const std::size_t cut = stop - k < exact_k ? stop : k + exact_k;
        std::int32_t s = 0, xs = 0;
        for (; k < cut; ++k) {
          s += std::int32_t{c.codes[k]} * x[k];
          xs += x[k];
        }
        sum += s;
        x_sum += xs;
      }
      const std::int64_t exact = sum * (1 << c.shift) - std::int64_t{c.zeros[g]} * x_sum;
      acc = fused_multiply_add(static_cast<float>(exact) * unit, c.scales[g], acc);
      if (c.offsets != nullptr) acc = fused_multiply_add(static_cast<float>(x_sum), c.offsets[g], acc);
    }
    return acc;
  }

  /// x[K] float; `acc` is the value to start from.
  static float weight_only(const row_call& c, const float* x, float acc) noexcept {
    std::size_t g = 0;
    for (std::size_t k = 0; k < c.K; ++g) {
      const std::size_t first = k, stop = end_of(c, k, g);
      float sum = 0.0f;
      if (c.table != nullptr) {
        for (; k < stop; ++k) sum = multiply_add(x[k], c.table[c.codes[k]], sum);
      } else {
        for (; k < stop; ++k) sum = multiply_add(x[k], static_cast<float>(c.codes[k]) - c.zero_values[g], sum);
      }
      acc = fused_multiply_add(sum, c.scales[g], acc);
      if (c.offsets == nullptr) continue;
      float x_sum = 0.0f;
      for (k = first; k < stop; ++k) x_sum += x[k];
      acc = fused_multiply_add(x_sum, c.offsets[g], acc);
    }
    return acc;
  }

  /// The same with weights rounded to bfloat16; x[K] bfloat16 numbers as floats.
  static float bfloat16(const row_call& c, const float* x, float acc) noexcept {
    std::size_t g = 0;
    float sum = 0.0f;
    for (std::size_t k = 0; k < c.K; ++g) {
      const float* const offset = c.offsets == nullptr ? nullptr : c.offsets + g;
      for (const std::size_t stop = end_of(c, k, g); k < stop; ++k) {
        const float q = c.table != nullptr ? c.table[c.codes[k]] : static_cast<float>(c.codes[k]) - c.zero_values[g];
        sum = multiply_add(x[k], bfloat16_weight(q, c.scales[g], offset), sum);
      }
    }
    return acc + sum;
  }

 private:
  static std::size_t end_of(const row_call& c, std::size_t k, std::size_t g) noexcept {
    const std::size_t size = g == 0 ? c.first_segment : c.group;
    return c.K - k < size ? c.K : k + size;
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
