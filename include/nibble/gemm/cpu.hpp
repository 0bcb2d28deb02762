// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The CPU backends: one driver over the kernels of an ISA.
///
/// Work items are panels x blocks of mc rows, taken one at a time from a shared counter. K is never split, so no result
/// depends on the number of threads.

#include <bit>
#include <cstring>
#include <limits>

#include <nibble/core/assert.hpp>
#include <nibble/core/config.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/call.hpp>
#include <nibble/gemm/tiling.hpp>
#include <nibble/isa/detect.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/pack/bits.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

template <class Isa>
struct cpu {
  using panel = kernels::gemm_panel<Isa>;
  using isa_type = typename panel::isa_type;
  static constexpr std::string_view name = isa_type::name;

  static bool runs_here() noexcept { return isa::runs_here<isa_type>(); }

  static errc can_multiply(const packed_view& w, const gemm_options& o) noexcept {
    if (!runs_here()) return errc::unsupported_isa;
    if (o.computation == computation::integer && w.matrix.format.rule == code_rule::codebook)
      return errc::unsupported_format;  // table values are floats: no exact integer sum
    switch (w.layout) {
      case layout_id::panel16: return errc::ok;
      case layout_id::row_major:
        // Plain code only: a SIMD backend would be slower than its own packed form and says so.
        return std::is_same_v<isa_type, isa::scalar> ? errc::ok : errc::unsupported_layout;
    }
    return errc::unsupported_layout;
  }

  static std::size_t scratch_bytes(const packed_view& w, std::size_t M, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    return plan_scratch(w, M, o, concurrency, panels_at_once(w, M, o)).total;
  }

  static void multiply(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                       const context& ctx) noexcept {
    if (x.rows == 0) return;
    const std::size_t at_once = panels_at_once(w, x.rows, o);
    const call c{x, w, y, o, plan_scratch(w, x.rows, o, ctx.concurrency, at_once), ctx.scratch};
    NIBBLE_ASSERT(ctx.scratch_bytes >= c.plan.total);
    if (o.computation == computation::integer) prepare_integer(c, ctx);
    else prepare_float(c, ctx);
    if (w.layout == layout_id::row_major) {
      core::for_each_item(ctx, w.matrix.N, [&](std::size_t n, std::size_t slot) { detail::row_item(c, n, slot); });
      return;
    }
    const std::size_t panels = pack::panel16::panels(w.matrix.N);
    if (float_rows(w, x.rows, o)) {
      core::for_each_item(ctx, work_items(w, 1, at_once), [&](std::size_t item, std::size_t slot) {
        const std::size_t first = item * at_once;
        float_row_item(c, first, panels - first < at_once ? panels - first : at_once, slot * at_once);
      });
      return;
    }
    const std::size_t across = ceil_div(panels, at_once);
    core::for_each_item(ctx, work_items(w, x.rows, at_once), [&](std::size_t item, std::size_t slot) {
      // Panels first: neighbours in time share the block of activations, which is the larger one.
      const std::size_t first = item % across * at_once, count = panels - first < at_once ? panels - first : at_once;
      if constexpr (panel::block_panels > 1) {
        if (at_once > 1) return integer_item(c, first, count, item / across * mc, slot * at_once);
      }
      panel_item(c, first, item / across * mc, slot);
    });
  }

 private:
  using call = detail::call;

  static constexpr std::size_t panels_at_once(const packed_view& w, std::size_t M, const gemm_options& o) noexcept {
    if (float_rows(w, M, o)) return panel::row_panels;
    return M > 1 && o.computation == computation::integer && w.layout == layout_id::panel16 ? panel::block_panels : 1;
  }

  static void prepare_integer(const call& c, const context& ctx) noexcept {
    const std::size_t K = c.x.cols, group = c.w.layout == layout_id::panel16 ? panel_group(c.w.matrix.format, K) : 0;
    const format_desc& f = c.w.matrix.format;
    const std::size_t factor_groups = c.sums_started() ? c.plan.groups : 0;
    const std::int32_t factor = panel::code_bias(f.bits) - static_cast<std::int32_t>(detail::constant_zero(f));
    for_row_chunks(c, ctx, [&](std::size_t m) {
      std::int8_t* codes = c.shared<std::int8_t>(c.plan.x) + m * c.plan.x_stride;
      c.shared<float>(c.plan.x_scales)[m] =
          kernels::quantize_row<Isa>::run(c.x.data + m * c.x.stride, K, codes, c.plan.x_stride);
      if (group == 0) return;
      std::int32_t* sums = c.shared<std::int32_t>(c.plan.x_sums) + m * c.plan.groups;
      kernels::group_sums(codes, K, group, sums);
      for (std::size_t g = 0; g < factor_groups; ++g) sums[g] *= factor;
    });
  }

