// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The search of clips for short groups on the native register width: one group a lane, so that the parameters of a clip
/// are found for all of them at once, nothing is added across lanes, and the search ends where the rest is hopeless.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/simd/clip_error.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/table_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// What is found of each of the groups in a register's lanes.
struct clips_of_lanes {
  bool decided[lanes];  ///< scale and zero are those of least error
  bool known[lanes];    ///< else: `open` holds the clips that may have it
  std::uint64_t open[lanes];
  alignas(64) float scale[lanes];
  alignas(64) float zero[lanes];
};

class clip_lanes {
 public:
  /// Values of a group at most: a register's groups of them and three levels of each stay in L1.
  static constexpr std::size_t most = 128;

  /// Clips descend.
  clip_lanes(const quant::group_codec& codec, const params_lanes& params, const table_planes& table, const float* clips,
             std::size_t count) noexcept
      : codec_(codec), params_(params), table_(table), count_(count) {
    std::memcpy(clips_, clips, count * sizeof(float));
    if (codec.format.rule != code_rule::codebook) return;
    slack_ = table_slack(codec.book);
    if (!levels_ascend(table, codec.book)) return;
    // Clips in a row whose levels are found together: as many as leave at most one level between the outer two. The small
    // clips at the end are further apart, and seldom tried.
    for (std::size_t step = most_together; step > 1 && together_ == 1; step /= 2)
      for (std::size_t levels = 2; levels <= most_levels && together_ == 1; ++levels) {
        const std::size_t last = count / 2;
        const float ratio = last < step ? clips_[0] / clips_[count - 1] : clips_[last - step] / clips_[last];
        ratio_ = ratio_for(codec.book, static_cast<int>(levels) - 1) * 0.999f;
        if (ratio * 1.002f < ratio_) together_ = step, levels_ = levels;  // stored scales are rounded
      }
  }

  /// Of `groups` groups, at most one a lane, of n <= most values, one after the other.
  void search(const float* x, std::size_t n, std::size_t groups, clips_of_lanes& found) const noexcept {
    job j(n);
    load_groups(x, groups, j);
    j.margin = margin_of(codec_, slack_, n, n);
    j.absolute = vf(j.margin.absolute) * j.greatest * j.greatest;
    set_ends(j);
    switch (codec_.format.rule) {
      case code_rule::symmetric: affine<code_rule::symmetric>(j); break;
      case code_rule::symmetric_full: affine<code_rule::symmetric_full>(j); break;
      case code_rule::mid_rise: affine<code_rule::mid_rise>(j); break;
      case code_rule::asymmetric: affine<code_rule::asymmetric>(j); break;
      case code_rule::asymmetric_offset: affine<code_rule::asymmetric_offset>(j); break;
      case code_rule::codebook: with_every_table(table_, [&](const auto& table) { tables(j, table); }); break;
    }
    finish(j, groups, found);
  }

 private:
  static constexpr std::size_t most_together = 8;
  static constexpr std::size_t most_levels = 3;
  /// The place of the format's own rule where that is no clip.
  static constexpr std::size_t own = clip_bounds::most;
  using mask = vf::batch_bool_type;

  struct job {
    explicit job(std::size_t values) noexcept : n(values) {}
    std::size_t n, tried = 0;                 // values; clips
    std::size_t reached = clip_bounds::most;  // a clip, or none
    vf lo, hi, greatest;
    vf alive;                                          // 1 or 0: whether anything is said of the lane
    vf start_lo, per_lo, start_hi, per_hi;             // set_ends
    doubles middle, reach;                             // of the range, where clips go towards its middle
    vf least = vf(std::numeric_limits<float>::max());  // of all sums, from above
    vf absolute;
    error_margin margin;
    alignas(64) float x[most * lanes];  // [value][group]
    alignas(64) float at_least[(clip_bounds::most + 1) * lanes];
    alignas(64) float scale[(clip_bounds::most + 1) * lanes];
    alignas(64) float zero[(clip_bounds::most + 1) * lanes];
    alignas(64) float level[most_levels][most * lanes];
    alignas(64) float level_reached[most * lanes];  // with the clip `reached`
    alignas(64) std::int32_t rank_reached[most * lanes];
  };

