// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a CPU backend does below the epilogue, one struct for each ISA: activations prepared, accumulators of panels. All
/// kernels are reached through its two functions, so that a unit can leave them to another one.
///
/// A program with many units that multiply compiles the kernels in each of them, and the linker keeps one copy. With
/// NIBBLE_EXTERN_KERNELS defined to 1 a unit only refers to them; one other unit, compiled with the same flags, includes
/// gemm/instantiate.hpp. The same holds for the kernels of weights (detail::weights of tensor/quantize.hpp) and for those that
/// pack them (detail::panels of tensor/packed_matrix.hpp).

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/gemm/call.hpp>
#include <nibble/gemm/tiling.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/panel16.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

template <class Isa>
struct products {
  using panel = kernels::gemm_panel<Isa>;
  using call = detail::call;

  /// How many panels a work item takes on `concurrency` threads. Of floats, and where kernels take several panels of a block of
  /// k, a work item of many rows has up to most_panels of them, one group of panels after the other: they share a block of
  /// activations while it is in L2, and write runs of Y. All threads still get several items.
  static constexpr std::size_t panels_at_once(const packed_view& w, std::size_t M, const gemm_options& o,
                                              std::size_t concurrency) noexcept {
    if (one_row(w, M, o))
      return o.computation == computation::integer ? panel::integer_row_panels(w.matrix.format.bits)
                                                   : panel::row_panels;
    const std::size_t step = panels_of_block(w, M, o), panels = pack::panel16::panels(w.matrix.N);
    const bool shares = step > 1 || (o.computation != computation::integer && w.layout == layout_id::panel16);
    if (!shares || (M <= 32 && !streams(w, M, o))) return step;
    std::size_t most = most_panels;
    const auto short_of_items = [&] { return concurrency > 1 && work_items(w, M, most) / 4 < concurrency; };
    while (most > step && (most / 2 >= panels || short_of_items())) most /= 2;
    return most;
  }

  /// The most that panels_at_once says.
  static constexpr std::size_t most_panels = 8;

  /// Bytes of an activation and of a weight in the scratch memory of float computations.
  static constexpr std::size_t operand_bytes(const gemm_options& o) noexcept {
    return o.computation == computation::bfloat16 ? sizeof(typename panel::bfloat16_operand) : sizeof(float);
  }

  /// Row m of X for the `count` tasks that share it: codes, scales and sums, or floats. `buffer`: K floats, for X of 16 bits.
  static void prepare(const call* calls, std::size_t count, std::size_t m, float* buffer) noexcept;

  /// The accumulators of panels [first, first + count), 1 <= count <= panels_at_once, for rows [m0, m0 + M), before token
  /// scale and bias: those of panel first + i to the area of slot `slot` + i.
  static void accumulate(const call& c, std::size_t first, std::size_t count, std::size_t m0, std::size_t M,
                         std::size_t slot) noexcept;

 private:
  /// How many panels the kernels of several rows take at once.
  static constexpr std::size_t panels_of_block(const packed_view& w, std::size_t M, const gemm_options& o) noexcept {
    if (w.layout != layout_id::panel16) return 1;
    switch (o.computation) {
      case computation::integer: return M > 1 ? panel::block_panels : 1;
      case computation::weight_only: return panel::float_panels;
      case computation::bfloat16: return panel::bfloat16_panels;
    }
    return 1;
  }

  /// Whether the kernel may take more panels than those of a block: integer_stream, where it is there for M rows.
  template <class Panel = panel>  // as of integer_panels
  static constexpr bool streams(const packed_view& w, std::size_t M, const gemm_options& o) noexcept {
    if constexpr (Panel::block_panels > 1)
      return o.computation == computation::integer && M > 1 && w.matrix.format.rule != code_rule::codebook &&
             Panel::in_stream(M, panel_group(w.matrix.format, w.matrix.K), w.matrix.K);
    return false;
  }

