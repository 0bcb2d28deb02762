// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Super-blocks of GGUF files with less squared error than the search of the original leaves, in the same bytes. That search
/// weighs values by their size, finds scale and minimum of each sub-block alone and rounds them afterwards. Here a super-block
/// is fitted as a whole, for the least sum of importance times squared error of what a reader decodes:
///
///   1. each sub-block alone: trial grids, codes, least squares, once more with the codes of the best
///   2. d and dmin: those that lose least when the scales and minima found are rounded, by the parabola of each sub-block
///   3. integer scales and minima near those: the exact error, codes chosen anew for each
///   4. d and dmin again, by least squares over the super-block; 3 again; kept where the error is less
///
/// The searches are written for a register type of `L`, one super-block a lane, and read value i of all lanes at
/// x + i * L::width. A lane never looks at another, and every sum has one order, so the bytes are the same on every ISA.

#include <cstddef>
#include <cstdint>
#include <limits>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/ggml_block256.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {

/// A super-block as a search found it: codes as stored, from 0 up.
struct super_block_parts {
  float d = 0.0f, dmin = 0.0f;  ///< halves
  int scales[16] = {}, mins[16] = {};
  std::uint8_t codes[256];
};

namespace detail {

/// Plain floats as registers of one lane. max and min give the second operand where the first is NaN, as SIMD does.
struct one_lane {
  using f = float;
  using mask = bool;
  static constexpr std::size_t width = 1;
  static f load(const float* p) noexcept { return *p; }
  static void store(f v, float* p) noexcept { *p = v; }
  static f product(f a, f b) noexcept { return rounded_product(a, b); }
  static f select(mask m, f a, f b) noexcept { return m ? a : b; }
  static f max(f a, f b) noexcept { return a > b ? a : b; }
  static f min(f a, f b) noexcept { return a < b ? a : b; }
  static f nearest(f x, f lo, f hi) noexcept { return min(max(round_half_even_f(x), lo), hi); }
  /// The value that a half leaves of x.
  static f stored(f x) noexcept { return to_float(to_half(x)); }
};

/// Weights of a super-block from the importance of its columns: the greatest is 1, none so small that sums lose it.
inline void fit_weights(const float* importance, float* weights) noexcept {
  float greatest = 0.0f;
  for (std::size_t i = 0; i < 256; ++i) greatest = importance[i] > greatest ? importance[i] : greatest;
  constexpr float least = 0x1p-20f;
  for (std::size_t i = 0; i < 256; ++i) {
    const float w = greatest > 0.0f ? importance[i] / greatest : 1.0f;
    weights[i] = w > least ? w : least;
  }
}

/// How steps 1 and 3 go about it. Trial k of step 1 divides the range of the values by Max + first + k * step, from its least
/// value on, and then from `shift` times the range above that; without a minimum it shrinks the grid on which the extremes are the
/// last codes by 1 + first + k * step.
struct fit_steps {
  float first, step;
  int trials;
  float shift;
  int shifts;  ///< 1: from the least value alone
  int reach;   ///< how far from the rounded scale step 3 looks at first; then 1
};

/// Sums over the codes l of a sub-block with weights w: w l, w l^2, and w t l of values t.
template <class L>
struct fit_sums {
  typename L::f l, l2, tl;
};

/// What both searches share: the values, their weights, and the error of a sub-block.
template <class L, std::size_t N, int Least, int Most, bool Weighted>
class fit_base {
 public:
  using f = typename L::f;
  using mask = typename L::mask;
  static constexpr std::size_t subs = 256 / N;

  fit_base(const float* x, const float* w) noexcept : x_(x), w_(w) {}

