// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a block of a GGUF file holds, apart: codes in the order of elements, scales and offsets as nibble's formats store them.
/// Nothing is rounded: the parts give the block back, bit for bit.
///
///   Q8_0, Q4_0, Q5_0    symmetric_full, groups of 32, half scales         Q3_K, Q6_K        symmetric_full, groups of 16
///   Q4_1, Q5_1          asymmetric_offset, the same                       Q2_K              asymmetric_offset, groups of 16
///   IQ4_NL, MXFP4       codebook, groups of 32; MXFP4 bfloat16 scales     Q4_K, Q5_K        asymmetric_offset, groups of 32
///                                                                         IQ4_XS            codebook, groups of 32
///                                                                         these five and Q2_K: scales of super_block

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/super_block.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {

/// The parts of one block.
struct block_parts {
  std::uint8_t codes[256];  ///< unsigned, as nibble's code rules count them
  std::int8_t scales[16];   ///< of super-blocks: multiples of d
  std::int8_t offsets[16];  ///< of super-blocks: multiples of m
  std::uint16_t d;          ///< the scale, or what its multiples are of, as it is stored
  std::uint16_t m;          ///< the same of the offset; of K-quants dmin with its sign changed, since they subtract
};

namespace detail {

inline std::uint16_t load_u16(const std::byte* p) noexcept {
  std::uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_u16(std::uint16_t v, std::byte* p) noexcept { std::memcpy(p, &v, sizeof v); }

inline constexpr std::uint16_t half_sign = 0x8000;

inline void load_nibbles(const std::byte* from, std::uint8_t* codes) noexcept {
  for (std::size_t j = 0; j < 16; ++j) {
    codes[j] = static_cast<std::uint8_t>(load_u8(from + j) & 15u);
    codes[j + 16] = static_cast<std::uint8_t>(load_u8(from + j) >> 4);
  }
}
inline void add_fifth_bits(const std::byte* from, std::uint8_t* codes) noexcept {
  const std::uint32_t high = load_u32(from);
  for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | (high >> i & 1u) << 4);
}
/// Two bits of each of 256 codes, moved up by `shift`.
inline void add_two_bits(const std::byte* from, unsigned shift, std::uint8_t* codes) noexcept {
  for (std::size_t e = 0; e < 256; ++e) codes[e] = static_cast<std::uint8_t>(codes[e] | two_bits(from, e) << shift);
}
/// One bit of each: that of element e is bit e / 32 of byte e % 32.
inline void add_one_bit(const std::byte* from, unsigned shift, std::uint8_t* codes) noexcept {
  for (std::size_t e = 0; e < 256; ++e)
    codes[e] = static_cast<std::uint8_t>(codes[e] | (load_u8(from + e % 32) >> (e / 32) & 1u) << shift);
}
inline void store_one_bit(const std::uint8_t* codes, unsigned shift, std::byte* to) noexcept {
  std::memset(to, 0, 32);
  for (std::size_t e = 0; e < 256; ++e) to[e % 32] |= static_cast<std::byte>((codes[e] >> shift & 1u) << (e / 32));
}
/// The four bits of Q4_K and Q5_K, 64 elements in 32 bytes.
inline void load_halves_of_64(const std::byte* from, std::uint8_t* codes) noexcept {
  for (std::size_t e = 0; e < 256; ++e)
    codes[e] = static_cast<std::uint8_t>(load_u8(from + e / 64 * 32 + e % 32) >> (e % 64 / 32 * 4) & 15u);
}
inline void store_halves_of_64(const std::uint8_t* codes, std::byte* to) noexcept {
  for (std::size_t i = 0; i < 128; ++i) {
    const std::size_t e = i / 32 * 64 + i % 32;
    to[i] = static_cast<std::byte>((codes[e] & 15u) | (codes[e + 32] & 15u) << 4);
  }
}
/// Scales and minima of Q4_K and Q5_K, from byte 0 of a block on.
inline void split_eight(const std::byte* b, block_parts& p) noexcept {
  p.d = load_u16(b);
  p.m = load_u16(b + 2) ^ half_sign;
  for (std::size_t j = 0; j < 8; ++j) {
    p.scales[j] = static_cast<std::int8_t>(packed_scales::scale(b + 4, j));
    p.offsets[j] = static_cast<std::int8_t>(packed_scales::min(b + 4, j));
  }
}
inline bool join_eight(const block_parts& p, std::byte* b) noexcept {
  int scales[8], mins[8];
  for (std::size_t j = 0; j < 8; ++j) {
    scales[j] = p.scales[j];
    mins[j] = p.offsets[j];
    if (scales[j] < 0 || scales[j] > 63 || mins[j] < 0 || mins[j] > 63) return false;
  }
  store_u16(p.d, b);
  store_u16(p.m ^ half_sign, b + 2);
  packed_scales::store(scales, mins, b + 4);
  return true;
}

inline constexpr std::array<float, 16> iq4_values = [] {
  std::array<float, 16> v{};
  for (std::size_t i = 0; i < 16; ++i) v[i] = static_cast<float>(iq4_table[i]);
  return v;
}();

}  // namespace detail

/// The matrix format that holds a block format, its table where there is one, and both directions. `join` is false where the
/// parts do not fit the block format: scales of other files' formats may be greater.
template <class Format>
struct parts_of;

namespace detail {

template <code_rule Rule, int Bits, int Group, scale_storage Scale>
struct parts_base {
  static constexpr format_desc format{Rule, Bits, granularity_kind::grouped, Scale, Group};
  static constexpr const float* table = nullptr;
};
/// Blocks of 32 with nibbles after a half, or two, and fifth bits between.
template <code_rule Rule, int Bits>
struct nibble_parts : parts_base<Rule, Bits, 32, scale_storage::f16> {
  static constexpr bool offset = Rule == code_rule::asymmetric_offset;
  static constexpr std::size_t high = offset ? 4 : 2, low = high + (Bits == 5 ? 4 : 0);
  static void split(const std::byte* b, block_parts& p) noexcept {
    p.d = load_u16(b);
    p.m = offset ? load_u16(b + 2) : std::uint16_t{0};
    load_nibbles(b + low, p.codes);
    if constexpr (Bits == 5) add_fifth_bits(b + high, p.codes);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    store_u16(p.d, b);
    if constexpr (offset) store_u16(p.m, b + 2);
    if constexpr (Bits == 5) store_fifth_bits(p.codes, b + high);
    store_nibbles(p.codes, b + low);
    return true;
  }
};

}  // namespace detail

template <>
struct parts_of<q4_0> : detail::nibble_parts<code_rule::symmetric_full, 4> {};
template <>
struct parts_of<q5_0> : detail::nibble_parts<code_rule::symmetric_full, 5> {};
template <>
struct parts_of<q4_1> : detail::nibble_parts<code_rule::asymmetric_offset, 4> {};
template <>
struct parts_of<q5_1> : detail::nibble_parts<code_rule::asymmetric_offset, 5> {};
template <>
struct parts_of<iq4_nl> : detail::nibble_parts<code_rule::codebook, 4> {
  static constexpr const float* table = detail::iq4_values.data();
};

template <>
struct parts_of<q8_0> : detail::parts_base<code_rule::symmetric_full, 8, 32, scale_storage::f16> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    p.d = detail::load_u16(b);
    for (std::size_t i = 0; i < 32; ++i) p.codes[i] = static_cast<std::uint8_t>(detail::load_u8(b + 2 + i) ^ 128u);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    detail::store_u16(p.d, b);
    for (std::size_t i = 0; i < 32; ++i) b[2 + i] = static_cast<std::byte>(p.codes[i] ^ 128u);
    return true;
  }
};

