// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The run-time path: arrays of values to arrays of codes (one per byte) and back for a format known only at run time.
/// Element for element it gives what the policies give; the code rule is the only thing the loops are compiled for.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/affine.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/range.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// A format and, for codebook formats, its table. Plain data.
struct group_codec {
  format_desc format;
  codebook_desc book;  ///< used when format.rule is codebook
};

namespace detail {

/// Elements handled in one go. The loops below run over arrays of this many, one simple step per loop: constant trip
/// counts and no aliasing, so that compilers vectorize them at every optimization level.
inline constexpr std::size_t codec_lanes = 32;

/// Calls f(i) for i in [0, n).
template <class F>
NIBBLE_ALWAYS_INLINE constexpr void for_each_lane(std::size_t n, F f) {
  std::size_t i = 0;
  for (; i + codec_lanes <= n; i += codec_lanes)
    for (std::size_t j = 0; j < codec_lanes; ++j) f(i + j);
  for (; i < n; ++i) f(i);
}

/// Calls block(in, out) for each codec_lanes elements of x and codes; the last ones go through padded copies.
template <class Block>
NIBBLE_ALWAYS_INLINE void for_each_block(const float* x, std::size_t n, std::uint8_t* codes, Block block) {
  const std::size_t rest = n % codec_lanes, whole = n - rest;
  for (std::size_t i = 0; i < whole; i += codec_lanes) block(x + i, codes + i);
  if (rest == 0) return;
  float in[codec_lanes] = {};
  std::uint8_t out[codec_lanes];
  std::memcpy(in, x + whole, rest * sizeof(float));
  block(in, out);
  std::memcpy(codes + whole, out, rest);
}

template <code_rule Rule>
inline void encode_affine(const float* x, std::size_t n, int bits, group_params p, std::uint8_t* codes) noexcept {
  if (p.scale == 0.0f) {
    std::memset(codes, zero_code(Rule, bits, p.zero), n);
    return;
  }
  const step_bounds b = bounds_of<Rule>(bits, p.zero);
  const std::uint32_t bias = static_cast<std::uint32_t>(b.bias);
  for_each_block(x, n, codes, [=](const float* in, std::uint8_t* out) {
    float t[codec_lanes];
    std::uint32_t u[codec_lanes];
    for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = steps_of<Rule>(in[j], p.scale, p.zero);
    for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = t[j] < b.lo ? b.lo : t[j];
    for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = t[j] > b.hi ? b.hi : t[j];
    // round_half_even without the way back to float: after adding 1.5 * 2^23 the low mantissa bits are the integer.
    for (std::size_t j = 0; j < codec_lanes; ++j) u[j] = std::bit_cast<std::uint32_t>(t[j] + 12582912.0f) + bias;
    for (std::size_t j = 0; j < codec_lanes; ++j) out[j] = static_cast<std::uint8_t>(u[j]);
  });
}

/// rank[j] = thresholds strictly below v[j]. Counts up to 15 are exact in float, and adding a float is what a comparison
/// mask turns into with the least work.
template <int Thresholds>
NIBBLE_ALWAYS_INLINE void count_below(const float* thresholds, const float* v, std::int32_t* rank) noexcept {
  float count[codec_lanes] = {};
  for (int i = 0; i < Thresholds; ++i) {
    const float threshold = thresholds[i];
    for (std::size_t j = 0; j < codec_lanes; ++j) count[j] += threshold < v[j] ? 1.0f : 0.0f;
  }
  for (std::size_t j = 0; j < codec_lanes; ++j) rank[j] = static_cast<std::int32_t>(count[j]);
}

inline void encode_codebook(const float* x, std::size_t n, const codebook_desc& book, group_params p,
                            std::uint8_t* codes) noexcept {
  if (p.scale == 0.0f) {
    std::memset(codes, code_of_normalised(book, 0.0f), n);
    return;
  }
  const float inverse = reciprocal_for(book, p.scale);
  const int count = threshold_count(book);
  for_each_block(x, n, codes, [&](const float* in, std::uint8_t* out) {
    float v[codec_lanes];
    std::int32_t rank[codec_lanes];
    if (inverse != 0.0f)
      for (std::size_t j = 0; j < codec_lanes; ++j) v[j] = in[j] * inverse;
    else
      for (std::size_t j = 0; j < codec_lanes; ++j) v[j] = in[j] / p.scale;
    std::int32_t sign[codec_lanes] = {};
    if (book.sign_magnitude) {
      for (std::size_t j = 0; j < codec_lanes; ++j) sign[j] = v[j] < 0.0f ? 1 << (book.bits - 1) : 0;
      for (std::size_t j = 0; j < codec_lanes; ++j) v[j] = v[j] < 0.0f ? -v[j] : v[j];
    }
    switch (count) {
      case 3: count_below<3>(book.thresholds, v, rank); break;
      case 7: count_below<7>(book.thresholds, v, rank); break;
      case 15: count_below<15>(book.thresholds, v, rank); break;
      default:
        // rank_of for all lanes at once: independent searches hide each other's latency.
        for (std::size_t j = 0; j < codec_lanes; ++j) rank[j] = 0;
        for (int step = (count + 1) / 2; step != 0; step /= 2)
          for (std::size_t j = 0; j < codec_lanes; ++j)
            rank[j] += -static_cast<std::int32_t>(book.thresholds[rank[j] + step - 1] < v[j]) & step;
    }
    if (book.code_of_rank != nullptr)
      for (std::size_t j = 0; j < codec_lanes; ++j) rank[j] = book.code_of_rank[rank[j]] | sign[j];
    for (std::size_t j = 0; j < codec_lanes; ++j) out[j] = static_cast<std::uint8_t>(rank[j]);
  });
}

/// What is added to a code to get its level, the number that the scale multiplies: all sums are exact.
inline float level_shift(const format_desc& f, group_params p) noexcept {
  switch (f.rule) {
    case code_rule::symmetric:
    case code_rule::symmetric_full: return -static_cast<float>(code_bias(f.bits));
    case code_rule::mid_rise: return 0.5f - static_cast<float>(code_bias(f.bits));
    case code_rule::asymmetric: return -p.zero;
    case code_rule::asymmetric_offset:
    case code_rule::codebook: break;
  }
  return 0.0f;
}

/// The level of each code.
inline void levels_of(const group_codec& c, group_params p, const std::uint8_t* codes, std::size_t n,
                      float* level) noexcept {
  if (c.format.rule == code_rule::codebook) {
    for (std::size_t i = 0; i < n; ++i) level[i] = c.book.values[codes[i]];
    return;
  }
  const float shift = level_shift(c.format, p);
  for_each_lane(n, [=](std::size_t i) { level[i] = static_cast<float>(codes[i]) + shift; });
}

}  // namespace detail

