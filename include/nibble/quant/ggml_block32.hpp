// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Formats of GGUF files with blocks of 32 elements. Codes of 4 bits lie as in byte j: element j in the low half, element
/// j + 16 in the high half. Source: the layouts of ggml; MXFP4: OCP Microscaling Formats 1.0, section 5.3, as ggml reads it.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/ggml_codec.hpp>
#include <nibble/quant/ggml_search.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {

/// The levels of MXFP4: the values of E2M1 doubled.
inline constexpr std::array<float, 16> mxfp4_table = {0.0f, 1.0f,  2.0f,  3.0f,  4.0f,  6.0f,  8.0f,  12.0f,
                                                      0.0f, -1.0f, -2.0f, -3.0f, -4.0f, -6.0f, -8.0f, -12.0f};
/// The levels of IQ4_NL and IQ4_XS.
inline constexpr std::array<int, 16> iq4_table = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                  1,    13,   25,  38,  53,  69,  89,  113};

namespace detail {

/// y[j] = level(code of j) for the 32 codes of 16 bytes.
template <class Level>
inline void decode_nibbles(const std::byte* codes, float* y, Level level) noexcept {
  for (std::size_t j = 0; j < 16; ++j) {
    const unsigned byte = load_u8(codes + j);
    y[j] = level(byte & 15u, j);
    y[j + 16] = level(byte >> 4, j + 16);
  }
}
inline void store_nibbles(const std::uint8_t* codes, std::byte* out) noexcept {
  for (std::size_t j = 0; j < 16; ++j) out[j] = static_cast<std::byte>((codes[j] & 15u) | (codes[j + 16] & 15u) << 4);
}

inline std::uint32_t load_u32(const std::byte* p) noexcept {
  std::uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
/// The fifth bits of 32 codes: bit i is that of element i.
inline void store_fifth_bits(const std::uint8_t* codes, std::byte* out) noexcept {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < 32; ++i) bits |= (std::uint32_t{codes[i]} >> 4 & 1u) << i;
  std::memcpy(out, &bits, sizeof bits);
}

/// Codes of half the width around the extreme at code 0, and the scale.
template <int Half>
inline float encode_around_extreme(const float* x, std::uint8_t* codes) noexcept {
  const float d = first_extreme(x, 32) / static_cast<float>(-Half), id = inverse(d);
  for (std::size_t i = 0; i < 32; ++i) {
    const int u = static_cast<int>(rounded_product(x[i], id) + (static_cast<float>(Half) + 0.5f));
    codes[i] = static_cast<std::uint8_t>(u < 2 * Half - 1 ? u : 2 * Half - 1);
  }
  return d;
}

struct range_scale {
  float scale, min;
};
/// Codes 0 .. Max from the least to the greatest value.
template <int Max>
inline range_scale encode_range(const float* x, std::uint8_t* codes) noexcept {
  float lo = x[0], hi = x[0];
  for (std::size_t i = 1; i < 32; ++i) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
  }
  const float d = (hi - lo) / static_cast<float>(Max), id = inverse(d);
  for (std::size_t i = 0; i < 32; ++i) {
    const int u = static_cast<int>(rounded_product(x[i] - lo, id) + 0.5f);
    codes[i] = static_cast<std::uint8_t>(u < Max ? u : Max);
  }
  return {d, lo};
}

/// The codes of the nearest levels, the upper one of two as near: how many midpoints are not above x. (Next to a midpoint the
/// distances to both levels are exact in float, so that comparing them says the same.)
inline void nearest_iq4(const float* x, std::uint8_t* codes) noexcept {
  int count[32] = {};
  for (std::size_t t = 0; t + 1 < iq4_table.size(); ++t) {
    const float midpoint = 0.5f * static_cast<float>(iq4_table[t] + iq4_table[t + 1]);
    for (std::size_t i = 0; i < 32; ++i) count[i] += x[i] >= midpoint ? 1 : 0;
  }
  for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(count[i]);
}
/// The same of x times a factor.
inline void nearest_iq4(const float* x, float factor, std::uint8_t* codes) noexcept {
  float products[32];
  for (std::size_t i = 0; i < 32; ++i) products[i] = rounded_product(x[i], factor);
  nearest_iq4(products, codes);
}