  /// Values by lanes and their ranges. Lanes past `groups` repeat the last one. A lane with values that are not finite, or
  /// whose squares come near the ends of float, is dead; it goes on as if all its values were 1.
  static void load_groups(const float* x, std::size_t groups, job& j) noexcept {
    const auto at = [&](std::size_t i) { return x + (i < groups ? i : groups - 1) * j.n; };
    std::size_t k = 0;
    for (; k + lanes <= j.n; k += lanes) {
      vi v[lanes];
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < lanes; ++i) v[i] = bits_of(load(at(i) + k));
      transpose(v);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < lanes; ++i) float_of_bits(v[i]).store_aligned(j.x + (k + i) * lanes);
    }
    for (; k < j.n; ++k)
      for (std::size_t i = 0; i < lanes; ++i) j.x[k * lanes + i] = at(i)[k];

    // As quant::range_scan: integers in the order of the floats.
    const auto turn = [](vi v) NIBBLE_LAMBDA_INLINE { return v ^ ((v >> 31) & vi(0x7fffffff)); };
    vi low = turn(bits_of(vf::load_aligned(j.x))), high = low;
    for (k = 1; k < j.n; ++k) {
      const vi v = turn(bits_of(vf::load_aligned(j.x + k * lanes)));
      low = simd::min(low, v);
      high = simd::max(high, v);
    }
    const vf lo = float_of_bits(turn(low)), hi = float_of_bits(turn(high)), one(1.0f);
    const vf a = simd::max(magnitude(lo), magnitude(hi));
    const vf limit(std::numeric_limits<float>::max());
    const mask alive = (magnitude(lo) <= limit) & (magnitude(hi) <= limit) & (a >= vf(0x1p-40f)) & (a <= vf(0x1p40f));
    j.lo = lo;
    j.hi = hi;
    j.greatest = a;
    j.alive = one;
    if (simd::all(alive)) return;
    j.lo = simd::select(alive, lo, one);
    j.hi = simd::select(alive, hi, one);
    j.greatest = simd::select(alive, a, one);
    j.alive = simd::select(alive, one, vf(0.0f));
    for (k = 0; k < j.n; ++k)
      simd::select(alive, vf::load_aligned(j.x + k * lanes), one).store_aligned(j.x + k * lanes);
  }

  /// With the clip c the least value lies at least start_lo - c per_lo below the grid's lower end, the greatest at least
  /// start_hi - c per_hi above its upper one. W: the range's width, s: the scale, e: how far rounding to the storage type
  /// and on to the neighbour takes a number, relatively, d: absolutely (storage_lanes).
  ///
  ///   magnitudes    the ends are +-r s; s <= (a c / levels) (1 + e) + d for the greatest magnitude a
  ///   zero point z  the ends are -z s and (top - z) s; s <= (W c / top) (1 + e) + d, and z is within 1/2 of -lo c / s
  ///   offset z      the ends are z and z + top s; z within e |z| + d of the clipped lower end, s as above
  void set_ends(job& j) const noexcept {
    const float e = params_.storage().relative_slack() + 0x1p-20f, d = params_.storage().absolute_slack();
    const float h = static_cast<float>(quant::code_bias(codec_.format.bits)), top = 2.0f * h - 1.0f;
    const vf none(0.0f), a = j.greatest;
    if (codec_.format.rule == code_rule::asymmetric) {
      const vf lo = simd::min(j.lo, none), hi = simd::max(j.hi, none), width = hi - lo;
      const vf beyond = width * vf(e + 0.5f * (1.0f + e) / top), fixed = a * vf(0x1p-20f) + vf((top + 0.5f) * d);
      j.start_lo = none - lo - fixed;
      j.per_lo = beyond - lo;
      j.start_hi = hi - fixed;
      j.per_hi = hi + beyond;
    } else if (codec_.format.rule == code_rule::asymmetric_offset) {
      const doubles lo = doubles::of(j.lo), hi = doubles::of(j.hi);
      const doubles::native half = doubles::each(0.5);
      j.middle = {half * (lo.low + hi.low), half * (lo.high + hi.high)};
      j.reach = {half * (hi.low - lo.low), half * (hi.high - lo.high)};
      const vf reach = (j.hi - j.lo) * vf(0.5f);
      j.start_lo = j.start_hi = reach - a * vf(2.0f * e) - vf((top + 2.0f) * d);
      j.per_lo = j.per_hi = reach * vf(1.0f + 2.0f * e);
    } else {
      float levels = h - 1.0f, r = levels;
      if (codec_.format.rule == code_rule::symmetric_full) r = h;
      if (codec_.format.rule == code_rule::mid_rise) levels = h, r = h - 0.5f;
      if (codec_.format.rule == code_rule::codebook) levels = r = 1.0f;  // the greatest level, both times
      const float step = codec_.format.rule == code_rule::codebook ? codec_.book.greatest : r;
      const vf fixed = a * vf(0x1p-20f) + vf(step * d);
      j.start_lo = none - j.lo - fixed;
      j.start_hi = j.hi - fixed;
      j.per_lo = j.per_hi = a * vf(r / levels * (1.0f + e));
    }
  }
  /// Whether the clips from `clip` down have a greater error than one that is known, for what they cut off the least and the
  /// greatest value alone.
  static NIBBLE_ALWAYS_INLINE bool hopeless(const job& j, float clip) noexcept {
    const vf none(0.0f), c(clip), low = simd::max(j.start_lo - c * j.per_lo, none),
                                  high = simd::max(j.start_hi - c * j.per_hi, none);
    return simd::all((low * low + high * high) * vf(0x1.ff8p-1f) > j.least);
  }

  /// Parameters of clip i, for all lanes.
  template <code_rule Rule = code_rule::codebook, class Fit>
  NIBBLE_ALWAYS_INLINE void fit_clip(job& j, std::size_t i, const Fit& fit) const noexcept {
    const float clip = clips_[i];
    vf lo = j.lo * vf(clip), hi = j.hi * vf(clip);
    if constexpr (Rule == code_rule::asymmetric_offset) {  // quant::detail::clipped
      const auto end = [&](double share) NIBBLE_LAMBDA_INLINE {
        const doubles::native each = doubles::each(share);
        return doubles{doubles::fused(j.reach.low, each, j.middle.low),
                       doubles::fused(j.reach.high, each, j.middle.high)}
            .to_float();
      };
      lo = end(-static_cast<double>(clip));
      hi = end(static_cast<double>(clip));
      // The format's own rule must be the first clip.
      if (i == 0) {
        const vf other = to_float((bits_of(lo) ^ bits_of(j.lo)) | (bits_of(hi) ^ bits_of(j.hi)));
        j.alive = simd::select(other == vf(0.0f), j.alive, vf(0.0f));
      }
    }
    vf scale, zero;
    fit(lo, hi, scale, zero);
    keep(j, i, scale, zero);
  }
  static NIBBLE_ALWAYS_INLINE void keep(job& j, std::size_t i, vf scale, vf zero) noexcept {
    j.alive = simd::select((scale > vf(0.0f)) & (scale < vf(0x1p60f)), j.alive, vf(0.0f));
    scale.store_aligned(j.scale + i * lanes);
    zero.store_aligned(j.zero + i * lanes);
  }
  static NIBBLE_ALWAYS_INLINE vf scale_of(const job& j, std::size_t i) noexcept {
    return vf::load_aligned(j.scale + i * lanes);
  }
  /// Bounds from the sum of squares of clip i, or of some of them.
  static NIBBLE_ALWAYS_INLINE void bound(job& j, std::size_t i, vf sum, bool whole = true) noexcept {
    const vf s = scale_of(j, i), slack = s * s * vf(j.margin.per_step) + j.absolute;
    simd::max(sum * vf(1.0f - j.margin.relative) - slack, vf(0.0f)).store_aligned(j.at_least + i * lanes);
    if (whole) j.least = simd::min(sum * vf(1.0f + j.margin.relative) + slack, j.least);
  }

  /// Sums of clips i and, where there is one, i + 1: two chains, which hide the latency of the additions. add(k, sum) adds
  /// the squares of value k to both.
  template <class Add>
  NIBBLE_ALWAYS_INLINE void two_sums(job& j, std::size_t i, const Add& add) const noexcept {
    constexpr std::size_t piece = 32;
    const vf hopeless = j.least * vf(1.02f);
    vf sum[2] = {vf(0.0f), vf(0.0f)};
    bool whole = true;
    for (std::size_t first = 0; first < j.n && whole; first += piece) {
      const std::size_t end = j.n - first < piece ? j.n : first + piece;
      for (std::size_t k = first; k < end; ++k) add(k, sum);
      // Squares only ever add up: what is hopeless after some of them remains so.
      whole = end == j.n || !simd::all((sum[0] > hopeless) & (sum[1] > hopeless));
    }
    bound(j, i, sum[0], whole);
    if (i + 1 < count_) bound(j, i + 1, sum[1], whole);
  }
  template <class Error>
  NIBBLE_ALWAYS_INLINE void two_errors(job& j, std::size_t i, const Error& one, const Error& two) const noexcept {
    two_sums(j, i, [&](std::size_t k, vf(&sum)[2]) NIBBLE_LAMBDA_INLINE {
      const vf v = vf::load_aligned(j.x + k * lanes), e = one(v), f = two(v);
      sum[0] = madd(e, e, sum[0]);
      sum[1] = madd(f, f, sum[1]);
    });
  }

  template <code_rule Rule>
  [[gnu::noinline]] void affine(job& j) const noexcept {
    const auto fit = params_.fit_of<Rule>();
    const auto error = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      return affine_error<Rule>(codec_, scale_of(j, i), vf::load_aligned(j.zero + i * lanes));
    };
    for (std::size_t i = 0; i < count_ && !hopeless(j, clips_[i]); i += 2) {
      const std::size_t other = i + 1 < count_ ? i + 1 : i;
      fit_clip<Rule>(j, i, fit);
      if (other != i) fit_clip<Rule>(j, other, fit);
      two_errors(j, i, error(i), error(other));
      j.tried = other + 1;
    }
  }

  template <class Table>
  [[gnu::noinline]] void tables(job& j, const Table& table) const noexcept {
    const auto fit = params_.fit_of<code_rule::codebook>();
    const bool magnitudes = together_ > 1 && table.sign_magnitude();
    if (magnitudes)  // levels of both signs are opposite
      for (std::size_t k = 0; k < j.n; ++k) magnitude(vf::load_aligned(j.x + k * lanes)).store_aligned(j.x + k * lanes);
    const auto directly = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      const std::size_t other = i + 1 < count_ ? i + 1 : i;
      two_errors(j, i, looked_up_error<Table>(table, scale_of(j, i)),
                 looked_up_error<Table>(table, scale_of(j, other)));
      return other + 1;
    };
    if (own_rule()) {
      keep(j, own, params_.stored(root_mean_square(j.x, j.n)), vf(0.0f));
      const looked_up_error<Table> error(table, scale_of(j, own));
      vf sum(0.0f);
      for (std::size_t k = 0; k < j.n; ++k) {
        const vf e = error(vf::load_aligned(j.x + k * lanes));
        sum = madd(e, e, sum);
      }
      bound(j, own, sum);
    }
    std::size_t fitted = 0;
    for (std::size_t first = 0; first < count_ && !hopeless(j, clips_[first]);) {
      const std::size_t end = count_ - first < together_ ? count_ : first + together_;
      const std::size_t next = end < count_ ? end : count_ - 1;
      for (; fitted <= next; ++fitted) fit_clip(j, fitted, fit);
      const bool near = together_ > 1 && find_levels(j, first, next, table);
      for (std::size_t i = first; i < end && !(i != first && hopeless(j, clips_[i])); i += 2) {
        if (!near) directly(i);
        else if (levels_ == 2) near_errors<2>(j, i);
        else near_errors<3>(j, i);
        j.tried = i + 1 < count_ ? i + 2 : i + 1;
      }
      first = end;
    }
  }

  /// The levels that each value can take with clips [first, last]: those of both ends and, of three, the one between. False
  /// where they may be more, or where clips in between are not between.
  template <class Table>
  bool find_levels(job& j, std::size_t first, std::size_t last, const Table& table) const noexcept {
    const vf one(1.0f), here = one / scale_of(j, first), there = one / scale_of(j, last);
    mask ordered = scale_of(j, first) <= scale_of(j, last) * vf(ratio_);
    for (std::size_t i = first; i < last; ++i) ordered = ordered & (scale_of(j, i) >= scale_of(j, i + 1));
    const auto find = [&]<bool Three>() {
      for (std::size_t k = 0; k < j.n; ++k) {
        const vf v = vf::load_aligned(j.x + k * lanes);
        vi a(0);
        vf from;
        if (j.reached == first) {
          from = vf::load_aligned(j.level_reached + k * lanes);
          if constexpr (Three) a = vi::load_aligned(j.rank_reached + k * lanes);
        } else {
          a = table.rank(v * here);
          from = table.value(a);
        }
        const vi b = table.rank(v * there);
        const vf to = table.value(b);
        to.store_aligned(j.level_reached + k * lanes);
        simd::min(from, to).store_aligned(j.level[0] + k * lanes);
        simd::max(from, to).store_aligned(j.level[1] + k * lanes);
        if constexpr (Three) {
          b.store_aligned(j.rank_reached + k * lanes);
          table.value(simd::min(simd::min(a, b) + vi(1), simd::max(a, b))).store_aligned(j.level[2] + k * lanes);
        }
      }
    };
    levels_ == 2 ? find.template operator()<false>() : find.template operator()<true>();
    j.reached = last;
    return simd::all(ordered);
  }

  /// As two_errors, from the levels found: of the lowest l and the highest h the error is x - s l or s h - x, whichever is
  /// less: at most one of the two is negative, and then it is the nearest level's. The one between counts by its magnitude.
  template <int Levels>
  [[gnu::noinline]] void near_errors(job& j, std::size_t i) const noexcept {
    const std::size_t other = i + 1 < count_ ? i + 1 : i;
    const vf scale[2] = {scale_of(j, i), scale_of(j, other)}, none(0.0f);
    const vf minus[2] = {none - scale[0], none - scale[1]};
    two_sums(j, i, [&](std::size_t k, vf(&sum)[2]) NIBBLE_LAMBDA_INLINE {
      const vf v = vf::load_aligned(j.x + k * lanes), minus_v = none - v;
      const vf low = vf::load_aligned(j.level[0] + k * lanes), high = vf::load_aligned(j.level[1] + k * lanes);
      NIBBLE_UNROLL
      for (std::size_t c = 0; c < 2; ++c) {
        vf e = simd::min(madd(minus[c], low, v), madd(scale[c], high, minus_v));
        if constexpr (Levels == 3)
          e = simd::min(e, magnitude(madd(minus[c], vf::load_aligned(j.level[2] + k * lanes), v)));
        sum[c] = madd(e, e, sum[c]);
      }
    });
  }

  /// Whether the format's own rule is no clip.
  bool own_rule() const noexcept {
    return codec_.format.rule == code_rule::codebook && codec_.book.scaling == codebook_scaling::rms;
  }

  void finish(const job& j, std::size_t groups, clips_of_lanes& found) const noexcept {
    const vf none(0.0f), one(1.0f);
    vf open = none, scale = none, zero = none;
    const auto add = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      const mask m = vf::load_aligned(j.at_least + i * lanes) <= j.least;
      open = open + simd::select(m, one, none);
      scale = simd::select(m, scale_of(j, i), scale);
      zero = simd::select(m, vf::load_aligned(j.zero + i * lanes), zero);
    };
    for (std::size_t i = 0; i < j.tried; ++i) add(i);
    if (own_rule()) add(own);
    scale.store_aligned(found.scale);
    zero.store_aligned(found.zero);
    alignas(64) float alive[lanes], count[lanes], least[lanes];
    j.alive.store_aligned(alive);
    open.store_aligned(count);
    j.least.store_aligned(least);
    for (std::size_t g = 0; g < groups; ++g) {
      found.known[g] = alive[g] != 0.0f;
      found.decided[g] = found.known[g] && count[g] == 1.0f;
      if (found.decided[g] || !found.known[g]) continue;
      found.open[g] = 0;
      for (std::size_t i = 0; i < j.tried; ++i)
        found.open[g] |= std::uint64_t{j.at_least[i * lanes + g] <= least[g] ? 1u : 0u} << i;
    }
  }

  const quant::group_codec& codec_;
  const params_lanes& params_;
  const table_planes& table_;
  std::size_t count_;         // clips
  std::size_t together_ = 1;  // clips whose levels are found together; 1: each value's level is looked up
  std::size_t levels_ = 2;    // of each value, then
  float ratio_ = 1.0f;        // of the scales of such clips, at most: else values could take more levels
  float slack_ = 0.0f;        // table_slack
  float clips_[clip_bounds::most];
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