/// The exponent e means 2^(e - 128), which a bfloat16 holds: 2^-127 and 2^-128 as subnormals.
template <>
struct parts_of<mxfp4> : detail::parts_base<code_rule::codebook, 4, 32, scale_storage::bf16> {
  static constexpr const float* table = mxfp4_table.data();
  static void split(const std::byte* b, block_parts& p) noexcept {
    const unsigned e = detail::load_u8(b);
    p.d = static_cast<std::uint16_t>(e > 1 ? (e - 1) << 7 : 0x20u << e);
    detail::load_nibbles(b + 1, p.codes);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    const bool tiny = p.d == 0x20 || p.d == 0x40;
    if (!tiny && ((p.d & 0x807fu) != 0 || p.d == 0 || p.d == 0x7f80)) return false;
    b[0] = static_cast<std::byte>(tiny ? p.d >> 6 : (p.d >> 7) + 1);
    detail::store_nibbles(p.codes, b + 1);
    return true;
  }
};

template <>
struct parts_of<q2_k> : detail::parts_base<code_rule::asymmetric_offset, 2, 16, scale_storage::super_block> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    for (std::size_t j = 0; j < 16; ++j) {
      p.scales[j] = static_cast<std::int8_t>(detail::load_u8(b + j) & 15u);
      p.offsets[j] = static_cast<std::int8_t>(detail::load_u8(b + j) >> 4);
    }
    std::memset(p.codes, 0, sizeof p.codes);
    detail::add_two_bits(b + 16, 0, p.codes);
    p.d = detail::load_u16(b + 80);
    p.m = detail::load_u16(b + 82) ^ detail::half_sign;
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    for (std::size_t j = 0; j < 16; ++j) {
      if (p.scales[j] < 0 || p.scales[j] > 15 || p.offsets[j] < 0 || p.offsets[j] > 15) return false;
      b[j] = static_cast<std::byte>(p.scales[j] | p.offsets[j] << 4);
    }
    detail::store_two_bits(p.codes, b + 16);
    detail::store_u16(p.d, b + 80);
    detail::store_u16(p.m ^ detail::half_sign, b + 82);
    return true;
  }
};

