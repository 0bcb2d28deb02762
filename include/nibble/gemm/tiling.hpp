// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How a product is cut, and the scratch memory that this takes.

#include <cstddef>
#include <cstdint>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/task.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/quant/granularity.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

/// Rows of X in one work item: 256 rows x one k block of activations stay in a 512 KiB L2, and unpacking a panel is
/// shared by all of them.
inline constexpr std::size_t mc = 256;
/// k of a block: the unpacked codes of a panel (16 KiB) or its values (256 * 16 * 4 = 16 KiB) take half of a 32 KiB L1.
inline constexpr std::size_t kc_integer = 1024;
inline constexpr std::size_t kc_float = 256;
/// The same for values of so many bytes.
constexpr std::size_t kc_of(std::size_t operand_bytes) noexcept { return kc_float * sizeof(float) / operand_bytes; }
static_assert(kernels::exact_k % kc_integer == 0, "the cut of long integer sums falls on a block's end");

/// k of a group as the panel kernels count it: >= K when one group covers the row.
constexpr std::size_t panel_group(const format_desc& f, std::size_t K) noexcept {
  const bool one = f.granularity == granularity_kind::per_tensor || f.granularity == granularity_kind::per_channel;
  return one ? round_up(K, std::size_t{4}) : std::size_t{f.group_size};
}

/// True when a group is longer than what int32 sums hold exactly: they are combined in 64 bits.
constexpr bool sums_exceed_int32(const format_desc& f, std::size_t K) noexcept {
  return K > kernels::exact_k && panel_group(f, K) >= K;
}

/// Byte offsets of the parts of ctx.scratch that a task uses; each begins at a multiple of 64.
struct scratch_plan {
  // shared by all slots
  std::size_t x = 0;  ///< [M][x_stride] s8 codes, floats in tiles (0 bytes when X is used in place), bfloat16 operands
  std::size_t x_stride = 0;  ///< in elements
  std::size_t x_scales = 0;  ///< float [M] or [M][groups]: scales of the codes, or the float path's 0 / NaN of each row
  std::size_t x_sums = 0;    ///< [M][groups]
  std::size_t x_levels = 0;  ///< float [M][groups], the same in integer computation with offsets
  std::size_t image = 0;     ///< quant::integer_image of a codebook
  // inside the area of a slot and panel
  std::size_t units = 0, values = 0, scales = 0, zeros = 0, zero_values = 0, offsets = 0, state = 0, acc = 0,
              long_sums = 0;
  std::size_t area_bytes = 0;
  std::size_t groups = 0;  ///< groups of a row
};

/// a * b and a + b, or the greatest size when that overflows: a plan too large for memory then asks for all of it, and no
/// scratch memory passes for enough.
constexpr std::size_t saturating_product(std::size_t a, std::size_t b) noexcept {
  std::size_t r = 0;
  return __builtin_mul_overflow(a, b, &r) ? ~std::size_t{0} : r;
}
constexpr std::size_t saturating_sum(std::size_t a, std::size_t b) noexcept {
  std::size_t r = 0;
  return __builtin_add_overflow(a, b, &r) ? ~std::size_t{0} : r;
}

/// The next place for count * size bytes; `at` moves past it.
constexpr std::size_t place(std::size_t& at, std::size_t count, std::size_t size) noexcept {
  const std::size_t here = at, bytes = saturating_product(count, size);
  at = saturating_sum(at, bytes > ~plane_alignment ? bytes : round_up(bytes, plane_alignment));
  return here;
}

/// True for integer computation with a codebook, which goes through its image.
constexpr bool uses_image(const packed_view& w, const gemm_options& o) noexcept {
  return o.computation == computation::integer && w.matrix.format.rule == code_rule::codebook;
}

/// True for a product that the one-row kernels serve, several panels at once: groups are whole blocks or, in integers, equal
/// parts of one; tables fit registers.
constexpr bool one_row(const packed_view& w, std::size_t M, const gemm_options& o) noexcept {
  const format_desc& f = w.matrix.format;
  const std::size_t K = w.matrix.K, group = panel_group(f, K);
  const bool integer = o.computation == computation::integer, table = f.rule == code_rule::codebook;
  // Weights in bfloat16 take their scales before they are rounded: that is left to the blocks.
  if (M != 1 || w.layout != layout_id::panel16 || o.computation == computation::bfloat16) return false;
  if (table && f.bits > (integer ? kernels::image_row_bits : kernels::table_row_bits)) return false;
  if (integer && sums_exceed_int32(f, K)) return false;
  const bool part = integer && !table && (group == 8 || group == 16);
  return group % pack::panel16::block_k == 0 || group >= K || part;
}

