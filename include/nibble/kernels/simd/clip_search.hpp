// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The errors of many clips on the native register width. Bounds of them all: one clip a lane, so that nothing is added
/// across lanes and the parameters of all clips are found side by side. The error of one clip by the law: one value a lane.

#include <concepts>
#include <cstring>
#include <limits>
#include <optional>

#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/scalar/group_codec.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/clip_error.hpp>
#include <nibble/kernels/simd/clip_lanes.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/table_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// `bound` is what simd::error_margin says, with one clip a lane; additions are made in runs of `run_length`, then of the
/// runs.
template <std::same_as<simd::isa_type> Isa>
struct clip_search<Isa> {
  using isa_type = simd::isa_type;

  clip_search(const quant::group_codec& codec, const float* clips, std::size_t count) noexcept
      : codec_(codec), count_(count), padded_(round_up(count, 2 * lanes)), params_(codec_) {
    for (std::size_t i = 0; i < padded_; ++i)
      clips_[i] = clips[i < count ? i : count - 1];  // the last one several times
    if (codec.format.rule == code_rule::codebook) {
      table_ = simd::table_planes(codec.book);
      slack_ = simd::table_slack(codec.book);
      set_levels();
    }
    lanes_.emplace(codec_, params_, table_, clips, count);
  }
  clip_search(const clip_search&) = delete;
  clip_search& operator=(const clip_search&) = delete;

  void run(const float* x, std::size_t group, std::size_t count, quant::group_params* params) const noexcept {
    std::size_t g = 0;
    // Half a register of groups takes as long as a whole one.
    while (group <= simd::clip_lanes::most && count - g >= lanes / 2) {
      const std::size_t n = count - g < lanes ? count - g : lanes;
      simd::clips_of_lanes found;
      lanes_->search(x + g * group, group, n, found);
      for (std::size_t i = 0; i < n; ++i) {
        const float* const at = x + (g + i) * group;
        if (found.decided[i]) params[g + i] = {found.scale[i], found.zero[i]};
        else if (found.known[i]) params[g + i] = among(at, group, {true, found.open[i]});
        else params[g + i] = one(at, group);
      }
      g += n;
    }
    for (; g < count; ++g) params[g] = one(x + g * group, group);
  }

  void bound(quant::value_range range, const float* x, std::size_t n, clip_bounds& bounds) const noexcept {
    bounds.known = false;
    const float greatest = quant::greatest_magnitude(range);
    if (!(greatest >= 0x1p-40f && greatest <= 0x1p40f)) return;  // squares stay far from the ends of float
    job j{x, n, count_, padded_, bounds, {}, {}};
    fit(range, j);
    const vf none(0.0f), most(0x1p60f);
    for (std::size_t i = 0; i < padded_; i += lanes) {
      const vf s = vf::load_aligned(j.scale + i);
      if (!simd::all((s > none) & (s < most))) return;
    }

    const code_rule rule = codec_.format.rule;
    const simd::error_margin margin = simd::margin_of(codec_, slack_, n, run_length + n / run_length);
    j.per_step = margin.per_step;
    j.absolute = margin.absolute * greatest * greatest;
    j.relative = margin.relative;
    switch (rule) {
      case code_rule::symmetric: return errors<affine<code_rule::symmetric>>(j, codec_);
      case code_rule::symmetric_full: return errors<affine<code_rule::symmetric_full>>(j, codec_);
      case code_rule::mid_rise: return errors<affine<code_rule::mid_rise>>(j, codec_);
      case code_rule::asymmetric: return errors<affine<code_rule::asymmetric>>(j, codec_);
      case code_rule::asymmetric_offset: return errors<affine<code_rule::asymmetric_offset>>(j, codec_);
      case code_rule::codebook: break;
    }
    // The values that small clips cut off come first: most of those clips are hopeless after them. (Affine
    // errors cost less than the sorting.)
    float sorted[most_sorted];
    if (n <= most_sorted) {
      std::size_t front = 0, back = n;
      const float half = 0.5f * greatest;
      for (std::size_t i = 0; i < n; ++i) {
        // To both ends, of which one stays: which one cannot be foretold, so it must not be a branch.
        const float v = x[i];
        const std::size_t large = (v < 0.0f ? -v : v) > half ? 1 : 0;
        sorted[front] = sorted[back - 1] = v;
        front += large;
        back -= 1 - large;
      }
      j.x = sorted;
    }
    simd::with_table(table_, [&]<class Table>(const Table& table) {
      const search_table<Table> format{table, levels_, between_};
      switch (between_) {
        case none_between: break;
        case 0: errors<neighbours<Table, 0>>(j, format); break;
        case 1: errors<neighbours<Table, 1>>(j, format); break;
        default: errors<neighbours<Table, -1>>(j, format); break;
      }
      if (!bounds.known) errors<looked_up<Table>>(j, format);
    });
  }