  /// Row m of X as floats: where it lies or in `buffer`.
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
      if (f.rule == code_rule::asymmetric_offset) {
        float* const levels = t.shared<float>(t.plan.x_levels) + m * t.plan.groups;
        for (std::size_t g = 0; g < t.plan.groups; ++g) levels[g] = static_cast<float>(sums[g]);
        continue;
      }
      if (!t.one_zero()) continue;
      const std::int32_t factor = (panel::code_bias(t.code_bits()) << t.shift()) - t.integer_zero();
      for (std::size_t g = 0; g < t.plan.groups; ++g) sums[g] *= factor;
    }
  }

  static void prepare_float(const call* calls, std::size_t count, std::size_t m, float* buffer) noexcept {
    const call& c = calls[0];
    const std::size_t K = c.x.cols;
    const float* x = floats_of(c.x, m, buffer);
    if (!c.x_in_place()) {
      // The tiles of float_blocks, in each block of rows from its first one on.
      const std::size_t row = m % mc, left = c.x.rows - (m - row), tile = row - row % panel::float_rows;
      const std::size_t rest = (left < mc ? left : mc) - tile;
      const std::size_t rows = rest < panel::float_rows ? rest : panel::float_rows;
      float* const own = c.shared<float>(c.plan.x) + (m - row + tile) * c.plan.x_stride + (row - tile);
      for (std::size_t k = 0; k < K; ++k) own[k * rows] = x[k];
      for (std::size_t k = K; k < round_up(K, pack::panel16::block_k); ++k) own[k * rows] = 0.0f;
    }
    c.shared<float>(c.plan.x_scales)[m] = start_of(x, K);
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

  /// How often the integer kernels go over the codes: once, or for each plane of an image.
  static std::size_t planes_of(const call& c) noexcept {
    return c.image == nullptr ? 1 : static_cast<std::size_t>(c.image->planes);
  }

  /// The units of codes that integer kernels multiply, of `blocks` packed blocks: where they lie, when a packed byte is a
  /// code and there are as many of them as kernels read, or unpacked to `units`.
  static const std::uint8_t* units_of(const call& c, const std::byte* codes, std::size_t blocks, std::size_t plane,
                                      std::uint8_t* units) noexcept {
    if (c.w.matrix.format.bits == 8 && c.image == nullptr && blocks % 2 == 0)
      return reinterpret_cast<const std::uint8_t*>(codes);
    pack::with_bits(c.w.matrix.format.bits, [&]<int Bits>() {
      panel::template unpack<Bits>(codes, blocks, units);
      if (c.image != nullptr)
        panel::template image_codes<Bits>(units, blocks * pack::panel16::units_per_block, c.image->codes[plane]);
    });
    return units;
  }

  /// What the float paths' accumulators of a row start from: 0, or NaN when an activation is not finite.
  static float start_of(const float* x, std::size_t K) noexcept {
    const bool finite = kernels::greatest_magnitude_bits(x, K) < kernels::not_finite_bits;
    return finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }

  static void prepare_bfloat16(const call& c, std::size_t m, float* buffer) noexcept {
    const float* x = floats_of(c.x, m, buffer);
    const std::size_t stride = c.plan.x_stride;
    using operand = typename panel::bfloat16_operand;
    panel::bfloat16_row(x, c.x.cols, stride, c.shared<operand>(c.plan.x) + m * stride);
    c.shared<float>(c.plan.x_scales)[m] = start_of(x, c.x.cols);
  }

  /// Where the codes of k >= k0 of a panel begin.
  static const std::byte* codes_of(const quantized_view& w, std::size_t index, std::size_t k0) noexcept {
    return w.codes + index * pack::panel16::panel_bytes(w.K, w.format.bits) +
           k0 / pack::panel16::block_k * pack::panel16::block_bytes(w.format.bits);
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
            .x_levels = w.format.rule == code_rule::asymmetric_offset
                            ? c.shared<float>(c.plan.x_levels) + m0 * c.plan.groups
                            : nullptr,
            .sum_stride = c.plan.groups,
            .group_scales = c.group_scales() ? c.shared<float>(c.plan.x_scales) + m0 * c.plan.groups : nullptr,
            .params = params,
            .state = c.own<std::int32_t>(slot, c.plan.state),
            .acc = c.own<float>(slot, c.plan.acc)};
  }

  /// Whether tiles unpack the codes of a panel on their way into the registers.
  static bool packed_tiles(const call& c, std::size_t M) noexcept {
    const format_desc& f = c.w.matrix.format;
    const std::size_t K = c.w.matrix.K, group = panel_group(f, K);
    return M <= panel::packed_rows(f.bits) && c.image == nullptr && !c.long_sums() &&
           (group % panel::packed_group(f.bits) == 0 || group >= K);
  }
  static void packed_panel(const kernels::integer_call& k, const std::byte* codes, int bits) noexcept {
    // Panel: clang looks names up in a type that depends on no parameter even where the condition says no.
    pack::with_bits(
        bits, [&]<int Bits, class Panel = panel>() {
          if constexpr (Panel::packed_rows(Bits) > 0) Panel::template packed_block<Bits>(k, codes);
        });
  }

  static void integer_panel(const call& c, std::size_t index, std::size_t m0, std::size_t M,
                            std::size_t slot) noexcept {
    const quantized_view& w = c.w.matrix;
    const std::byte* codes = codes_of(w, index, 0);
    const float* zero_values = nullptr;
    std::size_t zero_value_stride = 0;
    float* acc = c.own<float>(slot, c.plan.acc);
    for (std::size_t i = 0; i < M * 16; ++i) acc[i] = 0.0f;
    for (std::size_t plane = 0; plane < planes_of(c); ++plane) {
      const bool halves = M <= panel::half_scale_rows && !c.long_sums();
      kernels::integer_call k = integer_call_of(
          c, m0, M, detail::decode_params(c, index, slot, zero_values, zero_value_stride, halves, plane), slot);
      if (packed_tiles(c, M)) packed_panel(k, codes, w.format.bits);
      else unpacked_panel(c, k, codes, slot, plane);
    }
  }

  /// As many of the panels as integer_stream takes, a few at once; says how many. The calls are those of all of K.
  template <class Panel = panel>  // as of integer_panels
  static std::size_t stream(const call& c, std::size_t first, std::size_t count, const kernels::integer_call* calls,
                            kernels::centred_codes* centres, std::size_t slot,
                            typename Panel::block_scope& scope) noexcept {
    static_assert(Panel::stream_bytes <= kc_integer * 16, "plan.units has room for the operands");
    const quantized_view& w = c.w.matrix;
    std::byte* const operands = c.own<std::byte>(slot, c.plan.units);
    std::size_t done = 0;
    for (; count - done >= Panel::stream_panels; done += Panel::stream_panels) {
      const std::byte* codes[Panel::stream_panels];
      for (std::size_t i = 0; i < Panel::stream_panels; ++i) {
        codes[i] = codes_of(w, first + done + i, 0);
        centres[done + i].k1 = w.K;
      }
      pack::with_bits(w.format.bits, [&]<int Bits>() {
        Panel::template integer_stream<Bits>(calls + done, centres + done, codes, operands, scope);
      });
    }
    return done;
  }

  /// A block of rows against `count` panels, of whose k blocks the kernel takes block_panels at once. Panel i has the area
  /// of slot `slot` + i.
  template <class Panel = panel>  // a name that clang looks up only where there are such kernels
  static void integer_panels(const call& c, std::size_t first, std::size_t count, std::size_t m0, std::size_t M,
                             std::size_t slot) noexcept requires(Panel::block_panels > 1) {
    const quantized_view& w = c.w.matrix;
    const int bits = w.format.bits;
    if (c.long_sums() || !Panel::in_blocks(M, panel_group(w.format, w.K), w.K, packed_tiles(c, M))) {
      for (std::size_t i = 0; i < count; ++i) integer_panel(c, first + i, m0, M, slot + i);
      return;
    }
    // Zero points are taken off the codes where signed bytes hold the differences: then nothing is left to do for the sums.
    // Bytes are multiplied where they lie when that costs less than a way through memory: for few rows, or sums that are
    // folded once.
    const std::size_t group = panel_group(w.format, w.K);
    const bool own_zeros = w.format.rule == code_rule::asymmetric && bits < 8 && !c.group_scales();
    const bool bytes = bits == 8 && c.image == nullptr && pack::panel16::blocks(w.K) % 2 == 0;
    const bool one_zero = c.sums_started() ? !(bytes && (M <= 32 || group >= w.K)) : c.one_zero() && bits < 8;
    const bool exact = one_zero || own_zeros;
    std::int32_t origin[16];
    for (std::int32_t& o : origin) o = c.integer_zero();
    typename Panel::block_scope scope;
    kernels::integer_call calls[most_panels];
    kernels::centred_codes centres[most_panels];
    for (std::size_t plane = 0; plane < planes_of(c); ++plane) {
      for (std::size_t i = 0; i < count; ++i) {
        const float* zero_values = nullptr;
        std::size_t zero_value_stride = 0;
        const auto params = detail::decode_params(c, first + i, slot + i, zero_values, zero_value_stride, false, plane);
        centres[i] = {.group = group,
                      .origin = own_zeros ? params.zeros : origin,
                      .origin_stride = own_zeros ? params.zero_stride : 0,
                      .image = c.image == nullptr ? nullptr : c.image->codes[plane],
                      .doubled = c.shift() != 0};
        calls[i] = integer_call_of(c, m0, M, params, slot + i);
        if (plane == 0) std::memset(calls[i].acc, 0, M * 16 * sizeof(float));  // of a loop here gcc makes scatters
      }
      const std::size_t streamed = exact && c.image == nullptr && Panel::in_stream(M, group, w.K)
                                       ? stream<Panel>(c, first, count, calls, centres, slot, scope)
                                       : 0;
      for (std::size_t k0 = 0, k1; k0 < w.K && streamed < count; k0 = k1) {
        k1 = w.K - k0 < Panel::block_k ? w.K : k0 + Panel::block_k;
        const std::size_t blocks = pack::panel16::blocks(k1 - k0);
        for (std::size_t from = streamed; from < count; from += Panel::block_panels) {
          const std::size_t now = count - from < Panel::block_panels ? count - from : Panel::block_panels;
          const std::byte* operands[Panel::block_panels];
          for (std::size_t i = 0; i < now; ++i) {
            calls[from + i].k0 = centres[from + i].k0 = k0;
            calls[from + i].k1 = centres[from + i].k1 = k1;
            const std::byte* const codes = codes_of(w, first + from + i, k0);
            std::uint8_t* const units = c.own<std::uint8_t>(slot + i, c.plan.units);
            operands[i] = reinterpret_cast<const std::byte*>(units);
            if (exact) {
              pack::with_bits(bits, [&]<int Bits>() {
                Panel::template centred<Bits>(centres[from + i], codes, reinterpret_cast<std::int8_t*>(units));
              });
            } else {
              operands[i] = reinterpret_cast<const std::byte*>(units_of(c, codes, blocks, plane, units));
            }
          }
          // What comes next: the panels beside these, the first ones of the next block, or those of the next work item.
          std::size_t next = first + from + now, next_k = k0;
          if (from + now == count && k1 < w.K) next = first, next_k = k1;
          else if (from + now == count) next_k = 0;
          kernels::next_blocks ahead;
          if (next + now <= pack::panel16::panels(w.N)) {
            const std::size_t left = w.K - next_k, k = left < Panel::block_k ? left : Panel::block_k;
            for (std::size_t i = 0; i < 2; ++i) ahead.at[i] = codes_of(w, next + (i < now ? i : 0), next_k);
            ahead.lines = pack::panel16::blocks(k) * static_cast<std::size_t>(bits);
          }
          Panel::integer_blocks(calls + from, now, exact, operands, ahead, scope);
        }
      }
    }
  }

  /// The values of unpacked codes, as weight_only multiplies them.
  static void values_of(const kernels::float_codes& c, std::size_t units, float* values) noexcept {
    if (c.table != nullptr) return panel::values_table(c.units, units, c.table, c.bits, values);
    if (c.zero_stride == 0) return panel::values_affine(c.units, units, c.zeros, values);
    kernels::for_each_group(c, [&](std::size_t from, std::size_t count, std::size_t g) {
      panel::values_affine(c.units + from * 64, count, c.zeros + g * c.zero_stride, values + from * 64);
    });
  }

  /// A block of rows against `count` panels, in floats or, with the weights scaled beforehand, in bfloat16. The kernel takes
  /// several panels of a block of k at once. Panel i has the area of slot `slot` + i.
  template <bool Bfloat16>
  static void float_panels(const call& c, std::size_t first, std::size_t count, std::size_t m0, std::size_t M,
                           std::size_t slot) noexcept {
    using operand = std::conditional_t<Bfloat16, typename panel::bfloat16_operand, float>;
    constexpr std::size_t together = Bfloat16 ? panel::bfloat16_panels : panel::float_panels;
    constexpr std::size_t kc = kc_of(sizeof(operand)) / (together > 1 ? 2 : 1);
    static constexpr float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const quantized_view& w = c.w.matrix;
    const int bits = w.format.bits;
    const operand* x = c.shared<operand>(c.plan.x) + m0 * c.plan.x_stride;
    if constexpr (!Bfloat16) x = c.x_row(m0);
    kernels::panel_call<operand, float, float> calls[most_panels];
    kernels::float_codes codes[most_panels];
    for (std::size_t i = 0; i < count; ++i) {
      kernels::float_codes& from = codes[i];
      from.group = panel_group(w.format, w.K);
      from.params = detail::decode_params(c, first + i, slot + i, from.zeros, from.zero_stride, false);
      from.table = w.format.rule == code_rule::codebook ? w.table : nullptr;
      from.bits = bits;
      calls[i] = {.M = M,
                  .K = w.K,
                  .group = Bfloat16 ? round_up(w.K, std::size_t{4}) : from.group,
                  .fold = true,
                  .x = x,
                  .x_stride = c.plan.x_stride,  // x in place is one row
                  .x_sums = c.shared<float>(c.plan.x_sums) + m0 * c.plan.groups,
                  .sum_stride = c.plan.groups,
                  .params = Bfloat16 ? kernels::panel_params{.scales = ones, .scale_stride = 0} : from.params,
                  .state = c.own<float>(slot + i, c.plan.state),
                  .acc = c.own<float>(slot + i, c.plan.acc)};
      const float* const starts = c.shared<float>(c.plan.x_scales) + m0;
      for (std::size_t j = 0; j < M * 16; ++j) calls[i].acc[j] = starts[j / 16];
    }
    for (std::size_t k0 = 0, k1; k0 < w.K; k0 = k1) {
      k1 = w.K - k0 < kc ? w.K : k0 + kc;
      const std::size_t blocks = pack::panel16::blocks(k1 - k0);
      for (std::size_t from = 0; from < count; from += together) {
        const std::size_t now = count - from < together ? count - from : together;
        const operand* weights[together] = {};
        for (std::size_t i = 0; i < now; ++i) {
          kernels::float_codes& own = codes[from + i];
          calls[from + i].k0 = own.k0 = k0;
          calls[from + i].k1 = own.k1 = k1;
          std::uint8_t* const units = c.own<std::uint8_t>(slot + i, c.plan.units);
          operand* const values = c.own<operand>(slot + i, c.plan.values);
          pack::with_bits(bits, [&]<int Bits>() {
            panel::template unpack<Bits>(codes_of(w, first + from + i, k0), blocks, units);
          });
          own.units = units;
          if constexpr (Bfloat16) panel::bfloat16_weights(own, values);
          else values_of(own, blocks * pack::panel16::units_per_block, values);
          weights[i] = values;
        }
        if constexpr (Bfloat16) panel::bfloat16_blocks(calls + from, now, weights);
        else panel::float_blocks(calls + from, now, weights);
      }
    }
  }

  /// One row of codes against `count` panels, the last one again and again where the kernel takes more. Panel i has the area
  /// of slot `slot` + i.
  static void integer_row(const call& c, std::size_t first, std::size_t count, std::size_t slot) noexcept {
    pack::with_bits(c.w.matrix.format.bits, [&]<int Bits>() {
      constexpr std::size_t panels = panel::integer_row_panels(Bits);
      const quantized_view& w = c.w.matrix;
      kernels::integer_call calls[panels];
      const std::byte* codes[panels];
      for (std::size_t plane = 0; plane < planes_of(c); ++plane) {
        for (std::size_t i = 0; i < panels; ++i) {
          const std::size_t index = first + (i < count ? i : count - 1);
          codes[i] = w.codes + index * pack::panel16::panel_bytes(w.K, Bits);
          const float* zero_values = nullptr;
          std::size_t zero_value_stride = 0;
          const auto params =
              detail::decode_params(c, index, slot + i, zero_values, zero_value_stride, panel::reads_halves, plane);
          calls[i] = integer_call_of(c, 0, 1, params, slot + i);
          for (std::size_t n = 0; n < 16 && plane == 0; ++n) calls[i].acc[n] = 0.0f;
        }
        if (c.image == nullptr) {
          panel::template integer_row<Bits>(calls, codes);
        } else if constexpr (Bits <= kernels::image_row_bits) {  // else one_row() says no
          if (c.image->bits == 8) panel::template image_row<Bits, 8>(calls, codes, c.image->codes[plane]);
          else panel::template image_row<Bits, 7>(calls, codes, c.image->codes[plane]);
        }
      }
    });
  }

  /// One row against `count` panels, the last one again and again where fewer than row_panels are left. Panel i has the
  /// area of slot `slot` + i.
  static void float_row(const call& c, std::size_t first, std::size_t count, std::size_t slot) noexcept {
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
                  .params = detail::decode_params(c, index, slot + i, zeros[i], zero_stride, panel::reads_halves),
                  .state = nullptr,
                  .acc = acc};
    }
    pack::with_bits(w.format.bits, [&]<int Bits>() {
      if (w.format.rule != code_rule::codebook) {
        panel::template float_row<Bits>(calls, codes, zeros, zero_stride);
      } else if constexpr (Bits <= kernels::table_row_bits) {  // else one_row() says no
        panel::template table_row<Bits>(calls, codes, w.table);
      }
    });
  }

  static void unpacked_panel(const call& c, kernels::integer_call& k, const std::byte* codes, std::size_t slot,
                             std::size_t plane) noexcept {
    const int bits = c.code_bits();
    const std::size_t K = k.K;
    const bool long_sums = c.long_sums();
    std::int64_t* total = c.own<std::int64_t>(slot, c.plan.long_sums);
    if (long_sums) {
      for (std::size_t i = 0; i < k.M * 16; ++i) total[i] = 0;
      k.fold = false;
    }
    for (; k.k0 < K; k.k0 = k.k1) {
      k.k1 = K - k.k0 < kc_integer ? K : k.k0 + kc_integer;
      const std::size_t blocks = pack::panel16::blocks(k.k1 - k.k0);
      const std::uint8_t* const units = units_of(c, codes, blocks, plane, c.own<std::uint8_t>(slot, c.plan.units));
      codes += blocks * pack::panel16::block_bytes(c.w.matrix.format.bits);
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
};

template <class Isa>
void products<Isa>::prepare(const call* calls, std::size_t count, std::size_t m, float* buffer) noexcept {
  switch (calls[0].o.computation) {
    case computation::integer: return prepare_integer(calls, count, m, buffer);
    case computation::weight_only: return prepare_float(calls, count, m, buffer);
    case computation::bfloat16: return prepare_bfloat16(calls[0], m, buffer);
  }
}

template <class Isa>
void products<Isa>::accumulate(const call& c, std::size_t first, std::size_t count, std::size_t m0, std::size_t M,
                               std::size_t slot) noexcept {
  const bool integer = c.o.computation == computation::integer;
  if (c.o.computation == computation::bfloat16) return float_panels<true>(c, first, count, m0, M, slot);
  if (one_row(c.w, c.x.rows, c.o))
    return integer ? integer_row(c, first, count, slot) : float_row(c, first, count, slot);
  if (!integer) return float_panels<false>(c, first, count, m0, M, slot);
  if constexpr (panel::block_panels > 1) {
    if (c.panels_at_once > 1) return integer_panels(c, first, count, m0, M, slot);
  }
  integer_panel(c, first, m0, M, slot);
}

#if NIBBLE_EXTERN_KERNELS
extern template struct products<isa::native>;
extern template struct products<isa::scalar>;
#endif

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
