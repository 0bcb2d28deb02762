// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the CPU drivers of all ISAs share: the state of a call, the parameters of a panel as floats, the store of a tile,
/// and the plain path over canonical rows.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/epilogue.hpp>
#include <nibble/gemm/task.hpp>
#include <nibble/gemm/tiling.hpp>
#include <nibble/kernels/panel_params.hpp>
#include <nibble/kernels/scalar/gemm_rows.hpp>
#include <nibble/kernels/scalar/quantize_row.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm::detail {

/// z of the float path and of the integer path for rules with a constant one; mid-rise counts in half steps there.
inline float constant_zero(const format_desc& f) noexcept {
  const float half_range = static_cast<float>(1 << (f.bits - 1));
  switch (f.rule) {
    case code_rule::symmetric:
    case code_rule::symmetric_full: return half_range;
    case code_rule::mid_rise: return half_range - 0.5f;
    case code_rule::asymmetric:
    case code_rule::asymmetric_offset:
    case code_rule::codebook: break;
  }
  return 0.0f;
}

/// One task in progress: its arguments, its cut and its scratch memory.
struct call {
  input_ref x;
  const packed_view& w;
  output_ref y;
  const float* bias;
  const gemm_options& o;
  scratch_plan plan;
  std::byte* scratch;
  std::byte* areas;             ///< of the slots; one area for each slot and panel of a work item
  std::size_t area_bytes;       ///< the greatest of all tasks
  std::size_t number;           ///< of the task in its batch
  std::size_t leader;           ///< the task that quantizes X for this one: itself or an earlier one
  std::size_t panels_at_once;   ///< of a work item of this task
  std::size_t first_item = 0;   ///< of the batch's work items
  std::size_t first_chunk = 0;  ///< of the batch's chunks of rows; leaders only
  /// Integer computation on a codebook: what stands for its values. The kernels then see the codes of a plane.
  const quant::integer_image* image = nullptr;

  template <class T>
  T* shared(std::size_t offset) const noexcept {
    return reinterpret_cast<T*>(scratch + offset);
  }
  template <class T>
  T* own(std::size_t area, std::size_t offset) const noexcept {
    return reinterpret_cast<T*>(areas + area * area_bytes + offset);
  }
  bool x_in_place() const noexcept { return reads_in_place(w, x, o); }
  /// One zero point for the whole matrix: token sums hold what kernels::panel_params::zeros says of that, unless sums are
  /// combined in 64 bits or scaled group by group.
  bool one_zero() const noexcept {
    return o.computation == computation::integer && w.layout == layout_id::panel16 &&
           w.matrix.format.rule != code_rule::asymmetric && !long_sums() && !group_scales();
  }
  /// The same without half steps and offsets: a group's sum lacks nothing else.
  bool sums_started() const noexcept {
    return one_zero() && shift() == 0 && w.matrix.format.rule != code_rule::asymmetric_offset;
  }
  /// That of the integer law: 1 for half steps.
  int shift() const noexcept { return w.matrix.format.rule == code_rule::mid_rise ? 1 : 0; }
  /// Width and constant zero point of the codes that integer kernels multiply.
  int code_bits() const noexcept { return image != nullptr ? image->bits : w.matrix.format.bits; }
  float code_zero() const noexcept {
    return image != nullptr ? static_cast<float>(image->zero()) : constant_zero(w.matrix.format);
  }
  /// The latter in the integer law's units.
  std::int32_t integer_zero() const noexcept {
    return static_cast<std::int32_t>(code_zero() * static_cast<float>(1 << shift()));
  }
  /// One group longer than the sums that int32 holds.
  bool long_sums() const noexcept { return sums_exceed_int32(w.matrix.format, w.matrix.K); }
  /// Row m of the float path.
  const float* x_row(std::size_t m) const noexcept {
    return x_in_place() ? static_cast<const float*>(x.data) + m * x.stride : shared<float>(plan.x) + m * plan.x_stride;
  }
  bool group_scales() const noexcept { return o.activations == activation_scales::per_token_and_group; }
};
static_assert(std::is_trivially_destructible_v<call>, "calls of a batch live in scratch memory");

/// Scales for each group of activations go with the groups of a panel.
inline errc can_scale_activations(const packed_view& w, const gemm_options& o) noexcept {
  if (o.activations == activation_scales::per_token) return errc::ok;
  if (o.computation != computation::integer) return errc::unsupported_format;
  if (o.activations == activation_scales::fixed) return errc::ok;
  const granularity_kind kind = w.matrix.format.granularity;
  if (kind != granularity_kind::grouped && kind != granularity_kind::flat) return errc::unsupported_format;
  return w.layout == layout_id::panel16 ? errc::ok : errc::unsupported_layout;
}

