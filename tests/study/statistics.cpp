// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include <nibble/study/statistics.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("statistics: mean and standard error of 1, 2, 3, 4") {
  const std::array<double, 4> x{1, 2, 3, 4};
  const estimate e = mean_of(x);
  CHECK(e.value == 2.5);
  CHECK(e.standard_error == doctest::Approx(std::sqrt(5.0 / 3.0 / 4.0)));
  CHECK_THROWS_AS(mean_of(std::span(x).first(1)), error);
}

TEST_CASE("statistics: the jackknife of a mean is the mean with its standard error") {
  const std::array<double, 5> x{1, 4, 2, 8, 5};
  const estimate e = jackknife(x.size(), [&](std::size_t leave_out) {
    double sum = 0.0, n = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i)
      if (i != leave_out) sum += x[i], n += 1.0;
    return sum / n;
  });
  const estimate direct = mean_of(x);
  CHECK(e.value == doctest::Approx(direct.value));
  CHECK(e.standard_error == doctest::Approx(direct.standard_error));
}

TEST_CASE("statistics: the bootstrap error of a mean is near the analytic one") {
  std::vector<double> x, one(400, 1.0);
  normal_source normals(7);
  for (int i = 0; i < 400; ++i) x.push_back(3.0 + normals.next());
  const estimate e = bootstrap_ratio(x, one, 2000);
  CHECK(e.value == doctest::Approx(mean_of(x).value));
  CHECK(e.standard_error == doctest::Approx(mean_of(x).standard_error).epsilon(0.1));
}

TEST_CASE("statistics: least squares finds a line and its errors") {
  const std::array<double, 4> x{0, 1, 2, 3}, y{1, 3, 5, 7};
  const line_fit exact = fit_line(x, y);
  CHECK(exact.intercept == doctest::Approx(1.0));
  CHECK(exact.slope == doctest::Approx(2.0));
  CHECK(exact.slope_error == doctest::Approx(0.0));
  CHECK(exact.r_squared == doctest::Approx(1.0));
  const std::array<double, 4> noisy{1.1, 2.9, 5.1, 6.9};  // residuals +-0.04, +-0.12 around 1.06 + 1.96 x
  const line_fit fit = fit_line(x, noisy);
  CHECK(fit.slope == doctest::Approx(1.96));
  CHECK(fit.intercept == doctest::Approx(1.06));
  CHECK(fit.slope_error == doctest::Approx(std::sqrt(0.032 / 2.0 / 5.0)));
}

TEST_CASE("statistics: weights of zero take points out of the fit") {
  const std::array<double, 3> x{0, 1, 2}, y{0, 1, 100}, w{1, 1, 0};
  CHECK(fit_line(x, y, w).slope == doctest::Approx(1.0));
  const std::array<double, 2> same{1, 1}, any{0, 1};
  CHECK_THROWS_AS(fit_line(same, any), error);
}

TEST_CASE("statistics: McNemar and Fisher on the counts of the reports") {
  CHECK(mcnemar_z(66, 72) == doctest::Approx(0.5108).epsilon(1e-3));
  CHECK(two_sided_p(mcnemar_z(66, 72)) == doctest::Approx(0.61).epsilon(0.01));
  CHECK(fisher_exact_p(159, 1, 157, 3) == doctest::Approx(0.6229).epsilon(1e-3));
  CHECK(fisher_exact_p(3, 1, 1, 3) == doctest::Approx(34.0 / 70.0));  // the lady tasting tea
}

TEST_CASE("statistics: the normal sampler is seeded, centred and has unit variance") {
  normal_source a(1), b(1), c(2);
  const double first = a.next();
  CHECK(first == b.next());
  CHECK(first != c.next());
  double sum = 0.0, squares = 0.0, fourth = 0.0;
  constexpr int n = 200'000;
  for (int i = 0; i < n; ++i) {
    const double x = c.next();
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  CHECK(std::fabs(sum / n) < 4.0 / std::sqrt(n));
  CHECK(std::fabs(squares / n - 1.0) < 4.0 * std::sqrt(2.0 / n));
  CHECK(std::fabs(fourth / n - 3.0) < 4.0 * std::sqrt(96.0 / n));
}
