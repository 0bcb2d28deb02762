// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Reductions with one result on every compiler: the least and greatest value of an array, and sums in double.
///
/// The range works on the bits: floats order like sign-magnitude integers, integer
/// minimum and maximum are associative, so every compiler vectorizes the loops and the result has one meaning; NaN and
/// infinities cannot hide, because their magnitude bits exceed those of all finite values.

#include <bit>
#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

struct value_range {
  float lo = 0.0f;
  float hi = 0.0f;
};

/// The greatest |x| of a range.
constexpr float greatest_magnitude(value_range r) noexcept {
  const float up = r.hi < 0.0f ? -r.hi : r.hi, down = r.lo < 0.0f ? -r.lo : r.lo;
  return up > down ? up : down;
}

/// Accumulates a range over several arrays.
class range_scan {
 public:
  constexpr void add(const float* x, std::size_t n) noexcept {
    std::int32_t lo = lo_, hi = hi_;
    std::size_t i = 0;
    // Constant trip counts let compilers vectorize without being asked for their highest level; from 17 on, gcc does so
    // instead of unrolling first.
    constexpr std::size_t lanes = 32;
    if (n >= lanes) {
      std::int32_t los[lanes], his[lanes];
      for (std::size_t j = 0; j < lanes; ++j) los[j] = his[j] = ordered(x[j]);
      for (i = lanes; i + lanes <= n; i += lanes)
        for (std::size_t j = 0; j < lanes; ++j) {
          const std::int32_t v = ordered(x[i + j]);
          los[j] = v < los[j] ? v : los[j];
          his[j] = v > his[j] ? v : his[j];
        }
      for (std::size_t j = 0; j < lanes; ++j) lo = los[j] < lo ? los[j] : lo;
      for (std::size_t j = 0; j < lanes; ++j) hi = his[j] > hi ? his[j] : hi;
    }
    for (; i < n; ++i) {
      const std::int32_t v = ordered(x[i]);
      lo = v < lo ? v : lo;
      hi = v > hi ? v : hi;
    }
    lo_ = lo;
    hi_ = hi;
  }

  /// True when something was added and all of it was finite.
  constexpr bool finite() const noexcept { return lo_ > ordered_minus_infinity && hi_ < 0x7f800000 && lo_ <= hi_; }
  constexpr value_range range() const noexcept { return {value(lo_), value(hi_)}; }

 private:
  // Non-negative floats keep their bits, negative ones turn around: a signed integer order that equals the float order,
  // with -0 just below +0 and NaN beyond the infinities. The map is its own inverse.
  static constexpr std::int32_t turn(std::int32_t i) noexcept { return i ^ ((i >> 31) & 0x7fffffff); }
  static constexpr std::int32_t ordered(float x) noexcept { return turn(std::bit_cast<std::int32_t>(x)); }
  static constexpr float value(std::int32_t i) noexcept { return std::bit_cast<float>(turn(i)); }
  static constexpr std::int32_t ordered_minus_infinity = -0x7f800001;  // turn(bits of -infinity)

  std::int32_t lo_ = 0x7fffffff;
  std::int32_t hi_ = -0x7fffffff - 1;
};

/// A sum in double over an array that may come in pieces: element i goes to lane i % 8 and the lanes are added in a fixed
/// order, so the result depends neither on the pieces nor on how a compiler vectorizes. Terms must be single values or
/// products that are exact in double (two floats): then a fused multiply-add changes nothing.
class lane_sum {
 public:
  template <class Term>
  constexpr void add(const float* x, std::size_t n, Term term) noexcept {
    std::size_t i = 0;
    for (; i < n && next_ != 0; ++i) push(term(x[i]));
    double lane[lanes];
    for (std::size_t j = 0; j < lanes; ++j) lane[j] = lane_[j];
    for (; i + lanes <= n; i += lanes)
      for (std::size_t j = 0; j < lanes; ++j) lane[j] += term(x[i + j]);
    for (std::size_t j = 0; j < lanes; ++j) lane_[j] = lane[j];
    for (; i < n; ++i) push(term(x[i]));
  }
  constexpr double total() const noexcept {
    return ((lane_[0] + lane_[4]) + (lane_[2] + lane_[6])) + ((lane_[1] + lane_[5]) + (lane_[3] + lane_[7]));
  }

 private:
  static constexpr std::size_t lanes = 8;
  constexpr void push(double v) noexcept {
    lane_[next_] += v;
    next_ = (next_ + 1) % lanes;
  }
  double lane_[lanes] = {};
  std::size_t next_ = 0;
};

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
