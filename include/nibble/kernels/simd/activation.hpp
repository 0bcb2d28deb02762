// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Elementwise functions on the native register width.

#include <concepts>
#include <cstring>
#include <limits>

#include <nibble/kernels/activation.hpp>
#include <nibble/kernels/scalar/activation.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <std::same_as<simd::isa_type> Isa>
struct activation<Isa> {
  using isa_type = simd::isa_type;
  using vf = simd::vf;

  static void exp_scaled(float* x, std::size_t n, float shift, float scale) noexcept {
    const vf from(shift), times(scale);
    for_each(x, n, [=](vf v) NIBBLE_LAMBDA_INLINE { return exp((v - from) * times); });
  }
  static void silu(float* x, std::size_t n) noexcept {
    for_each(x, n, [](vf v) NIBBLE_LAMBDA_INLINE { return v / (vf(1.0f) + exp(minus(v))); });
  }
  static void gelu(float* x, std::size_t n) noexcept {
    using c = normal_tail_constants;
    for_each(x, n, [](vf v) NIBBLE_LAMBDA_INLINE {
      const vf a = simd::magnitude(v), e = exp(vf(-0.5f) * a * a), t = vf(1.0f) / simd::madd(vf(c::slope), a, vf(1.0f));
      vf p(c::polynomial[0]);
      NIBBLE_UNROLL
      for (std::size_t i = 1; i < 9; ++i) p = simd::madd(p, t, vf(c::polynomial[i]));
      p = p * t;
      return v * simd::select(v < vf(0.0f), e * p, simd::madd(minus(e), p, vf(1.0f)));
    });
  }
  static void gelu_tanh(float* x, std::size_t n) noexcept {
    for_each(x, n, [](vf v) NIBBLE_LAMBDA_INLINE {
      const vf inner = simd::madd(vf(0.044715f) * v * v, v, v);
      return v / (vf(1.0f) + exp(vf(-1.5957691216057308f) * inner));
    });
  }

 private:
  static NIBBLE_ALWAYS_INLINE vf minus(vf v) noexcept {
    return simd::float_of_bits(simd::bits_of(v) ^ simd::vi(std::numeric_limits<std::int32_t>::min()));
  }

  template <class F>
  static NIBBLE_ALWAYS_INLINE void for_each(float* x, std::size_t n, F f) noexcept {
    const std::size_t whole = n - n % simd::lanes;
    for (std::size_t i = 0; i < whole; i += simd::lanes) f(simd::load(x + i)).store_unaligned(x + i);
    if (whole == n) return;
    alignas(64) float rest[simd::lanes] = {};
    std::memcpy(rest, x + whole, (n - whole) * sizeof(float));
    f(vf::load_aligned(rest)).store_aligned(rest);
    std::memcpy(x + whole, rest, (n - whole) * sizeof(float));
  }

  static NIBBLE_ALWAYS_INLINE vf exp(vf x) noexcept {
    using c = exp_constants;
    using simd::vi;
    // The second operand comes through where one is NaN.
    x = simd::max(vf(c::least), simd::min(vf(c::greatest), x));
    const vf shift(simd::rounding_shift), shifted = simd::madd(x, vf(c::log2e), shift), n = shifted - shift;
    const vf r = simd::madd(n, vf(-c::ln2_low), simd::madd(n, vf(-c::ln2_high), x));
    vf p(c::taylor[0]);
    NIBBLE_UNROLL
    for (std::size_t i = 1; i < 8; ++i) p = simd::madd(p, r, vf(c::taylor[i]));
    const vi whole = simd::bits_of(shifted) - vi(simd::rounding_bits), half = whole >> 1;
    return p * power(half) * power(whole - half);
  }
  static NIBBLE_ALWAYS_INLINE vf power(simd::vi n) noexcept { return simd::float_of_bits((n + simd::vi(127)) << 23); }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
