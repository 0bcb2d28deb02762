// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Formats of GGUF files with super-blocks of 256 elements: scales of sub-blocks as small integers, times one half, or two,
/// for the whole. The codes are chosen once more against the scales as stored. Source: the layouts of ggml.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/ggml_codec.hpp>
#include <nibble/quant/ggml_search.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {
namespace detail {

/// Eight scales and eight minima of 6 bits in 12 bytes:
///
///     byte j, j < 4      scale j         bits 0-5    scale j + 4, upper two    bits 6-7
///     byte j + 4         min j           bits 0-5    min j + 4, upper two      bits 6-7
///     byte j + 8         scale j + 4, lower four in bits 0-3;  min j + 4, lower four in bits 4-7
struct packed_scales {
  static unsigned scale(const std::byte* p, std::size_t j) noexcept {
    if (j < 4) return load_u8(p + j) & 63u;
    return (load_u8(p + j + 4) & 15u) | load_u8(p + j - 4) >> 6 << 4;
  }
  static unsigned min(const std::byte* p, std::size_t j) noexcept {
    if (j < 4) return load_u8(p + j + 4) & 63u;
    return load_u8(p + j + 4) >> 4 | load_u8(p + j) >> 6 << 4;
  }
  static void store(const int* scales, const int* mins, std::byte* p) noexcept {
    for (std::size_t j = 0; j < 4; ++j) {
      p[j] = static_cast<std::byte>(scales[j] | scales[j + 4] >> 4 << 6);
      p[j + 4] = static_cast<std::byte>(mins[j] | mins[j + 4] >> 4 << 6);
      p[j + 8] = static_cast<std::byte>((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
  }
};

/// Two bits of each of 256 codes in 64 bytes: byte 32 h + l holds elements 128 h + l, + 32, + 64 and + 96 from bit 0 up.
inline void store_two_bits(const std::uint8_t* codes, std::byte* p) noexcept {
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t l = 0; l < 32; ++l) {
      unsigned byte = 0;
      for (std::size_t k = 0; k < 4; ++k) byte |= (codes[128 * h + l + 32 * k] & 3u) << 2 * k;
      p[32 * h + l] = static_cast<std::byte>(byte);
    }
}
/// The two bits of element e.
inline unsigned two_bits(const std::byte* p, std::size_t e) noexcept {
  return load_u8(p + e / 128 * 32 + e % 32) >> (e % 128 / 32 * 2) & 3u;
}

/// Integer scales and minima of Count sub-blocks and the halves that go with them.
template <std::size_t Count>
struct shared_scales {
  int scales[Count], mins[Count];
  float d, dmin;  ///< before they are rounded to half
};

/// The greatest scale and the greatest minimum become Max, the others what is nearest.
template <std::size_t Count>
inline shared_scales<Count> share(const affine_scale* s, int max) noexcept {
  float greatest_scale = 0.0f, greatest_min = 0.0f;
  for (std::size_t j = 0; j < Count; ++j) {
    greatest_scale = s[j].scale > greatest_scale ? s[j].scale : greatest_scale;
    greatest_min = s[j].min > greatest_min ? s[j].min : greatest_min;
  }
  const float top = static_cast<float>(max);
  const float per_scale = greatest_scale > 0.0f ? top / greatest_scale : 0.0f;
  const float per_min = greatest_min > 0.0f ? top / greatest_min : 0.0f;
  shared_scales<Count> out;
  for (std::size_t j = 0; j < Count; ++j) {
    out.scales[j] = nearest(rounded_product(per_scale, s[j].scale), 0, max);
    out.mins[j] = nearest(rounded_product(per_min, s[j].min), 0, max);
  }
  out.d = greatest_scale / top;
  out.dmin = greatest_min / top;
  return out;
}

/// Codes 0 .. max of n values against scale and minimum as stored; a scale of 0 keeps the codes that were found.
inline void requantize(const float* x, std::size_t n, float scale, float min, int max, std::uint8_t* codes) noexcept {
  if (scale == 0.0f) return;
  for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(nearest((x[i] + min) / scale, 0, max));
}
/// The same for codes -half .. half - 1, stored with half added.
inline void requantize_signed(const float* x, std::size_t n, float scale, int half, std::uint8_t* codes) noexcept {
  if (scale == 0.0f) return;
  for (std::size_t i = 0; i < n; ++i)
    codes[i] = static_cast<std::uint8_t>(nearest(x[i] / scale, -half, half - 1) + half);
}

/// The search of Q4_K and Q5_K over eight sub-blocks of 32, and all that is stored of it but the codes' own bytes: d and
/// dmin at byte 0, scales at byte 4.
template <int Max>
inline void encode_eight(const float* x, affine_steps steps, std::byte* b, std::uint8_t* codes) noexcept {
  affine_scale found[8];
  for (std::size_t j = 0; j < 8; ++j) {
    const float* const v = x + 32 * j;
    float squares = 0.0f, w[32];
    for (std::size_t i = 0; i < 32; ++i) squares += rounded_product(v[i], v[i]);
    const float mean = __builtin_sqrtf(squares / 32.0f);
    for (std::size_t i = 0; i < 32; ++i) w[i] = mean + (v[i] < 0.0f ? -v[i] : v[i]);
    found[j] = search_affine<32, Max, true>(v, w, steps, codes + 32 * j);
  }
  const shared_scales<8> s = share<8>(found, 63);
  const float d = store_half(s.d, b), dmin = store_half(s.dmin, b + 2);
  packed_scales::store(s.scales, s.mins, b + 4);
  for (std::size_t j = 0; j < 8; ++j)
    requantize(x + 32 * j, 32, d * static_cast<float>(s.scales[j]),
               rounded_product(dmin, static_cast<float>(s.mins[j])), Max, codes + 32 * j);
}

}  // namespace detail

/// x = (d (s & 15)) q - dmin (s >> 4), 16 sub-blocks of 16 with a byte s each.
///     0 s[16]    16 codes of 2 bits, 64 bytes    80 d, half    82 dmin, half    84 bytes
struct q2_k : block_format<q2_k, ggml_type::q2_k> {
  static constexpr std::array<std::size_t, 2> halves{80, 82};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b + 80), dmin = detail::load_half(b + 82);
    for (std::size_t j = 0; j < 16; ++j) {
      const unsigned s = detail::load_u8(b + j);
      const float scale = d * static_cast<float>(s & 15u), min = dmin * static_cast<float>(s >> 4);
      for (std::size_t e = 16 * j; e < 16 * j + 16; ++e)
        y[e] = scale * static_cast<float>(detail::two_bits(b + 16, e)) - min;
    }
  }
  static void encode(const float* x, std::byte* b) noexcept {
    detail::affine_scale found[16];
    std::uint8_t codes[256];
    for (std::size_t j = 0; j < 16; ++j) {
      float w[16];
      for (std::size_t i = 0; i < 16; ++i) w[i] = x[16 * j + i] < 0.0f ? -x[16 * j + i] : x[16 * j + i];
      found[j] = detail::search_affine<16, 3, false>(x + 16 * j, w, {-0.5f, 0.1f, 15}, codes + 16 * j);
    }
    const detail::shared_scales<16> s = detail::share<16>(found, 15);
    const float d = detail::store_half(s.d, b + 80), dmin = detail::store_half(s.dmin, b + 82);
    for (std::size_t j = 0; j < 16; ++j)
      detail::requantize(x + 16 * j, 16, d * static_cast<float>(s.scales[j]),
                         rounded_product(dmin, static_cast<float>(s.mins[j])), 3, codes + 16 * j);
    store(s.scales, s.mins, codes, b);
  }
  /// All but the halves.
  static void store(const int* scales, const int* mins, const std::uint8_t* codes, std::byte* b) noexcept {
    for (std::size_t j = 0; j < 16; ++j) b[j] = static_cast<std::byte>(scales[j] | mins[j] << 4);
    detail::store_two_bits(codes, b + 16);
  }
};