  double squared_error(quant::group_params p, const float* x, std::size_t n, double limit) const noexcept {
    const bool by_product =
        codec_.format.rule == code_rule::codebook && codec_.book.scaling == codebook_scaling::absmax_reciprocal;
    const float inverse = by_product ? quant::detail::reciprocal_for(codec_.book, p.scale) : 0.0f;
    if (codec_.format.rule != code_rule::codebook || p.scale == 0.0f || (by_product && inverse == 0.0f))
      return clip_search<isa::scalar>(codec_, nullptr, 0).squared_error(p, x, n, limit);
    quant::block_sum sum;
    simd::with_table(table_, [&](const auto& table) {
      const auto multiplied = [=](vf v) NIBBLE_LAMBDA_INLINE { return v * vf(inverse); };
      const auto divided = [=](vf v) NIBBLE_LAMBDA_INLINE { return v / vf(p.scale); };
      by_product ? add_errors(table, p.scale, multiplied, x, n, limit, sum)
                 : add_errors(table, p.scale, divided, x, n, limit, sum);
    });
    return sum.total();
  }

 private:
  using vf = simd::vf;
  using vi = simd::vi;
  static constexpr std::size_t lanes = simd::lanes;
  static constexpr std::size_t run_length = 16, most_sorted = 512;

  struct job {
    const float* x;
    std::size_t n, count, padded;  // clips, and that rounded up to whole rounds
    clip_bounds& bounds;
    alignas(64) float scale[clip_bounds::most];
    alignas(64) float zero[clip_bounds::most];
    float per_step = 0.0f, absolute = 0.0f, relative = 0.0f;  // slack in squares of the scale, alone, of the sum
  };
  static_assert(clip_bounds::most % (2 * lanes) == 0);

  void fit(quant::value_range range, job& j) const noexcept {
    alignas(64) float lo[clip_bounds::most] = {}, hi[clip_bounds::most] = {};
    if (codec_.format.rule == code_rule::asymmetric_offset) {
      for (std::size_t i = 0; i < padded_; ++i) {
        const quant::value_range r = quant::detail::clipped(codec_.format.rule, range, clips_[i]);
        lo[i] = r.lo;
        hi[i] = r.hi;
      }
    } else {  // the same without a question for each
      for (std::size_t i = 0; i < padded_; i += lanes) {
        const vf clip = vf::load_aligned(clips_ + i);
        (vf(range.lo) * clip).store_aligned(lo + i);
        (vf(range.hi) * clip).store_aligned(hi + i);
      }
    }
    params_.run(lo, hi, padded_, j.scale, j.zero);
  }

  /// mse_search of one group.
  quant::group_params one(const float* x, std::size_t n) const noexcept {
    quant::range_scan scan;
    scan.add(x, n);
    if (!scan.finite()) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
    clip_bounds bounds;
    bound(scan.range(), x, n, bounds);
    return among(x, n, bounds.open_clips(), scan.range());
  }
  quant::group_params among(const float* x, std::size_t n, const quant::detail::open_clips& open) const noexcept {
    quant::range_scan scan;
    scan.add(x, n);
    return among(x, n, open, scan.range());
  }
  /// Few clips are left whose error must be known by the law.
  [[gnu::noinline]] quant::group_params among(const float* x, std::size_t n, const quant::detail::open_clips& open,
                                              quant::value_range range) const noexcept {
    return quant::detail::fit_mse(codec_, quant::contiguous_source{x, n}, range, static_cast<int>(count_), open,
                                  [&](quant::group_params p, double limit) { return squared_error(p, x, n, limit); });
  }

  /// The law's errors of x[0, n), x in units of the scale by `normalised`; as squared_error, a piece at a time.
  template <class Table, class Normalised>
  static void add_errors(const Table& table, float scale, Normalised normalised, const float* x, std::size_t n,
                         double limit, quant::block_sum& sum) noexcept {
    constexpr std::size_t piece = 256;
    float error[piece];
    const auto one = [&](vf v) NIBBLE_LAMBDA_INLINE {
      const vf level = table.value(table.rank(normalised(v)));
      // The product is exact: fused or not, the difference is rounded once.
      return simd::in_doubles(v, level, [=](simd::doubles::native of, simd::doubles::native at) NIBBLE_LAMBDA_INLINE {
        return of - simd::doubles::each(static_cast<double>(scale)) * at;
      });
    };
    for (std::size_t first = 0; first < n; first += piece) {
      const std::size_t count = n - first < piece ? n - first : piece, whole = count - count % lanes;
      for (std::size_t i = 0; i < whole; i += lanes) one(simd::load(x + first + i)).store_unaligned(error + i);
      if (whole < count) {
        alignas(64) float rest[lanes] = {};
        std::memcpy(rest, x + first + whole, (count - whole) * sizeof(float));
        one(vf::load_aligned(rest)).store_aligned(rest);
        std::memcpy(error + whole, rest, (count - whole) * sizeof(float));
      }
      sum.add(error, count, [](float e) { return static_cast<double>(e) * static_cast<double>(e); });
      if (first + piece < n && sum.total() > limit) return;
    }
  }

