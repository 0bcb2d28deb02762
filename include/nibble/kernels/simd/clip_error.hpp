// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The error of a value with a clip in float, on the native register width, and how far sums of its squares can be from
/// the law's. Both ways of the search use them: one clip a lane (clip_search.hpp) and one group a lane (clip_lanes.hpp).

#include <cstddef>

#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/table_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/group_codec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// Bounds. The error of an element is computed in float, with x * (1 / s) in place of x / s. How far its square can be from
/// the law's, s the scale, E the sum of the squares:
///
/// - The quotients differ by less than delta = 2^-22 * |x / s| (four roundings). Where they round to different steps, x lies
///   within delta of the middle between two levels, and the squares of its distances to both differ by at most
///   2 delta s^2 times the distance of the levels (for tables: plus the threshold's distance from the middle).
/// - An offset is subtracted, and without FMA the product s t rounded, in float: errors are off by eta = 2^-22 max |x|.
///   (e +- eta)^2 lies between (1 - 2^-16) e^2 - 2^16 eta^2 and (1 + 2^-16) e^2 + 2^17 eta^2.
/// - Each square and addition rounds by 2^-24.
struct error_margin {
  float per_step;  ///< times the square of the scale
  float absolute;  ///< times the square of the greatest magnitude
  float relative;  ///< of the sum
};

/// By how many s^2 the squared distances of one element to two neighbouring levels of a table can differ where a quotient
/// that is off by delta takes the wrong one.
inline float table_slack(const codebook_desc& book) noexcept {
  const std::size_t count = static_cast<std::size_t>(quant::detail::threshold_count(book));
  const auto value = [&](std::size_t r) {
    return book.values[book.code_of_rank == nullptr ? r : book.code_of_rank[r]];
  };
  float slack = 0.0f;
  for (std::size_t i = 0; i < count; ++i) {
    const float t = book.thresholds[i], low = value(i), high = value(i + 1);
    const float off = 0.5f * ((t - low) - (high - t)), apart = high - low;
    const float delta = 0x1p-22f * (t < 0.0f ? -t : t);
    const float here = 2.02f * (apart < 0.0f ? -apart : apart) * (delta + (off < 0.0f ? -off : off) + 0x1p-24f);
    slack = here > slack ? here : slack;
  }
  return slack;
}

/// Of the sum over n elements, each of which goes through at most `additions` of them. `slack`: table_slack, for tables.
inline error_margin margin_of(const quant::group_codec& codec, float slack, std::size_t n,
                              std::size_t additions) noexcept {
  const code_rule rule = codec.format.rule;
  const bool eta = rule == code_rule::asymmetric_offset || NIBBLE_HAS_FMA == 0;
  const float count = static_cast<float>(n);
  const float steps = static_cast<float>(rule == code_rule::asymmetric || rule == code_rule::asymmetric_offset
                                             ? 1 << codec.format.bits
                                             : quant::code_bias(codec.format.bits));
  return {count * (rule == code_rule::codebook ? slack : 2.02f * 0x1p-22f * (steps + 2.0f)),
          eta ? count * 0x1p-27f : 0.0f,
          static_cast<float>(additions + 16) * 0x1p-24f + 0x1p-20f + (eta ? 0x1p-16f : 0.0f)};
}

/// The error of x with the parameters of its lane.
template <code_rule Rule>
struct affine_error {
  affine_error(const quant::group_codec& c, vf scale, vf each_zero) noexcept
      : minus_scale(vf(0.0f) - scale), inverse(vf(1.0f) / scale), zero(each_zero) {
    const quant::detail::step_bounds b = quant::detail::bounds_of<Rule>(c.format.bits, 0.0f);
    low = vf(b.lo);
    high = vf(b.hi);
    if constexpr (Rule == code_rule::asymmetric) low = low - zero, high = high - zero;
  }
  NIBBLE_ALWAYS_INLINE vf operator()(vf x) const noexcept {
    const vf shift(rounding_shift);
    if constexpr (Rule == code_rule::asymmetric_offset) x = x - zero;
    vf t = x * inverse;
    if constexpr (Rule == code_rule::mid_rise) t = t - vf(0.5f);
    t = simd::min(simd::max((t + shift) - shift, low), high);
    if constexpr (Rule == code_rule::mid_rise) t = t + vf(0.5f);
    return madd(minus_scale, t, x);
  }
  vf minus_scale, inverse, zero, low, high;
};

/// The same by a search among a table's thresholds.
template <class Table>
struct looked_up_error {
  looked_up_error(const Table& t, vf scale) noexcept
      : table(t), minus_scale(vf(0.0f) - scale), inverse(vf(1.0f) / scale) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vf x) const noexcept {
    return madd(minus_scale, table.value(table.rank(x * inverse)), x);
  }
  const Table& table;
  vf minus_scale, inverse;
};

/// Whether a table's levels ascend with their ranks, and its thresholds between them; levels by sign and magnitude are
/// opposite. Then the nearest of a few neighbouring levels is the one that the thresholds choose, or as near.
inline bool levels_ascend(const table_planes& table, const codebook_desc& book) noexcept {
  const std::size_t ranks = std::size_t{1} << table.steps;
  for (std::size_t r = 0; r < ranks; ++r) {
    if (table.sign_magnitude && !(table.values[ranks + r] == -table.values[r])) return false;
    if (r == 0) continue;
    const float t = book.thresholds[r - 1];
    if (!(table.values[r - 1] <= t && t <= table.values[r])) return false;
  }
  return true;
}

/// A value that is multiplied by less than this crosses at most `crossed` thresholds.
inline float ratio_for(const codebook_desc& book, int crossed) noexcept {
  const int count = quant::detail::threshold_count(book);
  float least = 0x1p60f;
  for (int i = 0; i + crossed < count; ++i) {
    const float low = book.thresholds[i], high = book.thresholds[i + crossed];
    const float ratio = low > 0.0f ? high / low : (high < 0.0f ? low / high : least);  // nothing crosses 0
    least = ratio < least ? ratio : least;
  }
  return least;
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
