// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The integer product of several rows on AMX tiles; all else is AVX-512 with VNNI (kernels/simd/).
///
/// An unpacked panel is in tile order as it stands: 16 units are a tile of 64 k x 16 columns. Two panels and 32 rows make
/// four sums in four tiles, so that each tile of codes and of activations is used twice:
///
///              panel 0   panel 1           tile registers
///              tmm6      tmm7               0 to 3  sums, int32[16 rows][16 columns]
///   rows 0-15  tmm4 x -> tmm0   tmm1         4, 5    activations, s8[16 rows][64 k]
///   rows 16-31 tmm5 x -> tmm2   tmm3         6, 7    codes, u8[16 units][16 columns x 4 k]
///
/// Groups of 32 k fill half a tile: 32 k, 8 units. Sums pass through `state`, where AVX-512 scales them (fold).
///
/// Instructions: Intel SDM vol. 2, TDPBSUD (signed x by unsigned u, exact in int32), TILELOADD, TILESTORED, LDTILECFG.
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

 private:
  tile_config before_;
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
/// Sum += X * U: signed by unsigned bytes, four at a time.
template <int Sum, int X, int U>
NIBBLE_ALWAYS_INLINE void multiply() noexcept {
  __asm__ volatile("{tdpbsud\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbsud\ttmm%c0, tmm%c1, tmm%c2}"
                   :
                   : "i"(Sum), "i"(X), "i"(U));
}

}  // namespace amx

template <>
struct gemm_panel<isa::amx_int8> : gemm_panel<simd::isa_type> {
  using isa_type = isa::amx_int8;
  using vector_kernels = gemm_panel<simd::isa_type>;
  static constexpr std::size_t block_panels = 2;
  /// Fewer rows leave most of a tile empty: vpdpbusd needs no more steps for them and no detour over `state`.
  static constexpr std::size_t least_rows = 5;

  static void integer_block(const integer_call& c, int bits, const std::uint8_t* units) noexcept {
    integer_blocks(&c, 1, bits, &units);
  }

  static void integer_blocks(const integer_call* calls, std::size_t count, int bits,
                             const std::uint8_t* const* units) noexcept {
    const integer_call& c = calls[0];
    if (c.M < least_rows || (c.group < c.K && c.group % pack::panel16::block_k != 0)) {
      for (std::size_t i = 0; i < count; ++i) vector_kernels::integer_block(calls[i], bits, units[i]);
      return;
    }
    if (count == 1) all_rows<1>(calls, units);
    else all_rows<2>(calls, units);
  }

 private:
  template <int Panels>
  static void all_rows(const integer_call* calls, const std::uint8_t* const* units) noexcept {
    const integer_call& c = calls[0];
    const bool whole_tiles = (c.group >= c.K || c.group % 64 == 0) && c.k0 % 64 == 0 && (c.k1 % 64 == 0 || c.k1 >= c.K);
    const std::size_t depth = whole_tiles ? 64 : 32;
    const amx::tile_scope scope;
    std::size_t m = 0;
    if (c.M >= 32) {
      shape_tiles(32, depth);
      for (; c.M - m >= 32; m += 32) tiles<2, Panels>(calls, m, 32, depth, units);
    }
    const std::size_t left = c.M - m;
    if (left == 0) return;
    shape_tiles(left, depth);
    if (left > 16) tiles<2, Panels>(calls, m, left, depth, units);
    else tiles<1, Panels>(calls, m, left, depth, units);
  }

 protected:
  /// Tiles for `rows` <= 32 rows of `depth` bytes.
  static void shape_tiles(std::size_t rows, std::size_t depth) noexcept {
    amx::tile_config shape;
    const auto set = [&](int tile, std::size_t tile_rows, std::size_t row_bytes) {
      shape.rows[tile] = static_cast<std::uint8_t>(tile_rows);
      shape.row_bytes[tile] = static_cast<std::uint16_t>(row_bytes);
    };
    const std::size_t upper = rows < 16 ? rows : 16, lower = rows > 16 ? rows - 16 : 1;
    for (const int panel : {0, 1}) {
      set(panel, upper, 64);
      set(2 + panel, lower, 64);
      set(6 + panel, depth / 4, 64);
    }
    set(4, upper, depth);
    set(5, lower, depth);
    amx::load_config(shape);
  }

 private:
  /// Rows [m, m + rows) of 1 or 2 panels.
  template <int RowTiles, int Panels>
  static void tiles(const integer_call* calls, std::size_t m, std::size_t rows, std::size_t depth,
                    const std::uint8_t* const* units) noexcept {
    const integer_call& c = calls[0];
    const std::int8_t* x = c.x + m * c.x_stride;
    constexpr std::size_t state_bytes = nr * sizeof(std::int32_t);
    for (group_walk group(c); !group.done(); group.next()) {
      const bool fresh = group.begins;
      each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
        if (fresh) amx::zero<2 * I + J>();
        else amx::load<2 * I + J>(calls[J].state + (m + 16 * I) * nr, state_bytes);
      });
      for (std::size_t k = group.k; k < group.stop; k += depth) {
        const std::size_t at = (k - c.k0) * nr;
        amx::load<6>(units[0] + at, pack::panel16::unit_bytes);
        amx::load<4>(x + k, c.x_stride);
        if constexpr (Panels > 1) amx::load<7>(units[1] + at, pack::panel16::unit_bytes);
        if constexpr (RowTiles > 1) amx::load<5>(x + 16 * c.x_stride + k, c.x_stride);
        each_sum<RowTiles, Panels>([&]<int I, int J>()
                                       NIBBLE_LAMBDA_INLINE { amx::multiply<2 * I + J, 4 + I, 6 + J>(); });
      }
      each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
        amx::store<2 * I + J>(calls[J].state + (m + 16 * I) * nr, state_bytes);
      });
      if (!group.ends) continue;
      for (std::size_t j = 0; j < Panels; ++j)
        fold_kept<code_bias(0)>(calls[j], m, rows, group.g, calls[j].state + m * nr, calls[j].acc + m * nr);
    }
  }

 protected:
  /// f.operator()<row tile, panel>() for each sum.
  template <int RowTiles, int Panels, class F>
  static NIBBLE_ALWAYS_INLINE void each_sum(F&& f) noexcept {
    f.template operator()<0, 0>();
    if constexpr (Panels > 1) f.template operator()<0, 1>();
    if constexpr (RowTiles > 1) f.template operator()<1, 0>();
    if constexpr (RowTiles > 1 && Panels > 1) f.template operator()<1, 1>();
  }

  static_assert(regs == 1 && code_bias(8) == 0, "one register holds the columns of a panel; codes as they are");
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
