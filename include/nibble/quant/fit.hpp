// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Fitters: how a group's scale (and zero) is found. Each works on a source of values, `source.for_each_run(f)` with
/// f(const float* x, size_t n), whose elements are finite and which may be walked several times: no copy of a group that
/// spans a whole matrix is made.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/affine.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/range.hpp>

namespace nibble {

/// How the parameters of a group are found.
enum class fitter : std::uint8_t {
  min_max,        ///< the format's own rule: the range (affine, NF4, FP4) or the root mean square (Lloyd-Max)
  percentile,     ///< the range without the most extreme values
  mse_search,     ///< the clip of the range, in [0.3, 1], of least squared error
  least_squares,  ///< codes and scale in turn, scale = <x, t> / <t, t>, from the format's own rule until it stays
};

/// Parameters of the fitters.
struct fit_options {
  fitter method = fitter::min_max;
  double percentile = 0.999;  ///< share of values kept inside the range, (0, 1]
  int clips = 64;             ///< clips tried by mse_search, at least 2; 0.3 and 1 are always among them
};

inline namespace NIBBLE_ABI {
namespace quant {
namespace detail {

/// The k-th smallest (k from 0) of key(x) over a source, exactly, without copying it: the key's 32 bits are found from the
/// top down, 11, 11 and 10 at a time, by counting.
template <class Source, class Key>
std::uint32_t select_key(const Source& source, std::uint64_t k, Key key) {
  std::uint32_t prefix = 0;
  int shift = 32;
  constexpr int digits[] = {11, 11, 10};
  for (const int digit_bits : digits) {
    std::array<std::uint64_t, 2048> count{};
    const int known = shift;
    shift -= digit_bits;
    const std::uint32_t mask = (1u << digit_bits) - 1u;
    source.for_each_run([&](const float* x, std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t v = key(x[i]);
        if (known == 32 || v >> known == prefix) ++count[v >> shift & mask];
      }
    });
    std::uint32_t digit = 0;
    while (k >= count[digit]) k -= count[digit++];
    prefix = known == 32 ? digit : prefix << digit_bits | digit;
  }
  return prefix;
}

/// Unsigned keys that order as the floats do, and back.
constexpr std::uint32_t float_key(float x) noexcept {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x);
  return u >> 31 != 0 ? ~u : u | 0x80000000u;
}
constexpr float float_of_key(std::uint32_t key) noexcept {
  return std::bit_cast<float>(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

/// The range that holds the share p of all values: of the magnitudes for symmetric grids and codebooks, else with equal
/// tails on both sides. Ranks are rounded outwards.
template <class Source>
value_range percentile_range(const group_codec& c, const Source& source, double p) {
  const std::uint64_t count = source.count();
  const auto cut = [&](double share) {  // values that may lie outside on one side
    return static_cast<std::uint64_t>(share * static_cast<double>(count));
  };
  const auto lesser = [](std::uint64_t a, std::uint64_t b) { return a < b ? a : b; };
  if (!has_zeros(c.format)) {
    const std::uint64_t outside = lesser(cut(1.0 - p), count - 1);
    const std::uint32_t a =
        select_key(source, count - 1 - outside, [](float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; });
    return {-std::bit_cast<float>(a), std::bit_cast<float>(a)};
  }
  const std::uint64_t outside = lesser(cut((1.0 - p) / 2.0), (count - 1) / 2);
  return {float_of_key(select_key(source, outside, float_key)),
          float_of_key(select_key(source, count - 1 - outside, float_key))};
}

/// The range shrunk by `clip`: towards 0, or towards its middle for grids that need not hold 0.
inline value_range clipped(code_rule rule, value_range r, float clip) noexcept {
  if (rule != code_rule::asymmetric_offset) return {r.lo * clip, r.hi * clip};
  // In double: the range may exceed the greatest float. Fused by name: left to the compiler, the products might be fused
  // into the sums, or not.
  const double middle = 0.5 * (static_cast<double>(r.lo) + static_cast<double>(r.hi));
  const double reach = 0.5 * (static_cast<double>(r.hi) - static_cast<double>(r.lo)), share = static_cast<double>(clip);
  return {static_cast<float>(__builtin_fma(-reach, share, middle)),
          static_cast<float>(__builtin_fma(reach, share, middle))};
}

/// The squared error of coding a source, or some number > `limit` when it is greater than that.
template <class Source>
double squared_error(const group_codec& c, const Source& source, group_params p, double limit = __builtin_inf()) {
  // Squares only ever add up, so a sum above the limit stays there.
  constexpr std::size_t piece = 256;
  block_sum sum;
  bool open = true;
  source.for_each_run([&](const float* x, std::size_t n) {
    for (std::size_t i = 0; i < n && open; i += piece) {
      add_squared_error(c, p, x + i, n - i < piece ? n - i : piece, sum);
      open = !(sum.total() > limit);
    }
  });
  return sum.total();
}

template <class Source>
double mean_square(const Source& source) {
  lane_sum sum;
  source.for_each_run([&](const float* x, std::size_t n) {
    sum.add(x, n, [](float v) { return static_cast<double>(v) * static_cast<double>(v); });
  });
  return sum.total() / static_cast<double>(source.count());
}

/// The parameters that spread the format over a range.
constexpr group_params params_for_range(const group_codec& c, value_range range) noexcept {
  if (c.format.rule != code_rule::codebook) return affine_params(c.format.rule, c.format.bits, c.format.scale, range);
  return {as_stored(c.format.scale, greatest_magnitude(range) / c.book.greatest), 0.0f};
}

constexpr bool finite(group_params p) noexcept { return is_finite(p.scale) && is_finite(p.zero); }

/// The format's own rule.
template <class Source>
group_params fit_own_rule(const group_codec& c, const Source& source, value_range range) {
  if (c.format.rule == code_rule::codebook && c.book.scaling == codebook_scaling::rms)
    return codebook_params(c.book, c.format.scale, range, mean_square(source));
  return params_for_range(c, range);
}

/// Clip i of `clips`, evenly spread from 1 down to 0.3.
inline float clip_at(int i, int clips) noexcept {
  return i == clips - 1 ? 0.3f : static_cast<float>(1.0 - 0.7 * i / (clips - 1));
}

constexpr bool same(group_params a, group_params b) noexcept { return a.scale == b.scale && a.zero == b.zero; }

/// Which clips the caller of fit_mse knows to have an error that another one's is less than. Bit i: clip i may have the least.
struct open_clips {
  static constexpr int most = 64;
  bool known = false;  ///< false: any may, however many there are
  std::uint64_t bits = 0;
  bool rules_out(int i) const noexcept { return known && (bits >> i & 1u) == 0; }
};

/// The parameters of least squared error among the format's own rule and `clips` clips of the range. Of equal errors the
/// own rule wins, then the greater clip. Clips that `open` rules out are none of least error, and only those have a say.
/// error_of(p, limit) is squared_error of the source.
template <class Source, class Error>
group_params fit_mse(const group_codec& c, const Source& source, value_range range, int clips, const open_clips& open,
                     const Error& error_of) {
  const auto params_of_clip = [&](int i) {
    return params_for_range(c, clipped(c.format.rule, range, clip_at(i, clips)));
  };
  // The format's own rule is the clip 1, but for root-mean-square tables no clip at all, and with an offset the clip's ends
  // are rounded.
  const bool own_is_first = c.format.rule != code_rule::asymmetric_offset &&
                            !(c.format.rule == code_rule::codebook && c.book.scaling == codebook_scaling::rms);
  bool own_may_win = !(own_is_first && open.rules_out(0));
  group_params best{__builtin_nanf(""), 0.0f};
  if (own_may_win) {
    best = fit_own_rule(c, source, range);
    own_may_win = finite(best) && !(open.rules_out(0) && same(best, params_of_clip(0)));
  }
  if (open.known) {
    // When all that remain are the same parameters, their error need not be known.
    group_params remaining = best;
    bool any = own_may_win, several = false;
    for (std::uint64_t rest = open.bits; rest != 0 && !several; rest &= rest - 1) {
      const group_params p = params_of_clip(std::countr_zero(rest));
      several = any && !same(p, remaining);
      remaining = p;
      any = true;
    }
    if (!several) return remaining;
  }
  int best_at = -1;
  double least = __builtin_inf();
  if (own_may_win) {
    least = error_of(best, __builtin_inf());
    if (!(least > 0.0)) return best;
  }
  // Every 16th clip, then those halfway between, and so on: the sooner a small error is known, the sooner others stop.
  for (int stride = 16; stride != 0; stride /= 2)
    for (int i = stride == 16 ? 0 : stride; i < clips; i += stride == 16 ? stride : 2 * stride) {
      if (open.rules_out(i)) continue;
      const group_params p = params_of_clip(i);
      if (!finite(p) || same(p, best)) continue;
      const double error = error_of(p, least);
      if (error < least || (error == least && i < best_at)) least = error, best = p, best_at = i;
    }
  return best;
}

template <class Source>
group_params fit_mse(const group_codec& c, const Source& source, value_range range, int clips,
                     const open_clips& open = {}) {
  return fit_mse(c, source, range, clips, open,
                 [&](group_params p, double limit) { return squared_error(c, source, p, limit); });
}

/// What one pass over the values with parameters p finds.
struct least_squares_pass {
  double error = 0.0;  ///< squared error with p
  group_params next;   ///< least squares for the codes that p gives; p itself when these determine nothing
};

/// For asymmetric_offset the line through (u, x) of least squares; for all other rules the scale alone.
template <class Source>
least_squares_pass least_squares_step(const group_codec& c, const Source& source, group_params p) {
  constexpr std::size_t tile = 256;
  const bool line = c.format.rule == code_rule::asymmetric_offset;
  const double scale = static_cast<double>(p.scale), offset = line ? static_cast<double>(p.zero) : 0.0;
  // Products of two floats are exact in double, so no contraction changes the sums.
  block_sum see, st, stt, sx, sxt;
  source.for_each_run([&](const float* x, std::size_t n) {
    std::uint8_t codes[tile];
    float level[tile], error[tile];
    for (std::size_t first = 0; first < n; first += tile) {
      const std::size_t count = n - first < tile ? n - first : tile;
      const float* const v = x + first;
      encode_group(c, p, v, count, codes);
      levels_of(c, p, codes, count, level);
      for_each_lane(count, [&](std::size_t i) {
        error[i] = static_cast<float>((static_cast<double>(v[i]) - offset) - scale * static_cast<double>(level[i]));
      });
      see.add(error, count, [](float e) { return static_cast<double>(e) * static_cast<double>(e); });
      stt.add(level, count, [](float t) { return static_cast<double>(t) * static_cast<double>(t); });
      sxt.add_terms(count, [&](std::size_t i) { return static_cast<double>(v[i]) * static_cast<double>(level[i]); });
      if (!line) continue;
      st.add(level, count, [](float t) { return static_cast<double>(t); });
      sx.add(v, count, [](float w) { return static_cast<double>(w); });
    }
  });
  least_squares_pass out{see.total(), p};
  const double tt = stt.total(), xt = sxt.total();
  if (line) {
    const double n = static_cast<double>(source.count()), t = st.total();
    const double mean_t = t / n, mean_x = sx.total() / n;
    const double variance = __builtin_fma(-mean_t, t, tt), covariance = __builtin_fma(-mean_x, t, xt);
    if (!(variance > 0.0)) return out;
    const double slope = covariance / variance;
    out.next = {as_stored(c.format.scale, static_cast<float>(slope)),
                as_stored(c.format.scale, static_cast<float>(__builtin_fma(-slope, mean_t, mean_x)))};
  } else if (tt > 0.0) {
    out.next = {as_stored(c.format.scale, static_cast<float>(xt / tt)), p.zero};
  }
  return out;
}

template <class Source>
group_params fit_least_squares(const group_codec& c, const Source& source, value_range range) {
  constexpr int most_steps = 64;  // Lloyd-Max tables settle within ten
  group_params best = fit_own_rule(c, source, range);
  if (!finite(best) || best.scale == 0.0f) return best;
  least_squares_pass pass = least_squares_step(c, source, best);
  for (int i = 0; i < most_steps; ++i) {
    const group_params p = pass.next;
    if (!finite(p) || p.scale == 0.0f || (p.scale == best.scale && p.zero == best.zero)) break;
    const least_squares_pass next = least_squares_step(c, source, p);
    if (!(next.error < pass.error)) break;  // rounding to the storage type can undo a step
    pass = next;
    best = p;
  }
  return best;
}

}  // namespace detail

/// Values lying one after the other.
struct contiguous_source {
  const float* x = nullptr;
  std::size_t size = 0;
  std::size_t count() const noexcept { return size; }
  template <class F>
  void for_each_run(F&& f) const {
    f(x, size);
  }
};

/// The parameters of one group, as stored. `range` is that of the source's values. A scale or offset that overflows its
/// storage type comes back infinite.
template <class Source>
group_params fit_group(const group_codec& c, const Source& source, value_range range, const fit_options& options) {
  switch (options.method) {
    case fitter::percentile:
      return detail::params_for_range(c, detail::percentile_range(c, source, options.percentile));
    case fitter::mse_search: return detail::fit_mse(c, source, range, options.clips);
    case fitter::least_squares: return detail::fit_least_squares(c, source, range);
    case fitter::min_max: break;
  }
  return detail::fit_own_rule(c, source, range);
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