 protected:
  static f whole(int v) noexcept { return f(static_cast<float>(v)); }
  static f inverse(f v) noexcept { return L::select(v == f(0.0f), f(0.0f), f(1.0f) / v); }
  static f clamped(f v, int lo, int hi) noexcept { return L::min(L::max(v, whole(lo)), whole(hi)); }
  f value(std::size_t i) const noexcept { return L::load(x_ + i * L::width); }
  f weight(std::size_t i) const noexcept { return L::load(w_ + i * L::width); }
  f weighed(std::size_t i, f v) const noexcept {
    if constexpr (Weighted) return L::product(weight(i), v);
    else return v;
  }
  /// The code of x + min on a grid of 1 / inverse.
  f code(std::size_t i, f inverse, f min) const noexcept {
    return L::nearest(L::product(value(i) + min, inverse), whole(Least), whole(Most));
  }
  /// Codes of values + min; t = values + origin.
  fit_sums<L> sums(std::size_t j, f inverse, f min, f origin) const noexcept {
    fit_sums<L> s{f(0.0f), f(0.0f), f(0.0f)};
    for (std::size_t i = j * N; i < j * N + N; ++i) {
      const f l = code(i, inverse, min), wl = weighed(i, l);
      s.l = s.l + wl;
      s.l2 = s.l2 + L::product(wl, l);
      s.tl = s.tl + L::product(wl, value(i) + origin);
    }
    return s;
  }
  /// What decoding leaves of sub-block j with the codes that suit scale and min best: a half times small integers times a code is
  /// exact, so this is the error of the bytes.
  f error(std::size_t j, f scale, f min) const noexcept {
    const f inv = inverse(scale);
    f sum(0.0f);
    for (std::size_t i = j * N; i < j * N + N; ++i) {
      const f t = value(i) + min, l = L::nearest(L::product(t, inv), whole(Least), whole(Most)), e = scale * l - t;
      sum = sum + weighed(i, L::product(e, e));
    }
    return sum;
  }
  template <class F>
  static void each_lane(f v, F take) noexcept {
    alignas(64) float lanes[L::width];
    L::store(v, lanes);
    for (std::size_t lane = 0; lane < L::width; ++lane) take(lane, lanes[lane]);
  }
  static f total(const f (&errors)[subs]) noexcept {
    f sum = errors[0];
    for (std::size_t j = 1; j < subs; ++j) sum = sum + errors[j];
    return sum;
  }

  const float* x_;
  const float* w_;
};

/// x ~ (d s) l - dmin m with codes l in [0, Max] and integers s, m in [0, Top]: Q2_K, Q4_K, Q5_K.
template <class L, std::size_t N, int Max, int Top, bool Weighted>
class affine_fit : public fit_base<L, N, 0, Max, Weighted> {
  using base = fit_base<L, N, 0, Max, Weighted>;

 public:
  using base::subs;
  using typename base::f;
  using typename base::mask;

  f d = f(0.0f), dmin = f(0.0f), scales[subs], mins[subs];

  affine_fit(const float* x, const float* w, fit_steps steps) noexcept : base(x, w) {
    for (std::size_t j = 0; j < subs; ++j) find(j, steps);
    share();
    f errors[subs];
    search(steps.reach, errors);
    const f before = base::total(errors), old_d = d, old_dmin = dmin;
    f old_scales[subs], old_mins[subs];
    for (std::size_t j = 0; j < subs; ++j) old_scales[j] = scales[j], old_mins[j] = mins[j];
    solve_shared();
    search(1, errors);
    const mask better = base::total(errors) < before;
    d = L::select(better, d, old_d);
    dmin = L::select(better, dmin, old_dmin);
    for (std::size_t j = 0; j < subs; ++j) {
      scales[j] = L::select(better, scales[j], old_scales[j]);
      mins[j] = L::select(better, mins[j], old_mins[j]);
    }
  }

  /// The code of value i, from 0 up.
  f final_code(std::size_t i) const noexcept {
    return base::code(i, base::inverse(d * scales[i / N]), dmin * mins[i / N]);
  }
  /// All but the codes, lane after lane.
  void store_lanes(super_block_parts* parts) const noexcept {
    base::each_lane(d, [=](std::size_t lane, float v) { parts[lane].d = v; });
    base::each_lane(dmin, [=](std::size_t lane, float v) { parts[lane].dmin = v; });
    for (std::size_t j = 0; j < subs; ++j) {
      base::each_lane(scales[j], [=](std::size_t lane, float v) { parts[lane].scales[j] = static_cast<int>(v); });
      base::each_lane(mins[j], [=](std::size_t lane, float v) { parts[lane].mins[j] = static_cast<int>(v); });
    }
  }

