// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The CPU backends: one driver over the kernels of an ISA.
///
/// Work items are panels x blocks of mc rows, taken one at a time from a shared counter. K is never split, so no result
/// depends on the number of threads.

#include <cstddef>
#include <memory>
#include <span>

#include <nibble/core/assert.hpp>
#include <nibble/core/config.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/call.hpp>
#include <nibble/gemm/products.hpp>
#include <nibble/gemm/tiling.hpp>
#include <nibble/isa/detect.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/pack/panel16.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

template <class Isa>
struct cpu {
  using isa_type = typename kernels::gemm_panel<Isa>::isa_type;
  static constexpr std::string_view name = isa_type::name;

  static bool runs_here() noexcept { return isa::runs_here<isa_type>(); }

  static errc can_multiply(const packed_view& w, const gemm_options& o) noexcept {
    if (!runs_here()) return errc::unsupported_isa;
    if (const errc answer = detail::can_scale_activations(w, o); answer != errc::ok) return answer;
    if (uses_image(w, o) && o.image == table_image::none)
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
      const scratch_plan p = plan_task(tasks[i], o, shares ? &led : nullptr, at, products<Isa>::operand_bytes(o));
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
                       const Epilogue& epilogue) noexcept;

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
      // Fewer threads may take more panels at once: room is made for the most.
      const std::size_t most = products<Isa>::panels_at_once(t.W, t.X.rows, o, 0);
      const std::size_t at_once = products<Isa>::panels_at_once(t.W, t.X.rows, o, concurrency);
      b.panels_at_once = most > b.panels_at_once ? most : b.panels_at_once;
      std::size_t ignored = 0;
      const std::size_t area = plan_task(t, o, nullptr, ignored, products<Isa>::operand_bytes(o)).area_bytes;
      b.area_bytes = area > b.area_bytes ? area : b.area_bytes;
      items = saturating_sum(items, t.X.rows == 0 ? 0 : work_items(t.W, t.X.rows, at_once));
      chunks = saturating_sum(chunks, ceil_div(t.X.rows, chunk_rows));
      if (element_bytes(t.X.type) == 2 && t.W.matrix.K > longest) longest = t.W.matrix.K;
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

  /// Rows in chunks: waking threads costs more than quantizing a handful of rows.
  static constexpr std::size_t chunk_rows = 8;

  /// Work item `item` of a task. `area`: the first of the slot's areas.
  template <class Epilogue>
  static void work(const call& c, std::size_t item, std::size_t area, const Epilogue& epilogue) noexcept {
    if (c.w.layout == layout_id::row_major) return detail::row_item(c, item, area, epilogue);
    // Panels first: neighbours in time share the block of activations, which is the larger one.
    const std::size_t panels = pack::panel16::panels(c.w.matrix.N), across = ceil_div(panels, c.panels_at_once);
    const std::size_t first = item % across * c.panels_at_once, m0 = item / across * mc;
    const std::size_t count = panels - first < c.panels_at_once ? panels - first : c.panels_at_once;
    const std::size_t M = c.x.rows - m0 < mc ? c.x.rows - m0 : mc;
    products<Isa>::accumulate(c, first, count, m0, M, area);
    const bool token_scales = c.o.computation == computation::integer && !c.group_scales();
    const float* row_scales = token_scales ? c.shared<float>(c.plan.x_scales) + m0 : nullptr;
    const float* acc[products<Isa>::most_panels];
    for (std::size_t i = 0; i < count; ++i) acc[i] = c.own<float>(area + i, c.plan.acc);
    detail::store(c, first, count, m0, M, acc, row_scales, epilogue);
  }
};

// Outside of the class, so that a unit can leave it to another one.
template <class Isa>
template <class Epilogue>
void cpu<Isa>::multiply(std::span<const gemm_task> tasks, const gemm_options& o, const context& ctx,
                        const Epilogue& epilogue) noexcept {
  const batch_plan b = plan_batch(tasks, o, ctx.concurrency);
  call* const calls = reinterpret_cast<call*>(ctx.scratch);
  std::size_t at = b.shared, items = 0, chunks = 0, leader = 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const gemm_task& t = tasks[i];
    const bool shares = i != 0 && same_activations(tasks[leader], t, o);
    const scratch_plan plan =
        plan_task(t, o, shares ? &calls[leader].plan : nullptr, at, products<Isa>::operand_bytes(o));
    if (!shares) leader = i;
    const std::size_t at_once = products<Isa>::panels_at_once(t.W, t.X.rows, o, ctx.concurrency);
    std::construct_at(calls + i, call{t.X, t.W, t.Y, t.bias, o, plan, ctx.scratch, nullptr, b.area_bytes, i, leader,
                                      at_once, items, chunks});
    if (uses_image(t.W, o)) {
      const quantized_view& w = t.W.matrix;
      calls[i].image = std::construct_at(reinterpret_cast<quant::integer_image*>(ctx.scratch + plan.image),
                                         quant::make_integer_image(w.table, w.format.bits, o.image));
    }
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
      products<Isa>::prepare(calls + first, end - first, m, row);
    }
  });
  core::for_each_item(ctx, items, [&](std::size_t item, std::size_t slot) {
    const call& c = calls[find(calls, count, item, &call::first_item)];
    work(c, item - c.first_item, slot * b.panels_at_once, epilogue);
  });
}

#if NIBBLE_EXTERN_KERNELS  // see products.hpp
extern template void cpu<isa::native>::multiply(std::span<const gemm_task>, const gemm_options&, const context&,
                                                const no_epilogue&) noexcept;
extern template void cpu<isa::scalar>::multiply(std::span<const gemm_task>, const gemm_options&, const context&,
                                                const no_epilogue&) noexcept;
#endif

/// Plain C++: every format, layout and granularity.
using scalar = cpu<isa::scalar>;
/// The widest registers that this translation unit's flags allow: layout panel16.
using simd = cpu<isa::native>;

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
