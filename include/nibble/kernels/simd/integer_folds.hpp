// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the integer kernels of one row and of tiles share: how activations are read, and finished groups added to the accumulators
/// by the law of kernels/gemm_panel.hpp.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/panel_tools.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

struct integer_folds : panel_tools {
  static constexpr std::int32_t code_bias(int bits) noexcept { return simd::bias_of(simd::dot_of(bits)); }

 protected:
  static NIBBLE_ALWAYS_INLINE std::int32_t four_of(const std::int8_t* x) noexcept {
    std::int32_t v;
    std::memcpy(&v, x, sizeof v);
    return v;
  }

  /// Stored scales of a later group: they are read once in many blocks, too seldom to count on the CPU's own prefetchers. A
  /// gain is not shown: on a busy machine the rows took 0.91 to 1.07 of the time.
  static NIBBLE_ALWAYS_INLINE void prefetch_scales([[maybe_unused]] const panel_params& p,
                                                   [[maybe_unused]] std::size_t g) noexcept {
#if NIBBLE_SIMD_HALVES
    if (p.halves != nullptr) __builtin_prefetch(p.halves + (g + 8) * p.scale_stride);
    if (p.scale_codes != nullptr) __builtin_prefetch(p.scale_codes + (g + 16) * nr);
    if (p.offset_codes != nullptr) __builtin_prefetch(p.offset_codes + (g + 16) * nr);
#endif
  }

  /// acc with a group whose I of the law is `exact`, without shift, offset or scale of its own.
  static NIBBLE_ALWAYS_INLINE vf with_sum(vi exact, vf scale, vf acc) noexcept {
    return simd::fused(simd::to_float(exact), scale, acc);
  }

  /// x_sums holds (bias - z) X: the fold adds them, and that is all.
  static NIBBLE_ALWAYS_INLINE bool started(const integer_call& c) noexcept {
    return constant_zero(c) && c.params.shift == 0 && c.params.offsets == nullptr;
  }
  /// z is one number, and x_sums holds what panel_params::zeros says.
  static NIBBLE_ALWAYS_INLINE bool constant_zero(const integer_call& c) noexcept { return c.params.zeros == nullptr; }

  /// The law's steps for sum (u - Bias) x of row m where z is one number and there are half steps or offsets. p: c.params, or those
  /// of another panel.
  template <std::int32_t Bias>
  static NIBBLE_ALWAYS_INLINE vf with_half_or_offset(const integer_call& c, const panel_params& p, std::size_t m,
                                                     std::size_t g, std::size_t r, vi sum, vf scale, vf acc) noexcept {
    const std::size_t at = m * c.sum_stride + g;
    const vi x_sum(c.x_sums[at]);
    if (p.offsets == nullptr) return simd::fused(simd::to_float((sum << 1) + x_sum) * vf(0.5f), scale, acc);
    if constexpr (Bias != 0) sum = sum + x_sum * vi(Bias);
    acc = with_sum(sum, scale, acc);
    return simd::fused(vf(c.x_levels[at]), offset_of(p, g, r), acc);
  }

  /// The law's steps for the sums of a group, for row m and register r.
  template <bool General>
  static NIBBLE_ALWAYS_INLINE vf folded(const integer_call& c, std::size_t m, std::size_t g, std::size_t r, vi sum,
                                        vf scale, vi zero, vf acc) noexcept {
    const panel_params& p = c.params;
    const std::size_t at = m * c.sum_stride + g;
    vi exact = sum;
    if constexpr (General) exact = exact << p.shift;
    exact = exact - zero * vi(c.x_sums[at]);
    vf levels = simd::to_float(exact);
    [[maybe_unused]] vf token(1.0f);
    if constexpr (General) {
      if (p.shift != 0) levels = levels * vf(0.5f);
      if (c.group_scales != nullptr) {
        token = vf(c.group_scales[at]);
        levels = levels * token;
      }
    }
    acc = simd::fused(levels, scale, acc);
    if constexpr (General)
      if (p.offsets != nullptr) acc = simd::fused(vf(c.x_levels[at]) * token, offset_of(p, g, r), acc);
    return acc;
  }

  /// Folds kept sums of `rows` rows from m on, whatever the parameters are. sums, acc: those of row m.
  template <std::int32_t Bias>
  [[gnu::noinline]] static void fold_kept(const integer_call& call, std::size_t m, std::size_t rows, std::size_t g,
                                          const std::int32_t* sums, float* acc) noexcept {
    const integer_call c = call;  // a copy, which no store can change
    const panel_params& p = c.params;
    const std::array<vf, regs> scale = scales_of(p, g);
    const auto each = [&](const auto& fold) NIBBLE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < rows; ++i, sums += nr, acc += nr) {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r)
          fold(m + i, r, simd::load(sums + r * lanes), simd::load(acc + r * lanes)).store_unaligned(acc + r * lanes);
      }
    };
    if (started(c)) {
      each([&](std::size_t row, std::size_t r, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return with_sum(sum + vi(c.x_sums[row * c.sum_stride + g]), scale[r], from); });
      return;
    }
    if (constant_zero(c)) {
      each([&](std::size_t row, std::size_t r, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return with_half_or_offset<Bias>(c, p, row, g, r, sum, scale[r], from); });
      return;
    }
    std::array<vi, regs> zero;
    for (std::size_t r = 0; r < regs; ++r)
      zero[r] = simd::load(p.zeros + g * p.zero_stride + r * lanes) - vi(Bias << p.shift);
    const auto with = [&]<bool General>() NIBBLE_LAMBDA_INLINE {
      each([&](std::size_t row, std::size_t r, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return folded<General>(c, row, g, r, sum, scale[r], zero[r], from); });
    };
    if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr) with.template operator()<false>();
    else with.template operator()<true>();
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