/// Twice the mean square of n values, which ggml adds to each square where it weighs by an importance matrix.
inline float iq4_spread(const float* x, std::size_t n) noexcept {
  float squares = 0.0f;
  for (std::size_t i = 0; i < n; ++i) squares += rounded_product(x[i], x[i]);
  return rounded_product(squares, 2.0f / static_cast<float>(n));
}
/// The weights of n values: importance times sqrt(spread + x^2).
inline void weigh_iq4(const float* x, std::size_t n, const float* importance, float* weights) noexcept {
  const float spread = iq4_spread(x, n);
  for (std::size_t i = 0; i < n; ++i)
    weights[i] = rounded_product(importance[i], __builtin_sqrtf(spread + rounded_product(x[i], x[i])));
}
/// The same without importance: x^2.
inline void weigh_iq4(const float* x, std::size_t n, float* weights) noexcept {
  for (std::size_t i = 0; i < n; ++i) weights[i] = rounded_product(x[i], x[i]);
}

/// The scale of 32 values with the least sum of w times squared error over the extreme at level 0 or near it (15 places, 1
/// apart), each with the scale of least squares; 0 where all are tiny. Used by IQ4_NL and IQ4_XS.
inline float search_levels(const float* x, const float* w) noexcept {
  const float extreme = first_extreme(x, 32);
  if (is_tiny(extreme)) return 0.0f;
  constexpr float first = static_cast<float>(iq4_table[0]);
  float d = 0.0f, best = 0.0f;
  for (int trial = -8; trial <= 7; ++trial) {
    const float id = trial == -8 ? 1.0f / (-extreme / first) : (static_cast<float>(trial) + first) / extreme;
    std::uint8_t codes[32];
    nearest_iq4(x, id, codes);
    float xt = 0.0f, tt = 0.0f;  // sums of w x t and w t^2 over the levels t
    for (std::size_t i = 0; i < 32; ++i) {
      const float t = static_cast<float>(iq4_table[codes[i]]), wt = rounded_product(w[i], t);
      xt += rounded_product(wt, x[i]);
      tt += rounded_product(wt, t);
    }
    const bool better = tt > 0.0f && rounded_product(xt, xt) > rounded_product(best, tt);
    if (trial != -8 && !better) continue;
    d = tt > 0.0f ? xt / tt : 0.0f;
    best = rounded_product(d, xt);
  }
  return d;
}

/// How many floats just below 2^n have the logarithm n when log2 is rounded to float, as ggml does for the exponent of MXFP4: those
/// with log2 within half a step of n. The step next to n > 0, from below, is 2^(j - 23), where 2^j is the greatest power of two
/// in n - 1; next to n < 0 in -n. The mantissas there, of 24 bits, are 2^24 ln 2 a unit of log2, so that half a step is ln 2 * 2^j.
constexpr std::uint32_t steps_below(int n) noexcept {
  constexpr std::uint32_t of_power[] = {0, 1, 2, 5, 11, 22, 44, 88};  // floor(ln 2 * 2^j)
  const auto size = static_cast<unsigned>(n > 0 ? n - 1 : -n);
  return size == 0 ? 0 : of_power[std::bit_width(size) - 1];
}

}  // namespace detail

