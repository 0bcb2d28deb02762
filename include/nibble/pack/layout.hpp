// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How the codes of a matrix lie in memory for kernels: run-time layout ids and the arithmetic of each layout.

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>

namespace nibble {

/// Names a packed layout. Values are stable: they are written to files.
enum class layout_id : std::uint32_t {
  row_major = 0,  ///< the canonical form of quantized_view
  panel16 = 1,    ///< panels of 16 columns, VNNI order: 16 columns x 4 k in 64 bytes when unpacked
};

inline namespace NIBBLE_ABI {

constexpr const char* name_of(layout_id id) noexcept {
  switch (id) {
    case layout_id::row_major: return "row_major";
    case layout_id::panel16: return "panel16";
  }
  return "unknown";
}

namespace pack {

/// The layout `panel16`. W[N, K] is cut into panels of 16 columns (outputs) and each panel into blocks of 32 k.
///
/// A *unit* is 16 columns x 4 k. Unpacked it is 64 bytes, byte 4 * column + k: one 32-bit lane per column holding four
/// consecutive k. That is the operand of vpdpbusd (one zmm, two ymm, four xmm) and, 16 units below each other, an AMX
/// tile; a kernel never adds across lanes.
///
/// A *block* holds 8 units (32 k) of b-bit codes in 64 * b bytes. b is cut into bit planes of width 4, 2, 1 (8 is one
/// plane): 7 = 4+2+1, 6 = 4+2, 5 = 4+1, 3 = 2+1. The plane of width c comes as c vectors of 64 bytes; vector v holds the
/// units v * 8/c + t, t = 0 .. 8/c - 1, in bit fields [t * c, t * c + c) of each byte. Wider planes come first and hold
/// the upper bits of the code. Unpacking is a shift and a mask for each plane, whatever the width.
///
///   4-bit block, 256 bytes:   | vector 0        | vector 1        | vector 2        | vector 3        |
///                             | units 0 (lo) 1  | units 2, 3      | units 4, 5      | units 6, 7      |
///   byte 4n+k of vector v:    code(k = 8v + k, column n) | code(k = 8v + 4 + k, column n) << 4
///
/// Columns past N and k past K hold code 0; their scales are 0 and activations are padded with 0, so they add nothing.
/// Scales and zero points: plane [panel][group][16], storage type as in the canonical form.
struct panel16 {
  static constexpr std::size_t nr = 16;          ///< columns of a panel
  static constexpr std::size_t unit_k = 4;       ///< k of a unit
  static constexpr std::size_t block_k = 32;     ///< k of a block
  static constexpr std::size_t unit_bytes = 64;  ///< an unpacked unit
  static constexpr std::size_t units_per_block = block_k / unit_k;

  static constexpr std::size_t panels(std::size_t N) noexcept { return ceil_div(N, nr); }
  static constexpr std::size_t blocks(std::size_t K) noexcept { return ceil_div(K, block_k); }
  static constexpr std::size_t padded_k(std::size_t K) noexcept { return blocks(K) * block_k; }
  static constexpr std::size_t block_bytes(int bits) noexcept { return 64 * static_cast<std::size_t>(bits); }
  static constexpr std::size_t panel_bytes(std::size_t K, int bits) noexcept { return blocks(K) * block_bytes(bits); }

  /// The place of the bits of one plane of the code of unit u (0..7), byte j (0..63) of a block.
  struct field {
    std::size_t byte;  ///< offset in the block
    int shift;         ///< lowest bit in that byte
  };
  static constexpr field locate(int plane_width, std::size_t plane_offset_bytes, std::size_t u,
                                std::size_t j) noexcept {
    const std::size_t per_byte = 8 / static_cast<std::size_t>(plane_width);
    return {plane_offset_bytes + (u / per_byte) * 64 + j, static_cast<int>(u % per_byte) * plane_width};
  }
};

/// The bit planes of a b-bit code in panel16, widest first. `shift` is the weight of the plane's lowest bit.
struct bit_planes {
  int count = 0;
  int width[3] = {};
  int shift[3] = {};
  std::size_t offset_bytes[3] = {};  ///< in a block
};
constexpr bit_planes planes_of(int bits) noexcept {
  bit_planes p;
  int rest = bits;
  std::size_t offset = 0;
  for (const int width : {8, 4, 2, 1}) {
    if (rest < width) continue;
    rest -= width;
    p.width[p.count] = width;
    p.shift[p.count] = rest;
    p.offset_bytes[p.count] = offset;
    offset += 64 * static_cast<std::size_t>(width);
    ++p.count;
  }
  return p;
}
static_assert(planes_of(7).count == 3 && planes_of(5).width[1] == 1 && planes_of(8).count == 1 &&
              planes_of(6).shift[0] == 2 && planes_of(3).offset_bytes[1] == 128);

/// Writes code u into place (n, k), n in [0, 16), of the panel at `panel` (bits of that place must be 0).
inline void put_panel16(std::byte* panel, int bits, std::size_t n, std::size_t k, unsigned code) noexcept {
  const bit_planes p = planes_of(bits);
  std::byte* block = panel + (k / panel16::block_k) * panel16::block_bytes(bits);
  const std::size_t u = k % panel16::block_k / panel16::unit_k, j = 4 * n + k % 4;
  for (int i = 0; i < p.count; ++i) {
    const auto f = panel16::locate(p.width[i], p.offset_bytes[i], u, j);
    const unsigned part = (code >> p.shift[i]) & ((1u << p.width[i]) - 1u);
    block[f.byte] |= static_cast<std::byte>(part << f.shift);
  }
}

/// The code at (n, k) of a panel.
inline unsigned get_panel16(const std::byte* panel, int bits, std::size_t n, std::size_t k) noexcept {
  const bit_planes p = planes_of(bits);
  const std::byte* block = panel + (k / panel16::block_k) * panel16::block_bytes(bits);
  const std::size_t u = k % panel16::block_k / panel16::unit_k, j = 4 * n + k % 4;
  unsigned code = 0;
  for (int i = 0; i < p.count; ++i) {
    const auto f = panel16::locate(p.width[i], p.offset_bytes[i], u, j);
    code |= (static_cast<unsigned>(block[f.byte]) >> f.shift & ((1u << p.width[i]) - 1u)) << p.shift[i];
  }
  return code;
}

}  // namespace pack
}  // namespace NIBBLE_ABI
}  // namespace nibble
