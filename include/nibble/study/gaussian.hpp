// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The standard normal distribution: density, distribution, a seeded sampler, and a quadrature rule for smooth
/// integrands. Everything in double.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <random>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// Density of N(0, 1).
inline double normal_density(double x) noexcept {
  return std::exp(-0.5 * x * x) * (0.5 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
}

/// P(X <= x) for X ~ N(0, 1); no cancellation in the lower tail.
inline double normal_distribution(double x) noexcept { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

/// P(a < X <= b) for X ~ N(0, 1), a <= b; evaluated in the tail where neither term is near 1.
inline double normal_mass(double a, double b) noexcept {
  return a > 0.0 ? normal_distribution(-a) - normal_distribution(-b) : normal_distribution(b) - normal_distribution(a);
}

/// P(|X| >= z): the p-value of a two-sided z test.
inline double two_sided_p(double z) noexcept { return std::erfc(std::fabs(z) / std::numbers::sqrt2); }

/// Nodes and weights of a composite Gauss-Legendre rule (8 nodes a panel, exact to degree 15 in each).
struct quadrature {
  std::vector<double> nodes;
  std::vector<double> weights;
};

/// The composite rule on [a, b]. `panels` > 0.
inline quadrature gauss_legendre(double a, double b, std::size_t panels) {
  // Abramowitz and Stegun, table 25.4, n = 8.
  constexpr std::array<double, 4> x{0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363};
  constexpr std::array<double, 4> w{0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763};
  quadrature q;
  q.nodes.reserve(8 * panels);
  q.weights.reserve(8 * panels);
  const double half_width = 0.5 * (b - a) / static_cast<double>(panels);
  for (std::size_t p = 0; p < panels; ++p) {
    const double middle = a + half_width * static_cast<double>(2 * p + 1);
    for (std::size_t i = 0; i < 8; ++i) {  // ascending: the four negative nodes, then the four positive ones
      const std::size_t j = i < 4 ? 3 - i : i - 4;
      q.nodes.push_back(i < 4 ? middle - half_width * x[j] : middle + half_width * x[j]);
      q.weights.push_back(half_width * w[j]);
    }
  }
  return q;
}

/// Seeded standard normals, the same sequence on every platform with correctly rounded sqrt (the standard leaves the
/// algorithm of std::normal_distribution open). Marsaglia's polar method over the 64-bit Mersenne Twister.
class normal_source {
 public:
  explicit normal_source(std::uint64_t seed) : engine_(seed) {}

  /// One N(0, 1) value.
  double next() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    double u, v, s;
    do {
      u = 2.0 * uniform() - 1.0;
      v = 2.0 * uniform() - 1.0;
      s = std::fma(u, u, v * v);
    } while (s >= 1.0 || s == 0.0);
    const double f = std::sqrt(-2.0 * std::log(s) / s);
    spare_ = v * f;
    has_spare_ = true;
    return u * f;
  }

  /// Fills `out` with N(0, 1) values rounded to float.
  void fill(std::span<float> out) {
    for (float& x : out) x = static_cast<float>(next());
  }

  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

 private:
  std::mt19937_64 engine_;
  double spare_ = 0.0;
  bool has_spare_ = false;
};

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
