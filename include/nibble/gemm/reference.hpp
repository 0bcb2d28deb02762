// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The reference backend: double precision, one element at a time, no shared code with the kernels but the description of
/// the formats. Slow on purpose; what tests and other engines compare with.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/integer_image.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

/// Weight-only: sum over k of double(x) * double(w), w the exact decoded value. Integer: the same with x replaced by its
/// per-token code times scale, both rounded to float as the format demands, and a codebook's values by those of its image.
/// bfloat16: with x and w rounded to it. Any layout.
struct reference {
  using isa_type = isa::scalar;
  static constexpr std::string_view name = "reference";
  static bool runs_here() noexcept { return true; }

  static errc can_multiply(const packed_view& w, const gemm_options& o) noexcept {
    return has_image(w, o) && o.image == table_image::none ? errc::unsupported_format : errc::ok;
  }
  static std::size_t scratch_bytes(const packed_view&, std::size_t, const gemm_options&, std::size_t) noexcept {
    return 0;
  }

  static void multiply(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                       const context&) noexcept {
    quant::integer_image image;
    if (has_image(w, o)) image = quant::make_integer_image(w.matrix.table, w.matrix.format.bits, o.image);
    const quant::integer_image* const of = has_image(w, o) ? &image : nullptr;
    // Some rows at a time share the values of W; those of short rows of X are kept for all columns.
    constexpr std::size_t most = 8, kept_k = 512;
    double kept[most][kept_k];
    for (std::size_t m0 = 0; m0 < x.rows; m0 += most) {
      const std::size_t rows = x.rows - m0 < most ? x.rows - m0 : most;
      double scales[most] = {};
      bool poisoned[most];
      for (std::size_t i = 0; i < rows; ++i) {
        const float* row = x.data + (m0 + i) * x.stride;
        if (o.computation == computation::integer) scales[i] = scale_of(row, x.cols);
        poisoned[i] = !all_finite(row, x.cols);
        for (std::size_t k = 0; k < x.cols && x.cols <= kept_k; ++k) kept[i][k] = activation(row[k], o, scales[i]);
      }
      for (std::size_t n = 0; n < w.matrix.N; ++n) {
        double sums[most] = {};
        for (std::size_t k = 0; k < x.cols; ++k) {
          double b = weight(w, n, k, of);
          if (o.computation == computation::bfloat16) b = as_bfloat16(static_cast<float>(b));
          for (std::size_t i = 0; i < rows; ++i) {
            const double a = x.cols <= kept_k ? kept[i][k] : activation(x.data[(m0 + i) * x.stride + k], o, scales[i]);
            sums[i] = std::fma(a, b, sums[i]);
          }
        }
        for (std::size_t i = 0; i < rows; ++i) {
          double sum = sums[i];
          if (o.bias != nullptr) sum += o.bias[n];
          float& out = y.data[(m0 + i) * y.stride + n];
          if (o.beta != 0.0f) sum = std::fma(static_cast<double>(o.beta), static_cast<double>(out), sum);
          out = static_cast<float>(poisoned[i] ? std::nan("") : sum);
        }
      }
    }
  }