/// x = (d (s - 32)) (q - 4), 16 sub-blocks of 16 with scales s of 6 bits and codes q of 3: the lower two as in Q2_K, the third
/// of element e in bit e / 32 of high[e % 32].
///     0 high[32]    32 codes, lower two bits, 64 bytes    96 s, 12 bytes    108 d, half    110 bytes
/// Lower four bits of s[j] in byte j, of s[j + 8] in the upper half of that byte; the upper two in byte 8 + j % 4 from bit
/// 2 (j / 4) on.
struct q3_k : block_format<q3_k, ggml_type::q3_k> {
  static constexpr std::array<std::size_t, 1> halves{108};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b + 108);
    for (std::size_t j = 0; j < 16; ++j) {
      const unsigned low = detail::load_u8(b + 96 + j % 8) >> (j / 8 * 4) & 15u;
      const unsigned high = detail::load_u8(b + 104 + j % 4) >> (j / 4 * 2) & 3u;
      const float scale = d * (static_cast<float>(low | high << 4) - 32.0f);
      for (std::size_t e = 16 * j; e < 16 * j + 16; ++e) {
        const unsigned third = detail::load_u8(b + e % 32) >> (e / 32) & 1u;
        y[e] = scale * (static_cast<float>(detail::two_bits(b + 32, e) | third << 2) - 4.0f);
      }
    }
  }
  static void encode(const float* x, std::byte* b) noexcept {
    float found[16];
    int scales[16];
    std::uint8_t codes[256];
    for (std::size_t j = 0; j < 16; ++j) found[j] = detail::search_by_codes<16, 4>(x + 16 * j, codes + 16 * j);
    const float extreme = detail::first_extreme(found, 16);
    const float iscale = extreme != 0.0f ? -32.0f / extreme : 0.0f;
    const float d = detail::store_half(extreme != 0.0f ? 1.0f / iscale : 0.0f, b + 108);
    for (std::size_t j = 0; j < 16; ++j) {
      scales[j] = extreme != 0.0f ? detail::nearest(rounded_product(iscale, found[j]), -32, 31) : -32;
      detail::requantize_signed(x + 16 * j, 16, d * static_cast<float>(scales[j]), 4, codes + 16 * j);
    }
    store(scales, codes, b);
  }
  /// All but the half; scales in [-32, 31].
  static void store(const int* scales, const std::uint8_t* codes, std::byte* b) noexcept {
    std::memset(b, 0, 32);
    std::memset(b + 96, 0, 12);
    for (std::size_t j = 0; j < 16; ++j) {
      const unsigned s = static_cast<unsigned>(scales[j] + 32);
      b[96 + j % 8] |= static_cast<std::byte>((s & 15u) << (j / 8 * 4));
      b[104 + j % 4] |= static_cast<std::byte>(s >> 4 << (j / 4 * 2));
    }
    detail::store_two_bits(codes, b + 32);
    for (std::size_t e = 0; e < 256; ++e) b[e % 32] |= static_cast<std::byte>((codes[e] >> 2 & 1u) << (e / 32));
  }
};

