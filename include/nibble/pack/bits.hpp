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
/// 16-bit lanes, then fours in 32-bit lanes, then eight. Up to 4 bits a field moves into free room: one mask a step.
template <int Bits>
constexpr std::uint64_t compress8(std::uint64_t x) noexcept {
  if constexpr (Bits == 8) return x;
  constexpr std::uint64_t one = (1u << Bits) - 1u, two = (std::uint64_t{1} << 2 * Bits) - 1,
                          four = (std::uint64_t{1} << 4 * Bits) - 1;
  constexpr std::uint64_t m1 = one * 0x0001000100010001u, m2 = two * 0x0000000100000001u;
  if constexpr (Bits <= 4) {
    x &= one * 0x0101010101010101u;
    x = (x | x >> (8 - Bits)) & two * 0x0001000100010001u;
    x = (x | x >> (16 - 2 * Bits)) & four * 0x0000000100000001u;
    return (x | x >> (32 - 4 * Bits)) & ((std::uint64_t{1} << 8 * Bits) - 1);
  }
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
  if constexpr (Bits <= 4) {
    x &= (std::uint64_t{1} << 8 * Bits) - 1;
    x = (x | x << (32 - 4 * Bits)) & four * 0x0000000100000001u;
    x = (x | x << (16 - 2 * Bits)) & two * 0x0001000100010001u;
    return (x | x << (8 - Bits)) & one * 0x0101010101010101u;
  }
  x = (x & four) | ((x >> 4 * Bits & four) << 32);
  x = (x & m2) | ((x >> 2 * Bits & m2) << 16);
  return (x & m1) | ((x >> Bits & m1) << 8);
}

/// Calls f(word, live) for each 8 of `count` fields at `packed`, in order: they stand at the low end of the word, `live` of
/// them count. The bits above are whatever follows in memory, never from beyond the packed_bytes(count, Bits) bytes.
template <int Bits, class F>
NIBBLE_ALWAYS_INLINE void for_each_word(const std::byte* packed, std::size_t count, F&& f) noexcept {
  std::size_t i = 0;
  // Whole words as long as there are 8 bytes: copies of 3, 5, 6 or 7 bytes are several moves through memory.
  for (const std::size_t bytes = packed_bytes(count, Bits); i + 8 <= count && i / 8 * Bits + 8 <= bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, packed + i / 8 * Bits, 8);
    f(word, std::size_t{8});
  }
  for (; i + 8 <= count; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, packed + i / 8 * Bits, Bits);
    f(word, std::size_t{8});
  }
  if (i == count) return;
  std::uint64_t word = 0;
  std::memcpy(&word, packed + i / 8 * Bits, packed_bytes(count - i, Bits));
  f(word, count - i);
}

/// The inverse: writes the words that f(live) returns, whose bits above the live fields are 0.
template <int Bits, class F>
NIBBLE_ALWAYS_INLINE void make_each_word(std::byte* packed, std::size_t count, F&& f) noexcept {
  std::size_t i = 0;
  // What a whole word writes too much is overwritten by the next one.
  for (const std::size_t bytes = packed_bytes(count, Bits); i + 8 <= count && i / 8 * Bits + 8 <= bytes; i += 8) {
    const std::uint64_t word = f(std::size_t{8});
    std::memcpy(packed + i / 8 * Bits, &word, 8);
  }
  for (; i + 8 <= count; i += 8) {
    const std::uint64_t word = f(std::size_t{8});
    std::memcpy(packed + i / 8 * Bits, &word, Bits);
  }
  if (i == count) return;
  const std::uint64_t word = f(count - i);
  std::memcpy(packed + i / 8 * Bits, &word, packed_bytes(count - i, Bits));
}

}  // namespace detail

/// Calls f.operator()<bits>() for a width known at run time, 2..8.
template <class F>
NIBBLE_ALWAYS_INLINE void with_bits(int bits, F&& f) {
  switch (bits) {
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 5: return f.template operator()<5>();
    case 6: return f.template operator()<6>();
    case 7: return f.template operator()<7>();
    default: return f.template operator()<8>();
  }
}

/// Packs `count` codes, one per byte (upper bits ignored), into packed_bytes(count, Bits) bytes; padding bits become 0.
template <int Bits>
inline void pack_row(const std::uint8_t* codes, std::size_t count, std::byte* packed) noexcept {
  static_assert(Bits >= 2 && Bits <= 8, "pack_row<Bits>: Bits must be 2..8");
  if constexpr (Bits == 8) {
    if (count != 0) std::memcpy(packed, codes, count);  // null pointers are allowed for no codes
  } else {
    detail::make_each_word<Bits>(packed, count, [&](std::size_t live) {
      std::uint64_t word = 0;
      if (live == 8) std::memcpy(&word, codes, 8);
      else std::memcpy(&word, codes, live);
      codes += live;
      return detail::compress8<Bits>(word);
    });
  }
}

/// Unpacks `count` codes, one per byte, from packed_bytes(count, Bits) bytes.
template <int Bits>
inline void unpack_row(const std::byte* packed, std::size_t count, std::uint8_t* codes) noexcept {
  static_assert(Bits >= 2 && Bits <= 8, "unpack_row<Bits>: Bits must be 2..8");
  if constexpr (Bits == 8) {
    if (count != 0) std::memcpy(codes, packed, count);
  } else {
    detail::for_each_word<Bits>(packed, count, [&](std::uint64_t word, std::size_t live) {
      word = detail::expand8<Bits>(word);
      if (live == 8) std::memcpy(codes, &word, 8);
      else std::memcpy(codes, &word, live);
      codes += live;
    });
  }
}

/// pack_row for a width known at run time, 2..8.
inline void pack_row(const std::uint8_t* codes, std::size_t count, int bits, std::byte* packed) noexcept {
  with_bits(bits, [&]<int Bits>() { pack_row<Bits>(codes, count, packed); });
}

/// unpack_row for a width known at run time, 2..8.
inline void unpack_row(const std::byte* packed, std::size_t count, int bits, std::uint8_t* codes) noexcept {
  with_bits(bits, [&]<int Bits>() { unpack_row<Bits>(packed, count, codes); });
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
