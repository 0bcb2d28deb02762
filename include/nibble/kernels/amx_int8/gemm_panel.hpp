// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The integer product of several rows on AMX tiles; all else is AVX-512 with VNNI (kernels/simd/).
///
/// An unpacked panel is in tile order as it stands: 16 units are a tile of 64 k x 16 columns. Two panels and 32 rows make
/// four sums in four tiles, so that each tile of operands and of activations is used twice:
///
///              panel 0   panel 1           tile registers
///              tmm6      tmm7               0 to 3  sums, int32[16 rows][16 columns]
///   rows 0-15  tmm4 x -> tmm0   tmm1         4, 5    activations, s8[16 rows][64 k]
///   rows 16-31 tmm5 x -> tmm2   tmm3         6, 7    operands, s8 or u8[16 units][16 columns x 4 k]
///
/// Groups of 32 k fill half a tile: 32 k, 8 units. The sums of a finished group leave their tiles one by one while the next
/// group's first products take them over; AVX-512 scales each (fold) during the products of the next.
///
/// Instructions: Intel SDM vol. 2, TDPBSSD and TDPBSUD (signed x by signed or unsigned bytes, exact in int32), TILELOADD,
/// TILESTORED, LDTILECFG.
/// They are written as assembly: gcc 12's intrinsics do not tell the compiler what memory they read.

#include <cstddef>
#include <cstdint>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/gemm_panel.hpp>

#if NIBBLE_SIMD_KERNELS && NIBBLE_SIMD_WIDTH == 512 && NIBBLE_SIMD_VNNI && NIBBLE_HAS_AMX_INT8
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace amx {

/// The operand of LDTILECFG (Intel SDM vol. 1, section 18.4).
struct alignas(64) tile_config {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(tile_config) == 64);

NIBBLE_ALWAYS_INLINE void load_config(const tile_config& c) noexcept { __asm__ volatile("ldtilecfg\t%0" : : "m"(c)); }
NIBBLE_ALWAYS_INLINE void store_config(tile_config& c) noexcept { __asm__ volatile("sttilecfg\t%0" : "=m"(c)); }

/// The tiles' shapes are the caller's again at the end of the scope, or released when there were none, which lets the
/// core go back to a cheaper state. What the caller's tiles held is lost: the calling convention keeps no tile over a call
/// (System V ABI, x86-64 supplement, register usage).
class tile_scope {
 public:
  tile_scope() noexcept { store_config(before_); }
  ~tile_scope() {
    if (before_.palette != 0) load_config(before_);
    else __asm__ volatile("tilerelease");
  }
  tile_scope(const tile_scope&) = delete;
  tile_scope& operator=(const tile_scope&) = delete;

  /// Tiles 0 to 5 for `rows` <= 32 rows, the first 16 in 0, 1 and 4: sums of 64 bytes a row, activations of `row_bytes`; 6 and 7
  /// for operands of as many k. Up to 16 rows have four sums of their own, and 5 is one of three for operands. Nothing is done
  /// where the tiles have these shapes already.
  void shape(std::size_t rows, std::size_t row_bytes) noexcept {
    if (rows == rows_ && row_bytes == row_bytes_) return;
    rows_ = rows;
    row_bytes_ = row_bytes;
    tile_config c;
    const auto set = [&](int tile, std::size_t tile_rows, std::size_t bytes) {
      c.rows[tile] = static_cast<std::uint8_t>(tile_rows);
      c.row_bytes[tile] = static_cast<std::uint16_t>(bytes);
    };
    const std::size_t upper = rows < 16 ? rows : 16;
    for (const int panel : {0, 1}) {
      set(panel, upper, 64);
      set(2 + panel, rows > 16 ? rows - 16 : upper, 64);
      set(6 + panel, row_bytes / 4, 64);
    }
    set(4, upper, row_bytes);
    if (rows > 16) set(5, rows - 16, row_bytes);
    else set(5, row_bytes / 4, 64);
    load_config(c);
  }

 private:
  tile_config before_;
  std::size_t rows_ = 0, row_bytes_ = 0;
};

template <int Tile>
NIBBLE_ALWAYS_INLINE void zero() noexcept {
  __asm__ volatile("{tilezero\t%%tmm%c0|tilezero\ttmm%c0}" : : "i"(Tile));
}
/// Rows of a tile from p + row * stride bytes.
template <int Tile>
NIBBLE_ALWAYS_INLINE void load(const void* p, std::size_t stride) noexcept {
  __asm__ volatile("{tileloadd\t(%0,%1,1), %%tmm%c2|tileloadd\ttmm%c2, [%0+%1*1]}"
                   :
                   : "r"(p), "r"(stride), "i"(Tile)
                   : "memory");
}
template <int Tile>
NIBBLE_ALWAYS_INLINE void store(void* p, std::size_t stride) noexcept {
  __asm__ volatile("{tilestored\t%%tmm%c2, (%0,%1,1)|tilestored\t[%0+%1*1], tmm%c2}"
                   :
                   : "r"(p), "r"(stride), "i"(Tile)
                   : "memory");
}
/// Sum += X * V: signed bytes by signed ones, or by unsigned ones, four at a time.
template <int Sum, int X, int V, bool SignedV = false>
NIBBLE_ALWAYS_INLINE void multiply() noexcept {
  if constexpr (SignedV) {
    __asm__ volatile("{tdpbssd\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbssd\ttmm%c0, tmm%c1, tmm%c2}"
                     :
                     : "i"(Sum), "i"(X), "i"(V));
  } else {
    __asm__ volatile("{tdpbsud\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbsud\ttmm%c0, tmm%c1, tmm%c2}"
                     :
                     : "i"(Sum), "i"(X), "i"(V));
  }
}

}  // namespace amx

