// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The CPU backends: one driver over the kernels of an ISA.
///
/// Work items are panels x blocks of mc rows, taken one at a time from a shared counter. K is never split, so no result
/// depends on the number of threads.

#include <cstring>
#include <limits>
#include <memory>
#include <span>

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
    if (const errc answer = detail::can_scale_activations(w, o); answer != errc::ok) return answer;
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

  /// M activations are floats, one scale each.
  static std::size_t scratch_bytes(const packed_view& w, std::size_t M, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    const gemm_task task{{nullptr, M, w.matrix.K, w.matrix.K}, w, {}, nullptr};
    return scratch_bytes(std::span(&task, 1), o, concurrency);
  }
  static std::size_t scratch_bytes(std::span<const gemm_task> tasks, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    std::size_t leader = 0, at = 0;
    const batch_plan b = plan_batch(tasks, o, concurrency);
    at = b.shared;
    scratch_plan led;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const bool shares = i != 0 && same_activations(tasks[leader], tasks[i], o);
      const scratch_plan p = plan_task(tasks[i], o, shares ? &led : nullptr, at);
      if (shares) continue;
      leader = i;
      led = p;
    }
    return saturating_sum(at, saturating_product(b.slots, saturating_product(b.panels_at_once, b.area_bytes)));
  }

  static void multiply(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                       const context& ctx) noexcept {
    const gemm_task task{input_of(x), w, output_of(y), o.bias};
    multiply(std::span(&task, 1), o, ctx, no_epilogue{});
  }

  /// All tasks at once: one pass over the distinct X, one over all panels.
  template <class Epilogue>
  static void multiply(std::span<const gemm_task> tasks, const gemm_options& o, const context& ctx,
                       const Epilogue& epilogue) noexcept {
    const batch_plan b = plan_batch(tasks, o, ctx.concurrency);
    call* const calls = reinterpret_cast<call*>(ctx.scratch);
    std::size_t at = b.shared, items = 0, chunks = 0, leader = 0;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const gemm_task& t = tasks[i];
      const bool shares = i != 0 && same_activations(tasks[leader], t, o);
      const scratch_plan plan = plan_task(t, o, shares ? &calls[leader].plan : nullptr, at);
      if (!shares) leader = i;
      const std::size_t at_once = panels_at_once(t.W, t.X.rows, o);
      std::construct_at(calls + i, call{t.X, t.W, t.Y, t.bias, o, plan, ctx.scratch, nullptr, b.area_bytes, i, leader,
                                        at_once, items, chunks});
      items += t.X.rows == 0 ? 0 : work_items(t.W, t.X.rows, at_once);
      if (!shares) chunks += ceil_div(t.X.rows, chunk_rows);
    }
    NIBBLE_ASSERT(saturating_sum(at, b.slots * b.panels_at_once * b.area_bytes) <= ctx.scratch_bytes);
    for (std::size_t i = 0; i < tasks.size(); ++i) calls[i].areas = ctx.scratch + at;

    const std::size_t count = tasks.size();
    core::for_each_item(ctx, chunks, [&](std::size_t chunk, std::size_t slot) {
      std::size_t first = find(calls, count, chunk, &call::first_chunk);
      first = calls[first].leader;
      std::size_t end = first + 1;
      while (end < count && calls[end].leader == first) ++end;
      float* const row = reinterpret_cast<float*>(ctx.scratch + b.rows + slot * b.row_bytes);
      const std::size_t m0 = (chunk - calls[first].first_chunk) * chunk_rows, M = calls[first].x.rows;
      for (std::size_t m = m0; m < M && m < m0 + chunk_rows; ++m) {
        if (o.computation == computation::integer) prepare_integer(calls + first, end - first, m, row);
        else prepare_float(calls + first, end - first, m);
      }
    });
    core::for_each_item(ctx, items, [&](std::size_t item, std::size_t slot) {
      const call& c = calls[find(calls, count, item, &call::first_item)];
      work(c, item - c.first_item, slot * b.panels_at_once, epilogue);
    });
  }

 private:
  using call = detail::call;

  /// What all tasks of a batch share of the scratch memory: calls, rows, [activations of each task,] areas.
  struct batch_plan {
    std::size_t rows = 0, row_bytes = 0;  ///< a row of X as floats for each slot; none when no X needs it
    std::size_t shared = 0;               ///< where the tasks' own parts begin
    std::size_t panels_at_once = 1, area_bytes = 0, slots = 1;
  };

  static constexpr batch_plan plan_batch(std::span<const gemm_task> tasks, const gemm_options& o,
                                         std::size_t concurrency) noexcept {
    batch_plan b;
    std::size_t items = 0, chunks = 0, longest = 0;
    for (const gemm_task& t : tasks) {
      const std::size_t at_once = panels_at_once(t.W, t.X.rows, o);
      b.panels_at_once = at_once > b.panels_at_once ? at_once : b.panels_at_once;
      std::size_t ignored = 0;
      const std::size_t area = plan_task(t, o, nullptr, ignored).area_bytes;
      b.area_bytes = area > b.area_bytes ? area : b.area_bytes;
      items = saturating_sum(items, t.X.rows == 0 ? 0 : work_items(t.W, t.X.rows, at_once));
      chunks = saturating_sum(chunks, ceil_div(t.X.rows, chunk_rows));
      const bool converted = o.computation == computation::integer && element_bytes(t.X.type) == 2;
      if (converted && t.W.matrix.K > longest) longest = t.W.matrix.K;
    }
    // for_each_item runs no more slots than there are items.
    const auto slots = [&](std::size_t n) { return n == 0 ? 1 : (concurrency < n ? concurrency : n); };
    b.slots = concurrency == 0 ? 1 : slots(items);
    place(b.shared, tasks.size(), sizeof(call));
    b.rows = b.shared;
    std::size_t row = 0;
    place(row, longest, sizeof(float));
    b.row_bytes = row;
    place(b.shared, concurrency == 0 ? 1 : slots(chunks), row);
    return b;
  }

  /// True when what task `a` makes of X serves `b` as well.
  static constexpr bool same_activations(const gemm_task& a, const gemm_task& b, const gemm_options& o) noexcept {
    const bool same = a.X.data == b.X.data && a.X.rows == b.X.rows && a.X.cols == b.X.cols &&
                      a.X.stride == b.X.stride && a.X.type == b.X.type && a.W.layout == b.W.layout;
    return same && (o.activations != activation_scales::per_token_and_group ||
                    panel_group(a.W.matrix.format, a.X.cols) == panel_group(b.W.matrix.format, b.X.cols));
  }

  /// The last call whose first item or chunk is not behind `value`: those without any come before their successors.
  static std::size_t find(const call* calls, std::size_t count, std::size_t value, std::size_t call::*first) noexcept {
    std::size_t low = 0;
    while (count > 1) {
      const std::size_t half = count / 2;
      if (calls[low + half].*first <= value) low += half, count -= half;
      else count = half;
    }
    return low;
  }

  static constexpr std::size_t panels_at_once(const packed_view& w, std::size_t M, const gemm_options& o) noexcept {
    const bool integer = o.computation == computation::integer;
    if (one_row(w, M, o)) return integer ? panel::integer_row_panels(w.matrix.format.bits) : panel::row_panels;
    return M > 1 && integer && w.layout == layout_id::panel16 ? panel::block_panels : 1;
  }

  /// Rows in chunks: waking threads costs more than quantizing a handful of rows.
  static constexpr std::size_t chunk_rows = 8;

  /// Row m of X as floats: in place or in `buffer`.
  static const float* floats_of(const input_ref& x, std::size_t m, float* buffer) noexcept {
    if (x.type == element::f32) return static_cast<const float*>(x.data) + m * x.stride;
    kernels::decode_scales(x.type == element::f16 ? scale_storage::f16 : scale_storage::bf16,
                           static_cast<const std::uint16_t*>(x.data) + m * x.stride, x.cols, buffer);
    return buffer;
  }

  /// Row m of X to codes and scales, then its sums for each of the `count` tasks that share it.
  static void prepare_integer(const call* calls, std::size_t count, std::size_t m, float* buffer) noexcept {
    const call& c = calls[0];
    const std::size_t K = c.x.cols, padded = c.plan.x_stride;
    std::int8_t* codes = c.shared<std::int8_t>(c.plan.x) + m * padded;
    float* scales = c.shared<float>(c.plan.x_scales);
    if (c.x.type == element::s8) {
      std::memcpy(codes, static_cast<const std::int8_t*>(c.x.data) + m * c.x.stride, K);
      std::memset(codes + K, 0, padded - K);
      scales[m] = c.o.x_scale;
    } else {
      const float* x = floats_of(c.x, m, buffer);
      if (c.group_scales()) {
        const std::size_t group = panel_group(c.w.matrix.format, K);
        scales += m * c.plan.groups;
        for (std::size_t k = 0; k < K; k += group) {
          const std::size_t left = K - k;
          *scales++ = left > group ? kernels::quantize_row<Isa>::run(x + k, group, codes + k, group)
                                   : kernels::quantize_row<Isa>::run(x + k, left, codes + k, padded - k);
        }
      } else if (c.o.activations == activation_scales::fixed) {
        scales[m] = kernels::quantize_row_fixed(x, K, c.o.x_scale, codes, padded);
      } else {
        scales[m] = kernels::quantize_row<Isa>::run(x, K, codes, padded);
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      const call& t = calls[i];
      if (t.w.layout != layout_id::panel16) continue;
      const format_desc& f = t.w.matrix.format;
      std::int32_t* sums = t.shared<std::int32_t>(t.plan.x_sums) + m * t.plan.groups;
      kernels::group_sums(codes, K, panel_group(f, K), sums);
      if (!t.sums_started()) continue;
      const std::int32_t factor = panel::code_bias(f.bits) - static_cast<std::int32_t>(detail::constant_zero(f));
      for (std::size_t g = 0; g < t.plan.groups; ++g) sums[g] *= factor;
    }
  }

  static void prepare_float(const call* calls, std::size_t count, std::size_t m) noexcept {
    const call& c = calls[0];
    const std::size_t K = c.x.cols;
    float* const own = c.shared<float>(c.plan.x) + m * c.plan.x_stride;  // not there for an X in place
    const float* x = floats_of(c.x, m, own);
    if (!c.x_in_place()) {
      if (x != own) std::memcpy(own, x, K * sizeof(float));
      std::memset(own + K, 0, (c.plan.x_stride - K) * sizeof(float));
    }
    // The row's accumulators start from 0, or from NaN when an activation is not finite.
    const bool finite = kernels::greatest_magnitude_bits(x, K) < kernels::not_finite_bits;
    c.shared<float>(c.plan.x_scales)[m] = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    for (std::size_t i = 0; i < count; ++i) {
      const call& t = calls[i];
      if (t.w.layout != layout_id::panel16 || t.w.matrix.format.rule != code_rule::asymmetric_offset) continue;
      const std::size_t group = panel_group(t.w.matrix.format, K);
      float* out = t.shared<float>(t.plan.x_sums) + m * t.plan.groups;
      for (std::size_t k = 0; k < K; ++out) {
        const std::size_t stop = kernels::segment_end(k, group, K);
        float sum = 0.0f;
        for (; k < stop; ++k) sum += x[k];
        *out = sum;
      }
    }
  }

  /// Work item `item` of a task. `area`: the first of the slot's areas.
  template <class Epilogue>
  static void work(const call& c, std::size_t item, std::size_t area, const Epilogue& epilogue) noexcept {
    if (c.w.layout == layout_id::row_major) return detail::row_item(c, item, area, epilogue);
    // Panels first: neighbours in time share the block of activations, which is the larger one.
    const std::size_t panels = pack::panel16::panels(c.w.matrix.N), across = ceil_div(panels, c.panels_at_once);
    const std::size_t first = item % across * c.panels_at_once, m0 = item / across * mc;
    const std::size_t count = panels - first < c.panels_at_once ? panels - first : c.panels_at_once;
    if (one_row(c.w, c.x.rows, c.o)) {
      if (c.o.computation == computation::integer) return integer_row_item(c, first, count, area, epilogue);
      return float_row_item(c, first, count, area, epilogue);
    }
    if constexpr (panel::block_panels > 1) {
      if (c.panels_at_once > 1) return integer_item(c, first, count, m0, area, epilogue);
    }
    panel_item(c, first, m0, area, epilogue);
  }

  template <class Epilogue>
  static void panel_item(const call& c, std::size_t index, std::size_t m0, std::size_t slot,
                         const Epilogue& epilogue) noexcept {
    const quantized_view& w = c.w.matrix;
    const std::size_t M = c.x.rows - m0 < mc ? c.x.rows - m0 : mc;
    const std::byte* codes = w.codes + index * pack::panel16::panel_bytes(w.K, w.format.bits);
    const float* zero_values = nullptr;
    std::size_t zero_value_stride = 0;
    const kernels::panel_params params = detail::decode_params(c, index, slot, zero_values, zero_value_stride);
    float* acc = c.own<float>(slot, c.plan.acc);
    const float* row_scales = c.group_scales() ? nullptr : c.shared<float>(c.plan.x_scales) + m0;
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
    detail::store(c, index, m0, M, acc, integer ? row_scales : nullptr, epilogue);
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
            .group_scales = c.group_scales() ? c.shared<float>(c.plan.x_scales) + m0 * c.plan.groups : nullptr,
            .params = params,
            .state = c.own<std::int32_t>(slot, c.plan.state),
            .acc = c.own<float>(slot, c.plan.acc)};
  }

  /// A block of rows against `count` panels, of whose k blocks the kernel takes block_panels at once. Panel i has the area
  /// of slot `slot` + i.
  template <class Epilogue>
  static void integer_item(const call& c, std::size_t first, std::size_t count, std::size_t m0, std::size_t slot,
                           const Epilogue& epilogue) noexcept {
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
    const float* row_scales = c.group_scales() ? nullptr : c.shared<float>(c.plan.x_scales) + m0;
    for (std::size_t i = 0; i < count; ++i) detail::store(c, first + i, m0, M, calls[i].acc, row_scales, epilogue);
  }

  /// One row of codes against `count` panels, the last one again and again where the kernel takes more. Panel i has the area
  /// of slot `slot` + i.
  template <class Epilogue>
  static void integer_row_item(const call& c, std::size_t first, std::size_t count, std::size_t slot,
                               const Epilogue& epilogue) noexcept {
    pack::with_bits(c.w.matrix.format.bits, [&]<int Bits>() {
      constexpr std::size_t panels = panel::integer_row_panels(Bits);
      const quantized_view& w = c.w.matrix;
      kernels::integer_call calls[panels];
      const std::byte* codes[panels];
      for (std::size_t i = 0; i < panels; ++i) {
        const std::size_t index = first + (i < count ? i : count - 1);
        codes[i] = w.codes + index * pack::panel16::panel_bytes(w.K, Bits);
        const float* zero_values = nullptr;
        std::size_t zero_value_stride = 0;
        const auto params = detail::decode_params(c, index, slot + i, zero_values, zero_value_stride);
        calls[i] = integer_call_of(c, 0, 1, params, slot + i);
        for (std::size_t n = 0; n < 16; ++n) calls[i].acc[n] = 0.0f;
      }
      panel::template integer_row<Bits>(calls, codes);
      const float* row_scales = c.group_scales() ? nullptr : c.shared<float>(c.plan.x_scales);
      for (std::size_t i = 0; i < count; ++i) detail::store(c, first + i, 0, 1, calls[i].acc, row_scales, epilogue);
    });
  }

  /// One row against `count` panels, the last one again and again where fewer than row_panels are left. Panel i has the
  /// area of slot `slot` + i.
  template <class Epilogue>
  static void float_row_item(const call& c, std::size_t first, std::size_t count, std::size_t slot,
                             const Epilogue& epilogue) noexcept {
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
    for (std::size_t i = 0; i < count; ++i) detail::store(c, first + i, 0, 1, calls[i].acc, nullptr, epilogue);
  }

  static void integer_panel(const call& c, kernels::integer_call& k, const std::byte* codes,
                            std::size_t slot) noexcept {
    const int bits = c.w.matrix.format.bits;
    const std::size_t K = k.K;
    const bool long_sums = c.long_sums();
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