 private:
  /// Step 1. Sums are of t = x - lo, whose squares do not drown in the mean.
  void find(std::size_t j, fit_steps steps) noexcept {
    const f none(0.0f);
    f lo = base::value(j * N), hi = lo, sum_w = none, sum_t = none;
    for (std::size_t i = j * N + 1; i < j * N + N; ++i) {
      lo = L::min(base::value(i), lo);
      hi = L::max(base::value(i), hi);
    }
    lo = L::min(lo, none);
    const f origin = none - lo, range = hi - lo;
    for (std::size_t i = j * N; i < j * N + N; ++i) {
      sum_w = sum_w + base::weighed(i, f(1.0f));
      sum_t = sum_t + base::weighed(i, base::value(i) + origin);
    }
    f best = none;
    scale_[j] = none, min_[j] = origin;
    sum_w_[j] = sum_w, sum_l_[j] = sum_l2_[j] = none;
    const auto attempt = [&](f inverse, f min) {
      const fit_sums<L> s = base::sums(j, inverse, min, origin);
      const f det = L::product(sum_w, s.l2) - L::product(s.l, s.l);
      f scale = (L::product(sum_w, s.tl) - L::product(s.l, sum_t)) / det;
      f offset = (L::product(s.l2, sum_t) - L::product(s.l, s.tl)) / det;
      const mask above = offset > origin;  // a minimum below 0 does not exist
      scale = L::select(above, (s.tl - L::product(origin, s.l)) / s.l2, scale);
      offset = L::select(above, origin, offset);
      // The sum of squares less the error, on the bound as well as inside.
      const f gain = L::product(f(2.0f), L::product(scale, s.tl) + L::product(offset, sum_t)) -
                     L::product(scale, L::product(scale, s.l2) + L::product(f(2.0f), L::product(offset, s.l))) -
                     L::product(offset, L::product(offset, sum_w));
      const mask better = (det > none) & (scale > none) & (gain > best);
      best = L::select(better, gain, best);
      scale_[j] = L::select(better, scale, scale_[j]);
      min_[j] = L::select(better, origin - offset, min_[j]);
      sum_l_[j] = L::select(better, s.l, sum_l_[j]);
      sum_l2_[j] = L::select(better, s.l2, sum_l2_[j]);
    };
    for (int a = 0; a < steps.shifts; ++a)
      for (int k = 0; k < steps.trials; ++k) {
        const float levels =
            static_cast<float>(Max) + (steps.first + rounded_product(steps.step, static_cast<float>(k)));
        const f start = L::product(range, f(rounded_product(steps.shift, static_cast<float>(a))));
        attempt(f(levels) / range, origin - start);
      }
    attempt(f(1.0f) / scale_[j], f(min_[j]));
  }
  /// Step 2. Beside its optimum the error of a sub-block grows with a parabola of both parameters: for a rounded scale the best
  /// minimum moves with it.
  void share() noexcept {
    constexpr int candidates = 5;
    const f none(0.0f), top = base::whole(Top);
    f greatest_scale = none, greatest_min = none;
    for (std::size_t j = 0; j < subs; ++j) {
      greatest_scale = L::max(scale_[j], greatest_scale);
      greatest_min = L::max(min_[j], greatest_min);
      scales[j] = mins[j] = none;
    }
    // What is too large for a half is so in all candidates; it must show in the block.
    d = L::stored(greatest_scale / top);
    dmin = L::stored(greatest_min / top);
    f least(std::numeric_limits<float>::max());
    for (int a = 0; a < candidates; ++a) {
      const f try_d = L::stored(greatest_scale / base::whole(Top - a)), per_d = base::inverse(try_d);
      f try_scales[subs], target[subs], lost = none;
      for (std::size_t j = 0; j < subs; ++j) {
        try_scales[j] = L::nearest(L::product(scale_[j], per_d), none, top);
        const f off = L::product(try_d, try_scales[j]) - scale_[j], mean = sum_l_[j] / sum_w_[j];
        target[j] = min_[j] + L::product(mean, off);
        lost = lost + L::product(sum_l2_[j] - L::product(mean, sum_l_[j]), L::product(off, off));
      }
      for (int b = 0; b < candidates; ++b) {
        const f try_dmin = L::stored(greatest_min / base::whole(Top - b)), per_dmin = base::inverse(try_dmin);
        f try_mins[subs], sum = lost;
        for (std::size_t j = 0; j < subs; ++j) {
          try_mins[j] = L::nearest(L::product(target[j], per_dmin), none, top);
          const f off = L::product(try_dmin, try_mins[j]) - target[j];
          sum = sum + L::product(sum_w_[j], L::product(off, off));
        }
        const mask better = sum < least;
        least = L::select(better, sum, least);
        d = L::select(better, try_d, d);
        dmin = L::select(better, try_dmin, dmin);
        for (std::size_t j = 0; j < subs; ++j) {
          scales[j] = L::select(better, try_scales[j], scales[j]);
          mins[j] = L::select(better, try_mins[j], mins[j]);
        }
      }
    }
  }
  /// Step 3: scales up to `reach` away, each with the minimum that goes with it by the parabola and that one's neighbours.
  void search(int reach, f (&errors)[subs]) noexcept {
    const f ratio = L::product(d, base::inverse(dmin));
    for (std::size_t j = 0; j < subs; ++j) {
      const f scale = scales[j], min = mins[j], slope = L::product(sum_l_[j] / sum_w_[j], ratio);
      errors[j] = base::error(j, d * scale, dmin * min);
      for (int a = -reach; a <= reach; ++a) {
        const f try_scale = base::clamped(scale + base::whole(a), 0, Top);
        const f middle = min + L::nearest(L::product(slope, base::whole(a)), base::whole(-Top), base::whole(Top));
        for (int b = -1; b <= 1; ++b) {
          if (a == 0 && b == 0) continue;
          const f try_min = base::clamped(middle + base::whole(b), 0, Top);
          const f e = base::error(j, d * try_scale, dmin * try_min);
          const mask better = e < errors[j];
          errors[j] = L::select(better, e, errors[j]);
          scales[j] = L::select(better, try_scale, scales[j]);
          mins[j] = L::select(better, try_min, mins[j]);
        }
      }
    }
  }
  /// Step 4: the d and dmin of least squares for the codes, scales and minima as they are.
  void solve_shared() noexcept {
    const f none(0.0f);
    f aa = none, ab = none, bb = none, xa = none, xb = none;  // of a = s l and b = m
    for (std::size_t j = 0; j < subs; ++j) {
      const fit_sums<L> s = base::sums(j, base::inverse(d * scales[j]), dmin * mins[j], none);
      f sum_x = none;
      for (std::size_t i = j * N; i < j * N + N; ++i) sum_x = sum_x + base::weighed(i, base::value(i));
      aa = aa + L::product(L::product(scales[j], scales[j]), s.l2);
      ab = ab + L::product(L::product(scales[j], mins[j]), s.l);
      bb = bb + L::product(L::product(mins[j], mins[j]), sum_w_[j]);
      xa = xa + L::product(scales[j], s.tl);
      xb = xb + L::product(mins[j], sum_x);
    }
    const f det = L::product(aa, bb) - L::product(ab, ab);
    const f new_d = (L::product(xa, bb) - L::product(xb, ab)) / det;
    const f new_dmin = (L::product(xa, ab) - L::product(xb, aa)) / det;
    const mask sound = (det > none) & (new_d > none) & (new_dmin > none);
    d = L::stored(L::select(sound, new_d, d));
    dmin = L::stored(L::select(sound, new_dmin, dmin));
  }