template <>
struct gemm_panel<isa::amx_int8> : gemm_panel<simd::isa_type> {
  using isa_type = isa::amx_int8;
  static constexpr std::size_t block_panels = 2;
  using block_scope = amx::tile_scope;
  /// Operands of two panels take a third of L1, which leaves room for the rows that pass through.
  static constexpr std::size_t block_k = 512;
  /// Of integer_stream: k of a ring of operands, and how far these are ahead of the products; farther than stores wait for L1. A
  /// longer ring is slower: what passes through L1 beside it is the rows and the codes.
  static constexpr std::size_t stream_k = 128, lead_k = 96;

  /// Groups of 16 k fill a quarter of a tile. Shorter ones, and those of no whole tiles, go without.
  static constexpr std::size_t shortest_group = 16;

  /// Few rows leave most of a tile empty: vpdpbusd needs no more steps for them and no detour over memory. The shorter the groups,
  /// the more of the time goes to their sums, whoever made them; groups of 16 have no integer_stream. What takes a detour without
  /// tiles, too, is faster with them from two rows on.
  static constexpr bool in_blocks(std::size_t M, std::size_t group, std::size_t K, bool packed) noexcept {
    const std::size_t few = !packed ? 1 : group % 32 != 0 && group < K ? 12 : group < 64 ? 10 : 7;
    return M > few && (group >= K || group % shortest_group == 0);
  }

  template <int Bits>
  static void centred(const centred_codes& c, const std::byte* blocks, std::int8_t* values) noexcept {
    if (c.image == nullptr) return centre<Bits>(c, blocks, values, [](vu four) NIBBLE_LAMBDA_INLINE { return four; });
    const simd::byte_lookup<simd::lookup_bits(Bits)> lookup(c.image);
    centre<Bits>(c, blocks, values, [&lookup](vu four) NIBBLE_LAMBDA_INLINE { return lookup(four); });
  }

  /// Up to 16 rows use an operand once, and what makes it takes a fifth to a third of the time: done among the products, where
  /// ports are free, instead of before them.
  static constexpr bool in_stream(std::size_t M, std::size_t group, std::size_t K) noexcept {
    return M <= 16 && (group >= K || group % 32 == 0);
  }
  /// Four sums, each of its own panel: a product waits for its sum longer than two others take.
  static constexpr std::size_t stream_panels = 4;
  static constexpr std::size_t stream_bytes = stream_panels * stream_k * nr;

