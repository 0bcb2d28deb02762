// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Canonical rows to panels of layout panel16 and back, in bulk: the meaning of kernels/panel_codes.hpp. Portable code on
/// 64-bit words: eight codes a step in rows, eight bytes a step in bit planes, which compilers widen to the registers there
/// are.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace pack {
namespace detail {

/// k handled in one go, so that everything stays in L1: 4 KiB of units and the packed bytes of 16 rows. Those are copied to and
/// fro, because rows of a power of two bytes would fall on the same few sets of the cache, and because words may then be
/// read and written beyond the end of a row.
inline constexpr std::size_t panel_tile_k = 256;
inline constexpr std::size_t staged_row_bytes(int bits) noexcept {
  return panel_tile_k / 8 * static_cast<std::size_t>(bits) + 8;
}

/// The mask of fields of `width` bits at the low end of all bytes of a word.
constexpr std::uint64_t byte_fields(int width) noexcept { return ((1u << width) - 1u) * 0x0101010101010101u; }

/// 8 units to the bit planes of a block.
inline void units_to_block(const std::uint8_t* units, const bit_planes& planes, std::byte* block) noexcept {
  for (int i = 0; i < planes.count; ++i) {
    const int width = planes.width[i], down = planes.shift[i];
    const std::uint64_t mask = byte_fields(width);
    const std::uint8_t* unit = units;
    for (int v = 0; v < width; ++v, block += 64) {
      std::uint64_t bytes[8] = {};
      for (int up = 0; up < 8; up += width, unit += 64) {
        std::uint64_t u[8];
        std::memcpy(u, unit, 64);
        for (std::size_t j = 0; j < 8; ++j) bytes[j] |= (u[j] >> down & mask) << up;
      }
      std::memcpy(block, bytes, 64);
    }
  }
}

/// The inverse of units_to_block.
inline void block_to_units(const std::byte* block, const bit_planes& planes, std::uint8_t* units) noexcept {
  for (int i = 0; i < planes.count; ++i) {
    const int width = planes.width[i], up = planes.shift[i];
    const std::uint64_t mask = byte_fields(width);
    std::uint8_t* unit = units;
    for (int v = 0; v < width; ++v, block += 64) {
      std::uint64_t bytes[8];
      std::memcpy(bytes, block, 64);
      for (int down = 0; down < 8; down += width, unit += 64) {
        std::uint64_t u[8] = {};
        if (i != 0) std::memcpy(u, unit, 64);
        for (std::size_t j = 0; j < 8; ++j) u[j] |= (bytes[j] >> down & mask) << up;
        std::memcpy(unit, u, 64);
      }
    }
  }
}

/// 8 codes of each of 16 staged rows at a time: two units.
template <int Bits>
inline void rows_to_units(const std::byte* staged, std::size_t steps, std::uint8_t* units) noexcept {
  for (std::size_t s = 0; s < steps; ++s, staged += Bits, units += 128) {
    std::uint64_t w[16];
    std::uint32_t low[16], high[16];
    for (std::size_t i = 0; i < 16; ++i) std::memcpy(&w[i], staged + i * staged_row_bytes(Bits), 8);
    for (std::size_t i = 0; i < 16; ++i) w[i] = expand8<Bits>(w[i]);
    for (std::size_t i = 0; i < 16; ++i) low[i] = static_cast<std::uint32_t>(w[i]);
    for (std::size_t i = 0; i < 16; ++i) high[i] = static_cast<std::uint32_t>(w[i] >> 32);
    std::memcpy(units, low, 64);
    std::memcpy(units + 64, high, 64);
  }
}

/// The inverse of rows_to_units.
template <int Bits>
inline void units_to_rows(const std::uint8_t* units, std::size_t steps, std::byte* staged) noexcept {
  for (std::size_t s = 0; s < steps; ++s, staged += Bits, units += 128) {
    std::uint64_t w[16];
    std::uint32_t low[16], high[16];
    std::memcpy(low, units, 64);
    std::memcpy(high, units + 64, 64);
    for (std::size_t i = 0; i < 16; ++i) w[i] = low[i] | std::uint64_t{high[i]} << 32;
    for (std::size_t i = 0; i < 16; ++i) w[i] = compress8<Bits>(w[i]);
    for (std::size_t i = 0; i < 16; ++i) std::memcpy(staged + i * staged_row_bytes(Bits), &w[i], 8);
  }
}

/// Copies the bytes of `count` codes; the padding bits of the last byte become 0.
inline void copy_codes(const std::byte* from, std::size_t count, int bits, std::byte* to) noexcept {
  const std::size_t bytes = packed_bytes(count, bits), used = count % 8 * static_cast<std::size_t>(bits) % 8;
  std::memcpy(to, from, bytes);
  if (used != 0) to[bytes - 1] &= static_cast<std::byte>((1u << used) - 1u);
}

}  // namespace detail

