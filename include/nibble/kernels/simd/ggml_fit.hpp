// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The searches of quant/ggml_fit.hpp on the native register width, as many super-blocks at a time as a register has lanes.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/half.hpp>
#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/quant/ggml_fit.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

/// The operations of quant::ggml::detail::one_lane on registers.
struct register_lanes {
  using f = vf;
  using mask = vf::batch_bool_type;
  static constexpr std::size_t width = lanes;
  static NIBBLE_ALWAYS_INLINE f load(const float* p) noexcept { return f::load_aligned(p); }
  static NIBBLE_ALWAYS_INLINE void store(f v, float* p) noexcept { v.store_aligned(p); }
  static NIBBLE_ALWAYS_INLINE f product(f a, f b) noexcept { return rounded_products(a, b); }
  static NIBBLE_ALWAYS_INLINE f select(mask m, f a, f b) noexcept { return simd::select(m, a, b); }
  static NIBBLE_ALWAYS_INLINE f max(f a, f b) noexcept { return simd::max(a, b); }
  static NIBBLE_ALWAYS_INLINE f min(f a, f b) noexcept { return simd::min(a, b); }
  static NIBBLE_ALWAYS_INLINE f nearest(f x, f lo, f hi) noexcept { return simd::nearest(x, lo, hi); }
  static f stored(f x) noexcept {
    alignas(64) float v[lanes];
    x.store_aligned(v);
    for (float& each : v) each = to_float(to_half(each));
    return load(v);
  }
};

}  // namespace simd

template <std::same_as<simd::isa_type> Isa, quant::ggml::fitted_block Format>
struct fit_ggml_blocks<Isa, Format> {
  using isa_type = simd::isa_type;

  static void run(const float* x, std::size_t count, ggml_importance importance, std::byte* blocks) noexcept {
    using tile = simd::sub_blocks<256, 1>;
    tile values, weights;
    simd::encode_steps<Format, tile::count>(x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
      values.read(v);
      if (importance.values == nullptr) {
        fit<false>(values, weights, n, to);
        return;
      }
      alignas(64) float each[tile::count * 256];
      for (std::size_t b = 0; b < tile::count; ++b)
        quant::ggml::detail::fit_weights(importance.of_block(b, Format::block_elements), each + 256 * b);
      importance.first += n;
      weights.read(each);
      fit<true>(values, weights, n, to);
    });
  }

 private:
  template <bool Weighted>
  static void fit(const simd::sub_blocks<256, 1>& values, const simd::sub_blocks<256, 1>& weights, std::size_t n,
                  std::byte* to) noexcept {
    using fit_of = quant::ggml::block_fit<Format>;
    const typename fit_of::template search<simd::register_lanes, Weighted> found(values.data(), weights.data(),
                                                                                 fit_of::steps);
    quant::ggml::super_block_parts parts[simd::lanes];
    found.store_lanes(parts);
    std::uint8_t codes[256 * simd::lanes];
    simd::sub_blocks<256, 1>::write_bytes(codes, [&](std::size_t i, std::size_t) { return found.final_code(i); });
    for (std::size_t b = 0; b < n; ++b) {
      std::memcpy(parts[b].codes, codes + 256 * b, 256);
      fit_of::store(parts[b], to + b * Format::block_bytes);
    }
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