template <>
struct parts_of<q3_k> : detail::parts_base<code_rule::symmetric_full, 3, 16, scale_storage::super_block> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    for (std::size_t j = 0; j < 16; ++j) {
      const unsigned low = detail::load_u8(b + 96 + j % 8) >> (j / 8 * 4) & 15u;
      const unsigned high = detail::load_u8(b + 104 + j % 4) >> (j / 4 * 2) & 3u;
      p.scales[j] = static_cast<std::int8_t>(static_cast<int>(low | high << 4) - 32);
    }
    std::memset(p.codes, 0, sizeof p.codes);
    detail::add_two_bits(b + 32, 0, p.codes);
    detail::add_one_bit(b, 2, p.codes);
    p.d = detail::load_u16(b + 108);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    std::memset(b + 96, 0, 12);
    for (std::size_t j = 0; j < 16; ++j) {
      if (p.scales[j] < -32 || p.scales[j] > 31) return false;
      const unsigned s = static_cast<unsigned>(p.scales[j] + 32);
      b[96 + j % 8] |= static_cast<std::byte>((s & 15u) << (j / 8 * 4));
      b[104 + j % 4] |= static_cast<std::byte>(s >> 4 << (j / 4 * 2));
    }
    detail::store_two_bits(p.codes, b + 32);
    detail::store_one_bit(p.codes, 2, b);
    detail::store_u16(p.d, b + 108);
    return true;
  }
};

template <>
struct parts_of<q4_k> : detail::parts_base<code_rule::asymmetric_offset, 4, 32, scale_storage::super_block> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    detail::split_eight(b, p);
    detail::load_halves_of_64(b + 16, p.codes);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    detail::store_halves_of_64(p.codes, b + 16);
    return detail::join_eight(p, b);
  }
};

template <>
struct parts_of<q5_k> : detail::parts_base<code_rule::asymmetric_offset, 5, 32, scale_storage::super_block> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    detail::split_eight(b, p);
    detail::load_halves_of_64(b + 48, p.codes);
    detail::add_one_bit(b + 16, 4, p.codes);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    detail::store_halves_of_64(p.codes, b + 48);
    detail::store_one_bit(p.codes, 4, b + 16);
    return detail::join_eight(p, b);
  }
};

template <>
struct parts_of<q6_k> : detail::parts_base<code_rule::symmetric_full, 6, 16, scale_storage::super_block> {
  static void split(const std::byte* b, block_parts& p) noexcept {
    for (std::size_t e = 0; e < 256; ++e)
      p.codes[e] = static_cast<std::uint8_t>(detail::load_u8(b + e / 128 * 64 + e % 64) >> (e % 128 / 64 * 4) & 15u);
    detail::add_two_bits(b + 128, 4, p.codes);
    std::memcpy(p.scales, b + 192, 16);
    p.d = detail::load_u16(b + 208);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    std::uint8_t upper[256];
    for (std::size_t e = 0; e < 256; ++e) upper[e] = static_cast<std::uint8_t>(p.codes[e] >> 4);
    for (std::size_t i = 0; i < 128; ++i) {
      const std::size_t e = i / 64 * 128 + i % 64;
      b[i] = static_cast<std::byte>((p.codes[e] & 15u) | (p.codes[e + 64] & 15u) << 4);
    }
    detail::store_two_bits(upper, b + 128);
    std::memcpy(b + 192, p.scales, 16);
    detail::store_u16(p.d, b + 208);
    return true;
  }
};

template <>
struct parts_of<iq4_xs> : detail::parts_base<code_rule::codebook, 4, 32, scale_storage::super_block> {
  static constexpr const float* table = detail::iq4_values.data();
  static void split(const std::byte* b, block_parts& p) noexcept {
    const unsigned upper = detail::load_u16(b + 2);
    for (std::size_t j = 0; j < 8; ++j) {
      const unsigned low = detail::load_u8(b + 4 + j / 2) >> (j % 2 * 4) & 15u, high = upper >> 2 * j & 3u;
      p.scales[j] = static_cast<std::int8_t>(static_cast<int>(low | high << 4) - 32);
      detail::load_nibbles(b + 8 + 16 * j, p.codes + 32 * j);
    }
    p.d = detail::load_u16(b);
  }
  static bool join(const block_parts& p, std::byte* b) noexcept {
    unsigned upper = 0;
    std::memset(b + 4, 0, 4);
    for (std::size_t j = 0; j < 8; ++j) {
      if (p.scales[j] < -32 || p.scales[j] > 31) return false;
      const unsigned s = static_cast<unsigned>(p.scales[j] + 32);
      b[4 + j / 2] |= static_cast<std::byte>((s & 15u) << (j % 2 * 4));
      upper |= s >> 4 << 2 * j;
      detail::store_nibbles(p.codes + 32 * j, b + 8 + 16 * j);
    }
    detail::store_u16(p.d, b);
    detail::store_u16(static_cast<std::uint16_t>(upper), b + 2);
    return true;
  }
};

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
