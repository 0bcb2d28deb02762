// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a quantizer does to rows of n independent N(0, 1) weights, by integration instead of by experiment.
///
/// A row of n normals has a largest absolute value A (or a least and a greatest value). The grid hangs on it, the other
/// values are normals truncated to it, and on a truncated normal the first two moments of any nearest-level quantizer
/// are finite sums of phi and Phi. So <w, q> and |q|^2 need one integral over A (two over minimum and maximum). The
/// cosine of a matrix with many rows is the ratio of these expectations.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/study/gaussian.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// Expectations per weight, E[w^2] = 1.
struct expected_error {
  double wq = 0.0;  ///< E[w q]
  double qq = 0.0;  ///< E[q^2]
  /// The cosine of a matrix with many such rows.
  double cosine() const noexcept { return wq / std::sqrt(qq); }
  /// D = E|w - q|^2 / E|w|^2.
  double distortion() const noexcept { return 1.0 - 2.0 * wq + qq; }
};

/// E[x q(x)] and E[q(x)^2] for x ~ N(0, 1) restricted to [lo, hi], q(x) the nearest of the ascending `levels`.
inline expected_error truncated_normal_error(std::span<const double> levels, double lo, double hi) noexcept {
  const double mass = normal_mass(lo, hi);
  expected_error e;
  // normal_mass(t, next) of neighbouring cells with one erfc a border: `tail` is P(X <= t), or P(X > t) once t > 0.
  double t = lo, density_t = normal_density(lo), tail = normal_distribution(lo > 0.0 ? -lo : lo);
  for (std::size_t j = 0; j < levels.size(); ++j) {
    const double next = j + 1 < levels.size() ? std::clamp(0.5 * (levels[j] + levels[j + 1]), lo, hi) : hi;
    if (next <= t) continue;
    const double density_next = normal_density(next);
    const double tail_next = normal_distribution(t > 0.0 ? -next : next);
    e.wq += levels[j] * (density_t - density_next);
    e.qq += levels[j] * levels[j] * (t > 0.0 ? tail - tail_next : tail_next - tail);
    tail = t <= 0.0 && next > 0.0 ? normal_distribution(-next) : tail_next;
    t = next;
    density_t = density_next;
  }
  e.wq /= mass;
  e.qq /= mass;
  return e;
}

/// The nearest of the ascending `levels` (the upper one at a tie).
inline double nearest_level(std::span<const double> levels, double x) noexcept {
  std::size_t j = 0;
  while (j + 1 < levels.size() && x >= 0.5 * (levels[j] + levels[j + 1])) ++j;
  return levels[j];
}

/// Density at a of the largest absolute value of n normals: 2 n phi(a) (2 Phi(a) - 1)^(n-1).
inline double absmax_density(double a, std::size_t n) noexcept {
  const double outside = 2.0 * normal_distribution(-a), count = static_cast<double>(n);
  return 2.0 * count * normal_density(a) * std::exp((count - 1.0) * std::log1p(-outside));
}

/// Density at (lo, hi) of the least and the greatest of n normals: n (n-1) phi(lo) phi(hi) (Phi(hi) - Phi(lo))^(n-2).
inline double range_density(double lo, double hi, std::size_t n) noexcept {
  if (hi <= lo) return 0.0;
  const double outside = normal_distribution(lo) + normal_distribution(-hi), count = static_cast<double>(n);
  return count * (count - 1.0) * normal_density(lo) * normal_density(hi) *
         std::exp((count - 2.0) * std::log1p(-std::fmin(outside, 1.0)));
}

namespace closed_form_detail {

/// 4 sd beyond the largest of 10^12 normals; below it only the densities of n >= 2 values matter.
inline constexpr double largest_normal = 10.0;

inline quadrature absmax_nodes() { return gauss_legendre(0.0, largest_normal, 160); }

}  // namespace closed_form_detail