/// Decodes the parameters of one panel into the slot's area, for plane `plane` of an image. `halves`: half scales, and
/// multiples of super-blocks, may stay as they are stored. The float path's zero points go to params.zeros' place as floats,
/// returned through `zero_values`.
inline kernels::panel_params decode_params(const call& c, std::size_t index, std::size_t slot,
                                           const float*& zero_values, std::size_t& zero_value_stride, bool halves,
                                           std::size_t plane = 0) noexcept {
  const quantized_view& w = c.w.matrix;
  const format_desc& f = w.format;
  const bool integer = c.o.computation == computation::integer;
  const bool one_scale = f.granularity == granularity_kind::per_tensor;
  const std::size_t count = c.plan.groups * 16;
  kernels::panel_params p;
  p.shift = c.shift();
  p.scale_stride = p.zero_stride = p.offset_stride = one_scale ? 0 : 16;

  float* scales = c.own<float>(slot, c.plan.scales);
  const bool multiples = halves && f.scale == scale_storage::super_block && c.image == nullptr;
  halves = halves && f.scale == scale_storage::f16 && !one_scale && c.image == nullptr;
  const std::size_t blocks = ceil_div(w.K, quant::super_block_k);  // of a row, when there are any
  const half* const block_scales = w.block_scales + index * quant::block_scales_per_row(f, w.K) * 16;
  if (multiples) p.block_shift = std::countr_zero(quant::super_block_k / f.group_size);
  if (halves) {
    p.halves = static_cast<const half*>(w.scales) + index * count;
  } else if (multiples) {
    p.scale_codes = static_cast<const std::int8_t*>(w.scales) + index * count;
    kernels::decode_scales(scale_storage::f16, block_scales, blocks * 16, scales);
  } else if (one_scale) {
    float s = 0.0f;
    if (f.scale == scale_storage::double_quant)
      s = kernels::decode_double_quant(*static_cast<const std::uint8_t*>(w.scales), 0, w.super_scales, w.scale_offset);
    else kernels::decode_scales(f.scale, w.scales, 1, &s);
    for (std::size_t n = 0; n < 16; ++n) scales[n] = s;
  } else if (f.scale == scale_storage::double_quant) {
    const std::size_t columns = w.N - index * 16 < 16 ? w.N - index * 16 : 16;
    kernels::decode_double_quants(static_cast<const std::uint8_t*>(w.scales) + index * count, c.plan.groups, index * 16,
                                  columns, w.super_scales, w.scale_offset, scales);
  } else if (f.scale == scale_storage::super_block) {
    kernels::decode_super_blocks(static_cast<const std::int8_t*>(w.scales) + index * count, block_scales, c.plan.groups,
                                 quant::super_block_k / f.group_size, scales);
  } else {
    const std::size_t size = quant::scale_bytes(f.scale);
    kernels::decode_scales(f.scale, static_cast<const std::byte*>(w.scales) + index * count * size, count, scales);
  }
  const std::size_t decoded = one_scale ? 16 : count;
  if (c.image != nullptr)
    for (std::size_t i = 0; i < decoded; ++i) scales[i] *= c.image->units[plane];
  p.scales = scales;

  // Zero points: a constant one is a single set of 16, shared by all groups.
  float* as_float = c.own<float>(slot, c.plan.zeros);
  std::int32_t* as_int = c.own<std::int32_t>(slot, c.plan.zeros);
  if (f.rule == code_rule::asymmetric) {
    const std::uint8_t* z = static_cast<const std::uint8_t*>(w.zeros);
    std::uint8_t same[16];
    if (one_scale) std::memset(same, z[0], sizeof same);
    z = one_scale ? same : z + index * count;
    if (integer) kernels::decode_zeros(z, decoded, as_int);
    else kernels::decode_zeros(z, decoded, as_float);
  } else {
    p.zero_stride = 0;
    const float z = c.code_zero();
    for (std::size_t n = 0; n < 16; ++n) {
      if (integer) as_int[n] = c.integer_zero();
      else as_float[n] = z;
    }
  }
  p.zeros = c.one_zero() ? nullptr : as_int;
  zero_values = as_float;
  zero_value_stride = p.zero_stride;

  if (f.rule == code_rule::asymmetric_offset) {
    float* offsets = c.own<float>(slot, c.plan.offsets);
    const scale_storage storage = f.scale == scale_storage::double_quant ? scale_storage::f32 : f.scale;
    const std::byte* first = static_cast<const std::byte*>(w.zeros);
    if (one_scale) {
      float z = 0.0f;
      kernels::decode_scales(storage, first, 1, &z);
      for (std::size_t n = 0; n < 16; ++n) offsets[n] = z;
    } else if (multiples) {
      p.offset_codes = static_cast<const std::int8_t*>(w.zeros) + index * count;
      kernels::decode_scales(scale_storage::f16, block_scales + blocks * 16, blocks * 16, offsets);
    } else if (f.scale == scale_storage::super_block) {
      kernels::decode_super_blocks(static_cast<const std::int8_t*>(w.zeros) + index * count, block_scales + blocks * 16,
                                   c.plan.groups, quant::super_block_k / f.group_size, offsets);
    } else {
      kernels::decode_scales(storage, first + index * count * quant::scale_bytes(storage), count, offsets);
    }
    p.offsets = offsets;
  }
  return p;
}

