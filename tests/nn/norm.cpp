// SPDX-License-Identifier: MIT
#include <nibble/nn/norm.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

struct rows {
  std::vector<float> x, weight, bias;
  explicit rows(std::size_t n, unsigned seed) : x(n), weight(n), bias(n) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < n; ++i)
      x[i] = 3.0f + normal(random), weight[i] = normal(random), bias[i] = normal(random);
  }
};

}  // namespace

TEST_CASE("norm: RMSNorm is x / sqrt(mean square + eps) * weight") {
  for (const std::size_t n : {1u, 7u, 512u}) {
    const rows r(n, 1);
    long double squares = 0;
    for (const float v : r.x) squares += static_cast<long double>(v) * v;
    const long double root = std::sqrt(squares / static_cast<long double>(n) + 0.5L);
    std::vector<float> y(n);
    nn::rms_norm(r.x.data(), r.weight.data(), 0.5f, n, y.data());
    for (std::size_t i = 0; i < n; ++i)
      CHECK(y[i] == doctest::Approx(static_cast<double>(r.x[i] / root * r.weight[i])).epsilon(3e-7));
  }
}

TEST_CASE("norm: LayerNorm is (x - mean) / sqrt(variance + eps) * weight + bias") {
  for (const std::size_t n : {1u, 7u, 512u}) {
    const rows r(n, 2);
    long double sum = 0, squares = 0;
    for (const float v : r.x) sum += v;
    const long double mean = sum / static_cast<long double>(n);
    for (const float v : r.x) squares += (v - mean) * (v - mean);
    const long double root = std::sqrt(squares / static_cast<long double>(n) + 1e-3L);
    std::vector<float> y(n);
    nn::layer_norm(r.x.data(), r.weight.data(), r.bias.data(), 1e-3f, n, y.data());
    for (std::size_t i = 0; i < n; ++i) {
      const auto want = static_cast<double>((r.x[i] - mean) / root * r.weight[i] + r.bias[i]);
      CHECK(std::fabs(y[i] - want) < 2e-6);
    }
  }
}

TEST_CASE("norm: a row that is not finite becomes NaN, a row of zeros stays zero") {
  rows r(9, 3);
  std::vector<float> y(9);
  r.x[4] = std::numeric_limits<float>::infinity();
  nn::rms_norm(r.x.data(), r.weight.data(), 1e-5f, 9, y.data());
  CHECK(std::isnan(y[4]));
  r.x[4] = std::numeric_limits<float>::quiet_NaN();
  nn::layer_norm(r.x.data(), r.weight.data(), r.bias.data(), 1e-5f, 9, y.data());
  for (const float v : y) CHECK(std::isnan(v));
  const std::vector<float> zeros(9);
  nn::rms_norm(zeros.data(), r.weight.data(), 1e-5f, 9, y.data());
  for (const float v : y) CHECK(v == 0.0f);
}

TEST_CASE("norm: the output may be the input") {
  rows r(33, 4);
  std::vector<float> y(33), z = r.x;
  nn::rms_norm(r.x.data(), r.weight.data(), 1e-5f, 33, y.data());
  nn::rms_norm(z.data(), r.weight.data(), 1e-5f, 33, z.data());
  CHECK(y == z);
}