/// x = (d s) q - dmin m, eight sub-blocks of 32 with scales s and minima m of 6 bits (packed_scales).
///     0 d, half    2 dmin, half    4 s and m, 12 bytes    16 codes of 4 bits, 128 bytes    144 bytes
/// Byte 32 g + l of the codes: element 64 g + l in the low half, element 64 g + 32 + l in the high half.
struct q4_k : block_format<q4_k, ggml_type::q4_k> {
  static constexpr std::array<std::size_t, 2> halves{0, 2};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b), dmin = detail::load_half(b + 2);
    for (std::size_t j = 0; j < 8; ++j) {
      const float scale = d * static_cast<float>(detail::packed_scales::scale(b + 4, j));
      const float min = dmin * static_cast<float>(detail::packed_scales::min(b + 4, j));
      const std::byte* const codes = b + 16 + j / 2 * 32;
      for (std::size_t l = 0; l < 32; ++l)
        y[32 * j + l] = scale * static_cast<float>(detail::load_u8(codes + l) >> (j % 2 * 4) & 15u) - min;
    }
  }
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[256];
    detail::encode_eight<15>(x, {-1.0f, 0.1f, 20}, b, codes);
    store_codes(codes, b);
  }
  static void store_codes(const std::uint8_t* codes, std::byte* b) noexcept {
    for (std::size_t i = 0; i < 128; ++i) {
      const std::size_t e = i / 32 * 64 + i % 32;
      b[16 + i] = static_cast<std::byte>(codes[e] | codes[e + 32] << 4);
    }
  }
};