  static void prepare_float(const call& c, const context& ctx) noexcept {
    const std::size_t K = c.x.cols;
    const bool sums = c.w.layout == layout_id::panel16 && c.w.matrix.format.rule == code_rule::asymmetric_offset;
    for_row_chunks(c, ctx, [&](std::size_t m) {
      const float* x = c.x.data + m * c.x.stride;
      // The row's accumulators start from 0, or from NaN when an activation is not finite.
      std::uint32_t largest = 0;
      for (std::size_t k = 0; k < K; ++k) {
        const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu;
        largest = largest < magnitude ? magnitude : largest;
      }
      c.shared<float>(c.plan.x_scales)[m] = largest >= 0x7f800000u ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
      if (!c.x_in_place()) {
        float* padded = c.shared<float>(c.plan.x) + m * c.plan.x_stride;
        std::memcpy(padded, x, K * sizeof(float));
        std::memset(padded + K, 0, (c.plan.x_stride - K) * sizeof(float));
      }
      if (!sums) return;
      const std::size_t group = panel_group(c.w.matrix.format, K);
      float* out = c.shared<float>(c.plan.x_sums) + m * c.plan.groups;
      for (std::size_t k = 0; k < K; ++out) {
        const std::size_t stop = kernels::segment_end(k, group, K);
        float sum = 0.0f;
        for (; k < stop; ++k) sum += x[k];
        *out = sum;
      }
    });
  }

  /// Rows in chunks: waking threads costs more than quantizing a handful of rows.
  template <class F>
  static void for_row_chunks(const call& c, const context& ctx, F&& f) noexcept {
    constexpr std::size_t chunk = 8;
    core::for_each_item(ctx, ceil_div(c.x.rows, chunk), [&](std::size_t item, std::size_t) {
      const std::size_t end = item * chunk + chunk < c.x.rows ? item * chunk + chunk : c.x.rows;
      for (std::size_t m = item * chunk; m < end; ++m) f(m);
    });
  }

  static void panel_item(const call& c, std::size_t index, std::size_t m0, std::size_t slot) noexcept {
    const quantized_view& w = c.w.matrix;
    const std::size_t M = c.x.rows - m0 < mc ? c.x.rows - m0 : mc;
    const std::byte* codes = w.codes + index * pack::panel16::panel_bytes(w.K, w.format.bits);
    const float* zero_values = nullptr;
    std::size_t zero_value_stride = 0;
    const kernels::panel_params params = detail::decode_params(c, index, slot, zero_values, zero_value_stride);
    float* acc = c.own<float>(slot, c.plan.acc);
    const float* row_scales = c.shared<float>(c.plan.x_scales) + m0;
    const bool integer = c.o.computation == computation::integer;
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t n = 0; n < 16; ++n) acc[m * 16 + n] = integer ? 0.0f : row_scales[m];