/// x = d q.
///     0 d, half    2 q[32], signed bytes    34 bytes
struct q8_0 : block_format<q8_0, ggml_type::q8_0> {
  static constexpr std::array<std::size_t, 1> halves{0};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b);
    for (std::size_t i = 0; i < 32; ++i)
      y[i] = static_cast<float>(static_cast<std::int8_t>(detail::load_u8(b + 2 + i))) * d;
  }
  /// d = max|x| / 127; codes of the unrounded d, halves away from zero.
  static void encode(const float* x, std::byte* b) noexcept {
    const float extreme = detail::first_extreme(x, 32), d = (extreme < 0.0f ? -extreme : extreme) / 127.0f;
    const float id = detail::inverse(d);
    detail::store_half(d, b);
    for (std::size_t i = 0; i < 32; ++i) {
      const float v = rounded_product(x[i], id);
      int q = static_cast<int>(v);
      const float rest = v - static_cast<float>(q);  // exact
      q += rest >= 0.5f ? 1 : rest <= -0.5f ? -1 : 0;
      b[2 + i] = static_cast<std::byte>(q & 0xff);
    }
  }
};

/// x = d (q - 8).
///     0 d, half    2 codes[16]    18 bytes
struct q4_0 : block_format<q4_0, ggml_type::q4_0> {
  static constexpr std::array<std::size_t, 1> halves{0};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b);
    detail::decode_nibbles(b + 2, y, [d](unsigned u, std::size_t) { return (static_cast<float>(u) - 8.0f) * d; });
  }
  /// The extreme gets code 0, so d has the other sign; a block of zeros stores d = -0.
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[32];
    detail::store_half(detail::encode_around_extreme<8>(x, codes), b);
    detail::store_nibbles(codes, b + 2);
  }
};

/// x = d q + m.
///     0 d, half    2 m, half    4 codes[16]    20 bytes
struct q4_1 : block_format<q4_1, ggml_type::q4_1> {
  static constexpr std::array<std::size_t, 2> halves{0, 2};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b), m = detail::load_half(b + 2);
    detail::decode_nibbles(b + 4, y, [d, m](unsigned u, std::size_t) { return static_cast<float>(u) * d + m; });
  }
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[32];
    const detail::range_scale s = detail::encode_range<15>(x, codes);
    detail::store_half(s.scale, b);
    detail::store_half(s.min, b + 2);
    detail::store_nibbles(codes, b + 4);
  }
};

/// x = d (q - 16); the fifth bit of element i is bit i of `high`.
///     0 d, half    2 high, u32    6 codes[16]    22 bytes
struct q5_0 : block_format<q5_0, ggml_type::q5_0> {
  static constexpr std::array<std::size_t, 1> halves{0};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b);
    const std::uint32_t high = detail::load_u32(b + 2);
    detail::decode_nibbles(b + 6, y, [d, high](unsigned u, std::size_t i) {
      return (static_cast<float>(u | (high >> i & 1u) << 4) - 16.0f) * d;
    });
  }
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[32];
    detail::store_half(detail::encode_around_extreme<16>(x, codes), b);
    detail::store_fifth_bits(codes, b + 2);
    detail::store_nibbles(codes, b + 6);
  }
};

/// x = d q + m; the fifth bits as in Q5_0.
///     0 d, half    2 m, half    4 high, u32    8 codes[16]    24 bytes
struct q5_1 : block_format<q5_1, ggml_type::q5_1> {
  static constexpr std::array<std::size_t, 2> halves{0, 2};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b), m = detail::load_half(b + 2);
    const std::uint32_t high = detail::load_u32(b + 4);
    detail::decode_nibbles(b + 8, y, [d, m, high](unsigned u, std::size_t i) {
      return static_cast<float>(u | (high >> i & 1u) << 4) * d + m;
    });
  }
  static void encode(const float* x, std::byte* b) noexcept {
    std::uint8_t codes[32];
    const detail::range_scale s = detail::encode_range<31>(x, codes);
    detail::store_half(s.scale, b);
    detail::store_half(s.min, b + 2);
    detail::store_fifth_bits(codes, b + 4);
    detail::store_nibbles(codes, b + 8);
  }
};