/// A finished accumulator with its scale and bias; `row_scale` is null in the float path.
inline float scaled(float acc, const float* row_scale, const float* bias) noexcept {
  if (row_scale != nullptr) return bias != nullptr ? fused_multiply_add(acc, *row_scale, *bias) : acc * *row_scale;
  return bias != nullptr ? acc + *bias : acc;
}

/// The code of an s8 output; NaN becomes -128, which is no code.
inline std::int8_t output_code(float v, float scale) noexcept {
  return v != v ? std::int8_t{-128} : kernels::quantize_row<isa::scalar>::code_of(v, scale);
}

/// y[i] = v[i] + beta * y[i] in Y's type; with beta 0, y is not read.
inline void write(const output_ref& y, std::size_t at, std::size_t count, const float* v, float beta) noexcept {
  const auto floats = [&]<class T>(T* out) {
    const auto all = [&](std::size_t n) NIBBLE_LAMBDA_INLINE {
      if (beta == 0.0f)
        for (std::size_t i = 0; i < n; ++i) out[i] = round_to<T>(v[i]);
      else
        for (std::size_t i = 0; i < n; ++i) out[i] = round_to<T>(fused_multiply_add(beta, to_float(out[i]), v[i]));
    };
    if (count == 16) all(16);  // a number that the compiler knows
    else all(count);
  };
  switch (y.type) {
    case element::f32: return floats(static_cast<float*>(y.data) + at);
    case element::f16: return floats(static_cast<half*>(y.data) + at);
    case element::bf16: return floats(static_cast<bfloat16*>(y.data) + at);
    case element::s8: break;
  }
  std::int8_t* out = static_cast<std::int8_t*>(y.data) + at;
  for (std::size_t i = 0; i < count; ++i) {
    const float old = beta == 0.0f ? 0.0f : static_cast<float>(out[i]) * y.scale;
    out[i] = output_code(beta == 0.0f ? v[i] : fused_multiply_add(beta, old, v[i]), y.scale);
  }
}

/// Token scale, bias, epilogue and beta for `panels` panels from `first` on, rows [m0, m0 + M): one pass over the
/// accumulators, row by row, so that what neighbours write of a row is one run. acc[i]: those of panel first + i.
template <class Epilogue>
void store(const call& c, std::size_t first, std::size_t panels, std::size_t m0, std::size_t M, const float* const* acc,
           const float* row_scales, const Epilogue& epilogue) noexcept {
  const std::size_t n0 = first * 16, N = c.w.matrix.N, all = N - n0 < panels * 16 ? N - n0 : panels * 16;
  const std::size_t bytes = element_bytes(c.y.type);
  std::byte* const y = static_cast<std::byte*>(c.y.data) + n0 * bytes;
  for (std::size_t m = 0; m < M; ++m) {
    // Rows of Y are far apart: the core's own prefetchers do not see them coming.
    constexpr std::size_t ahead = 16;
    if (m + ahead < M)
      for (std::size_t at = 0; at < all * bytes; at += 64)
        __builtin_prefetch(y + (m0 + m + ahead) * c.y.stride * bytes + at, 1);
    const float* const row_scale = row_scales == nullptr ? nullptr : row_scales + m;
    if constexpr (std::is_same_v<Epilogue, no_epilogue>) {
      // Floats that are only scaled: the whole run at once.
      if (c.y.type == element::f32 && c.o.beta == 0.0f && c.bias == nullptr && all % 16 == 0) {
        float* const out = static_cast<float*>(c.y.data) + (m0 + m) * c.y.stride + n0;
        const float factor = row_scale == nullptr ? 1.0f : *row_scale;  // v * 1 is v
        for (std::size_t i = 0; i < panels; ++i)
          for (std::size_t j = 0; j < 16; ++j) out[i * 16 + j] = acc[i][m * 16 + j] * factor;
        continue;
      }
    }
    for (std::size_t i = 0; i < panels; ++i) {
      const std::size_t n = n0 + i * 16, count = N - n < 16 ? N - n : 16;
      float v[16];
      if (c.bias == nullptr) {
        for (std::size_t j = 0; j < 16; ++j) v[j] = scaled(acc[i][m * 16 + j], row_scale, nullptr);
      } else {
        float bias[16] = {};
        for (std::size_t j = 0; j < count; ++j) bias[j] = c.bias[n + j];
        for (std::size_t j = 0; j < 16; ++j) v[j] = scaled(acc[i][m * 16 + j], row_scale, bias + j);
      }
      if constexpr (!std::is_same_v<Epilogue, no_epilogue>) keep_rounding(v);
      epilogue(output_row{c.number, m0 + m, n, count}, v);
      write(c.y, (m0 + m) * c.y.stride + n, count, v, c.o.beta);
    }
  }
}