/// Codes of x[0..n), one per byte; x finite, p as stored.
inline void encode_group(const group_codec& c, group_params p, const float* x, std::size_t n,
                         std::uint8_t* codes) noexcept {
  const int bits = c.format.bits;
  switch (c.format.rule) {
    case code_rule::symmetric: return detail::encode_affine<code_rule::symmetric>(x, n, bits, p, codes);
    case code_rule::symmetric_full: return detail::encode_affine<code_rule::symmetric_full>(x, n, bits, p, codes);
    case code_rule::mid_rise: return detail::encode_affine<code_rule::mid_rise>(x, n, bits, p, codes);
    case code_rule::asymmetric: return detail::encode_affine<code_rule::asymmetric>(x, n, bits, p, codes);
    case code_rule::asymmetric_offset: return detail::encode_affine<code_rule::asymmetric_offset>(x, n, bits, p, codes);
    case code_rule::codebook: return detail::encode_codebook(x, n, c.book, p, codes);
  }
}

/// Values of n codes.
inline void decode_group(const group_codec& c, group_params p, const std::uint8_t* codes, std::size_t n,
                         float* y) noexcept {
  switch (c.format.rule) {
    case code_rule::codebook:
      for (std::size_t i = 0; i < n; ++i) y[i] = p.scale * c.book.values[codes[i]];
      return;
    case code_rule::asymmetric_offset:
      return detail::for_each_lane(
          n, [=](std::size_t i) { y[i] = fused_multiply_add(p.scale, static_cast<float>(codes[i]), p.zero); });
    default: break;
  }
  const float shift = detail::level_shift(c.format, p);
  detail::for_each_lane(n, [=](std::size_t i) { y[i] = p.scale * (static_cast<float>(codes[i]) + shift); });
}

