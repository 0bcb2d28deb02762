// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the panel kernels of integers and of floats share on the native register width: packed codes in registers, and the
/// cutting of rows into tiles.

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

struct panel_tools {
  static constexpr std::size_t nr = pack::panel16::nr;
  static constexpr std::size_t lanes = simd::lanes;
  static constexpr std::size_t regs = simd::regs;
  /// Rows of the full register tile.
  static constexpr int mr = regs == 1 ? 12 : (regs == 2 || simd::register_count == 32 ? 6 : 2);
  using vf = simd::vf;
  using vi = simd::vi;
  using vu = simd::vu;

  template <int Bits>
  static void unpack(const std::byte* blocks, std::size_t count, std::uint8_t* units) noexcept {
    for (std::size_t b = 0; b < count; ++b, blocks += pack::panel16::block_bytes(Bits), units += 8 * 64) {
      for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r)
          codes<Bits, U>(blocks, r).store_unaligned(reinterpret_cast<std::uint32_t*>(units + U * 64) + r * lanes);
      });
    }
  }

 protected:
  static NIBBLE_ALWAYS_INLINE std::array<vf, regs> load_columns(const float* p) noexcept {
    std::array<vf, regs> v;
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) v[r] = simd::load(p + r * lanes);
    return v;
  }

  /// Bytes from a block to what one-row kernels will read a page later: hardware prefetchers stop at the end of a page, and a
  /// panel has many. Measured on Zen 3: 2 and 4 KiB are equal, 1 and 8 take a tenth longer. Behind the end of a panel comes
  /// the one `panels` further on. `left`: k of the panel from this block on.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE std::ptrdiff_t prefetch_distance(const std::byte* const* blocks, std::size_t panels,
                                                               std::size_t left) noexcept {
    constexpr std::ptrdiff_t page = 4096;
    if (panels == 1 || left / 32 * pack::panel16::block_bytes(Bits) > page) return page;
    return page + (blocks[panels - 1] - blocks[0]);
  }

  /// A block's worth of bytes. Whatever lies there, a prefetch does not fault.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void prefetch(const std::byte* block, std::ptrdiff_t distance) noexcept {
    const auto ahead = reinterpret_cast<std::uintptr_t>(block) + static_cast<std::uintptr_t>(distance);
    for (std::size_t line = 0; line < pack::panel16::block_bytes(Bits); line += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + line));
  }

  /// Calls f.operator()<U>() for the eight units of a block, unrolled: shifts become immediates.
  template <class F>
  static NIBBLE_ALWAYS_INLINE void for_each_unit(F&& f) noexcept {
    [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE { (f.template operator()<U>(), ...); }
    (std::make_index_sequence<8>{});
  }

  /// Register r (lanes columns) of unit U of a packed block: four u8 codes in each lane, times 2^Scale.
  template <int Bits, std::size_t U, int Scale = 0>
  static NIBBLE_ALWAYS_INLINE vu codes(const std::byte* block, std::size_t r) noexcept {
    constexpr pack::bit_planes planes = pack::planes_of(Bits);
    const auto part = [&]<int I>() NIBBLE_LAMBDA_INLINE {
      constexpr auto at = pack::panel16::locate(planes.width[I], planes.offset_bytes[I], U, 0);
      constexpr std::uint32_t mask = ((1u << planes.width[I]) - 1u) * 0x01010101u;
      vu v = simd::load_lanes(block + at.byte + r * lanes * 4);
      constexpr int to = planes.shift[I] + Scale, shift = at.shift - to;  // moves the field to its place in the code
      if constexpr (planes.width[I] == 8) return v;
      if constexpr (shift > 0) v = v >> shift;
      if constexpr (shift < 0) v = v << -shift;
      return v & vu(mask << to);
    };
    vu v = part.template operator()<0>();
    if constexpr (planes.count > 1) v = v | part.template operator()<1>();
    if constexpr (planes.count > 2) v = v | part.template operator()<2>();
    return v;
  }

  /// The Scale with which the field of the widest plane need not move for unit U, unless it would have to move down: 0, 2, 4, 6
  /// for 2 bits, 0, 1, 3, 5 for 3, 0, 4 for 4, 0, 3 for 5, 0, 2 for 6, 0, 1 for 7. The same for U and U + 4.
  template <int Bits, std::size_t U>
  static constexpr int resting_scale() noexcept {
    constexpr pack::bit_planes planes = pack::planes_of(Bits);
    constexpr int shift = pack::panel16::locate(planes.width[0], 0, U, 0).shift - planes.shift[0];
    return shift > 0 ? shift : 0;
  }

  static NIBBLE_ALWAYS_INLINE std::array<vf, regs> scales_of(const panel_params& p, std::size_t g) noexcept {
    const std::size_t at = g * p.scale_stride;
#if NIBBLE_SIMD_HALVES
    if (p.halves != nullptr) {
      std::array<vf, regs> v;
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) v[r] = simd::load(p.halves + at + r * lanes);
      return v;
    }
    if (p.scale_codes != nullptr) {
      std::array<vf, regs> v;
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) v[r] = multiple(p, p.scale_codes, p.scales, g, r);
      return v;
    }
#endif
    return load_columns(p.scales + at);
  }
  static NIBBLE_ALWAYS_INLINE vf offset_of(const panel_params& p, std::size_t g, std::size_t r) noexcept {
#if NIBBLE_SIMD_HALVES
    if (p.offset_codes != nullptr) return multiple(p, p.offset_codes, p.offsets, g, r);
#endif
    return simd::load(p.offsets + g * p.offset_stride + r * lanes);
  }
#if NIBBLE_SIMD_HALVES
  /// panel_params::scale_codes or offset_codes times what they are multiples of: exact (quant/super_block.hpp).
  static NIBBLE_ALWAYS_INLINE vf multiple(const panel_params& p, const std::int8_t* codes, const float* blocks,
                                          std::size_t g, std::size_t r) noexcept {
    return simd::load(codes + g * nr + r * lanes) * simd::load(blocks + (g >> p.block_shift) * nr + r * lanes);
  }
#endif

  /// Calls tile<Rows>(m) for tiles that cover [0, M): the tallest ones, then what is left in two halves, because short
  /// tiles load as much as tall ones.
  template <int Tallest, class F>
  static NIBBLE_ALWAYS_INLINE void in_tiles(std::size_t M, F&& tile) noexcept {
    std::size_t m = 0;
    for (; M - m >= 2 * Tallest || M - m == Tallest; m += Tallest) tile.template operator()<Tallest>(m);
    while (m < M) {
      const std::size_t left = M - m;
      m += height<Tallest>(m, left > Tallest ? (left + 1) / 2 : left, tile);
    }
  }

  /// One tile of at most `rows` rows, as tall as there is one; returns its height.
  template <int Height, class F>
  static NIBBLE_ALWAYS_INLINE std::size_t height(std::size_t m, std::size_t rows, F& tile) noexcept {
    if constexpr (Height > 1) {
      // Above 8 rows every other height exists, to save compile time.
      if (rows < Height) return height<(Height > 8 ? Height - 2 : Height - 1)>(m, rows, tile);
    }
    tile.template operator()<Height>(m);
    return Height;
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
