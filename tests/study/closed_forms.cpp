// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include <nibble/quant/lloyd_max.hpp>
#include <nibble/study/closed_forms.hpp>

using namespace nibble;
using namespace nibble::study;

namespace {
double absmax_cosine(std::size_t n, int bits) { return absmax_row_error(n, symmetric_levels(bits)).cosine(); }
}  // namespace

TEST_CASE("closed_forms: densities integrate to one") {
  const quadrature q = gauss_legendre(0.0, 10.0, 160);
  for (const std::size_t n : {2u, 16u, 1024u, 100'000u}) {
    double mass = 0.0;
    for (std::size_t i = 0; i < q.nodes.size(); ++i) mass += q.weights[i] * absmax_density(q.nodes[i], n);
    CHECK(mass == doctest::Approx(1.0).epsilon(1e-9));
  }
}

TEST_CASE("closed_forms: the quadrature is exact for polynomials of degree 15") {
  const quadrature q = gauss_legendre(-1.0, 2.0, 1);
  double sum = 0.0;
  for (std::size_t i = 0; i < q.nodes.size(); ++i) sum += q.weights[i] * std::pow(q.nodes[i], 15);
  CHECK(sum == doctest::Approx((std::pow(2.0, 16) - 1.0) / 16.0).epsilon(1e-12));
}

TEST_CASE("closed_forms: c(n) of the ternary absmax grid equals the reference table") {
  constexpr std::array<double, 7> c{.8584, .8201, .7811, .7416, .7021, .6630, .6246};
  for (std::size_t i = 0; i < c.size(); ++i) CHECK(std::fabs(absmax_cosine(std::size_t{16} << i, 2) - c[i]) < 6e-5);
  CHECK(std::fabs(absmax_cosine(2048, 2) - .587) < 6e-4);
  CHECK(std::fabs(absmax_cosine(4096, 2) - .551) < 6e-4);
}

TEST_CASE("closed_forms: symmetric absmax and asymmetric min-max cosines at n = 1024 equal the reference table") {
  CHECK(absmax_cosine(1024, 3) == doctest::Approx(.9489).epsilon(1e-4));
  CHECK(absmax_cosine(1024, 4) == doctest::Approx(.9901).epsilon(2e-4));
  CHECK(absmax_cosine(1024, 5) == doctest::Approx(.99780).epsilon(1e-5));
  CHECK(absmax_cosine(1024, 8) == doctest::Approx(.999969).epsilon(1e-6));
  const auto offset = [](int bits) { return range_row_error(1024, bits, zero_kind::float_offset).cosine(); };
  CHECK(offset(2) == doctest::Approx(.8517).epsilon(2e-4));
  CHECK(offset(3) == doctest::Approx(.9660).epsilon(2e-4));
  CHECK(offset(4) == doctest::Approx(.99223).epsilon(3e-5));
  CHECK(offset(8) == doctest::Approx(.999973).epsilon(1e-6));
}

TEST_CASE("closed_forms: an integer zero point costs most where steps are wide and nothing at 8 bits") {
  const auto loss = [](int bits) {
    return range_row_error(1024, bits, zero_kind::float_offset).cosine() -
           range_row_error(1024, bits, zero_kind::integer_zero_point).cosine();
  };
  CHECK(loss(2) == doctest::Approx(.00999).epsilon(0.01));
  CHECK(loss(8) > 0.0);
  CHECK(loss(8) < 1e-6);
}

TEST_CASE("closed_forms: the INT8 cosine is 1 / sqrt(1 + D) with D = E[A^2] (1 - 1/n) / (12 * 127^2)") {
  const double n = 1024.0, d = expected_absmax_squared(1024) * (1.0 - 1.0 / n) / (12.0 * 127.0 * 127.0);
  CHECK(1.0 - absmax_cosine(1024, 8) == doctest::Approx(1.0 - 1.0 / std::sqrt(1.0 + d)).epsilon(1e-3));
}

TEST_CASE("closed_forms: mean squares of row maximum and range") {
  CHECK(expected_absmax_squared(1) == doctest::Approx(1.0).epsilon(1e-9));
  CHECK(expected_absmax_squared(2) == doctest::Approx(1.0 + 2.0 / std::acos(-1.0)).epsilon(1e-9));  // 1 + 2/pi
  CHECK(expected_absmax_squared(32) == doctest::Approx(5.70).epsilon(0.005));
  CHECK(expected_range_squared(32) == doctest::Approx(17.58).epsilon(0.005));
  CHECK(expected_range_squared(512) == doctest::Approx(37.36).epsilon(0.005));
}

TEST_CASE("closed_forms: optimal uniform steps and distortions equal the reference table") {
  constexpr std::array<double, 9> step{0, 0, .9957, .5860, .3352, .1881, .1041, .0569, .0308};
  for (int bits = 2; bits <= 8; ++bits) {
    const std::vector<double> levels = mid_rise_levels(bits);
    const scaled_levels best = best_scale(levels);
    CHECK(best.scale * (levels[1] - levels[0]) == doctest::Approx(step[static_cast<std::size_t>(bits)]).epsilon(2e-3));
    CHECK(best.distortion == doctest::Approx(reference::uniform[static_cast<std::size_t>(bits)]).epsilon(2e-5));
  }
}

TEST_CASE("closed_forms: Lloyd-Max tables on rows scaled by their root mean square approach the reference distortion") {
  const auto& values = quant::lloyd_max_table<2>::table.values;
  const std::vector<double> levels(values.begin(), values.end());
  CHECK(rms_row_error(1u << 20, levels).distortion() == doctest::Approx(reference::lloyd_max[2]).epsilon(1e-4));
  CHECK(rms_row_error(16, levels).distortion() < reference::lloyd_max[2]);  // a short row has no tails
}
