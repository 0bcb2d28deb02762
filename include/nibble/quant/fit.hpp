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
constexpr value_range clipped(code_rule rule, value_range r, float clip) noexcept {
  if (rule != code_rule::asymmetric_offset) return {r.lo * clip, r.hi * clip};
  // In double: the range may exceed the greatest float.
  const double middle = 0.5 * (static_cast<double>(r.lo) + static_cast<double>(r.hi));
  const double reach = 0.5 * (static_cast<double>(r.hi) - static_cast<double>(r.lo)) * static_cast<double>(clip);
  return {static_cast<float>(middle - reach), static_cast<float>(middle + reach)};
}

/// The squared error of coding a source, or some number >= `limit` when it is not less than that.
template <class Source>
double squared_error(const group_codec& c, const Source& source, group_params p, double limit = __builtin_inf()) {
  constexpr std::size_t piece = 1024;
  lane_sum sum;
  bool open = true;
  source.for_each_run([&](const float* x, std::size_t n) {
    for (std::size_t i = 0; i < n && open; i += piece) {
      add_squared_error(c, p, x + i, n - i < piece ? n - i : piece, sum);
      open = sum.total() < limit;
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

template <class Source>
group_params fit_mse(const group_codec& c, const Source& source, value_range range, int clips) {
  // The format's own rule first: it is the clip 1 of affine formats, and for root-mean-square tables no clip at all.
  group_params best = fit_own_rule(c, source, range);
  double least = finite(best) ? squared_error(c, source, best) : __builtin_inf();
  for (int i = 0; i < clips && least > 0.0; ++i) {
    const float clip = i == clips - 1 ? 0.3f : static_cast<float>(1.0 - 0.7 * i / (clips - 1));
    const group_params p = params_for_range(c, clipped(c.format.rule, range, clip));
    if (!finite(p) || (p.scale == best.scale && p.zero == best.zero)) continue;
    const double error = squared_error(c, source, p, least);
    if (error < least) least = error, best = p;
  }
  return best;
}

/// For asymmetric_offset the line through (u, x) of least squares; for all other rules the scale alone.
template <class Source>
group_params least_squares_step(const group_codec& c, const Source& source, group_params p) {
  constexpr std::size_t tile = 256;
  // Products of a float and a level are exact in double, so no contraction changes the sums.
  double st = 0.0, stt = 0.0, sx = 0.0, sxt = 0.0;
  source.for_each_run([&](const float* x, std::size_t n) {
    std::uint8_t codes[tile];
    float level[tile];
    for (std::size_t first = 0; first < n; first += tile) {
      const std::size_t count = n - first < tile ? n - first : tile;
      encode_group(c, p, x + first, count, codes);
      levels_of(c, p, codes, count, level);
      for (std::size_t i = 0; i < count; ++i) {
        const double t = static_cast<double>(level[i]), v = static_cast<double>(x[first + i]);
        st += t;
        stt += t * t;
        sx += v;
        sxt += v * t;
      }
    }
  });
  if (c.format.rule == code_rule::asymmetric_offset) {
    const double n = static_cast<double>(source.count());
    const double mean_t = st / n, mean_x = sx / n;
    const double variance = __builtin_fma(-mean_t, st, stt), covariance = __builtin_fma(-mean_x, st, sxt);
    if (!(variance > 0.0)) return p;
    const double slope = covariance / variance;
    return {as_stored(c.format.scale, static_cast<float>(slope)),
            as_stored(c.format.scale, static_cast<float>(__builtin_fma(-slope, mean_t, mean_x)))};
  }
  if (!(stt > 0.0)) return p;
  return {as_stored(c.format.scale, static_cast<float>(sxt / stt)), p.zero};
}

template <class Source>
group_params fit_least_squares(const group_codec& c, const Source& source, value_range range) {
  constexpr int most_steps = 64;  // Lloyd-Max tables settle within ten
  group_params best = fit_own_rule(c, source, range);
  if (!finite(best) || best.scale == 0.0f) return best;
  double least = squared_error(c, source, best);
  for (int i = 0; i < most_steps; ++i) {
    const group_params p = least_squares_step(c, source, best);
    if (!finite(p) || p.scale == 0.0f || (p.scale == best.scale && p.zero == best.zero)) break;
    const double error = squared_error(c, source, p, least);
    if (!(error < least)) break;  // rounding to the storage type can undo a step
    least = error;
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