namespace detail {

/// Errors of coding x[0..codec_lanes): code, level and error in registers, the arithmetic of encode_affine and levels_of.
template <code_rule Rule>
NIBBLE_ALWAYS_INLINE void block_errors(const float* x, group_params p, const step_bounds& b, float* error) noexcept {
  const double scale = static_cast<double>(p.scale);
  float t[codec_lanes];
  for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = steps_of<Rule>(x[j], p.scale, p.zero);
  for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = t[j] < b.lo ? b.lo : t[j];
  for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = t[j] > b.hi ? b.hi : t[j];
  for (std::size_t j = 0; j < codec_lanes; ++j) t[j] = round_half_even_f(t[j]);
  if constexpr (Rule == code_rule::mid_rise)
    for (std::size_t j = 0; j < codec_lanes; ++j) t[j] += 0.5f;
  if constexpr (Rule == code_rule::asymmetric_offset) {
    const double offset = static_cast<double>(p.zero);
    for (std::size_t j = 0; j < codec_lanes; ++j)
      error[j] = static_cast<float>((static_cast<double>(x[j]) - offset) - scale * static_cast<double>(t[j]));
  } else {
    for (std::size_t j = 0; j < codec_lanes; ++j)
      error[j] = static_cast<float>(static_cast<double>(x[j]) - scale * static_cast<double>(t[j]));
  }
}

/// Errors of coding x[0..n) in an affine format, n <= the size of `error` rounded down to whole blocks.
template <code_rule Rule>
inline void affine_errors(const float* x, std::size_t n, int bits, group_params p, float* error) noexcept {
  if (p.scale == 0.0f) {  // every value is the offset, or 0
    const float offset = Rule == code_rule::asymmetric_offset ? p.zero : 0.0f;
    for (std::size_t i = 0; i < n; ++i) error[i] = x[i] - offset;
    return;
  }
  const step_bounds b = bounds_of<Rule>(bits, p.zero);
  const std::size_t rest = n % codec_lanes, whole = n - rest;
  for (std::size_t i = 0; i < whole; i += codec_lanes) block_errors<Rule>(x + i, p, b, error + i);
  if (rest == 0) return;
  float in[codec_lanes] = {}, out[codec_lanes];
  std::memcpy(in, x + whole, rest * sizeof(float));
  block_errors<Rule>(in, p, b, out);
  std::memcpy(error + whole, out, rest * sizeof(float));
}

inline void codebook_errors(const codebook_desc& book, const float* x, std::size_t n, group_params p,
                            float* error) noexcept {
  constexpr std::size_t tile = 256;
  std::uint8_t codes[tile];
  const double scale = static_cast<double>(p.scale);
  for (std::size_t first = 0; first < n; first += tile) {
    const std::size_t count = n - first < tile ? n - first : tile;
    encode_codebook(x + first, count, book, p, codes);
    for (std::size_t i = 0; i < count; ++i) error[first + i] = book.values[codes[i]];
  }
  for_each_lane(n, [=](std::size_t i) {
    error[i] = static_cast<float>(static_cast<double>(x[i]) - scale * static_cast<double>(error[i]));
  });
}

/// error[i] = x[i] - scale * level (- offset), i < n: the exact difference, rounded to float. The product of a scale and
/// a level is exact in double, so no contraction changes it.
inline void errors_of(const group_codec& c, group_params p, const float* x, std::size_t n, float* error) noexcept {
  const int bits = c.format.bits;
  switch (c.format.rule) {
    case code_rule::symmetric: return affine_errors<code_rule::symmetric>(x, n, bits, p, error);
    case code_rule::symmetric_full: return affine_errors<code_rule::symmetric_full>(x, n, bits, p, error);
    case code_rule::mid_rise: return affine_errors<code_rule::mid_rise>(x, n, bits, p, error);
    case code_rule::asymmetric: return affine_errors<code_rule::asymmetric>(x, n, bits, p, error);
    case code_rule::asymmetric_offset: return affine_errors<code_rule::asymmetric_offset>(x, n, bits, p, error);
    case code_rule::codebook: return codebook_errors(c.book, x, n, p, error);
  }
}

}  // namespace detail

/// As lane_sum, made for speed: 32 lanes, which compilers turn into vectors, and each array begins again at lane 0. The
/// result does not depend on the compiler, but on the lengths of the pieces unless they are multiples of 32.
class block_sum {
 public:
  template <class Term>
  constexpr void add(const float* x, std::size_t n, Term term) noexcept {
    add_terms(n, [=](std::size_t i) { return term(x[i]); });
  }
  /// The same with terms by index: term(0) + ... + term(n - 1).
  template <class Term>
  constexpr void add_terms(std::size_t n, Term term) noexcept {
    const std::size_t rest = n % lanes, whole = n - rest;
    for (std::size_t i = 0; i < whole; i += lanes)
      for (std::size_t j = 0; j < lanes; ++j) lane_[j] += term(i + j);
    for (std::size_t j = 0; j < rest; ++j) lane_[j] += term(whole + j);
  }
  constexpr double total() const noexcept {
    double half[lanes / 2];
    for (std::size_t j = 0; j < lanes / 2; ++j) half[j] = lane_[j] + lane_[j + lanes / 2];
    for (std::size_t j = 0; j < 8; ++j) half[j] += half[j + 8];
    for (std::size_t j = 0; j < 4; ++j) half[j] += half[j + 4];
    return (half[0] + half[2]) + (half[1] + half[3]);
  }

 private:
  static constexpr std::size_t lanes = 32;
  double lane_[lanes] = {};
};

/// Adds the squared errors of coding x[0..n) with parameters p to a lane_sum or block_sum. The error of one element is
/// the exact difference to scale * level (+ offset), rounded to float, so that its square is exact in double.
template <class Sum>
inline void add_squared_error(const group_codec& c, group_params p, const float* x, std::size_t n, Sum& sum) noexcept {
  constexpr std::size_t tile = 256;
  float error[tile];
  for (std::size_t first = 0; first < n; first += tile) {
    const std::size_t count = n - first < tile ? n - first : tile;
    detail::errors_of(c, p, x + first, count, error);
    sum.add(error, count, [](float e) { return static_cast<double>(e) * static_cast<double>(e); });
  }
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