/// E[A^2] of the largest absolute value A of n normals.
inline double expected_absmax_squared(std::size_t n) {
  const quadrature q = closed_form_detail::absmax_nodes();
  double sum = 0.0;
  for (std::size_t i = 0; i < q.nodes.size(); ++i)
    sum += q.weights[i] * absmax_density(q.nodes[i], n) * q.nodes[i] * q.nodes[i];
  return sum;
}

/// Rows of n normals, one scale a row by the largest absolute value A: levels A * unit_levels (ascending, A = 1 being the
/// row's own largest value). Covers every symmetric, mid-rise and codebook grid with absmax scaling. n >= 2.
inline expected_error absmax_row_error(std::size_t n, std::span<const double> unit_levels) {
  if (n < 2 || unit_levels.empty())
    core::fail(errc::bad_shape, "absmax_row_error: n = ", n, " with ", unit_levels.size(),
               " levels, needs n >= 2 and a level");
  const quadrature q = closed_form_detail::absmax_nodes();
  const double top = nearest_level(unit_levels, 1.0), bottom = nearest_level(unit_levels, -1.0);
  std::vector<double> levels(unit_levels.size());
  expected_error sum;
  for (std::size_t i = 0; i < q.nodes.size(); ++i) {
    const double a = q.nodes[i], p = q.weights[i] * absmax_density(a, n);
    if (p < 1e-18) continue;
    for (std::size_t j = 0; j < levels.size(); ++j) levels[j] = a * unit_levels[j];
    const expected_error inner = truncated_normal_error(levels, -a, a);
    const double others = static_cast<double>(n - 1);
    sum.wq += p * (a * a * 0.5 * (top - bottom) + others * inner.wq);  // the extreme is +A or -A, equally likely
    sum.qq += p * (a * a * 0.5 * (top * top + bottom * bottom) + others * inner.qq);
  }
  return {sum.wq / static_cast<double>(n), sum.qq / static_cast<double>(n)};
}

/// Where an asymmetric grid may begin.
enum class zero_kind {
  integer_zero_point,  ///< the range is widened to contain 0 and 0 is a level
  float_offset,        ///< the least value of the row is a level
};

/// Rows of n normals on 2^bits equal steps from the least to the greatest value. n >= 3.
///
/// Integrated over the range w and the share r of it that lies below zero: the integer zero point, nearest(r (2^bits - 1)),
/// jumps at known r, so panel borders are put there. A row and its mirror image (1 - r) have equal errors.
inline expected_error range_row_error(std::size_t n, int bits, zero_kind zero) {
  if (n < 3 || bits < 1 || bits > 8) core::fail(errc::bad_shape, "range_row_error: n = ", n, ", bits = ", bits);
  const int top = (1 << bits) - 1;
  std::vector<double> borders;  // of r, from 1/2 up; beyond 1 the whole row is negative (short rows only)
  if (zero == zero_kind::integer_zero_point) {
    const int parts = std::max(1, 16 / (top + 1));  // of each step: few levels make wide ones
    for (int k = (top + 1) / 2; k <= top; ++k)
      for (int part = 0; part < parts; ++part) {
        const double from = k - 0.5, to = k == top ? top : k + 0.5;
        borders.push_back((from + (to - from) * part / parts) / top);
      }
  } else {
    for (int part = 0; part < 8; ++part) borders.push_back(0.5 + part / 16.0);
  }
  borders.insert(borders.end(), {1.0, 1.25, 2.0});
  quadrature shares;
  for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
    const quadrature panel = gauss_legendre(borders[i], borders[i + 1], 1);
    shares.nodes.insert(shares.nodes.end(), panel.nodes.begin(), panel.nodes.end());
    shares.weights.insert(shares.weights.end(), panel.weights.begin(), panel.weights.end());
  }
  // Minimum and maximum of long rows lie near -+ sqrt(2 ln n); short rows need the whole range.
  const double typical = std::sqrt(2.0 * std::log(static_cast<double>(n)));
  const quadrature ranges = gauss_legendre(n < 256 ? 0.0 : 2.0 * typical - 3.5, 2.0 * typical + 7.0, n < 256 ? 9 : 6);

  std::vector<double> levels(static_cast<std::size_t>(top) + 1);
  expected_error sum;
  double mass = 0.0;
  for (std::size_t i = 0; i < shares.nodes.size(); ++i) {
    for (std::size_t k = 0; k < ranges.nodes.size(); ++k) {
      const double w = ranges.nodes[k], lo = -shares.nodes[i] * w, hi = lo + w;
      const double p = shares.weights[i] * ranges.weights[k] * w * range_density(lo, hi, n);
      if (!(p > 1e-13)) continue;
      mass += p;
      const bool integer = zero == zero_kind::integer_zero_point;
      const double first = integer ? std::fmin(lo, 0.0) : lo, last = integer ? std::fmax(hi, 0.0) : hi;
      const double scale = (last - first) / top, z = integer ? std::nearbyint(-first / scale) : -first / scale;
      for (int u = 0; u <= top; ++u) levels[static_cast<std::size_t>(u)] = scale * (u - z);
      const expected_error inner = truncated_normal_error(levels, lo, hi);
      const double q_lo = nearest_level(levels, lo), q_hi = nearest_level(levels, hi);
      const double others = static_cast<double>(n - 2);
      sum.wq += p * (lo * q_lo + hi * q_hi + others * inner.wq);
      sum.qq += p * (q_lo * q_lo + q_hi * q_hi + others * inner.qq);
    }
  }
  return {sum.wq / (mass * static_cast<double>(n)), sum.qq / (mass * static_cast<double>(n))};
}

