// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>

#include <nibble/study/outliers.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("outliers: Paley's matrix is orthogonal with entries of one magnitude") {
  const dense_matrix h = paley_hadamard(31);
  REQUIRE(h.rows == 64);
  for (std::size_t i = 0; i < h.rows; ++i)
    for (std::size_t j = 0; j < h.rows; ++j) {
      double dot = 0.0;
      for (std::size_t k = 0; k < h.cols; ++k) dot += static_cast<double>(h.at(i, k)) * static_cast<double>(h.at(j, k));
      CHECK(std::fabs(dot - (i == j ? 1.0 : 0.0)) < 1e-6);
      CHECK(std::fabs(h.at(i, j)) == 0.125f);
    }
}

TEST_CASE("outliers: what hides outliers beats what does not, and the 8-bit floors are met") {
  // 2 (127 + 1) = 256 channels.
  const auto r = run_outliers({.tokens = 64, .outputs = 64, .q = 127, .outliers = 2}, {});
  CHECK(r[1].first < r[0].first);    // per token and channel
  CHECK(r[3].first < r[1].first);    // SmoothQuant
  CHECK(r[4].first < r[1].first);    // Hadamard
  CHECK(r[6].second < r[5].second);  // LLM.int8 keeps the outliers exact
  // Weight-only, rows of 256: D = E[A^2] / (12 * 127^2) = 9.40 / 193548.
  CHECK(r[5].first == doctest::Approx(std::sqrt(9.40 / 193'548.0)).epsilon(0.15));
}
