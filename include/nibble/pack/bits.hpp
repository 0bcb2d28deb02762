// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Dense fields of 2..8 bits: code i is the little-endian field at bit i * bits of a byte array, least significant bit
/// first. 8 codes are exactly `bits` bytes, which is the step of the bulk routines. Nothing here reads or writes a byte
/// past packed_bytes(count, bits).
///
///   bits = 3   byte 0: c2[1:0] c1[2:0] c0[2:0]   byte 1: c5[0] c4[2:0] c3[2:0] c2[2]   byte 2: c7[2:0] c6[2:0] c5[2:1]

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace pack {

/// Bytes that `count` codes take, the last byte padded with zero bits. No overflow for any count below 2^64: the product
/// is taken apart at multiples of 8.
constexpr std::size_t packed_bytes(std::size_t count, int bits) noexcept {
  const std::size_t width = static_cast<std::size_t>(bits);
  return count / 8 * width + (count % 8 * width + 7) / 8;
}

/// Code `index` of `codes`; reads only the one or two bytes that hold it.
constexpr unsigned get(const std::byte* codes, std::size_t index, int bits) noexcept {
  const std::size_t width = static_cast<std::size_t>(bits);
  const std::byte* group = codes + index / 8 * width;
  const std::size_t bit = index % 8 * width;
  const unsigned shift = static_cast<unsigned>(bit % 8);
  unsigned word = std::to_integer<unsigned>(group[bit / 8]) >> shift;
  if (shift + width > 8) word |= std::to_integer<unsigned>(group[bit / 8 + 1]) << (8 - shift);
  return word & ((1u << width) - 1u);
}

/// Sets code `index`; leaves the neighbours as they are. Two threads must not put into the same byte at once.
constexpr void put(std::byte* codes, std::size_t index, int bits, unsigned code) noexcept {
  const std::size_t width = static_cast<std::size_t>(bits);
  std::byte* group = codes + index / 8 * width;
  const std::size_t bit = index % 8 * width;
  const unsigned shift = static_cast<unsigned>(bit % 8), mask = (1u << width) - 1u;
  const unsigned low = std::to_integer<unsigned>(group[bit / 8]);
  group[bit / 8] = static_cast<std::byte>((low & ~(mask << shift)) | (code & mask) << shift);
  if (shift + width > 8) {
    const unsigned high = std::to_integer<unsigned>(group[bit / 8 + 1]);
    group[bit / 8 + 1] = static_cast<std::byte>((high & ~(mask >> (8 - shift))) | (code & mask) >> (8 - shift));
  }
}

namespace detail {

/// Moves 8 fields of Bits bits from the low end of 8 bytes to the low end of the word: first neighbours become pairs in
/// 16-bit lanes, then fours in 32-bit lanes, then eight.
template <int Bits>
constexpr std::uint64_t compress8(std::uint64_t x) noexcept {
  if constexpr (Bits == 8) return x;
  constexpr std::uint64_t one = (1u << Bits) - 1u, two = (std::uint64_t{1} << 2 * Bits) - 1,
                          four = (std::uint64_t{1} << 4 * Bits) - 1;
  constexpr std::uint64_t m1 = one * 0x0001000100010001u, m2 = two * 0x0000000100000001u;
  x = (x & m1) | ((x >> 8 & m1) << Bits);
  x = (x & m2) | ((x >> 16 & m2) << 2 * Bits);
  return (x & four) | ((x >> 32 & four) << 4 * Bits);
}

/// The inverse of compress8; bits above 8 * Bits are ignored.
template <int Bits>
constexpr std::uint64_t expand8(std::uint64_t x) noexcept {
  if constexpr (Bits == 8) return x;
  constexpr std::uint64_t one = (1u << Bits) - 1u, two = (std::uint64_t{1} << 2 * Bits) - 1,
                          four = (std::uint64_t{1} << 4 * Bits) - 1;
  constexpr std::uint64_t m1 = one * 0x0001000100010001u, m2 = two * 0x0000000100000001u;
  x = (x & four) | ((x >> 4 * Bits & four) << 32);
  x = (x & m2) | ((x >> 2 * Bits & m2) << 16);
  return (x & m1) | ((x >> Bits & m1) << 8);
}

}  // namespace detail

/// Packs `count` codes, one per byte (upper bits ignored), into packed_bytes(count, Bits) bytes; padding bits become 0.
template <int Bits>
inline void pack_row(const std::uint8_t* codes, std::size_t count, std::byte* packed) noexcept {
  static_assert(Bits >= 2 && Bits <= 8, "pack_row<Bits>: Bits must be 2..8");
  if constexpr (Bits == 8) {
    if (count != 0) std::memcpy(packed, codes, count);  // null pointers are allowed for no codes
  } else {
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8, packed += Bits) {
      std::uint64_t word;
      std::memcpy(&word, codes + i, 8);
      word = detail::compress8<Bits>(word);
      std::memcpy(packed, &word, Bits);
    }
    if (i < count) {
      std::uint64_t word = 0;
      std::memcpy(&word, codes + i, count - i);
      word = detail::compress8<Bits>(word);
      std::memcpy(packed, &word, packed_bytes(count - i, Bits));
    }
  }
}

