// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The few statistics the study needs: means with standard errors, the jackknife and the sequence bootstrap, least
/// squares lines, and the two tests for paired and unpaired counts.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/study/gaussian.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// A value and its standard error.
struct estimate {
  double value = 0.0;
  double standard_error = 0.0;
  /// (value - expected) in standard errors; 0 when both agree exactly.
  double errors_from(double expected) const noexcept {
    const double d = value - expected;
    return d == 0.0 ? 0.0 : d / standard_error;
  }
};

/// Mean of independent values and its standard error (sample variance with n - 1). Throws bad_shape below two values.
inline estimate mean_of(std::span<const double> values) {
  if (values.size() < 2) core::fail(errc::bad_shape, "mean_of: ", values.size(), " values, needs two or more");
  const double n = static_cast<double>(values.size());
  double sum = 0.0, squares = 0.0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  for (const double v : values) squares = std::fma(v - mean, v - mean, squares);
  return {mean, std::sqrt(squares / (n - 1.0) / n)};
}

/// Delete-one jackknife over independent batches: `statistic(leave_out)` evaluates the pooled statistic without batch
/// `leave_out`, or with all batches for leave_out = batches. Returns the bias-corrected value and its standard error.
template <class Statistic>
estimate jackknife(std::size_t batches, Statistic&& statistic) {
  if (batches < 2) core::fail(errc::bad_shape, "jackknife: ", batches, " batches, needs two or more");
  std::vector<double> without(batches);
  for (std::size_t b = 0; b < batches; ++b) without[b] = statistic(b);
  const double all = statistic(batches), n = static_cast<double>(batches);
  const estimate m = mean_of(without);
  return {n * all - (n - 1.0) * m.value, (n - 1.0) * m.standard_error};
}

/// Bootstrap standard error of a ratio sum(numerator) / sum(denominator) over independent units (here: sequences, whose
/// positions are not independent of each other). `resamples` draws with replacement from a seeded generator.
inline estimate bootstrap_ratio(std::span<const double> numerator, std::span<const double> denominator,
                                std::size_t resamples = 1000, std::uint32_t seed = 1) {
  if (numerator.size() != denominator.size() || numerator.size() < 2 || resamples < 2)
    core::fail(errc::bad_shape, "bootstrap_ratio: ", numerator.size(), " and ", denominator.size(), " units, ",
               resamples, " resamples");
  std::mt19937 engine(seed);
  double top = 0.0, bottom = 0.0;
  for (std::size_t i = 0; i < numerator.size(); ++i) {
    top += numerator[i];
    bottom += denominator[i];
  }
  std::vector<double> ratios(resamples);
  for (double& r : ratios) {
    double a = 0.0, b = 0.0;
    for (std::size_t i = 0; i < numerator.size(); ++i) {
      const std::size_t pick = (std::uint64_t{engine()} * numerator.size()) >> 32;
      a += numerator[pick];
      b += denominator[pick];
    }
    r = a / b;
  }
  // The spread of the resampled ratios is the standard error; mean_of divides it by sqrt(resamples).
  return {top / bottom, mean_of(ratios).standard_error * std::sqrt(static_cast<double>(resamples))};
}

/// y = intercept + slope x by least squares.
struct line_fit {
  double intercept = 0.0;
  double slope = 0.0;
  double intercept_error = 0.0;  ///< standard error; 0 with two points
  double slope_error = 0.0;
  double r_squared = 0.0;
};

/// Weighted least squares; weights are 1/variance up to a factor (empty: all equal). Throws bad_shape for fewer than two
/// points or when all x are equal.
inline line_fit fit_line(std::span<const double> x, std::span<const double> y, std::span<const double> weights = {}) {
  if (x.size() != y.size() || x.size() < 2 || (!weights.empty() && weights.size() != x.size()))
    core::fail(errc::bad_shape, "fit_line: ", x.size(), " x, ", y.size(), " y, ", weights.size(), " weights");
  const auto w = [&](std::size_t i) { return weights.empty() ? 1.0 : weights[i]; };
  double sw = 0.0, sx = 0.0, sy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sw += w(i);
    sx = std::fma(w(i), x[i], sx);
    sy = std::fma(w(i), y[i], sy);
  }
  const double mean_x = sx / sw, mean_y = sy / sw;
  double xx = 0.0, xy = 0.0, yy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xx = std::fma(w(i) * dx, dx, xx);
    xy = std::fma(w(i) * dx, dy, xy);
    yy = std::fma(w(i) * dy, dy, yy);
  }
  if (xx == 0.0) core::fail(errc::bad_shape, "fit_line: all ", x.size(), " x are equal");
  line_fit fit;
  fit.slope = xy / xx;
  fit.intercept = mean_y - fit.slope * mean_x;
  fit.r_squared = yy == 0.0 ? 1.0 : xy * xy / (xx * yy);
  if (x.size() > 2) {
    double rest = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double r = y[i] - fit.intercept - fit.slope * x[i];
      rest = std::fma(w(i) * r, r, rest);
    }
    const double variance = rest / static_cast<double>(x.size() - 2);
    fit.slope_error = std::sqrt(variance / xx);
    fit.intercept_error = std::sqrt(variance * (1.0 / sw + mean_x * mean_x / xx));
  }
  return fit;
}

/// McNemar's z for paired right/wrong outcomes: only the pairs that differ count. (b - c) / sqrt(b + c).
inline double mcnemar_z(double only_first, double only_second) noexcept {
  return (only_second - only_first) / std::sqrt(only_first + only_second);
}

/// Fisher's exact two-sided p for a 2 x 2 table [[a, b], [c, d]]: the total probability of all tables with the same
/// margins that are no more likely than the observed one.
inline double fisher_exact_p(int a, int b, int c, int d) {
  const int row = a + b, column = a + c, total = a + b + c + d;
  const auto log_choose = [](int n, int k) {
    return std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0);
  };
  const auto log_p = [&](int x) {
    return log_choose(column, x) + log_choose(total - column, row - x) - log_choose(total, row);
  };
  const double observed = log_p(a);
  double p = 0.0;
  for (int x = std::max(0, row + column - total); x <= std::min(row, column); ++x)
    if (log_p(x) <= observed + 1e-9) p += std::exp(log_p(x));
  return std::fmin(p, 1.0);
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