  template <code_rule Rule>
  struct affine_error : simd::affine_error<Rule> {
    affine_error(const job& j, std::size_t first, const quant::group_codec& c) noexcept
        : simd::affine_error<Rule>(c, vf::load_aligned(j.scale + first), vf::load_aligned(j.zero + first)) {}
  };

  /// One format's errors for two registers of clips, from x[0, count) added to part.
  template <class Error>
  struct both {
    template <class Format>
    both(const job& j, std::size_t first, const Format& f) noexcept : one(j, first, f), two(j, first + lanes, f) {}
    static constexpr std::size_t first_run = 4;
    NIBBLE_ALWAYS_INLINE bool add(const float* x, std::size_t count, vf (&part)[2]) const noexcept {
      const auto add_one = [&](std::size_t k) NIBBLE_LAMBDA_INLINE {
        const vf v(x[k]), e = one(v), f = two(v);
        part[0] = simd::madd(e, e, part[0]);
        part[1] = simd::madd(f, f, part[1]);
      };
      if (count == run_length)
        for (std::size_t k = 0; k < run_length; ++k) add_one(k);
      else
        for (std::size_t k = 0; k < count; ++k) add_one(k);
      return true;
    }
    Error one, two;
  };

  template <code_rule Rule>
  using affine = both<affine_error<Rule>>;

  /// A table, its levels in the order of their ranks, and between_.
  template <class Table>
  struct search_table {
    const Table& table;
    const float* levels;
    int between;
  };
  template <class Table>
  struct looked_up_error : simd::looked_up_error<Table> {
    looked_up_error(const job& j, std::size_t first, const search_table<Table>& t) noexcept
        : simd::looked_up_error<Table>(t.table, vf::load_aligned(j.scale + first)) {}
  };
  template <class Table>
  using looked_up = both<looked_up_error<Table>>;

  /// The same for tables whose levels ascend with their ranks, without a search in each lane. The clips of a register are
  /// neighbours: a value's ranks with the first of them and with the first of the next register lie close together (else
  /// add() says no), and all lanes take one of the same few levels, the nearest one. From the lowest l and the highest h its
  /// error is x - s l or s h - x, whichever is less: at most one of the two is negative, and then it is the nearest level's.
  /// Those between count by their magnitude. Between: how many they are, or -1 when known only at run time.
  template <class Table, int Between>
  struct neighbours {
    static constexpr std::size_t first_run = lanes < 8 ? 8 : lanes;

