// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Bounds of the errors of many clips on the native register width: one clip a lane, so that nothing is added across
/// lanes and the parameters of all clips are found side by side.

#include <limits>

#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/scalar/group_codec.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/group_codec.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// The error of an element is computed in float, with x * (1 / s) in place of x / s. How far its square can be from the
/// law's, s the scale, E the sum of the squares:
///
/// - The quotients differ by less than delta = 2^-22 * |x / s| (four roundings). Where they round to different steps, x lies
///   within delta of the middle between two levels, and the squares of its distances to both differ by at most
///   2 delta s^2 times the distance of the levels (for tables: plus the threshold's distance from the middle).
/// - An offset is subtracted, and without FMA the product s t rounded, in float: errors are off by eta = 2^-22 max |x|.
///   (e +- eta)^2 lies between (1 - 2^-16) e^2 - 2^16 eta^2 and (1 + 2^-16) e^2 + 2^17 eta^2.
/// - Each square and addition rounds by 2^-24: additions are made in runs of `run`, then of the runs.
template <>
struct bound_clips<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, quant::value_range range, const float* clips, std::size_t count,
                  const float* x, std::size_t n, clip_bounds& bounds) noexcept {
    bounds.known = false;
    const float greatest = quant::greatest_magnitude(range);
    if (!(greatest >= 0x1p-40f && greatest <= 0x1p40f)) return;  // squares stay far from the ends of float
    job j{x, n, round_up(count, 2 * lanes), bounds, {}, {}};
    fit(c, range, clips, count, j);
    const simd::vf none(0.0f), most(0x1p60f);
    for (std::size_t i = 0; i < j.padded; i += lanes) {
      const simd::vf s = simd::vf::load_aligned(j.scale + i);
      if (!simd::all((s > none) & (s < most))) return;
    }

    const bool eta = c.format.rule == code_rule::asymmetric_offset || NIBBLE_HAS_FMA == 0;
    const float far = greatest * 0x1p-22f;
    j.absolute = eta ? static_cast<float>(n) * far * far * 0x1p17f : 0.0f;
    j.relative = static_cast<float>(run_length + n / run_length + 16) * 0x1p-24f + 0x1p-20f + (eta ? 0x1p-16f : 0.0f);
    const float steps =
        static_cast<float>(c.format.rule == code_rule::asymmetric || c.format.rule == code_rule::asymmetric_offset
                               ? 1 << c.format.bits
                               : quant::code_bias(c.format.bits));
    j.per_step = static_cast<float>(n) * 2.02f * 0x1p-22f * (steps + 2.0f);
    switch (c.format.rule) {
      case code_rule::symmetric: return errors<affine<code_rule::symmetric>>(j, c);
      case code_rule::symmetric_full: return errors<affine<code_rule::symmetric_full>>(j, c);
      case code_rule::mid_rise: return errors<affine<code_rule::mid_rise>>(j, c);
      case code_rule::asymmetric: return errors<affine<code_rule::asymmetric>>(j, c);
      case code_rule::asymmetric_offset: return errors<affine<code_rule::asymmetric_offset>>(j, c);
      case code_rule::codebook: break;
    }
    // The values that small clips cut off come first: most of those clips are hopeless after them. (Affine
    // errors cost less than the sorting.)
    float sorted[most_sorted];
    if (n <= most_sorted) {
      std::size_t front = 0, back = n;
      for (std::size_t i = 0; i < n; ++i) {
        const float v = x[i];
        const bool large = (v < 0.0f ? -v : v) > 0.5f * greatest;
        sorted[large ? front : back - 1] = v;
        front += large ? 1 : 0;
        back -= large ? 0 : 1;
      }
      j.x = sorted;
    }
    j.per_step = static_cast<float>(n) * table_slack(c.book);
    simd::with_table(c.book, [&]<class Table>(const Table& table) { errors<looked_up<Table>>(j, table); });
  }

 private:
  using vf = simd::vf;
  static constexpr std::size_t lanes = simd::lanes;
  static constexpr std::size_t run_length = 16, first_run = 4, most_sorted = 512;

  struct job {
    const float* x;
    std::size_t n, padded;  // clips, rounded up to whole rounds
    clip_bounds& bounds;
    alignas(64) float scale[clip_bounds::most];
    alignas(64) float zero[clip_bounds::most];
    float per_step = 0.0f, absolute = 0.0f, relative = 0.0f;  // slack in squares of the scale, alone, of the sum
  };
  static_assert(clip_bounds::most % (2 * lanes) == 0);

  static void fit(const quant::group_codec& c, quant::value_range range, const float* clips, std::size_t count,
                  job& j) noexcept {
    alignas(64) float lo[clip_bounds::most], hi[clip_bounds::most];
    for (std::size_t i = 0; i < j.padded; ++i) {  // the last clip again and again where there are no more
      const quant::value_range r = quant::detail::clipped(c.format.rule, range, clips[i < count ? i : count - 1]);
      lo[i] = r.lo;
      hi[i] = r.hi;
    }
    const simd::params_lanes params(c);
    for (std::size_t i = 0; i < j.padded; i += lanes) {
      vf scale, zero;
      params(vf::load_aligned(lo + i), vf::load_aligned(hi + i), scale, zero);
      scale.store_aligned(j.scale + i);
      zero.store_aligned(j.zero + i);
    }
  }

  /// As per_step for one element: by how many s^2 the squared distances to two neighbours can differ where a quotient that
  /// is off by delta takes the wrong one.
  static float table_slack(const codebook_desc& book) noexcept {
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

  template <code_rule Rule>
  struct affine {
    static constexpr bool has_zero = Rule == code_rule::asymmetric || Rule == code_rule::asymmetric_offset;
    affine(const job& j, std::size_t first, const quant::group_codec& c) noexcept
        : minus_scale(vf(0.0f) - vf::load_aligned(j.scale + first)),
          inverse(vf(1.0f) / vf::load_aligned(j.scale + first)),
          zero(vf::load_aligned(j.zero + first)) {
      const quant::detail::step_bounds b = quant::detail::bounds_of<Rule>(c.format.bits, 0.0f);
      low = vf(b.lo);
      high = vf(b.hi);
      if constexpr (Rule == code_rule::asymmetric) low = low - zero, high = high - zero;
    }
    NIBBLE_ALWAYS_INLINE vf operator()(vf x) const noexcept {
      const vf shift(simd::rounding_shift);
      if constexpr (Rule == code_rule::asymmetric_offset) x = x - zero;
      vf t = x * inverse;
      if constexpr (Rule == code_rule::mid_rise) t = t - vf(0.5f);
      t = simd::min(simd::max((t + shift) - shift, low), high);
      if constexpr (Rule == code_rule::mid_rise) t = t + vf(0.5f);
      return simd::madd(minus_scale, t, x);
    }
    vf minus_scale, inverse, zero, low, high;
  };

  template <class Table>
  struct looked_up {
    looked_up(const job& j, std::size_t first, const Table& t) noexcept
        : table(t),
          minus_scale(vf(0.0f) - vf::load_aligned(j.scale + first)),
          inverse(vf(1.0f) / vf::load_aligned(j.scale + first)) {}
    NIBBLE_ALWAYS_INLINE vf operator()(vf x) const noexcept {
      return simd::madd(minus_scale, table.value(table.rank(x * inverse)), x);
    }
    const Table& table;
    vf minus_scale, inverse;
  };

  template <class Error, class Format>
  static void errors(const job& j, const Format& format) noexcept {
    const vf more(1.0f + j.relative), less(1.0f - j.relative);
    vf at_most(std::numeric_limits<float>::max());
    float least = std::numeric_limits<float>::max();
    alignas(64) float each[lanes];
    for (std::size_t first = 0; first < j.padded; first += 2 * lanes) {
      const Error one(j, first, format), two(j, first + lanes, format);
      const vf hopeless(least * 1.02f);
      vf sum[2] = {vf(0.0f), vf(0.0f)};
      bool whole = true;
      for (std::size_t i = 0; i < j.n;) {
        vf part[2] = {vf(0.0f), vf(0.0f)};
        const auto add = [&](std::size_t k) NIBBLE_LAMBDA_INLINE {
          const vf x(j.x[k]), e = one(x), f = two(x);
          part[0] = simd::madd(e, e, part[0]);
          part[1] = simd::madd(f, f, part[1]);
        };
        if (i != 0 && j.n - i >= run_length) {
          for (std::size_t k = 0; k < run_length; ++k) add(i + k);
          i += run_length;
        } else {
          const std::size_t length = i == 0 ? first_run : run_length;
          for (const std::size_t stop = j.n - i < length ? j.n : i + length; i < stop; ++i) add(i);
        }
        sum[0] = sum[0] + part[0];
        sum[1] = sum[1] + part[1];
        // What is hopeless after some elements remains so: their squares bound the whole sum from below.
        if (i < j.n && simd::all((sum[0] > hopeless) & (sum[1] > hopeless))) {
          whole = false;
          break;
        }
      }
      for (std::size_t v = 0; v < 2; ++v) {
        const std::size_t at = first + v * lanes;
        const vf s = vf::load_aligned(j.scale + at), slack = s * s * vf(j.per_step) + vf(j.absolute);
        simd::max(sum[v] * less - slack, vf(0.0f)).store_unaligned(j.bounds.at_least + at);
        if (whole) at_most = simd::min(at_most, sum[v] * more + slack);
      }
      at_most.store_aligned(each);
      for (const float m : each) least = m < least ? m : least;
    }
    j.bounds.at_most = least;
    j.bounds.known = true;
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