/// E[R^2] of the range R (greatest minus least value) of n normals.
inline double expected_range_squared(std::size_t n) {
  const quadrature q = gauss_legendre(-2.0, closed_form_detail::largest_normal, 48);
  double sum = 0.0;
  for (std::size_t i = 0; i < q.nodes.size(); ++i)
    for (std::size_t k = 0; k < q.nodes.size(); ++k) {
      const double r = q.nodes[i] + q.nodes[k];
      sum += q.weights[i] * q.weights[k] * range_density(-q.nodes[i], q.nodes[k], n) * r * r;
    }
  return sum;
}

/// Unit levels k / qmax, k = -qmax..qmax, of the symmetric restricted grid (qmax = 2^(bits-1) - 1).
inline std::vector<double> symmetric_levels(int bits) {
  const int qmax = (1 << (bits - 1)) - 1;
  std::vector<double> levels;
  for (int k = -qmax; k <= qmax; ++k) levels.push_back(static_cast<double>(k) / qmax);
  return levels;
}

/// Unit levels (k + 1/2) / h, k = -h..h-1, of the mid-rise grid with scale A / h (h = 2^(bits-1)): the step that leaves
/// A itself half a step outside the outermost level.
inline std::vector<double> mid_rise_levels(int bits) {
  const int h = 1 << (bits - 1);
  std::vector<double> levels;
  for (int k = -h; k < h; ++k) levels.push_back((k + 0.5) / h);
  return levels;
}

/// Rows of n normals divided by their own root mean square, quantized with fixed ascending `levels`, multiplied back.
/// x / rms has the marginal density (1 - t^2 / n)^((n-3)/2) of a point on the sphere of radius sqrt(n). n >= 4.
inline expected_error rms_row_error(std::size_t n, std::span<const double> levels) {
  if (n < 4) core::fail(errc::bad_shape, "rms_row_error: n = ", n, ", needs n >= 4");
  const double count = static_cast<double>(n), edge = std::fmin(std::sqrt(count), closed_form_detail::largest_normal);
  expected_error sum;
  double mass = 0.0;
  std::vector<double> thresholds{-edge};
  for (std::size_t j = 0; j + 1 < levels.size(); ++j)
    thresholds.push_back(std::clamp(0.5 * (levels[j] + levels[j + 1]), -edge, edge));
  thresholds.push_back(edge);
  const std::size_t panels = std::max<std::size_t>(2, 96 / levels.size());
  for (std::size_t j = 0; j < levels.size(); ++j) {  // panel borders at the thresholds: the integrand is smooth inside
    const quadrature q = gauss_legendre(thresholds[j], thresholds[j + 1], panels);
    for (std::size_t i = 0; i < q.nodes.size(); ++i) {
      const double t = q.nodes[i], p = q.weights[i] * std::exp(0.5 * (count - 3.0) * std::log1p(-t * t / count));
      mass += p;
      sum.wq += p * t * levels[j];
      sum.qq += p * levels[j] * levels[j];
    }
  }
  return {sum.wq / mass, sum.qq / mass};
}