  /// The value of element (n, k) of W, any layout, before it is rounded to float. With an image, that of its planes.
  static double weight(const packed_view& w, std::size_t n, std::size_t k,
                       const quant::integer_image* image = nullptr) noexcept {
    const format_desc& f = w.matrix.format;
    const double u = code(w, n, k), h = 1 << (f.bits - 1);
    std::size_t group = quant::group_of(f, w.matrix.K, n, k);
    const std::size_t canonical_group = group;
    if (w.layout == layout_id::panel16 && f.granularity != granularity_kind::per_tensor) {
      const bool grouped = f.granularity == granularity_kind::grouped || f.granularity == granularity_kind::flat;
      const std::size_t groups = grouped ? ceil_div(w.matrix.K, std::size_t{f.group_size}) : 1;
      group = (n / 16 * groups + (grouped ? k / f.group_size : 0)) * 16 + n % 16;
    }
    double scale = 0.0;
    switch (f.scale) {
      case scale_storage::f32: scale = static_cast<const float*>(w.matrix.scales)[group]; break;
      case scale_storage::f16: scale = to_float(static_cast<const half*>(w.matrix.scales)[group]); break;
      case scale_storage::bf16: scale = to_float(static_cast<const bfloat16*>(w.matrix.scales)[group]); break;
      case scale_storage::double_quant:
        scale = quant::double_quant_scale(static_cast<const std::uint8_t*>(w.matrix.scales)[group],
                                          w.matrix.super_scales[canonical_group / quant::double_quant_block],
                                          w.matrix.scale_offset);
        break;
      case scale_storage::super_block: scale = multiple(w, w.matrix.scales, group, n, k / quant::super_block_k); break;
    }
    switch (f.rule) {
      case code_rule::symmetric:
      case code_rule::symmetric_full: return scale * (u - h);
      case code_rule::mid_rise: return scale * (u - h + 0.5);
      case code_rule::asymmetric: return scale * (u - static_cast<const std::uint8_t*>(w.matrix.zeros)[group]);
      case code_rule::asymmetric_offset: {
        double offset = 0.0;
        if (f.scale == scale_storage::f16) offset = to_float(static_cast<const half*>(w.matrix.zeros)[group]);
        else if (f.scale == scale_storage::bf16) offset = to_float(static_cast<const bfloat16*>(w.matrix.zeros)[group]);
        else if (f.scale == scale_storage::super_block)
          offset = multiple(w, w.matrix.zeros, group, n,
                            ceil_div(w.matrix.K, quant::super_block_k) + k / quant::super_block_k);
        else offset = static_cast<const float*>(w.matrix.zeros)[group];
        return std::fma(scale, u, offset);
      }
      case code_rule::codebook: {
        const auto i = static_cast<std::size_t>(u);
        if (image == nullptr) return scale * static_cast<double>(w.matrix.table[i]);
        double value = 0.0;
        for (int p = 0; p < image->planes; ++p)
          value += static_cast<double>(image->units[p]) * (image->codes[p][i] - image->zero());
        return scale * value;
      }
    }
    return 0.0;
  }

 private:
  /// A scale or offset of row n whose half is that of number `block`.
  static double multiple(const packed_view& w, const void* codes, std::size_t group, std::size_t n,
                         std::size_t block) noexcept {
    const std::size_t in_row = quant::block_scales_per_row(w.matrix.format, w.matrix.K);
    const std::size_t at =
        w.layout == layout_id::panel16 ? (n / 16 * in_row + block) * 16 + n % 16 : n * in_row + block;
    return static_cast<double>(static_cast<const std::int8_t*>(codes)[group]) *
           static_cast<double>(to_float(w.matrix.block_scales[at]));
  }
  static bool has_image(const packed_view& w, const gemm_options& o) noexcept {
    return o.computation == computation::integer && w.matrix.format.rule == code_rule::codebook;
  }
  static unsigned code(const packed_view& w, std::size_t n, std::size_t k) noexcept {
    const quantized_view& m = w.matrix;
    const int bits = m.format.bits;
    if (w.layout == layout_id::panel16)
      return pack::get_panel16(m.codes + n / 16 * pack::panel16::panel_bytes(m.K, bits), bits, n % 16, k);
    if (m.format.granularity == granularity_kind::flat) return pack::get(m.codes, n * m.K + k, bits);
    return pack::get(m.codes + n * m.row_stride_bytes, k, bits);
  }

  /// What stands for x in a product whose token scale is `scale`.
  static double activation(float x, const gemm_options& o, double scale) noexcept {
    if (o.computation == computation::integer) return code_of(x, scale) * scale;
    return o.computation == computation::bfloat16 ? as_bfloat16(x) : static_cast<double>(x);
  }

  static bool all_finite(const float* x, std::size_t K) noexcept {
    for (std::size_t k = 0; k < K; ++k)
      if (!std::isfinite(x[k])) return false;
    return true;
  }
  /// 8 significant bits, ties to even, no less than 2^-133 apart, at most 0x1.fep127 in magnitude.
  static double as_bfloat16(float x) noexcept {
    if (x == 0.0f || std::isnan(x)) return static_cast<double>(x);
    constexpr double most = 0x1.fep127;
    const double v = static_cast<double>(x);
    if (std::fabs(v) >= most) return std::copysign(most, v);
    const double unit = std::ldexp(1.0, std::max(std::ilogb(v), -126) - 7);
    return std::copysign(std::fmin(std::fabs(std::nearbyint(v / unit) * unit), most), v);
  }
  static double scale_of(const float* x, std::size_t K) noexcept {
    float largest = 0.0f;
    for (std::size_t k = 0; k < K; ++k) largest = std::fabs(x[k]) > largest ? std::fabs(x[k]) : largest;
    return static_cast<double>(largest / 127.0f);
  }
  static double code_of(float x, double scale) noexcept {
    if (!(scale > 0.0) || !std::isfinite(x)) return 0.0;
    const float q = x / static_cast<float>(scale);
    return std::nearbyint(static_cast<double>(q < -127.0f ? -127.0f : (q > 127.0f ? 127.0f : q)));
  }
};
static_assert(backend<reference>);

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
