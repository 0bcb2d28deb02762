// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The integer products of several rows on the native register width: one lane per column.
///
/// Register budget of a tile of mr rows and 16 columns: mr * regs accumulators, regs weights, one broadcast activation
/// (and the constant 1 of `quads`): 6 * 2 + 2 + 1 = 15 of 16 with AVX2, 12 + 1 + 1 of 32 with AVX-512,
/// 2 * 4 + 4 + 1 = 13 of 16 with SSE2, 6 * 4 + 4 + 1 = 29 of 32 with NEON. Of `pairs` the int16 sums live in registers and
/// the int32 sums in memory.

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <nibble/core/round.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/integer_folds.hpp>
#include <nibble/kernels/simd/lookup.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// A template so that only the units that call it compile it.
template <class Isa>
struct integer_panel : integer_folds {
  template <int Bits>
  static void image_codes(std::uint8_t* units, std::size_t count, const std::uint8_t* image) noexcept {
    const simd::byte_lookup<simd::lookup_bits(Bits)> lookup(image);
    for (std::size_t i = 0; i < count * regs; ++i, units += lanes * 4)
      lookup(simd::load_lanes(units)).store_unaligned(reinterpret_cast<std::uint32_t*>(units));
  }

  static void integer_block(const integer_call& c, int bits, const std::uint8_t* units) noexcept {
    // Only the kinds that dot_of gives on this instruction set are compiled.
    [&]<int... Bits>(std::integer_sequence<int, Bits...>) NIBBLE_LAMBDA_INLINE {
      (void)((bits == Bits && (rows_of_tiles<simd::dot_of(Bits)>(c, units, simd::pair_run(Bits)), true)) || ...);
    }
    (std::integer_sequence<int, 2, 3, 4, 5, 6, 7, 8>{});
  }

  /// Whether the accumulators of a tile stay in registers beside its sums.
  static constexpr bool resident(simd::dot_kind kind) noexcept { return regs == 1 && kind == simd::dot_kind::quads; }
  /// Rows of the full register tile that unpacks codes: fewer where there is one for each width, to save compile time.
  static constexpr int tallest_packed(simd::dot_kind kind) noexcept { return resident(kind) ? 8 : tallest(kind); }

  /// Tiles of few rows unpack codes in their registers: up to three times that takes fewer instructions than the way through
  /// memory once. Codes of several planes, and int16 sums of less than a block, go that way. With VNNI two tiles take codes of all
  /// widths: the ports have as much to do either way, and the next codes come from memory meanwhile.
  static constexpr std::size_t packed_rows(int bits) noexcept {
    const simd::dot_kind kind = simd::dot_of(bits);
    if (resident(kind) && NIBBLE_SIMD_VNNI) return 16;
    return bits == 4 || bits == 2 ? 3 * static_cast<std::size_t>(tallest(kind)) : 0;
  }
  /// Of which length packed_block's groups are multiples: tiles whose accumulators stay in registers end groups in the middle of a
  /// block as well.
  static constexpr std::size_t packed_group(int bits) noexcept { return resident(simd::dot_of(bits)) ? 16 : 32; }
  /// The most rows whose tiles take panel_params::halves.
  static constexpr std::size_t half_scale_rows = resident(simd::dot_of(4)) ? 16 : 0;