  template <int Bits>
  static void integer_stream(const integer_call* calls, const centred_codes* centres, const std::byte* const* codes,
                             std::byte* operands, block_scope& scope) noexcept {
    const integer_call& c = calls[0];
    const std::size_t depth = c.group >= c.K || c.group % 64 == 0 ? 64 : 32;
    scope.shape(c.M, depth);
    const auto ring = [&](std::size_t panel) { return operands + panel * stream_k * nr; };
    centring<Bits> panels[stream_panels] = {{centres[0], codes[0], ring(0)},
                                            {centres[1], codes[1], ring(1)},
                                            {centres[2], codes[2], ring(2)},
                                            {centres[3], codes[3], ring(3)}};
    for (std::size_t k = 0; k < lead_k; k += pack::panel16::block_k)
      for (centring<Bits>& panel : panels) panel.next();
    const std::byte* const rings[] = {ring(0), ring(1), ring(2), ring(3)};
    tiles<1, stream_panels, true>(calls, 0, c.M, depth, rings, [&](int panel) NIBBLE_LAMBDA_INLINE {
      panels[panel].next();
      if (depth == 64) panels[panel].next();
    });
  }

  static void integer_blocks(const integer_call* calls, std::size_t count, bool exact, const std::byte* const* operands,
                             next_blocks ahead, block_scope& scope) noexcept {
    if (exact) {
      if (count == 1) all_rows<1, true>(calls, operands, ahead, scope);
      else all_rows<2, true>(calls, operands, ahead, scope);
    } else {
      if (count == 1) all_rows<1, false>(calls, operands, ahead, scope);
      else all_rows<2, false>(calls, operands, ahead, scope);
    }
  }

 private:
  /// Centres the codes of a panel, block by block, to a ring of stream_k.
  template <int Bits>
  struct centring {
    centring(const centred_codes& from, const std::byte* codes, std::byte* to) noexcept
        : c(from), block(codes), values(reinterpret_cast<std::int8_t*>(to)), stop(from.group), own(origin(from, 0)) {}
    const centred_codes& c;
    const std::byte* block;
    std::int8_t* values;
    std::size_t k = 0, g = 0, stop;  ///< what comes next, its group, and where that ends
    __m512i own;                     ///< the group's origins

    NIBBLE_ALWAYS_INLINE void next() noexcept {
      if (k >= c.k1) return;
      if (k == stop) {
        stop += c.group;
        own = origin(c, ++g);
      }
      for (std::size_t line = 0; line < pack::panel16::block_bytes(Bits); line += 64)
        __builtin_prefetch(block + 2048 + line, 0, 2);
      block_of<Bits>(c.doubled, block, own, own, values + k % stream_k * nr,
                     [](vu four) NIBBLE_LAMBDA_INLINE { return four; });
      block += pack::panel16::block_bytes(Bits);
      k += pack::panel16::block_k;
    }
  };