/// x = (d s) q - dmin m as Q4_K, with a fifth bit of element 32 j + l in bit j of high[l].
///     0 d, half    2 dmin, half    4 s and m, 12 bytes    16 high[32]    48 lower four bits, 128 bytes    176 bytes
struct q5_k : block_format<q5_k, ggml_type::q5_k> {
  static constexpr std::array<std::size_t, 2> halves{0, 2};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b), dmin = detail::load_half(b + 2);
    for (std::size_t j = 0; j < 8; ++j) {
      const float scale = d * static_cast<float>(detail::packed_scales::scale(b + 4, j));
      const float min = dmin * static_cast<float>(detail::packed_scales::min(b + 4, j));
      const std::byte* const codes = b + 48 + j / 2 * 32;
      for (std::size_t l = 0; l < 32; ++l) {
        const unsigned low = detail::load_u8(codes + l) >> (j % 2 * 4) & 15u,
                       high = detail::load_u8(b + 16 + l) >> j & 1u;
        y[32 * j + l] = scale * static_cast<float>(low | high << 4) - min;
      }
    }
  }
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[256];
    detail::encode_eight<31>(x, {-0.5f, 0.1f, 15}, b, codes);
    store_codes(codes, b);
  }
  static void store_codes(const std::uint8_t* codes, std::byte* b) noexcept {
    std::memset(b + 16, 0, 32);
    for (std::size_t e = 0; e < 256; ++e) b[16 + e % 32] |= static_cast<std::byte>((codes[e] >> 4 & 1u) << (e / 32));
    for (std::size_t i = 0; i < 128; ++i) {
      const std::size_t e = i / 32 * 64 + i % 32;
      b[48 + i] = static_cast<std::byte>((codes[e] & 15u) | (codes[e + 32] & 15u) << 4);
    }
  }
};

/// x = (d s) (q - 32), 16 sub-blocks of 16 with signed bytes s and codes of 6 bits.
///     0 lower four bits, 128 bytes    128 upper two bits, 64 bytes    192 s[16]    208 d, half    210 bytes
/// Byte 64 h + l of the lower bits, l < 64: elements 128 h + l and 128 h + 64 + l. The upper bits as the codes of Q2_K.
struct q6_k : block_format<q6_k, ggml_type::q6_k> {
  static constexpr std::array<std::size_t, 1> halves{208};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b + 208);
    for (std::size_t j = 0; j < 16; ++j) {
      const float scale = d * static_cast<float>(static_cast<std::int8_t>(detail::load_u8(b + 192 + j)));
      for (std::size_t e = 16 * j; e < 16 * j + 16; ++e) {
        const unsigned low = detail::load_u8(b + e / 128 * 64 + e % 64) >> (e % 128 / 64 * 4) & 15u;
        y[e] = scale * (static_cast<float>(low | detail::two_bits(b + 128, e) << 4) - 32.0f);
      }
    }
  }
  static void encode(const float* x, std::byte* b) noexcept {
    float found[16];
    int scales[16];
    std::uint8_t codes[256];
    for (std::size_t j = 0; j < 16; ++j) found[j] = detail::search_by_steps<16, 32>(x + 16 * j, codes + 16 * j);
    const float extreme = detail::first_extreme(found, 16);
    if (detail::is_tiny(extreme)) {
      std::memset(b, 0, block_bytes);
      return;
    }
    const float iscale = -128.0f / extreme, d = detail::store_half(1.0f / iscale, b + 208);
    for (std::size_t j = 0; j < 16; ++j) {
      scales[j] = detail::nearest(rounded_product(iscale, found[j]), -128, 127);
      detail::requantize_signed(x + 16 * j, 16, d * static_cast<float>(scales[j]), 32, codes + 16 * j);
    }
    store(scales, codes, b);
  }
  /// All but the half; scales in [-128, 127].
  static void store(const int* scales, const std::uint8_t* codes, std::byte* b) noexcept {
    for (std::size_t i = 0; i < 128; ++i) {
      const std::size_t e = i / 64 * 128 + i % 64;
      b[i] = static_cast<std::byte>((codes[e] & 15u) | (codes[e + 64] & 15u) << 4);
    }
    std::uint8_t upper[256];
    for (std::size_t e = 0; e < 256; ++e) upper[e] = static_cast<std::uint8_t>(codes[e] >> 4);
    detail::store_two_bits(upper, b + 128);
    for (std::size_t j = 0; j < 16; ++j) b[192 + j] = static_cast<std::byte>(scales[j] & 0xff);
  }
};