/// Work items of a product: panels (or so many of them as a kernel takes at once) times blocks of rows, or columns.
constexpr std::size_t work_items(const packed_view& w, std::size_t M, std::size_t panels_at_once) noexcept {
  return w.layout == layout_id::panel16
             ? saturating_product(ceil_div(pack::panel16::panels(w.matrix.N), panels_at_once), ceil_div(M, mc))
             : w.matrix.N;
}

/// True when X is read where it lies: by the panel kernels a single row, because of several they want the rows interleaved.
constexpr bool reads_in_place(const packed_view& w, const input_ref& x, const gemm_options& o) noexcept {
  return x.type == element::f32 && o.computation == computation::weight_only &&
         (w.layout == layout_id::row_major || (x.rows == 1 && w.matrix.K % pack::panel16::block_k == 0));
}

/// The parts of one task; `at` moves past the shared ones. `same_x`: the plan of a task whose activations serve this one.
/// `operand_bytes`: of an activation and of a weight in float computations, 2 where kernels take bfloat16 itself.
constexpr scratch_plan plan_task(const gemm_task& t, const gemm_options& o, const scratch_plan* same_x, std::size_t& at,
                                 std::size_t operand_bytes) noexcept {
  const packed_view& w = t.W;
  const format_desc& f = w.matrix.format;
  const std::size_t M = t.X.rows, K = w.matrix.K, padded = round_up(K, plane_alignment);
  const bool integer = o.computation == computation::integer, panel = w.layout == layout_id::panel16;
  const bool bfloat16 = o.computation == computation::bfloat16;
  const std::size_t rows = M < mc ? M : mc;
  scratch_plan p;
  p.groups = panel ? ceil_div(K, panel_group(f, K)) : 0;
  // A line more than a multiple of 64 elements: the rows of a tile, and all of a block, would want few sets of the caches with a
  // power of two from row to row.
  p.x_stride = padded + (integer ? (M > 1 ? plane_alignment : 0) : plane_alignment / operand_bytes);
  if (same_x != nullptr) {
    p.x = same_x->x;
    p.x_scales = same_x->x_scales;
  } else {
    if (integer) p.x = place(at, M, p.x_stride);
    else if (!reads_in_place(w, t.X, o)) p.x = place(at, M, p.x_stride * operand_bytes);
    const bool each_group = o.activations == activation_scales::per_token_and_group;
    p.x_scales = place(at, M, (each_group ? p.groups : 1) * sizeof(float));
  }
  if (panel && !bfloat16) p.x_sums = place(at, M, p.groups * sizeof(float));
  if (panel && integer && f.rule == code_rule::asymmetric_offset) p.x_levels = place(at, M, p.groups * sizeof(float));
  const bool image = uses_image(w, o);
  if (image) p.image = place(at, 1, sizeof(quant::integer_image));
  std::size_t inside = 0;
  if (panel) {
    p.units = place(inside, integer ? kc_integer : kc_of(operand_bytes), 16);
    if (!integer) p.values = place(inside, kc_of(operand_bytes) * 16, operand_bytes);
    p.scales = place(inside, p.groups * 16, sizeof(float));
    p.zeros = place(inside, p.groups * 16, sizeof(float));
    p.offsets = place(inside, p.groups * 16, sizeof(float));
    p.state = place(inside, rows * 16, sizeof(float));
    p.acc = place(inside, rows * 16, sizeof(float));
    if (integer && K > kernels::exact_k) p.long_sums = place(inside, rows * 16, sizeof(std::int64_t));
  } else {
    // A row of canonical codes may be cut by flat blocks of >= 8 elements: at most K / 8 + 2 segments.
    const std::size_t segments =
        f.granularity == granularity_kind::flat ? K / f.group_size + 2 : quant::groups_per_row(f, K);
    // Of an image the codes of two planes as well, and the scales of both.
    p.units = place(inside, K, image ? 3 : 1);
    p.scales = place(inside, segments, (image ? 2 : 1) * sizeof(float));
    p.zeros = place(inside, segments, sizeof(std::int32_t));
    p.zero_values = place(inside, segments, sizeof(float));
    p.offsets = place(inside, segments, sizeof(float));
  }
  p.area_bytes = inside;
  return p;
}

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
