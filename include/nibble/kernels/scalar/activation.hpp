// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Elementwise functions in plain C++.

#include <bit>
#include <cstdint>

#include <nibble/core/round.hpp>
#include <nibble/kernels/activation.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct activation<isa::scalar> {
  using isa_type = isa::scalar;

  static void exp_scaled(float* x, std::size_t n, float shift, float scale) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = exp((x[i] - shift) * scale);
  }
  static void silu(float* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = x[i] / (1.0f + exp(-x[i]));
  }
  static void gelu(float* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = gelu(x[i]);
  }
  static void gelu_tanh(float* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i)
      x[i] = x[i] / (1.0f + exp(-1.5957691216057308f * multiply_add(0.044715f * x[i] * x[i], x[i], x[i])));
  }

  static float exp(float x) noexcept {
    using c = exp_constants;
    x = x > c::greatest ? c::greatest : x;
    x = x < c::least ? c::least : x;
    // Adding 1.5 * 2^23 rounds to an integer, which the low bits of the mantissa hold.
    const float shifted = multiply_add(x, c::log2e, 12582912.0f), n = shifted - 12582912.0f;
    const float r = multiply_add(n, -c::ln2_low, multiply_add(n, -c::ln2_high, x));
    float p = c::taylor[0];
    for (std::size_t i = 1; i < 8; ++i) p = multiply_add(p, r, c::taylor[i]);
    // In two steps: 2^n alone may be beyond the ends of float.
    const std::int32_t whole = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u);
    const std::int32_t half = whole >> 1;
    return p * power(half) * power(whole - half);
  }

  static float gelu(float x) noexcept {
    using c = normal_tail_constants;
    const float a = x < 0.0f ? -x : x, e = exp(-0.5f * a * a), t = 1.0f / multiply_add(c::slope, a, 1.0f);
    float p = c::polynomial[0];
    for (std::size_t i = 1; i < 9; ++i) p = multiply_add(p, t, c::polynomial[i]);
    p = p * t;
    return x * (x < 0.0f ? e * p : multiply_add(-e, p, 1.0f));
  }

 private:
  static float power(std::int32_t n) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