/// Unpacks `count` codes, one per byte, from packed_bytes(count, Bits) bytes.
template <int Bits>
inline void unpack_row(const std::byte* packed, std::size_t count, std::uint8_t* codes) noexcept {
  static_assert(Bits >= 2 && Bits <= 8, "unpack_row<Bits>: Bits must be 2..8");
  if constexpr (Bits == 8) {
    if (count != 0) std::memcpy(codes, packed, count);
  } else {
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8, packed += Bits) {
      std::uint64_t word = 0;
      std::memcpy(&word, packed, Bits);
      word = detail::expand8<Bits>(word);
      std::memcpy(codes + i, &word, 8);
    }
    if (i < count) {
      std::uint64_t word = 0;
      std::memcpy(&word, packed, packed_bytes(count - i, Bits));
      word = detail::expand8<Bits>(word);
      std::memcpy(codes + i, &word, count - i);
    }
  }
}

/// pack_row for a width known at run time, 2..8.
inline void pack_row(const std::uint8_t* codes, std::size_t count, int bits, std::byte* packed) noexcept {
  switch (bits) {
    case 2: return pack_row<2>(codes, count, packed);
    case 3: return pack_row<3>(codes, count, packed);
    case 4: return pack_row<4>(codes, count, packed);
    case 5: return pack_row<5>(codes, count, packed);
    case 6: return pack_row<6>(codes, count, packed);
    case 7: return pack_row<7>(codes, count, packed);
    default: return pack_row<8>(codes, count, packed);
  }
}

/// unpack_row for a width known at run time, 2..8.
inline void unpack_row(const std::byte* packed, std::size_t count, int bits, std::uint8_t* codes) noexcept {
  switch (bits) {
    case 2: return unpack_row<2>(packed, count, codes);
    case 3: return unpack_row<3>(packed, count, codes);
    case 4: return unpack_row<4>(packed, count, codes);
    case 5: return unpack_row<5>(packed, count, codes);
    case 6: return unpack_row<6>(packed, count, codes);
    case 7: return unpack_row<7>(packed, count, codes);
    default: return unpack_row<8>(packed, count, codes);
  }
}

/// Codes [first, first + count) of a packed array, one per byte.
inline void unpack_range(const std::byte* packed, std::size_t first, std::size_t count, int bits,
                         std::uint8_t* codes) noexcept {
  std::size_t i = 0;
  for (; i < count && (first + i) % 8 != 0; ++i) codes[i] = static_cast<std::uint8_t>(get(packed, first + i, bits));
  if (i < count) unpack_row(packed + (first + i) / 8 * static_cast<std::size_t>(bits), count - i, bits, codes + i);
}

}  // namespace pack
}  // namespace NIBBLE_ABI
}  // namespace nibble