    if (integer) {
      kernels::integer_call k = integer_call_of(c, m0, M, params, slot);
      integer_panel(c, k, codes, slot);
    } else {
      kernels::float_call k{.M = M,
                            .K = w.K,
                            .k0 = 0,
                            .k1 = w.K,
                            .group = panel_group(w.format, w.K),
                            .fold = true,
                            .x = c.x_row(m0),
                            .x_stride = c.x_in_place() ? c.x.stride : c.plan.x_stride,
                            .x_sums = c.shared<float>(c.plan.x_sums) + m0 * c.plan.groups,
                            .sum_stride = c.plan.groups,
                            .params = params,
                            .state = c.own<float>(slot, c.plan.state),
                            .acc = acc};
      float_panel(c, k, codes, slot, zero_values, zero_value_stride);
    }
    detail::store(c, index, m0, M, acc, integer ? row_scales : nullptr);
  }

  static kernels::integer_call integer_call_of(const call& c, std::size_t m0, std::size_t M,
                                               const kernels::panel_params& params, std::size_t slot) noexcept {
    const quantized_view& w = c.w.matrix;
    return {.M = M,
            .K = w.K,
            .k0 = 0,
            .k1 = w.K,
            .group = panel_group(w.format, w.K),
            .fold = true,
            .x = c.shared<std::int8_t>(c.plan.x) + m0 * c.plan.x_stride,
            .x_stride = c.plan.x_stride,
            .x_sums = c.shared<std::int32_t>(c.plan.x_sums) + m0 * c.plan.groups,
            .sum_stride = c.plan.groups,
            .params = params,
            .state = c.own<std::int32_t>(slot, c.plan.state),
            .acc = c.own<float>(slot, c.plan.acc)};
  }

  /// A block of rows against `count` panels, of whose k blocks the kernel takes block_panels at once. Panel i has the area
  /// of slot `slot` + i.
  static void integer_item(const call& c, std::size_t first, std::size_t count, std::size_t m0,
                           std::size_t slot) noexcept {
    const quantized_view& w = c.w.matrix;
    const std::size_t M = c.x.rows - m0 < mc ? c.x.rows - m0 : mc;
    kernels::integer_call calls[panel::block_panels];
    const std::byte* codes[panel::block_panels];
    const std::uint8_t* units[panel::block_panels];
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = w.codes + (first + i) * pack::panel16::panel_bytes(w.K, w.format.bits);
      units[i] = c.own<std::uint8_t>(slot + i, c.plan.units);
      const float* zero_values = nullptr;
      std::size_t zero_value_stride = 0;
      const auto params = detail::decode_params(c, first + i, slot + i, zero_values, zero_value_stride);
      calls[i] = integer_call_of(c, m0, M, params, slot + i);
      for (std::size_t j = 0; j < M * 16; ++j) calls[i].acc[j] = 0.0f;
    }
    if (c.long_sums()) {
      for (std::size_t i = 0; i < count; ++i) integer_panel(c, calls[i], codes[i], slot + i);
    } else {
      for (std::size_t k0 = 0, k1; k0 < w.K; k0 = k1) {
        k1 = w.K - k0 < kc_integer ? w.K : k0 + kc_integer;
        const std::size_t blocks = pack::panel16::blocks(k1 - k0);
        for (std::size_t i = 0; i < count; ++i) {
          calls[i].k0 = k0;
          calls[i].k1 = k1;
          pack::with_bits(w.format.bits, [&]<int Bits>() {
            panel::template unpack<Bits>(codes[i], blocks, c.own<std::uint8_t>(slot + i, c.plan.units));
          });
          codes[i] += blocks * pack::panel16::block_bytes(w.format.bits);
        }
        panel::integer_blocks(calls, count, w.format.bits, units);
      }
    }
    const float* row_scales = c.shared<float>(c.plan.x_scales) + m0;
    for (std::size_t i = 0; i < count; ++i) detail::store(c, first + i, m0, M, calls[i].acc, row_scales);
  }

  /// One row against `count` panels, the last one again and again where fewer than row_panels are left. Panel i has the
  /// area of slot `slot` + i.
  static void float_row_item(const call& c, std::size_t first, std::size_t count, std::size_t slot) noexcept {
    const quantized_view& w = c.w.matrix;
    kernels::float_call calls[panel::row_panels];
    const std::byte* codes[panel::row_panels];
    const float* zeros[panel::row_panels];
    std::size_t zero_stride = 0;
    for (std::size_t i = 0; i < panel::row_panels; ++i) {
      const std::size_t index = first + (i < count ? i : count - 1);
      codes[i] = w.codes + index * pack::panel16::panel_bytes(w.K, w.format.bits);
      float* acc = c.own<float>(slot + i, c.plan.acc);
      for (std::size_t n = 0; n < 16; ++n) acc[n] = *c.shared<float>(c.plan.x_scales);
      calls[i] = {.M = 1,
                  .K = w.K,
                  .k0 = 0,
                  .k1 = w.K,
                  .group = panel_group(w.format, w.K),
                  .fold = true,
                  .x = c.x_row(0),
                  .x_stride = 0,
                  .x_sums = c.shared<float>(c.plan.x_sums),
                  .sum_stride = c.plan.groups,
                  .params = detail::decode_params(c, index, slot + i, zeros[i], zero_stride),
                  .state = nullptr,
                  .acc = acc};
    }
    pack::with_bits(w.format.bits, [&]<int Bits>() {
      if (w.format.rule == code_rule::codebook) panel::template table_row<Bits>(calls, codes, w.table);
      else panel::template float_row<Bits>(calls, codes, zeros, zero_stride);
    });
    for (std::size_t i = 0; i < count; ++i) detail::store(c, first + i, 0, 1, calls[i].acc, nullptr);
  }

  static void integer_panel(const call& c, kernels::integer_call& k, const std::byte* codes,
                            std::size_t slot) noexcept {
    const int bits = c.w.matrix.format.bits;
    const std::size_t K = k.K;
    const bool long_sums = c.long_sums();
    if (k.M == 1 && !long_sums && (k.group % pack::panel16::block_k == 0 || k.group >= K)) {
      pack::with_bits(bits, [&]<int Bits>() { panel::template integer_row<Bits>(k, codes); });
      return;
    }
    std::int64_t* total = c.own<std::int64_t>(slot, c.plan.long_sums);
    if (long_sums) {
      for (std::size_t i = 0; i < k.M * 16; ++i) total[i] = 0;
      k.fold = false;
    }
    std::uint8_t* units = c.own<std::uint8_t>(slot, c.plan.units);
    for (; k.k0 < K; k.k0 = k.k1) {
      k.k1 = K - k.k0 < kc_integer ? K : k.k0 + kc_integer;
      const std::size_t blocks = pack::panel16::blocks(k.k1 - k.k0);
      pack::with_bits(bits, [&]<int Bits>() { panel::template unpack<Bits>(codes, blocks, units); });
      codes += blocks * pack::panel16::block_bytes(bits);
      panel::integer_block(k, bits, units);
      if (long_sums && (k.k1 == K || k.k1 % kernels::exact_k == 0)) {
        for (std::size_t i = 0; i < k.M * 16; ++i) {
          total[i] += k.state[i];
          k.state[i] = 0;
        }
      }
    }
    if (!long_sums) return;
    const float unit = k.params.shift == 0 ? 1.0f : 0.5f;
    const std::int64_t bias = std::int64_t{panel::code_bias(bits)} * (1 << k.params.shift);
    for (std::size_t m = 0; m < k.M; ++m) {
      const std::int64_t x_sum = k.x_sums[m];
      for (std::size_t n = 0; n < 16; ++n) {
        const std::int64_t exact = total[m * 16 + n] * (1 << k.params.shift) - (k.params.zeros[n] - bias) * x_sum;
        float& acc = k.acc[m * 16 + n];
        acc = fused_multiply_add(static_cast<float>(exact) * unit, k.params.scales[n], acc);
        if (k.params.offsets != nullptr) acc = fused_multiply_add(static_cast<float>(x_sum), k.params.offsets[n], acc);
      }
    }
  }

  static void float_panel(const call& c, kernels::float_call& k, const std::byte* codes, std::size_t slot,
                          const float* zero_values, std::size_t zero_value_stride) noexcept {
    const format_desc& f = c.w.matrix.format;
    const std::size_t K = k.K;
    const bool table = f.rule == code_rule::codebook;
    std::uint8_t* units = c.own<std::uint8_t>(slot, c.plan.units);
    float* values = c.own<float>(slot, c.plan.values);
    for (; k.k0 < K; k.k0 = k.k1) {
      k.k1 = K - k.k0 < kc_float ? K : k.k0 + kc_float;
      const std::size_t blocks = pack::panel16::blocks(k.k1 - k.k0);
      pack::with_bits(f.bits, [&]<int Bits>() { panel::template unpack<Bits>(codes, blocks, units); });
      codes += blocks * pack::panel16::block_bytes(f.bits);
      if (table) {
        panel::values_table(units, blocks * pack::panel16::units_per_block, c.w.matrix.table, f.bits, values);
      } else if (zero_value_stride == 0) {
        panel::values_affine(units, blocks * pack::panel16::units_per_block, zero_values, values);
      } else {
        for (std::size_t at = k.k0; at < k.k1;) {
          const std::size_t stop = kernels::segment_end(at, k.group, k.k1), from = (at - k.k0) / 4;
          panel::values_affine(units + from * 64, ceil_div(stop - at, std::size_t{4}),
                               zero_values + at / k.group * zero_value_stride, values + from * 64);
          at = stop;
        }
      }
      panel::float_block(k, values);
    }
  }
};

/// Plain C++: every format, layout and granularity.
using scalar = cpu<isa::scalar>;
/// The widest registers that this translation unit's flags allow: layout panel16.
using simd = cpu<isa::native>;

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