  f scale_[subs], min_[subs];                   ///< of step 1
  f sum_w_[subs], sum_l_[subs], sum_l2_[subs];  ///< what its parabola is made of
};

/// x ~ (d s) l with codes l in [-Half, Half - 1] and integers s in [-Top, Top - 1]: Q3_K, Q6_K. The codes reach further on one
/// side, so that a scale of the other sign is another grid: both are searched.
template <class L, std::size_t N, int Half, int Top, bool Weighted>
class signed_fit : public fit_base<L, N, -Half, Half - 1, Weighted> {
  using base = fit_base<L, N, -Half, Half - 1, Weighted>;

 public:
  using base::subs;
  using typename base::f;
  using typename base::mask;

  f d = f(0.0f), scales[subs];

  signed_fit(const float* x, const float* w, fit_steps steps) noexcept : base(x, w) {
    for (std::size_t j = 0; j < subs; ++j) find(j, steps);
    share();
    f errors[subs];
    const f per_d = base::inverse(d);
    for (std::size_t j = 0; j < subs; ++j) {
      errors[j] = f(std::numeric_limits<float>::infinity());
      for (const sign_fit& found : found_)
        search(j, L::nearest(L::product(found.scale[j], per_d), base::whole(-Top), base::whole(Top - 1)), steps.reach,
               errors[j]);
    }
    const f before = base::total(errors), old_d = d;
    f old_scales[subs];
    for (std::size_t j = 0; j < subs; ++j) old_scales[j] = scales[j];
    solve_shared();
    for (std::size_t j = 0; j < subs; ++j) {
      errors[j] = f(std::numeric_limits<float>::infinity());
      search(j, scales[j], 1, errors[j]);
    }
    const mask better = base::total(errors) < before;
    d = L::select(better, d, old_d);
    for (std::size_t j = 0; j < subs; ++j) scales[j] = L::select(better, scales[j], old_scales[j]);
  }

