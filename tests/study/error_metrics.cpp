// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>

#include <nibble/study/error_metrics.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("error_metrics: a hand-computed example") {
  // w = (3, 4, 0), q = (3, 3, 1): |w|^2 = 25, |q|^2 = 19, <w, q> = 21, |w - q|^2 = 2.
  const std::array<float, 3> w{3, 4, 0}, q{3, 3, 1};
  error_sums s;
  s.add(w, q);
  CHECK(s.ww == 25.0);
  CHECK(s.qq == 19.0);
  CHECK(s.wq == 21.0);
  CHECK(s.mse() == doctest::Approx(2.0 / 3.0));
  CHECK(s.distortion() == doctest::Approx(0.08));
  CHECK(s.sqnr_db() == doctest::Approx(10.9691001301));
  CHECK(s.cosine() == doctest::Approx(21.0 / std::sqrt(475.0)));
  CHECK(s.largest == 1.0);
  CHECK(relative_output_error(s) == doctest::Approx(std::sqrt(0.08)));
}

TEST_CASE("error_metrics: the gap to Shannon is 0 dB at D = 4^-R and 6.02 dB a bit") {
  CHECK(gap_to_shannon_db(1.0 / 16.0, 2.0) == doctest::Approx(0.0));
  CHECK(gap_to_shannon_db(1.0 / 16.0, 3.0) == doctest::Approx(6.0206).epsilon(1e-5));
  CHECK(gap_to_shannon_db(0.117482, 2.0) == doctest::Approx(2.7409).epsilon(1e-4));
  CHECK(shannon_cosine(2.0) == doctest::Approx(0.96825).epsilon(1e-5));
}

TEST_CASE("error_metrics: parts merged give the sums of the whole") {
  std::array<float, 8> w{}, q{};
  for (std::size_t i = 0; i < 8; ++i) {
    w[i] = static_cast<float>(i) - 3.25f;
    q[i] = std::nearbyint(w[i]);
  }
  error_sums whole, a, b;
  whole.add(w, q);
  a.add(std::span(w).first(3), std::span(q).first(3));
  b.add(std::span(w).subspan(3), std::span(q).subspan(3));
  a.merge(b);
  CHECK(a.count == 8);
  CHECK(a.ee == doctest::Approx(whole.ee));
  CHECK(a.wq == doctest::Approx(whole.wq));
  CHECK(a.largest == whole.largest);
}

TEST_CASE("error_metrics: exact and zero tensors have defined metrics") {
  const std::array<float, 2> zero{0, 0}, one{1, 0};
  error_sums exact, lost, wrong;
  exact.add(zero, zero);
  CHECK(exact.cosine() == 1.0);
  CHECK(exact.distortion() == 0.0);
  CHECK(std::isinf(exact.sqnr_db()));
  lost.add(one, zero);
  CHECK(lost.cosine() == 0.0);
  CHECK(lost.distortion() == 1.0);
  CHECK_THROWS_AS(wrong.add(one, std::span<const float>(zero).first(1)), error);
}

TEST_CASE("error_metrics: a NaN shows in every metric, also when finite errors follow it") {
  const std::array<float, 3> w{1, 1, 1}, q{0, std::numeric_limits<float>::quiet_NaN(), 3};
  error_sums s;
  s.add(w, q);
  CHECK(std::isnan(s.largest));
  CHECK(std::isnan(s.mse()));
  CHECK(std::isnan(s.cosine()));
}

TEST_CASE("error_metrics: the summary weights by elements, and R2's mean does not") {
  const std::array<float, 1> small{1}, small_q{1};
  const std::array<float, 3> big{1, 0, 0}, big_q{1, 1, 0};  // cosine 1 / sqrt(2)
  metric_summary m;
  error_sums a, b;
  a.add(small, small_q);
  b.add(big, big_q);
  m.add(a);
  m.add(b);
  const double c = 1.0 / std::sqrt(2.0);
  CHECK(m.tensors() == 2);
  CHECK(m.least_cosine() == doctest::Approx(c));
  CHECK(m.unweighted_mean_cosine() == doctest::Approx((1.0 + c) / 2.0));
  CHECK(m.mean_cosine() == doctest::Approx((1.0 + 3.0 * c) / 4.0));
  CHECK(m.pooled().count == 4);
}
