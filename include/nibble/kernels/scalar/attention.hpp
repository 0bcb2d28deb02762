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

  static void floats(const float* f, std::size_t n, float* x, rotation turn = {}, read_ahead = {}) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = f[i];
    rotate_pairs<isa::scalar>::run(x, turn.half, turn.cosines, turn.sines);
  }
  static void halves(const half* h, std::size_t n, float* x, rotation turn = {}, read_ahead = {}) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = to_float(h[i]);
    rotate_pairs<isa::scalar>::run(x, turn.half, turn.cosines, turn.sines);
  }
  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x,
                    rotation turn = {}, read_ahead = {}) noexcept {
    for (std::size_t i = 0; i < n; ++i)
      x[i] = multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
    rotate_pairs<isa::scalar>::run(x, turn.half, turn.cosines, turn.sines);
  }
  static void columns(const std::uint8_t* codes, std::size_t n, const float* scales, const float* zeros, float* x,
                      rotation turn = {}, read_ahead = {}) noexcept {
    for (std::size_t i = 0; i < n; ++i)
      x[i] = multiply_add(static_cast<float>(codes[i]), scales[i % 16], zeros[i % 16]);
    rotate_pairs<isa::scalar>::run(x, turn.half, turn.cosines, turn.sines);
  }
};

template <>
struct store_cached<isa::scalar> {
  using isa_type = isa::scalar;

  static void halves(const float* x, std::size_t n, half* h) noexcept {
    for (std::size_t i = 0; i < n; ++i) h[i] = to_half(x[i]);
  }
  static void bytes(const float* x, std::size_t n, float scale, float zero, std::uint8_t* codes) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      float place = (x[i] - zero) / scale + 128.0f;
      place = place < 0.0f ? 0.0f : place;
      codes[i] = static_cast<std::uint8_t>(round_half_even(place > 255.0f ? 255.0f : place));
    }
  }
};

template <>
struct weigh_rows<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const float* x, std::size_t x_stride, std::size_t M, const float* rows, std::size_t row_stride,
                  std::size_t count, std::size_t columns, float* sums, std::size_t sum_stride,
                  read_ahead = {}) noexcept {
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t c = 0; c < columns; ++c) {
        float p = 0.0f;
        for (std::size_t j = 0; j < count; ++j) p = multiply_add(x[m * x_stride + j], rows[j * row_stride + c], p);
        sums[m * sum_stride + c] += p;
      }
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