  /// The code of value i, from 0 up.
  f final_code(std::size_t i) const noexcept {
    return base::code(i, base::inverse(d * scales[i / N]), f(0.0f)) + base::whole(Half);
  }
  /// All but the codes, lane after lane.
  void store_lanes(super_block_parts* parts) const noexcept {
    base::each_lane(d, [=](std::size_t lane, float v) { parts[lane].d = v; });
    for (std::size_t j = 0; j < subs; ++j)
      base::each_lane(scales[j], [=](std::size_t lane, float v) { parts[lane].scales[j] = static_cast<int>(v); });
  }

 private:
  /// The scales of one sign, and how much of the sum of squares each leaves out of the error.
  struct sign_fit {
    f scale[subs], gain[subs], sum_l2[subs];
  };

  /// Step 1: the extreme of either end at the last code of its side.
  void find(std::size_t j, fit_steps steps) noexcept {
    const f none(0.0f);
    f lo = none, hi = none;
    for (std::size_t i = j * N; i < j * N + N; ++i) {
      lo = L::min(base::value(i), lo);
      hi = L::max(base::value(i), hi);
    }
    for (int sign = 0; sign < 2; ++sign) {
      sign_fit& found = found_[sign];
      found.scale[j] = found.gain[j] = found.sum_l2[j] = none;
      // With a positive scale the codes reach from -Half to Half - 1.
      const f low = sign == 0 ? lo : none - hi, high = sign == 0 ? hi : none - lo;
      const auto attempt = [&](f inverse) {
        const fit_sums<L> s = base::sums(j, inverse, none, none);
        const f scale = s.tl / s.l2, gain = L::product(scale, s.tl);
        const mask better = (s.l2 > none) & (gain > found.gain[j]);
        found.gain[j] = L::select(better, gain, found.gain[j]);
        found.scale[j] = L::select(better, scale, found.scale[j]);
        found.sum_l2[j] = L::select(better, s.l2, found.sum_l2[j]);
      };
      const f unit = L::max((none - low) / base::whole(Half), high / base::whole(Half - 1));
      const f direction = f(sign == 0 ? 1.0f : -1.0f);
      for (int k = 0; k < steps.trials; ++k) {
        const float levels = 1.0f + (steps.first + rounded_product(steps.step, static_cast<float>(k)));
        attempt(direction * (f(levels) / unit));
      }
      attempt(f(1.0f) / found.scale[j]);
    }
  }
  /// Step 2, with the better sign of each sub-block.
  void share() noexcept {
    constexpr int candidates = 9;
    const f none(0.0f);
    f extreme = none, greatest = none, best[subs], weight[subs];
    for (std::size_t j = 0; j < subs; ++j) {
      const mask second = found_[1].gain[j] > found_[0].gain[j];
      best[j] = L::select(second, found_[1].scale[j], found_[0].scale[j]);
      weight[j] = L::select(second, found_[1].sum_l2[j], found_[0].sum_l2[j]);
      const f size = L::max(best[j], none - best[j]);
      extreme = L::select(size > greatest, best[j], extreme);
      greatest = L::max(size, greatest);
      scales[j] = none;
    }
    d = L::stored(extreme / base::whole(-Top));
    f least(std::numeric_limits<float>::max());
    for (int a = 0; a < candidates; ++a) {
      const f try_d = L::stored(extreme / base::whole(a - Top)), per_d = base::inverse(try_d);
      f lost = none;
      for (std::size_t j = 0; j < subs; ++j) {
        const f s = L::nearest(L::product(best[j], per_d), base::whole(-Top), base::whole(Top - 1));
        const f off = L::product(try_d, s) - best[j];
        lost = lost + L::product(weight[j], L::product(off, off));
      }
      const mask better = lost < least;
      least = L::select(better, lost, least);
      d = L::select(better, try_d, d);
    }
  }
  /// Step 3 for one sub-block, around an integer scale.
  void search(std::size_t j, f around, int reach, f& error) noexcept {
    for (int a = -reach; a <= reach; ++a) {
      const f scale = base::clamped(around + base::whole(a), -Top, Top - 1);
      const f e = base::error(j, d * scale, f(0.0f));
      const mask better = e < error;
      error = L::select(better, e, error);
      scales[j] = L::select(better, scale, scales[j]);
    }
  }
  /// Step 4.
  void solve_shared() noexcept {
    const f none(0.0f);
    f aa = none, xa = none;
    for (std::size_t j = 0; j < subs; ++j) {
      const fit_sums<L> s = base::sums(j, base::inverse(d * scales[j]), none, none);
      aa = aa + L::product(L::product(scales[j], scales[j]), s.l2);
      xa = xa + L::product(scales[j], s.tl);
    }
    d = L::stored(L::select(aa > none, xa / aa, d));
  }

