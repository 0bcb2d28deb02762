// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values on their way to the panel kernels, in plain C++.

#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/kernels/attention.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct panel_of_rows<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const float* rows, std::size_t stride, std::size_t K, float* panel) noexcept {
    for (std::size_t k = 0; k < K; ++k)
      for (std::size_t j = 0; j < 16; ++j) panel[k * 16 + j] = rows[j * stride + k];
  }
};

template <>
struct rotate_pairs<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
    for (std::size_t i = 0; i < half; ++i) {
      const float a = head[i], b = head[i + half];
      head[i] = multiply_add(-b, sines[i], a * cosines[i]);
      head[i + half] = multiply_add(a, sines[i], b * cosines[i]);
    }
  }
};

template <>
struct load_cached<isa::scalar> {
  using isa_type = isa::scalar;

  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x) noexcept {
    for (std::size_t i = 0; i < n; ++i)
      x[i] = multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
  }
  static void halves(const half* h, std::size_t n, float* x) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = to_float(h[i]);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