  /// The origins of group g, each four times in its lane.
  static NIBBLE_ALWAYS_INLINE __m512i origin(const centred_codes& c, std::size_t g) noexcept {
    const __m512i columns = _mm512_loadu_si512(c.origin + g * c.origin_stride);
    return _mm512_mullo_epi32(columns, _mm512_set1_epi32(0x01010101));
  }
  /// A block of 32 k: what image_of makes of its codes, without the origins of its first 16 k and the others.
  template <int Bits, class ImageOf>
  static NIBBLE_ALWAYS_INLINE void block_of(bool doubled, const std::byte* block, __m512i first, __m512i second,
                                            std::int8_t* values, const ImageOf& image_of) noexcept {
    for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
      const auto four = static_cast<__m512i>(image_of(codes<Bits, U>(block, 0)));
      const __m512i twice = doubled ? _mm512_add_epi8(four, four) : four;
      _mm512_storeu_si512(values + U * 64, _mm512_sub_epi8(twice, U < 4 ? first : second));
    });
  }

  /// c's origin taken off the codes, four in each lane, that image_of makes of stored ones.
  template <int Bits, class ImageOf>
  static NIBBLE_ALWAYS_INLINE void centre(const centred_codes& c, const std::byte* block, std::int8_t* values,
                                          const ImageOf& image_of) noexcept {
    const auto origin_of = [&](std::size_t g) NIBBLE_LAMBDA_INLINE { return origin(c, g); };
    const auto centre_block = [&](__m512i first, __m512i second) NIBBLE_LAMBDA_INLINE {  // origins of 16 k each
      block_of<Bits>(c.doubled, block, first, second, values, image_of);
      block += pack::panel16::block_bytes(Bits);
      values += 8 * 64;
    };
    if (c.origin_stride != 0 && c.group % pack::panel16::block_k != 0) {
      for (std::size_t k = c.k0; k < c.k1; k += pack::panel16::block_k) {
        const std::size_t later = k + 16 < c.k1 ? k + 16 : k;
        centre_block(origin_of(k / c.group), origin_of(later / c.group));
      }
      return;
    }
    std::size_t g = c.k0 / c.group;
    for (std::size_t k = c.k0; k < c.k1; ++g) {
      const bool all = c.origin_stride == 0 || c.k1 - g * c.group <= c.group;
      const std::size_t stop = all ? c.k1 : (g + 1) * c.group;
      const __m512i origin = origin_of(g);
      for (; k < stop; k += pack::panel16::block_k) centre_block(origin, origin);
    }
  }

  /// Folds the sums of a group for at most 16 rows from `first` on: I of the law itself (Exact), or sum u x. sums, acc: those of
  /// the first row.
  template <bool Exact>
  static NIBBLE_ALWAYS_INLINE void fold(const integer_call& c, std::size_t first, std::size_t rows, std::size_t g,
                                        const std::int32_t* sums, float* acc) noexcept {
    const panel_params& p = c.params;
    const vf scale = simd::load(p.scales + g * p.scale_stride);
    const auto each = [&](const auto& folded) NIBBLE_LAMBDA_INLINE {
      const auto row = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
        folded(i, simd::load(sums + i * nr), simd::load(acc + i * nr)).store_unaligned(acc + i * nr);
      };
      if (rows == 16) {
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < 16; ++i) row(i);
      } else {
        for (std::size_t i = 0; i < rows; ++i) row(i);
      }
    };
    const auto x_sum = [&](std::size_t i)  // c.x_sums may be null where it is not read
        NIBBLE_LAMBDA_INLINE { return vi(c.x_sums[(first + i) * c.sum_stride + g]); };
    if (constant_zero(c) && p.offsets != nullptr) {  // z is 0: the sums are I either way
      const vf offset = simd::load(p.offsets + g * p.offset_stride);
      const float* const levels = c.x_levels + first * c.sum_stride + g;
      each([&](std::size_t i, vi sum, vf from) NIBBLE_LAMBDA_INLINE {
        return simd::fused(vf(levels[i * c.sum_stride]), offset, with_sum(sum, scale, from));
      });
    } else if (Exact && p.shift != 0) {
      each([&](std::size_t, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return simd::fused(simd::to_float(sum) * vf(0.5f), scale, from); });
    } else if (Exact) {
      each([&](std::size_t, vi sum, vf from) NIBBLE_LAMBDA_INLINE { return with_sum(sum, scale, from); });
    } else if (started(c)) {
      each([&](std::size_t i, vi sum, vf from) NIBBLE_LAMBDA_INLINE { return with_sum(sum + x_sum(i), scale, from); });
    } else if (!constant_zero(c) && p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr) {
      const vi zero = simd::load(p.zeros + g * p.zero_stride);
      each([&](std::size_t i, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return with_sum(sum - zero * x_sum(i), scale, from); });
    } else {
      fold_kept<0>(c, first, rows, g, sums, acc);
    }
  }

  template <int Panels, bool Exact>
  static void all_rows(const integer_call* calls, const std::byte* const* operands, next_blocks ahead,
                       block_scope& scope) noexcept {
    const integer_call& c = calls[0];
    const bool whole_tiles = (c.group >= c.K || c.group % 64 == 0) && c.k0 % 64 == 0 && (c.k1 % 64 == 0 || c.k1 >= c.K);
    const std::size_t depth = whole_tiles ? 64 : c.group >= c.K || c.group % 32 == 0 ? 32 : 16;
    ahead.spread_over(ceil_div(c.M, std::size_t{32}) * ceil_div(c.k1 - c.k0, depth));
    const auto ask = [&ahead](int panel) NIBBLE_LAMBDA_INLINE {
      if (panel == 0) ahead.step();
    };
    std::size_t m = 0;
    if (c.M >= 32) {
      scope.shape(32, depth);
      for (; c.M - m >= 32; m += 32) tiles<2, Panels, Exact>(calls, m, 32, depth, operands, ask);
    }
    const std::size_t left = c.M - m;
    if (left == 0) return;
    scope.shape(left, depth);
    if (left > 16) tiles<2, Panels, Exact>(calls, m, left, depth, operands, ask);
    else tiles<1, Panels, Exact>(calls, m, left, depth, operands, ask);
  }

  /// Rows [m, m + rows) of 1 or 2 panels. beside(panel) is called behind the first product of each step and panel.
  template <int RowTiles, int Panels, bool Exact, class Beside>
  static void tiles(const integer_call* calls, std::size_t m, std::size_t rows, std::size_t depth,
                    const std::byte* const* operands, const Beside& beside) noexcept {
    constexpr auto sums = static_cast<std::size_t>(RowTiles * Panels);
    constexpr std::size_t sum_bytes = nr * sizeof(std::int32_t);
    const integer_call c = calls[0];  // a copy, which no store can change
    const std::int8_t *const upper = c.x + m * c.x_stride, *const lower = upper + (RowTiles > 1 ? 16 : 0) * c.x_stride;
    alignas(64) std::int32_t finished[sums][16 * nr];
    const auto sum_of = [](int i, int j) NIBBLE_LAMBDA_INLINE { return static_cast<std::size_t>(i * Panels + j); };
    const auto state = [&](std::size_t i, std::size_t j)
                           NIBBLE_LAMBDA_INLINE { return calls[j].state + (m + 16 * i) * nr; };
    const auto fold_tile = [&]<int I, int J>(std::size_t g) NIBBLE_LAMBDA_INLINE {
      const std::size_t first = m + 16 * I, count = I == 0 && rows > 16 ? 16 : rows - 16 * I;
      const std::int32_t* const own = finished[sum_of(I, J)];
      float* const acc = calls[J].acc + first * nr;
      fold<Exact>(calls[J], first, count, g, own, acc);
    };
    bool waiting = false;  // the sums of the group before, finished, are still in their tiles
    for (group_walk group(c); !group.done(); group.next()) {
      for (std::size_t k = group.k; k < group.stop; k += depth) {
        const std::size_t at = (Panels > 2 ? k % stream_k : k - c.k0) * nr;
        const bool first = k == group.k;
        each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
          constexpr int operand = Panels > 2 ? 5 + J % 3 : 6 + J;
          if constexpr (I == 0) amx::load<operand>(operands[J] + at, pack::panel16::unit_bytes);
          if constexpr (J == 0) amx::load<4 + I>((I == 0 ? upper : lower) + k, c.x_stride);
          if (first) {
            if (waiting) amx::store<2 * I + J>(finished[sum_of(I, J)], sum_bytes);
            if (group.begins) amx::zero<2 * I + J>();
            else amx::load<2 * I + J>(state(I, J), sum_bytes);
          }
          amx::multiply<2 * I + J, 4 + I, operand, Exact>();
          if constexpr (I == 0) beside(J);
          if (first && waiting) {
            if constexpr (I + J > 0) {
              constexpr int before = I * Panels + J - 1;
              fold_tile.template operator()<before / Panels, before % Panels>(group.g - 1);
            }
          }
        });
        if (first && waiting) fold_tile.template operator()<RowTiles - 1, Panels - 1>(group.g - 1);
      }
      waiting = group.ends;
      if (waiting) continue;
      each_sum<RowTiles, Panels>([&]<int I, int J>()
                                     NIBBLE_LAMBDA_INLINE { amx::store<2 * I + J>(state(I, J), sum_bytes); });
    }
    if (!waiting) return;
    const std::size_t last = (c.k1 < c.K ? c.k1 : c.K) - 1;
    each_sum<RowTiles, Panels>([&]<int I, int J>()
                                   NIBBLE_LAMBDA_INLINE { amx::store<2 * I + J>(finished[sum_of(I, J)], sum_bytes); });
    each_sum<RowTiles, Panels>([&]<int I, int J>()
                                   NIBBLE_LAMBDA_INLINE { fold_tile.template operator()<I, J>(last / c.group); });
  }

 protected:
  /// f.operator()<row tile, panel>() for each sum.
  template <int RowTiles, int Panels, class F>
  static NIBBLE_ALWAYS_INLINE void each_sum(F&& f) noexcept {
    f.template operator()<0, 0>();
    if constexpr (Panels > 1) f.template operator()<0, 1>();
    if constexpr (Panels > 2) f.template operator()<0, 2>();
    if constexpr (Panels > 3) f.template operator()<0, 3>();
    if constexpr (RowTiles > 1) f.template operator()<1, 0>();
    if constexpr (RowTiles > 1 && Panels > 1) f.template operator()<1, 1>();
  }

  static_assert(regs == 1 && code_bias(8) == 0, "one register holds the columns of a panel; codes as they are");
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