  sign_fit found_[2];
};

/// block_fit of Q4_K and Q5_K, which differ in the width of codes.
template <class Format, int Max>
struct eight_fit {
  template <class L, bool Weighted>
  using search = affine_fit<L, 32, Max, 63, Weighted>;
  static constexpr fit_steps steps{-2.0f, 0.3f, 11, 0.0f, 1, 3};
  static void store(const super_block_parts& p, std::byte* b) noexcept {
    store_half(p.d, b);
    store_half(p.dmin, b + 2);
    packed_scales::store(p.scales, p.mins, b + 4);
    Format::store_codes(p.codes, b);
  }
};

}  // namespace detail

/// How a format is fitted: the search, its steps, and the bytes of what it found. Only formats that have one are named here.
template <class Format>
struct block_fit;

template <>
struct block_fit<q2_k> {
  template <class L, bool Weighted>
  using search = detail::affine_fit<L, 16, 3, 15, Weighted>;
  static constexpr detail::fit_steps steps{-0.6f, 0.4f, 5, 0.08f, 3, 2};
  static void store(const super_block_parts& p, std::byte* b) noexcept {
    q2_k::store(p.scales, p.mins, p.codes, b);
    detail::store_half(p.d, b + 80);
    detail::store_half(p.dmin, b + 82);
  }
};
template <>
struct block_fit<q3_k> {
  template <class L, bool Weighted>
  using search = detail::signed_fit<L, 16, 4, 32, Weighted>;
  static constexpr detail::fit_steps steps{-0.15f, 0.1f, 8, 0.0f, 1, 2};
  static void store(const super_block_parts& p, std::byte* b) noexcept {
    q3_k::store(p.scales, p.codes, b);
    detail::store_half(p.d, b + 108);
  }
};
template <>
struct block_fit<q4_k> : detail::eight_fit<q4_k, 15> {};
template <>
struct block_fit<q5_k> : detail::eight_fit<q5_k, 31> {};
template <>
struct block_fit<q6_k> {
  template <class L, bool Weighted>
  using search = detail::signed_fit<L, 16, 32, 128, Weighted>;
  static constexpr detail::fit_steps steps{-0.04f, 0.01f, 8, 0.0f, 1, 2};
  static void store(const super_block_parts& p, std::byte* b) noexcept {
    q6_k::store(p.scales, p.codes, b);
    detail::store_half(p.d, b + 208);
  }
};

/// Formats that fit_ggml_blocks (kernels/ggml_blocks.hpp) can write.
template <class Format>
concept fitted_block = requires {
  block_fit<Format>::steps;
};

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