/// x = (d (s - 32)) iq4_table[q], eight sub-blocks of 32 with scales s of 6 bits and codes as in IQ4_NL.
///     0 d, half    2 upper two bits of s, u16    4 lower four bits of s, 4 bytes    8 codes, 128 bytes    136 bytes
struct iq4_xs : block_format<iq4_xs, ggml_type::iq4_xs> {
  static constexpr std::array<std::size_t, 1> halves{0};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b);
    const unsigned upper = detail::load_u8(b + 2) | detail::load_u8(b + 3) << 8;
    for (std::size_t j = 0; j < 8; ++j) {
      const unsigned low = detail::load_u8(b + 4 + j / 2) >> (j % 2 * 4) & 15u, high = upper >> 2 * j & 3u;
      const float scale = d * (static_cast<float>(low | high << 4) - 32.0f);
      detail::decode_nibbles(b + 8 + 16 * j, y + 32 * j,
                             [scale](unsigned u, std::size_t) { return scale * static_cast<float>(iq4_table[u]); });
    }
  }
  /// Weights x^2, or those of an importance matrix where `importance` is not null: a number for each value.
  static void encode(const float* x, const float* importance, std::byte* b) noexcept {
    float w[256], found[8];
    if (importance == nullptr) detail::weigh_iq4(x, 256, w);
    else detail::weigh_iq4(x, 256, importance, w);
    for (std::size_t j = 0; j < 8; ++j) found[j] = detail::search_levels(x + 32 * j, w + 32 * j);
    float scales[8];
    store_scales(found, b, scales);
    for (std::size_t j = 0; j < 8; ++j) {
      std::uint8_t codes[32];
      detail::nearest_iq4(x + 32 * j, detail::inverse(scales[j]), codes);
      detail::store_nibbles(codes, b + 8 + 16 * j);
    }
  }
  static void encode(const float* x, std::byte* b) noexcept { encode(x, nullptr, b); }
  /// All but the codes: the greatest of the scales found becomes -32, the others what is nearest. `scales` are those to choose
  /// codes against, of d before it is a half, and may lie where `found` does. Blocks of zeros have d = -0.
  static void store_scales(const float* found, std::byte* b, float* scales) noexcept {
    const float d = -detail::first_extreme(found, 8) / 32.0f, id = detail::inverse(d);
    detail::store_half(d, b);
    unsigned upper = 0, lower = 0;
    for (std::size_t j = 0; j < 8; ++j) {
      const int scale = detail::nearest(rounded_product(id, found[j]), -32, 31);
      const auto s = static_cast<unsigned>(scale + 32);
      scales[j] = d * static_cast<float>(scale);
      upper |= s >> 4 << 2 * j;
      lower |= (s & 15u) << 4 * j;
    }
    for (std::size_t k = 0; k < 2; ++k) b[2 + k] = static_cast<std::byte>(upper >> 8 * k & 255u);
    for (std::size_t k = 0; k < 4; ++k) b[4 + k] = static_cast<std::byte>(lower >> 8 * k & 255u);
  }
};

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