  template <int Bits>
  static void packed_block(const integer_call& c, const std::byte* blocks) noexcept {
    constexpr simd::dot_kind kind = simd::dot_of(Bits);
    in_tiles<tallest_packed(kind)>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
      integer_tile<kind, Rows>(c, m, packed_codes<Bits>{blocks}, 8);
    });
  }

 protected:
  /// Codes that tiles multiply: unit U from here on, register r of it. From memory ...
  struct unpacked_codes {
    static constexpr bool blocks = false;
    template <std::size_t U>
    NIBBLE_ALWAYS_INLINE vu get(std::size_t r) const noexcept {
      return simd::load_lanes(units + U * 64 + r * lanes * 4);
    }
    NIBBLE_ALWAYS_INLINE void skip(std::size_t count) noexcept { units += count * 64; }
    NIBBLE_ALWAYS_INLINE void prefetch() const noexcept {}
    const std::uint8_t* units;
  };

  /// ... or unpacked on the way, in whole blocks of 8.
  template <int Bits>
  struct packed_codes {
    static constexpr bool blocks = true;
    template <std::size_t U>
    NIBBLE_ALWAYS_INLINE vu get(std::size_t r) const noexcept {
      return codes<Bits, U>(block, r);
    }
    NIBBLE_ALWAYS_INLINE void skip(std::size_t count) noexcept {
      block += count / 8 * pack::panel16::block_bytes(Bits);
    }
    /// What is needed sixteen blocks on: a block of two rows takes a small part of the time in which L3 answers.
    NIBBLE_ALWAYS_INLINE void prefetch() const noexcept {
      panel_tools::prefetch<Bits>(block, 16 * static_cast<std::ptrdiff_t>(pack::panel16::block_bytes(Bits)));
    }
    const std::byte* block;
  };

  /// Rows of the full register tile of integers.
  static constexpr int tallest(simd::dot_kind kind) noexcept {
#if NIBBLE_SIMD_NEON
    // Without a dot product two registers hold the int16 sums of an output, or the int16 products on their way to its sum.
    return NIBBLE_SIMD_SDOT ? mr : (kind == simd::dot_kind::pairs ? 3 : 4);
#else
    // These hold weights in two registers each.
    const bool two = kind == simd::dot_kind::wide || kind == simd::dot_kind::signs;
    return two && regs == 2 ? 4 : mr;
#endif
  }

  /// All rows, in the tallest tiles that fit. `run`: units that int16 sums hold, at least two (pairs).
  template <simd::dot_kind Kind>
  static void rows_of_tiles(const integer_call& c, const std::uint8_t* units, std::size_t run) noexcept {
    in_tiles<tallest(Kind)>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
      integer_tile<Kind, Rows>(c, m, unpacked_codes{units}, run);
    });
  }

  template <simd::dot_kind Kind, int Rows, class Codes>
  static void integer_tile(const integer_call& call, std::size_t m, Codes codes,
                           [[maybe_unused]] std::size_t run) noexcept {
    constexpr std::size_t rows = static_cast<std::size_t>(Rows);
    if constexpr (resident(Kind)) {
      resident_tile<Kind, rows>(call, m, codes);
    } else {
      const integer_call c = call;  // a copy, which no store can change
      const std::int8_t* x = c.x + m * c.x_stride;
      float* const acc = c.acc + m * nr;
      for (group_walk group(c); !group.done(); group.next()) {
        const std::size_t units = (group.stop - group.k + 3) / 4,
                          count = Codes::blocks ? round_up(units, std::size_t{8}) : units;
        if constexpr (Kind == simd::dot_kind::pairs)
          pair_sums<Kind, rows>(c, call, m, group, count, run, codes, x + group.k, acc);
        else quad_sums<Kind, rows>(c, call, m, group, count, codes, x + group.k, acc);
        codes.skip(count);
      }
    }
  }

  /// A tile whose accumulators stay in registers from group to group, beside the sums. These begin with what x_sums holds.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void resident_tile(const integer_call& call, std::size_t m, Codes codes) noexcept {
    using dot = simd::byte_dot<Kind>;
    constexpr std::size_t chains = simd::chains_of(Kind, rows);
    const integer_call c = call;  // a copy, which no store can change
    const panel_params& p = c.params;
    float* const own = c.acc + m * nr;
    std::int32_t* const state = c.state + m * nr;
    const std::int8_t* x[rows];
    vf acc[rows];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      x[i] = c.x + (m + i) * c.x_stride + c.k0;
      acc[i] = simd::load(own + i * nr);
    }
    vi all[chains][rows][regs];
    auto& sum = all[0];
    std::size_t left = 0;                   // units of the group
    [[maybe_unused]] bool halfway = false;  // of packed codes: the next unit is the fifth of its block
    group_walk group(c);
    const auto x_sum = [&](std::size_t i)
                           NIBBLE_LAMBDA_INLINE { return vi(c.x_sums[(m + i) * c.sum_stride + group.g]); };
    const auto begin = [&]() NIBBLE_LAMBDA_INLINE {
      left = (group.stop - group.k + 3) / 4;
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) sum[i][0] = x_sum(i);
      clear_rest(all);
    };
    const auto multiply = [&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
      const auto w = dot::weights(codes.template get<U>(0));
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) dot::template add_from<U * 4>(all[U % chains][i][0], w, x[i]);
    };
    const auto multiply_four = [&]<std::size_t First>() NIBBLE_LAMBDA_INLINE {
      multiply.template operator()<First>();
      multiply.template operator()<First + 1>();
      multiply.template operator()<First + 2>();
      multiply.template operator()<First + 3>();
    };
    const auto skip = [&](std::size_t units) NIBBLE_LAMBDA_INLINE {
      codes.skip(units);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) x[i] += units * 4;
    };
    const auto done = [&](std::size_t units) NIBBLE_LAMBDA_INLINE { left = left > units ? left - units : 0; };
    begin();
    if (!group.begins) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) sum[i][0] = sum[i][0] + simd::load(state + i * nr);
    }
    for (;;) {
      // Not a loop of its own: of two, one in the other, gcc keeps the rows' pointers in memory.
      if constexpr (Codes::blocks) {
        if (!halfway) {
          codes.prefetch();
          multiply_four.template operator()<0>();
          done(4);
        }
        halfway = !halfway && left == 0;  // the group ends here
        if (!halfway) {
          multiply_four.template operator()<4>();
          done(4);
          skip(8);
        }
      } else if (left >= 8) {
        for_each_unit(multiply);
        done(8);
        skip(8);
      } else if (left >= 4) {  // groups of 16
        multiply_four.template operator()<0>();
        done(4);
        skip(4);
      } else if (left >= 2) {  // groups of 8
        multiply.template operator()<0>();
        multiply.template operator()<1>();
        done(2);
        skip(2);
      } else {
        multiply.template operator()<0>();
        done(1);
        skip(1);
      }
      if (left > 0) continue;
      gather_rest(all);
      if (!group.ends) {
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) (sum[i][0] - x_sum(i)).store_unaligned(state + i * nr);
      } else if (started(c)) {
        const vf scale = scales_of(p, group.g)[0];
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i] = with_sum(sum[i][0], scale, acc[i]);
      } else if (constant_zero(c)) {
        const vf scale = scales_of(p, group.g)[0];
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i)
          acc[i] =
              with_half_or_offset<simd::bias_of(Kind)>(c, p, m + i, group.g, 0, sum[i][0] - x_sum(i), scale, acc[i]);
      } else if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr) {
        const vf scale = scales_of(p, group.g)[0];
        const vi zero = simd::load(p.zeros + group.g * p.zero_stride) - vi(simd::bias_of(Kind) - 1);
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i)
          acc[i] = folded<false>(c, m + i, group.g, 0, sum[i][0], scale, zero, acc[i]);
      } else [[unlikely]] {
        std::int32_t sums[rows * nr];
        keep<rows>(sums, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return sum[i][r]; });
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i].store_unaligned(own + i * nr);
        fold_kept<simd::bias_of(Kind) - 1>(call, m, rows, group.g, sums, own);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i] = simd::load(own + i * nr);
      }
      group.next();
      if (group.done()) break;
      begin();
    }
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) acc[i].store_unaligned(own + i * nr);
  }

  /// A group of `count` units by way of int16 sums, which fill the registers: of eight units, or four or two where int16 holds
  /// no more (`run`) or no more are left. What came before lies in memory as int32 sums. Straight code, for in a loop gcc
  /// copies the sums from register to register.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void pair_sums(const integer_call& c, const integer_call& call, std::size_t m,
                                             const group_walk& group, std::size_t count, std::size_t run, Codes codes,
                                             const std::int8_t* x, float* acc) noexcept {
    std::int32_t own[rows * nr];
    std::int32_t* const sums = group.begins && group.ends ? own : c.state + m * nr;
    bool fresh = group.begins;  // nothing lies in `sums`
    const bool folds = group.ends && started(c);
    const auto part = [&]<std::size_t Units>() NIBBLE_LAMBDA_INLINE {
      using dot = simd::byte_dot<Kind>;
      typename dot::native pairs[rows][regs];
      multiply_units<dot, Units, true>(pairs, codes, x, c.x_stride);
      count -= Units;
      codes.skip(Units);
      x += Units * 4;
      const auto widened = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return dot::widened(pairs[i][r]); };
      const auto with_sums = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
        return dot::widened(pairs[i][r]) + simd::load(sums + i * nr + r * lanes);
      };
      if (count == 0 && folds) {
        if (fresh) fold_started<rows, true>(c, m, group.g, acc, widened);
        else fold_started<rows, true>(c, m, group.g, acc, with_sums);
      } else if (fresh) {
        keep<rows>(sums, widened);
      } else {
        keep<rows>(sums, with_sums);
      }
      fresh = false;
    };
    if (Codes::blocks || run >= 8)
      while (count >= 8) part.template operator()<8>();
    if constexpr (!Codes::blocks) {
      if (run >= 4)
        while (count >= 4) part.template operator()<4>();
      while (count >= 2) part.template operator()<2>();
      if (count > 0) part.template operator()<1>();
    }
    if (group.ends && !folds) fold_kept<0>(call, m, rows, group.g, sums, acc);
  }

  /// A group of `count` units in int32 sums.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void quad_sums(const integer_call& c, const integer_call& call, std::size_t m,
                                             const group_walk& group, std::size_t count, Codes codes,
                                             const std::int8_t* x, float* acc) noexcept {
    using dot = simd::byte_dot<Kind>;
    constexpr std::size_t chains = simd::chains_of(Kind, rows * regs);
    constexpr std::size_t step = Codes::blocks ? 8 : (chains > 2 ? chains : 2);
    vi all[chains][rows][regs];
    auto& sum = all[0];
    const bool folds = group.ends && started(c);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      const vi first(folds ? c.x_sums[(m + i) * c.sum_stride + group.g] : 0);
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) sum[i][r] = first;
    }
    if (!group.begins) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i)
        sum[i / regs][i % regs] = sum[i / regs][i % regs] + simd::load(c.state + m * nr + i * lanes);
    }
    clear_rest(all);
    for (; count >= step; count -= step, codes.skip(step), x += step * 4) {
      [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE {
        (multiply_one<dot, false, U>(all[U % chains], codes, x + U * 4, c.x_stride), ...);
      }
      (std::make_index_sequence<step>{});
    }
    if constexpr (!Codes::blocks)
      for (; count > 0; --count, codes.skip(1), x += 4) multiply_one<dot, false, 0>(sum, codes, x, c.x_stride);
    gather_rest(all);
    const auto value = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return sum[i][r]; };
    if (folds) return fold_started<rows, false>(c, m, group.g, acc, value);
    std::int32_t own[rows * nr];
    std::int32_t* const sums = group.ends ? own : c.state + m * nr;
    keep<rows>(sums, value);
    if (group.ends) fold_kept<simd::bias_of(Kind)>(call, m, rows, group.g, sums, acc);
  }

  /// sums[i][column] = value(i, r).
  template <std::size_t rows, class Value>
  static NIBBLE_ALWAYS_INLINE void keep(std::int32_t* sums, const Value& value) noexcept {
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) value(i, r).store_unaligned(sums + i * nr + r * lanes);
    }
  }

  /// Folds a group whose sums value(i, r) lack but (bias - z) X, which stands in x_sums. Lacks: whether they do.
  template <std::size_t rows, bool Lacks, class Value>
  static NIBBLE_ALWAYS_INLINE void fold_started(const integer_call& c, std::size_t m, std::size_t g, float* acc,
                                                const Value& value) noexcept {
    std::array<vf, regs> scale;
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r)
      scale[r] = simd::load(c.params.scales + g * c.params.scale_stride + r * lanes);
    const std::int32_t* rest = c.x_sums + m * c.sum_stride + g;
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i, rest += c.sum_stride) {
      const vi start(Lacks ? *rest : 0);
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        float* const at = acc + i * nr + r * lanes;
        vi exact = value(i, r);
        if constexpr (Lacks) exact = exact + start;
        with_sum(exact, scale[r], simd::load(at)).store_unaligned(at);
      }
      simd::in_order();
    }
  }

  /// All chains but the first begin at 0 ...
  template <std::size_t chains, std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void clear_rest(vi (&sum)[chains][rows][regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t c = 1; c < chains; ++c) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i) sum[c][i / regs][i % regs] = vi(0);
    }
  }

  /// ... and end in the first.
  template <std::size_t chains, std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void gather_rest(vi (&sum)[chains][rows][regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t c = 1; c < chains; ++c) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i)
        sum[0][i / regs][i % regs] = sum[0][i / regs][i % regs] + sum[c][i / regs][i % regs];
    }
  }

  /// Units of weights against `rows` rows of x. First: the sums begin with them.
  template <class Dot, std::size_t Units, bool First, class Sum, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void multiply_units(Sum (&sum)[rows][regs], const Codes& codes, const std::int8_t* x,
                                                  std::size_t x_stride) noexcept {
    [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE {
      (multiply_one<Dot, (First && U == 0), U>(sum, codes, x + U * 4, x_stride), ...);
    }
    (std::make_index_sequence<Units>{});
  }

  /// Unit U of them, with x its four activations of the first row.
  template <class Dot, bool First, std::size_t U, class Sum, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void multiply_one(Sum (&sum)[rows][regs], const Codes& codes, const std::int8_t* x,
                                                std::size_t x_stride) noexcept {
    typename Dot::operand w[regs];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) w[r] = Dot::weights(codes.template get<U>(r));
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      const auto v = Dot::activations(four_of(x + i * x_stride));
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        if constexpr (First) sum[i][r] = Dot::product(w[r], v);
        else Dot::add(sum[i][r], w[r], v);
      }
    }
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
