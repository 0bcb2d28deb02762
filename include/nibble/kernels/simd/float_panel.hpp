// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The panel kernels of floats, exact and rounded to bfloat16, on the native register width: one lane per column.
///
/// Register budget of a tile: see simd/integer_panel.hpp.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/quantize_row.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/lookup.hpp>
#include <nibble/kernels/simd/panel_tools.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// A template so that only the units that call it compile it.
template <class Isa>
struct float_panel : panel_tools {
  /// Panels of the float path's single row: each lane adds in one chain, and four registers of them hide the latency of
  /// an FMA (4 cycles on current cores).
  static constexpr std::size_t row_panels = regs == 1 ? 4 : (regs == 2 ? 2 : 1);

  /// Panels and rows of the tiles over interleaved activations. Where a panel is one register, tiles of 6 rows and 4 panels
  /// take ten loads for 24 products, those of 12 rows and one panel 26; two loads can begin in a cycle, and two products.
  static constexpr std::size_t float_panels = regs == 1 ? 4 : 1;
  static constexpr std::size_t float_rows = regs == 1 ? 6 : static_cast<std::size_t>(mr);

  static void values_affine(const std::uint8_t* units, std::size_t count, const float* zero, float* values) noexcept {
    vf z[regs];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) z[r] = simd::load(zero + r * lanes);
    for (std::size_t u = 0; u < count; ++u, units += 64, values += 64) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        vf q[4];
        affine_values(simd::load_lanes(units + r * lanes * 4), z[r], q);
        for (std::size_t k = 0; k < 4; ++k) q[k].store_unaligned(values + k * nr + r * lanes);
      }
    }
  }

  static void values_table(const std::uint8_t* units, std::size_t count, const float* table, int bits,
                           float* values) noexcept {
    with_table(table, bits, [&](const auto& lookup) NIBBLE_LAMBDA_INLINE { look_up(units, count, lookup, values); });
  }

  static void float_block(const float_call& call, const float* values) noexcept {
    in_tiles<mr>(call.M,
                 [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE { float_tile<Rows, 1, false>(&call, m, &values); });
  }

  static void float_blocks(const float_call* calls, std::size_t count, const float* const* values) noexcept {
    if (count == float_panels) return interleaved_tiles<float_panels>(calls, values);
    for (std::size_t i = 0; i < count; ++i) interleaved_tiles<1>(calls + i, values + i);
  }

  using bfloat16_operand = float;
  static constexpr std::size_t bfloat16_panels = 1;

  static void bfloat16_row(const float* x, std::size_t K, std::size_t padded, float* out) noexcept {
    const std::size_t whole = K - K % lanes;
    for (std::size_t k = 0; k < whole; k += lanes)
      upper_halves(round_bfloat16<false>(simd::load(x + k))).store_unaligned(out + k);
    for (std::size_t k = whole; k < padded; ++k) out[k] = k < K ? nearest_bfloat16(x[k]) : 0.0f;
  }

  static void bfloat16_weights(const float_codes& c, float* out) noexcept {
    for_each_weight<true>(c, [&](std::size_t u, std::size_t r, const vi(&w)[4], auto) NIBBLE_LAMBDA_INLINE {
      NIBBLE_UNROLL
      for (std::size_t k = 0; k < 4; ++k) upper_halves(w[k]).store_unaligned(out + u * 64 + k * nr + r * lanes);
    });
  }

  static void bfloat16_blocks(const float_call* calls, std::size_t, const float* const* weights) noexcept {
    float_block(*calls, *weights);
  }

  template <int Bits>
  static void float_row(const float_call* calls, const std::byte* const* blocks, const float* const* zeros,
                        std::size_t zero_stride) noexcept {
    if constexpr (Bits <= 4 && simd::looks_up) {
      if (zero_stride ==
          0) {  // one zero point: the values, integers or halves of them, are a table of bfloat16 numbers
        float values[16] = {};
        for (std::size_t u = 0; u < std::size_t{1} << Bits; ++u) values[u] = static_cast<float>(u) - zeros[0][0];
        const simd::table_lookup<4, true> lookup(values, Bits);
        row<Bits>(calls, blocks, [&](std::size_t, std::size_t) NIBBLE_LAMBDA_INLINE {
          return [lookup](vu four, std::size_t, vf(&q)[4]) NIBBLE_LAMBDA_INLINE { lookup(four, q); };
        });
        return;
      }
    }
    row<Bits>(calls, blocks, [&](std::size_t panel, std::size_t g) NIBBLE_LAMBDA_INLINE {
      return [z = load_columns(zeros[panel] + g * zero_stride)](vu four, std::size_t r, vf(&q)[4])
                 NIBBLE_LAMBDA_INLINE { affine_values(four, z[r], q); };
    });
  }

  template <int Bits>
  static void table_row(const float_call* calls, const std::byte* const* blocks, const float* table) noexcept {
    const simd::table_lookup<simd::lookup_bits(Bits)> lookup(table, Bits);
    row<Bits>(calls, blocks, [&](std::size_t, std::size_t) NIBBLE_LAMBDA_INLINE {
      return [lookup](vu four, std::size_t, vf(&q)[4]) NIBBLE_LAMBDA_INLINE { lookup(four, q); };
    });
  }

 protected:
  /// Calls f(lookup) with the table in registers, or with what takes its place.
  template <class F>
  static NIBBLE_ALWAYS_INLINE void with_table(const float* table, int bits, F&& f) noexcept {
    [&]<int... Bits>(std::integer_sequence<int, Bits...>) NIBBLE_LAMBDA_INLINE {
      (void)((simd::lookup_bits(bits) == Bits && (f(simd::table_lookup<Bits>(table, bits)), true)) || ...);
    }
    (std::integer_sequence<int, 4, 5, 6, 7, 8>{});
  }

  template <class Lookup>
  static void look_up(const std::uint8_t* units, std::size_t count, const Lookup lookup, float* values) noexcept {
    for (std::size_t u = 0; u < count; ++u, units += 64, values += 64) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        vf q[4];
        lookup(simd::load_lanes(units + r * lanes * 4), q);
        for (std::size_t k = 0; k < 4; ++k) q[k].store_unaligned(values + k * nr + r * lanes);
      }
    }
  }

  /// nearest_bfloat16 of each lane in its upper half; the lower one holds anything. InRange: |v| <= greatest_bfloat16.
  template <bool InRange>
  static NIBBLE_ALWAYS_INLINE vi round_bfloat16(vf v) noexcept {
    // min and max give their second operand where one is NaN; then it is not equal to itself.
    if constexpr (!InRange) v = simd::max(vf(-greatest_bfloat16), simd::min(vf(greatest_bfloat16), v));
    const vi b = simd::bits_of(v), rounded = b + vi(0x7fff) + ((b >> 16) & vi(1));
    if constexpr (InRange) return rounded;
    return simd::bits_of(
        simd::select(v == v, simd::float_of_bits(rounded), vf(std::numeric_limits<float>::quiet_NaN())));
  }

  /// What round_bfloat16 left, as floats.
  static NIBBLE_ALWAYS_INLINE vf upper_halves(vi v) noexcept { return simd::float_of_bits(v & vi(-0x10000)); }

  /// store(unit, register, weights, rounded) for the weights of a block, those of four k in each lane: as round_bfloat16 leaves
  /// them, or, unless Rounds, where all of a group lie within the range of bfloat16, as floats (`rounded` false_type).
  template <bool Rounds, class Store>
  static NIBBLE_ALWAYS_INLINE void for_each_weight(const float_codes& c, Store&& store) noexcept {
    const auto with = [&](const auto& lookup, float reach) NIBBLE_LAMBDA_INLINE {
      decoded_groups<Rounds>(c, reach, store, [&](std::size_t) NIBBLE_LAMBDA_INLINE {
        return [&lookup](vu four, std::size_t, vf(&q)[4]) NIBBLE_LAMBDA_INLINE { lookup(four, q); };
      });
    };
    constexpr float affine_reach = 256.0f;  // codes and zero points are at most 255, halves included
    if (c.table != nullptr) {
      const std::uint32_t reach = greatest_magnitude_bits(c.table, std::size_t{1} << c.bits);
      with_table(c.table, c.bits,
                 [&](const auto& lookup) NIBBLE_LAMBDA_INLINE { with(lookup, std::bit_cast<float>(reach)); });
    } else if (simd::looks_up && c.bits <= 4 && one_zero(c)) {
      float values[16] = {};
      for (std::size_t u = 0; u < std::size_t{1} << c.bits; ++u) values[u] = static_cast<float>(u) - c.zeros[0];
      with(simd::table_lookup<4, true>(values, c.bits), affine_reach);
    } else {
      decoded_groups<Rounds>(c, affine_reach, store, [&](std::size_t g) NIBBLE_LAMBDA_INLINE {
        return [z = load_columns(c.zeros + g * c.zero_stride)](vu four, std::size_t r, vf(&q)[4])
                   NIBBLE_LAMBDA_INLINE { affine_values(four, z[r], q); };
      });
    }
  }

  /// Whether one zero point serves all groups and columns.
  static NIBBLE_ALWAYS_INLINE bool one_zero(const float_codes& c) noexcept {
    bool one = c.zero_stride == 0;
    for (std::size_t n = 1; n < nr && one; ++n) one = c.zeros[n] == c.zeros[0];
    return one;
  }

  /// The same with decoder_of(g), as `row` has it, whose values are at most `reach` in magnitude.
  template <bool Rounds, class Store, class DecoderOf>
  static NIBBLE_ALWAYS_INLINE void decoded_groups(const float_codes& c, float reach, Store&& store,
                                                  DecoderOf&& decoder_of) noexcept {
    for_each_group(c, [&](std::size_t first, std::size_t count, std::size_t g) NIBBLE_LAMBDA_INLINE {
      const auto decode = decoder_of(g);
      const auto scale = load_columns(c.params.scales + g * c.params.scale_stride);
      const bool has_offset = c.params.offsets != nullptr;
      std::array<vf, regs> offset;
      offset.fill(vf(-0.0f));
      if (has_offset) offset = load_columns(c.params.offsets + g * c.params.offset_stride);
      const auto units = [&](auto in_range) NIBBLE_LAMBDA_INLINE {
        constexpr bool rounds = Rounds || !decltype(in_range)::value;
        for (std::size_t u = first; u < first + count; ++u) {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r) {
            vf q[4];
            vi w[4];
            decode(simd::load_lanes(c.units + u * 64 + r * lanes * 4), r, q);
            NIBBLE_UNROLL
            for (std::size_t k = 0; k < 4; ++k) {
              const bool fuse = NIBBLE_HAS_FMA || has_offset;  // q * scale + -0 is q * scale, and costs as much
              const vf v = fuse ? simd::fused(q[k], scale[r], offset[r]) : q[k] * scale[r];
              if constexpr (rounds) w[k] = round_bfloat16<decltype(in_range)::value>(v);
              else w[k] = simd::bits_of(v);
            }
            store(u, r, w, std::bool_constant<rounds>{});
          }
        }
      };
      // Asked once for a group, for all sane weights; false for NaN.
      bool in_range = true;
      const vf half(0x1p126f), q(reach);
      for (std::size_t r = 0; r < regs; ++r)
        in_range = in_range && simd::all(simd::magnitude(scale[r]) * q <= half) &&
                   simd::all(simd::magnitude(offset[r]) <= half);
      if (in_range) units(std::true_type{});
      else units(std::false_type{});
    });
  }

  /// q[k] = float(code) - z for byte k of each lane.
  static NIBBLE_ALWAYS_INLINE void affine_values(vu four, vf z, vf (&q)[4]) noexcept {
    const vu low(0xffu);
    q[0] = simd::to_float(simd::as_signed(four & low)) - z;
    q[1] = simd::to_float(simd::as_signed((four >> 8) & low)) - z;
    q[2] = simd::to_float(simd::as_signed((four >> 16) & low)) - z;
    q[3] = simd::to_float(simd::as_signed(four >> 24)) - z;
  }

  /// One row of x against row_panels panels; decoder_of(panel, g) gives the function from (codes, register) to the four
  /// values of each lane in group g.
  template <int Bits, class DecoderOf>
  static NIBBLE_ALWAYS_INLINE void row(const float_call* calls, const std::byte* const* blocks,
                                       DecoderOf&& decoder_of) noexcept {
    [&]<std::size_t... P>(std::index_sequence<P...>) NIBBLE_LAMBDA_INLINE {
      const float_call own[] = {calls[P]...};
      const float_call& c = own[0];
      const std::byte* at[] = {blocks[P]...};
      const std::size_t end = c.k1 < c.K ? c.k1 : c.K;
      for (group_walk group(c); !group.done(); group.next()) {
        vf sum[row_panels][1][regs];
        (begin(own[P], 0, group.begins, sum[P]), ...);
        const std::array decode = {decoder_of(P, group.g)...};
        for (std::size_t k = group.k; k < group.stop; k += 32, ((at[P] += pack::panel16::block_bytes(Bits)), ...)) {
          const std::ptrdiff_t ahead = prefetch_distance<Bits>(blocks, row_panels, end - k);
          (prefetch<Bits>(at[P], ahead), ...);
          for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
            const float* x = c.x + k + 4 * U;
            (multiply_unit<Bits, U>(x, at[P], decode[P], sum[P][0]), ...);
          });
        }
        (finish(own[P], 0, group.ends, group.g, sum[P]), ...);
      }
    }
    (std::make_index_sequence<row_panels>{});
  }

  /// Four activations against unit U of a packed block.
  template <int Bits, std::size_t U, class Decode>
  static NIBBLE_ALWAYS_INLINE void multiply_unit(const float* x, const std::byte* block, const Decode& decode,
                                                 vf (&sum)[regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) {
      vf q[4];
      decode(codes<Bits, U>(block, r), r, q);
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 4; ++j) simd::accumulate(sum[r], vf(x[j]), q[j]);
    }
  }

  /// 0, or the sums of a group that began in an earlier call.
  template <std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void begin(const float_call& c, std::size_t m, bool begins,
                                         vf (&sum)[rows][regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r)
        sum[i][r] = begins ? vf(0) : simd::load(c.state + (m + i) * nr + r * lanes);
    }
  }

  /// Scales a finished group into the accumulators, or keeps the running sums of one that goes on.
  template <std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void finish(const float_call& c, std::size_t m, bool ends, std::size_t g,
                                          const vf (&sum)[rows][regs]) noexcept {
    if (!ends) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) sum[i][r].store_unaligned(c.state + (m + i) * nr + r * lanes);
      }
      return;
    }
    if (c.params.offsets == nullptr) fold<false>(c, m, g, sum);
    else fold<true>(c, m, g, sum);
  }

  template <bool Offsets, std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void fold(const float_call& c, std::size_t m, std::size_t g,
                                        const vf (&sum)[rows][regs]) noexcept {
    const panel_params& p = c.params;
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) {
      const vf scale = scales_of(p, g)[r];
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) {
        float* acc = c.acc + (m + i) * nr + r * lanes;
        vf v = simd::fused(sum[i][r], scale, simd::load(acc));
        if constexpr (Offsets) v = simd::fused(vf(c.x_sums[(m + i) * c.sum_stride + g]), offset_of(p, g, r), v);
        v.store_unaligned(acc);
      }
    }
  }

  template <std::size_t Panels>
  static NIBBLE_ALWAYS_INLINE void interleaved_tiles(const float_call* calls, const float* const* values) noexcept {
    const auto tile = [&]<int Rows>(std::size_t m)
                          NIBBLE_LAMBDA_INLINE { float_tile<Rows, Panels, true>(calls, m, values); };
    for (std::size_t m = 0; m < calls->M;) m += height<static_cast<int>(float_rows)>(m, calls->M - m, tile);
  }

  template <int Rows, std::size_t Panels, bool Interleaved>
  static void float_tile(const float_call* calls, std::size_t m, const float* const* values) noexcept {
    constexpr std::size_t rows = static_cast<std::size_t>(Rows);
    const float_call& c = calls[0];
    const float* const x = c.x + m * c.x_stride;
    const std::size_t x_stride = c.x_stride;
    const float* at[Panels];
    for (std::size_t p = 0; p < Panels; ++p) at[p] = values[p];
    for (group_walk group(c); !group.done(); group.next()) {
      vf sum[Panels][rows][regs];
      NIBBLE_UNROLL
      for (std::size_t p = 0; p < Panels; ++p) begin(calls[p], m, group.begins, sum[p]);
      for (std::size_t k = group.k; k < group.stop; ++k) {
        vf w[Panels][regs];
        NIBBLE_UNROLL
        for (std::size_t p = 0; p < Panels; ++p) {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r) w[p][r] = simd::load(at[p] + r * lanes);
          at[p] += nr;
        }
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) {
          const vf v(x[Interleaved ? k * rows + i : i * x_stride + k]);
          NIBBLE_UNROLL
          for (std::size_t p = 0; p < Panels; ++p) {
            NIBBLE_UNROLL
            for (std::size_t r = 0; r < regs; ++r) simd::accumulate(sum[p][i][r], v, w[p][r]);
          }
        }
      }
      NIBBLE_UNROLL
      for (std::size_t p = 0; p < Panels; ++p) finish(calls[p], m, group.ends, group.g, sum[p]);
    }
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