/// x = d iq4_table[q].
///     0 d, half    2 codes[16]    18 bytes
struct iq4_nl : block_format<iq4_nl, ggml_type::iq4_nl> {
  static constexpr std::array<std::size_t, 1> halves{0};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = detail::load_half(b);
    detail::decode_nibbles(b + 2, y, [d](unsigned u, std::size_t) { return static_cast<float>(iq4_table[u]) * d; });
  }
  /// Weights x^2, or those of an importance matrix where `importance` is not null: a number for each value.
  static void encode(const float* x, const float* importance, std::byte* b) noexcept {
    float w[32];
    if (importance == nullptr) detail::weigh_iq4(x, 32, w);
    else detail::weigh_iq4(x, 32, importance, w);
    const float d = detail::search_levels(x, w);
    std::uint8_t codes[32];
    detail::nearest_iq4(x, detail::inverse(d), codes);
    detail::store_half(d, b);
    detail::store_nibbles(codes, b + 2);
  }
  static void encode(const float* x, std::byte* b) noexcept { encode(x, nullptr, b); }
};

/// x = 2^(e - 128) times 0, 1, 2, 3, 4, 6, 8, 12 or the negative of it: the values of E2M1 doubled, the scale halved. e = 255,
/// NaN in the specification, is 2^127 here as in ggml, and code 8 is +0.
///     0 e    1 codes[16]    17 bytes
struct mxfp4 : block_format<mxfp4, ggml_type::mxfp4> {
  static constexpr float greatest = std::numeric_limits<float>::max();
  static constexpr std::array<std::size_t, 0> halves{};
  static void decode(const std::byte* b, float* y) noexcept {
    const float d = scale_of(detail::load_u8(b));
    detail::decode_nibbles(b + 1, y, [d](unsigned u, std::size_t) { return mxfp4_table[u] * d; });
  }
  /// The greatest magnitude lies from 8 d on, where 12 d is the greatest value; the code of the nearest level, the one of lower
  /// magnitude of two as near, 0 without its sign.
  static void encode(const float* x, std::byte* b) noexcept {
    const float extreme = detail::first_extreme(x, 32);
    const unsigned e = exponent_of(extreme < 0.0f ? -extreme : extreme);
    const float d = scale_of(e);
    std::uint8_t codes[32];
    for (std::size_t i = 0; i < 32; ++i) {
      const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
      unsigned code = 0;
      for (unsigned c = 1; c < 8; ++c) {
        const float level = mxfp4_table[c] * d, middle = 0.5f * (mxfp4_table[c - 1] + mxfp4_table[c]) * d;  // exact
        code += is_finite(level) && magnitude > middle ? 1 : 0;  // 8 * 2^125 is no float
      }
      codes[i] = static_cast<std::uint8_t>(code != 0 && x[i] < 0.0f ? code + 8 : code);
    }
    b[0] = static_cast<std::byte>(e);
    detail::store_nibbles(codes, b + 1);
  }
  /// The e of a block whose greatest magnitude is this: 125 + log2, rounded down; 0 for 0. Below 2^-125 that is negative and only
  /// its lower eight bits are stored, as by ggml on x86; all codes are 0 then.
  static constexpr unsigned exponent_of(float greatest_magnitude) noexcept {
    if (greatest_magnitude == 0.0f) return 0;
    const bool subnormal = greatest_magnitude < 0x1p-126f;
    const auto bits = std::bit_cast<std::uint32_t>(subnormal ? greatest_magnitude * 0x1p24f : greatest_magnitude);
    const int less = subnormal ? 24 : 0, next = static_cast<int>(bits >> 23) - 126 - less;  // below 2^next
    const int biased = static_cast<int>((bits + detail::steps_below(next)) >> 23) - less;
    return static_cast<unsigned>(biased - 2) & 255u;
  }
  /// 2^(e - 128), e below 256.
  static constexpr float scale_of(unsigned e) noexcept {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23);  // 2^-128 and 2^-127 are subnormal
  }
};

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