/// One output column of the canonical form.
template <class Epilogue>
void row_item(const call& c, std::size_t n, std::size_t slot, const Epilogue& epilogue) noexcept {
  const quantized_view& w = c.w.matrix;
  const format_desc& f = w.format;
  const bool integer = c.o.computation == computation::integer, flat = f.granularity == granularity_kind::flat;
  std::uint8_t* codes = c.own<std::uint8_t>(slot, c.plan.units);
  if (flat) pack::unpack_range(w.codes, n * w.K, w.K, f.bits, codes);
  else pack::unpack_row(w.codes + n * w.row_stride_bytes, w.K, f.bits, codes);

  kernels::row_call r;
  r.K = w.K;
  r.codes = codes;
  const bool grouped = flat || f.granularity == granularity_kind::grouped;
  r.group = grouped ? std::size_t{f.group_size} : w.K;
  r.first_segment = flat ? r.group - n * w.K % r.group : r.group;
  r.table = f.rule == code_rule::codebook ? w.table : nullptr;
  r.shift = f.rule == code_rule::mid_rise ? 1 : 0;
  const std::size_t first = quant::group_of(f, w.K, n, 0), last = quant::group_of(f, w.K, n, w.K - 1);
  float* scales = c.own<float>(slot, c.plan.scales);
  float* offsets = c.own<float>(slot, c.plan.offsets);
  float* zero_values = c.own<float>(slot, c.plan.zero_values);
  std::int32_t* zeros = c.own<std::int32_t>(slot, c.plan.zeros);
  for (std::size_t g = first; g <= last; ++g) {
    const std::size_t i = g - first;
    scales[i] = quant::scale_at(w, g);
    const float z = f.rule == code_rule::asymmetric ? quant::zero_at(w, g) : c.code_zero();
    zero_values[i] = z;
    zeros[i] = static_cast<std::int32_t>(z * static_cast<float>(1 << r.shift));
    if (f.rule == code_rule::asymmetric_offset) offsets[i] = quant::zero_at(w, g);
  }
  r.scales = scales;
  r.zeros = zeros;
  r.zero_values = zero_values;
  r.offsets = f.rule == code_rule::asymmetric_offset ? offsets : nullptr;
  const std::size_t planes = c.image != nullptr ? static_cast<std::size_t>(c.image->planes) : 1,
                    segments = last - first + 1;
  if (c.image != nullptr) {
    for (std::size_t p = planes; p-- > 0;) {
      for (std::size_t k = 0; k < w.K; ++k) codes[(1 + p) * w.K + k] = c.image->codes[p][codes[k]];
      for (std::size_t g = 0; g < segments; ++g) scales[p * segments + g] = scales[g] * c.image->units[p];
    }
  }
  const float* row_scales = c.shared<float>(c.plan.x_scales);
  const float* bias = c.bias == nullptr ? nullptr : c.bias + n;
  for (std::size_t m = 0; m < c.x.rows; ++m) {
    float acc = 0.0f;
    switch (c.o.computation) {
      case computation::integer:
        for (std::size_t p = 0; p < planes; ++p) {
          if (c.image != nullptr) {
            r.codes = codes + (1 + p) * w.K;
            r.scales = scales + p * segments;
          }
          acc = kernels::gemm_rows::integer(r, c.shared<std::int8_t>(c.plan.x) + m * c.plan.x_stride, acc);
        }
        break;
      case computation::weight_only: acc = kernels::gemm_rows::weight_only(r, c.x_row(m), row_scales[m]); break;
      case computation::bfloat16: acc = kernels::gemm_rows::bfloat16(r, c.x_row(m), row_scales[m]); break;
    }
    float v[16] = {scaled(acc, integer ? row_scales + m : nullptr, bias)};
    if constexpr (!std::is_same_v<Epilogue, no_epilogue>) keep_rounding(v);
    epilogue(output_row{c.number, m, n, 1}, v);
    write(c.y, m * c.y.stride + n, 1, v, c.o.beta);
  }
}

}  // namespace gemm::detail
}  // namespace NIBBLE_ABI
}  // namespace nibble
