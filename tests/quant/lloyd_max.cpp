// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/lloyd_max.hpp>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

using namespace nibble;

namespace {

double density(double x) { return std::isinf(x) ? 0.0 : std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi); }
double tail(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }

/// Cell i of the positive half: probability and first and second moments between its borders, exact up to rounding.
struct cell {
  double lo, hi, mass, first, second;
};
cell cell_of(const std::vector<double>& t, std::size_t i) {
  cell c{};
  c.lo = i == 0 ? 0.0 : 0.5 * (t[i - 1] + t[i]);
  c.hi = i + 1 == t.size() ? std::numeric_limits<double>::infinity() : 0.5 * (t[i] + t[i + 1]);
  c.mass = tail(c.lo) - tail(c.hi);
  c.first = density(c.lo) - density(c.hi);
  c.second = c.mass + c.lo * density(c.lo) - (std::isinf(c.hi) ? 0.0 : c.hi * density(c.hi));
  return c;
}

double distortion(const std::vector<double>& t) {
  double d = 0.0;
  for (std::size_t i = 0; i < t.size(); ++i) {
    const cell c = cell_of(t, i);
    d += 2.0 * (c.second - 2.0 * t[i] * c.first + t[i] * t[i] * c.mass);
  }
  return d;
}

/// Newton's method on Lloyd's condition, value = mean of its cell. Plain Lloyd iteration halves the error only after
/// about 4^bits steps; the Jacobian is tridiagonal, so a Newton step costs the same. Starts from the companding
/// approximation (Panter and Dite 1951): quantiles of a Gaussian of standard deviation sqrt(3).
std::vector<double> derive(int bits) {
  const std::size_t n = std::size_t{1} << (bits - 1);
  std::vector<double> t(n);
  for (std::size_t i = 0; i < n; ++i) {
    const double p = 0.5 - (static_cast<double>(i) + 0.5) / static_cast<double>(2 * n);  // upper tail of the quantile
    double lo = 0.0, hi = 10.0;
    for (int k = 0; k < 60; ++k) (tail(0.5 * (lo + hi)) > p ? lo : hi) = 0.5 * (lo + hi);
    t[i] = std::sqrt(3.0) * lo;
  }
  for (int step = 0; step < 100; ++step) {
    std::vector<double> upper(n), right(n);  // after elimination: x[i] = right[i] - upper[i] * x[i + 1]
    for (std::size_t i = 0; i < n; ++i) {
      const cell c = cell_of(t, i);
      const double mean = c.first / c.mass;
      const double by_lo = i == 0 ? 0.0 : density(c.lo) * (mean - c.lo) / c.mass / 2.0;
      const double by_hi = i + 1 == n ? 0.0 : density(c.hi) * (c.hi - mean) / c.mass / 2.0;
      const double diagonal = by_lo + by_hi - 1.0;
      const double pivot = i == 0 ? diagonal : diagonal - by_lo * upper[i - 1];
      upper[i] = by_hi / pivot;
      right[i] = (t[i] - mean - (i == 0 ? 0.0 : by_lo * right[i - 1])) / pivot;
    }
    for (std::size_t i = n - 1; i-- > 0;) right[i] -= upper[i] * right[i + 1];
    // Halve the step until the values stay ascending.
    for (double part = 1.0;; part /= 2.0) {
      std::vector<double> next(n);
      bool ascending = true;
      for (std::size_t i = 0; i < n; ++i) {
        next[i] = t[i] + part * right[i];
        ascending = ascending && next[i] > (i == 0 ? 0.0 : next[i - 1]);
      }
      if (!ascending) continue;
      t = next;
      break;
    }
  }
  return t;
}

template <int Bits>
std::vector<double> shipped() {
  const auto& p = quant::lloyd_max_positive<Bits>;
  return {p.begin(), p.end()};
}

template <int Bits>
void check(double reference, double tolerance) {
  CAPTURE(Bits);
  const std::vector<double> ours = derive(Bits), table = shipped<Bits>();
  REQUIRE(ours.size() == table.size());
  for (std::size_t i = 0; i < ours.size(); ++i) CHECK(table[i] == doctest::Approx(ours[i]).epsilon(1e-6));
  CHECK(distortion(table) == doctest::Approx(distortion(ours)).epsilon(1e-6));
  CHECK(std::fabs(distortion(table) / reference - 1.0) < tolerance);
  // One more Lloyd step does not help: the table is a fixed point.
  std::vector<double> step(table.size());
  for (std::size_t i = 0; i < table.size(); ++i) {
    const cell c = cell_of(table, i);
    step[i] = c.first / c.mass;
  }
  CHECK(distortion(step) == doctest::Approx(distortion(table)).epsilon(1e-6));
}

}  // namespace

TEST_CASE("lloyd_max: the tables are what Lloyd's conditions give, at the known distortions") {
  check<2>(.117482, 1e-3);
  check<3>(.034548, 1e-3);
  check<4>(.0095010, 1e-3);
  check<5>(.0025047, 1e-3);
  check<6>(.00064424, 1e-3);
  check<7>(.00016348, 1e-3);
  // The published .000041267 is 0.20 % above the optimum, as an iteration stopped early leaves it: D * 4^b rises to
  // sqrt(3) pi / 2 = 2.7207 with gaps that halve (.0819, .0423 at 6 and 7 bits), which puts 8 bits at 2.6991, not 2.7045.
  check<8>(.000041267, 2.1e-3);
  CHECK(distortion(shipped<8>()) < .000041267);
  const double limit = std::sqrt(3.0) * std::numbers::pi / 2.0;
  const double gap7 = limit - distortion(shipped<7>()) * 16384.0, gap8 = limit - distortion(shipped<8>()) * 65536.0;
  CHECK(gap8 / gap7 == doctest::Approx(0.5).epsilon(0.05));
}

TEST_CASE("lloyd_max: tables are antisymmetric and ascending, with borders at the midpoints") {
  const auto& t = quant::lloyd_max_table<5>::table;
  for (std::size_t i = 0; i < t.size; ++i) {
    CHECK(t.values[i] == -t.values[t.size - 1 - i]);
    if (i + 1 == t.size) continue;
    CHECK(t.values[i] < t.values[i + 1]);
    CHECK(t.thresholds[i] > t.values[i]);
    CHECK(t.thresholds[i] < t.values[i + 1]);
  }
  CHECK(t.thresholds[15] == 0.0f);
}