/// A fixed set of levels on an unbounded Gaussian source with a scale that is the best for long rows.
struct scaled_levels {
  double scale = 0.0;         ///< the best multiplier of the levels
  double distortion = 0.0;    ///< D at that scale for n -> infinity
  double gain_per_row = 0.0;  ///< D of rows of n with the scale fitted to each row is D - gain_per_row / n (+ O(n^-2))
};

/// Minimizes D over the scale (golden section) and expands in 1/n: fitting one parameter to n samples lowers the mean
/// loss by Var(g) / (2 n H), g and H the first and the mean second derivative of the loss in the scale.
inline scaled_levels best_scale(std::span<const double> levels) {
  const auto at = [&](double s) {
    std::vector<double> scaled(levels.begin(), levels.end());
    for (double& l : scaled) l *= s;
    return truncated_normal_error(scaled, -closed_form_detail::largest_normal, closed_form_detail::largest_normal)
        .distortion();
  };
  const double widest = std::fmax(std::fabs(levels.front()), std::fabs(levels.back()));
  double a = 0.2 / widest, b = 6.0 / widest;
  for (int i = 0; i < 120; ++i) {
    const double inv_golden = 0.6180339887498949, x1 = b - inv_golden * (b - a), x2 = a + inv_golden * (b - a);
    if (at(x1) < at(x2)) b = x2;
    else a = x1;
  }
  scaled_levels best;
  best.scale = 0.5 * (a + b);
  best.distortion = at(best.scale);
  const double step = 1e-3 * best.scale;
  const double curvature = (at(best.scale + step) - 2.0 * best.distortion + at(best.scale - step)) / (step * step);
  // Var(g) = 4 E[(x - s l)^2 l^2], E[g] = 0 at the minimum.
  const quadrature q = gauss_legendre(-closed_form_detail::largest_normal, closed_form_detail::largest_normal, 4000);
  std::vector<double> scaled(levels.begin(), levels.end());
  for (double& l : scaled) l *= best.scale;
  double variance = 0.0;
  for (std::size_t i = 0; i < q.nodes.size(); ++i) {
    const double x = q.nodes[i], l = nearest_level(scaled, x) / best.scale, e = x - best.scale * l;
    variance += q.weights[i] * normal_density(x) * 4.0 * e * e * l * l;
  }
  best.gain_per_row = 0.5 * variance / curvature;
  return best;
}

/// Reference distortions on a Gaussian source, index = bits (0 and, where no value is tabulated, 1 unused).
namespace reference {
/// Optimal scalar quantizer (Lloyd-Max).
inline constexpr std::array<double, 9> lloyd_max{0,        .36338,    .117482,   .034548,   .0095010,
                                                 .0025047, .00064424, .00016348, .000041267};
/// MSE-optimal uniform quantizer, 2^bits mid-rise levels.
inline constexpr std::array<double, 9> uniform{0,        0,         .118846,   .037440,   .011543,
                                               .0034952, .00104005, .00030433, .000087686};
/// Uniform quantizer with entropy coding at an entropy of `bits`.
inline constexpr std::array<double, 9> entropy_coded{0,        0,         .08894,     .022239,   .0055597,
                                                     .0013899, .00034748, .000086871, .000021718};
/// NF4 with absmax blocks of 64.
inline constexpr double nf4_block64 = .00844;
/// 8 bits, symmetric, absmax blocks of 32.
inline constexpr double q8_0_block32 = 2.85e-5;
}  // namespace reference

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