/// Packs the first `columns` <= 16 columns of a panel, rows of W that begin at `rows` + i * row_bytes, to the
/// panel16::panel_bytes(K, bits) bytes at `panel`. What has no column or no k becomes 0.
inline void pack_panel16(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K, int bits,
                         std::byte* panel) noexcept {
  alignas(64) std::byte staged[detail::staged_row_bytes(8) * panel16::nr];
  alignas(64) std::uint8_t units[detail::panel_tile_k * panel16::nr];
  const bit_planes planes = planes_of(bits);
  const std::size_t stride = detail::staged_row_bytes(bits);
  for (std::size_t k = 0; k < K; k += detail::panel_tile_k) {
    const std::size_t count = K - k < detail::panel_tile_k ? K - k : detail::panel_tile_k;
    const std::size_t blocks = panel16::blocks(count);
    if (k == 0 || count < detail::panel_tile_k) std::memset(staged, 0, stride * panel16::nr);
    const std::byte* row = rows + packed_bytes(k, bits);
    for (std::size_t i = 0; i < columns; ++i) detail::copy_codes(row + i * row_bytes, count, bits, staged + i * stride);
    with_bits(bits, [&]<int Bits>() { detail::rows_to_units<Bits>(staged, blocks * 4, units); });
    for (std::size_t b = 0; b < blocks; ++b, panel += panel16::block_bytes(bits))
      detail::units_to_block(units + b * 8 * 64, planes, panel);
  }
}

/// The inverse: writes packed_bytes(K, bits) bytes of each of `columns` rows, padding bits 0.
inline void unpack_panel16(const std::byte* panel, std::size_t columns, std::size_t K, int bits, std::byte* rows,
                           std::size_t row_bytes) noexcept {
  alignas(64) std::byte staged[detail::staged_row_bytes(8) * panel16::nr];
  alignas(64) std::uint8_t units[detail::panel_tile_k * panel16::nr];
  const bit_planes planes = planes_of(bits);
  const std::size_t stride = detail::staged_row_bytes(bits);
  for (std::size_t k = 0; k < K; k += detail::panel_tile_k) {
    const std::size_t count = K - k < detail::panel_tile_k ? K - k : detail::panel_tile_k;
    const std::size_t blocks = panel16::blocks(count);
    std::byte* row = rows + packed_bytes(k, bits);
    // 16 short runs are too much for the prefetchers of CPUs: the lines are asked for here and written to below.
    for (std::size_t i = 0; i < columns; ++i)
      for (std::size_t at = 0; at < packed_bytes(count, bits); at += 64)
        __builtin_prefetch(row + i * row_bytes + at, 1);
    for (std::size_t b = 0; b < blocks; ++b, panel += panel16::block_bytes(bits))
      detail::block_to_units(panel, planes, units + b * 8 * 64);
    with_bits(bits, [&]<int Bits>() { detail::units_to_rows<Bits>(units, blocks * 4, staged); });
    for (std::size_t i = 0; i < columns; ++i) detail::copy_codes(staged + i * stride, count, bits, row + i * row_bytes);
  }
}

}  // namespace pack
}  // namespace NIBBLE_ABI
}  // namespace nibble
