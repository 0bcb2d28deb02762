// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Activation quantization on the native register width.

#include <bit>

#include <nibble/kernels/quantize_row.hpp>
#include <nibble/kernels/scalar/quantize_row.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct quantize_row<simd::isa_type> {
  using isa_type = simd::isa_type;
  using scalar = quantize_row<isa::scalar>;

  static float run(const float* x, std::size_t K, std::int8_t* codes, std::size_t padded) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    const std::size_t whole = K - K % lanes;
    // Sign cleared, the bits of |x| are non-negative integers that order like the numbers; NaN and infinity come last.
    vi largest(0);
    for (std::size_t k = 0; k < whole; k += lanes) {
      const vi magnitude = simd::load(reinterpret_cast<const std::int32_t*>(x + k)) & vi(0x7fffffff);
      largest = xsimd::max(largest, magnitude);
    }
    alignas(64) std::int32_t each[lanes];
    largest.store_aligned(each);
    std::uint32_t top = 0;
    for (const std::int32_t v : each) top = top < static_cast<std::uint32_t>(v) ? static_cast<std::uint32_t>(v) : top;
    for (std::size_t k = whole; k < K; ++k) {
      const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu;
      top = top < magnitude ? magnitude : top;
    }
    const float scale = scalar::scale_of(top);
    if (!(scale > 0.0f)) {
      for (std::size_t k = 0; k < padded; ++k) codes[k] = 0;
      return scale;
    }
    const vf s(scale), low(-127.0f), high(127.0f), shift(12582912.0f);
    for (std::size_t k = 0; k < whole; k += lanes) {
      const vf q = xsimd::min(xsimd::max(vf::load_unaligned(x + k) / s, low), high);
      // Adding 1.5 * 2^23 rounds to even and leaves the integer in the low bits of the mantissa.
      const vf shifted = q + shift;
      alignas(64) float bits[lanes];
      shifted.store_aligned(bits);
      for (std::size_t i = 0; i < lanes; ++i)
        codes[k + i] = static_cast<std::int8_t>(std::bit_cast<std::uint32_t>(bits[i]) & 0xffu);
    }
    for (std::size_t k = whole; k < K; ++k) codes[k] = scalar::code_of(x[k], scale);
    for (std::size_t k = K; k < padded; ++k) codes[k] = 0;
    return scale;
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