    neighbours(const job& j, std::size_t first, const search_table<Table>& t) noexcept
        : table(t.table), levels(t.levels), between(static_cast<std::size_t>(Between < 0 ? t.between : Between)) {
      for (std::size_t v = 0; v < 2; ++v) {
        scale[v] = vf::load_aligned(j.scale + first + v * lanes);
        minus_scale[v] = vf(0.0f) - scale[v];
        inverse[v] = vf(1.0f / j.scale[first + v * lanes]);
      }
      const std::size_t next = first + 2 * lanes;
      inverse[2] = vf(1.0f / j.scale[next < j.padded ? next : j.padded - 1]);
      for (std::size_t v = 0; v < 2; ++v) {
        const vf each = vf(1.0f) / scale[v];
        ordered = ordered && simd::all((each >= inverse[v]) & (each <= inverse[v + 1]));
      }
    }
    NIBBLE_ALWAYS_INLINE bool add(const float* x, std::size_t count, vf (&part)[2]) const noexcept {
      alignas(64) float plus[run_length], minus[run_length];
      alignas(64) std::int32_t lower[2][run_length];
      if (!ordered) return false;
      if (count % lanes != 0) {  // whole registers are read
        std::memset(plus, 0, sizeof plus);
        std::memcpy(plus, x, count * sizeof(float));
        x = plus;
      }
      vi apart(0);
      for (std::size_t k = 0; k < count; k += lanes) {
        vf v = simd::load(x + k);
        if (table.sign_magnitude()) v = simd::magnitude(v);  // levels of both signs are opposite
        v.store_aligned(plus + k);
        (vf(0.0f) - v).store_aligned(minus + k);
        const vi rank[3] = {table.rank(v * inverse[0]), table.rank(v * inverse[1]), table.rank(v * inverse[2])};
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < 2; ++i) {
          const vi low = simd::min(rank[i], rank[i + 1]);
          apart = simd::max(apart, simd::max(rank[i], rank[i + 1]) - low);
          low.store_aligned(lower[i] + k);
        }
      }
      if (!simd::all(simd::to_float(apart) <= vf(static_cast<float>(between + 1)))) return false;
      const auto add_one = [&](std::size_t k) NIBBLE_LAMBDA_INLINE {
        const vf at(plus[k]), minus_at(minus[k]);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < 2; ++i) {
          const float* const level = levels + lower[i][k];
          const std::size_t last = Between < 0 ? between + 1 : static_cast<std::size_t>(Between + 1);
          vf e =
              simd::min(simd::madd(minus_scale[i], vf(level[0]), at), simd::madd(scale[i], vf(level[last]), minus_at));
          for (std::size_t m = 1; m < last; ++m)
            e = simd::min(e, simd::magnitude(simd::madd(minus_scale[i], vf(level[m]), at)));
          part[i] = simd::madd(e, e, part[i]);
        }
      };
      if (count == run_length)
        for (std::size_t k = 0; k < run_length; ++k) add_one(k);
      else
        for (std::size_t k = 0; k < count; ++k) add_one(k);
      return true;
    }
    const Table& table;
    const float* levels;
    std::size_t between;
    vf scale[2], minus_scale[2], inverse[3];
    bool ordered = true;  // whether all clips of a register lie between its first and that of the next one
  };

  template <class Pair, class Format>
  static void errors(const job& j, const Format& format) noexcept {
    const vf more(1.0f + j.relative), less(1.0f - j.relative);
    vf at_most(std::numeric_limits<float>::max());
    float least = std::numeric_limits<float>::max();
    alignas(64) float each[lanes];
    for (std::size_t first = 0; first < j.padded; first += 2 * lanes) {
      const Pair pair(j, first, format);
      const vf hopeless(least * 1.02f);
      vf sum[2] = {vf(0.0f), vf(0.0f)};
      bool whole = true;
      for (std::size_t i = 0; i < j.n;) {
        vf part[2] = {vf(0.0f), vf(0.0f)};
        const std::size_t length = i == 0 ? Pair::first_run : run_length, count = j.n - i < length ? j.n - i : length;
        if (!pair.add(j.x + i, count, part)) return;
        i += count;
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
    std::uint64_t open = 0;
    for (std::size_t first = 0; first < j.count; first += lanes) {
      if (!simd::any(simd::load(j.bounds.at_least + first) <= vf(least))) continue;  // most of the time
      for (std::size_t i = first; i < first + lanes && i < j.count; ++i)
        open |= std::uint64_t{j.bounds.at_least[i] <= least ? 1u : 0u} << i;
    }
    j.bounds.open = open;
    j.bounds.known = true;
  }

  /// For tables whose levels ascend, and their thresholds between them: the levels by rank, the last one repeated, and how
  /// many there are at most between the lowest and the highest that one value takes with the clips of a register.
  void set_levels() noexcept {
    if (!simd::levels_ascend(table_, codec_.book)) return;
    const std::size_t ranks = std::size_t{1} << table_.steps;
    std::memcpy(levels_, table_.values, ranks * sizeof(float));
    for (std::size_t i = 0; i <= static_cast<std::size_t>(most_between); ++i) levels_[ranks + i] = levels_[ranks - 1];
    float ratio = 1.0f;
    for (std::size_t i = 0; i < padded_; i += lanes) {
      const float r = clips_[i] / clips_[i + lanes < padded_ ? i + lanes : padded_ - 1];
      ratio = r > ratio ? r : ratio;
    }
    ratio *= 1.002f;  // stored scales are rounded
    int crossed = 1;
    while (crossed <= most_between && simd::ratio_for(codec_.book, crossed) <= ratio) ++crossed;
    if (crossed <= most_between) between_ = crossed - 1;
  }

  static constexpr int none_between = -1, most_between = 30;

  const quant::group_codec& codec_;
  std::size_t count_, padded_;  // clips, and that rounded up to whole rounds
  simd::params_lanes params_;
  int between_ = none_between;  // see set_levels; none_between: the levels do not ascend, or are too many
  float slack_ = 0.0f;          // table_slack
  alignas(64) float clips_[clip_bounds::most];
  float levels_[256 + most_between + 1] = {};
  simd::table_planes table_;
  std::optional<simd::clip_lanes> lanes_;  // refers to the members above
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
