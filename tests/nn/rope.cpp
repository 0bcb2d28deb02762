// SPDX-License-Identifier: MIT
#include <nibble/nn/rope.hpp>

#include <cmath>
#include <complex>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

std::vector<float> random_head(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> head(n);
  for (float& v : head) v = normal(random);
  return head;
}
double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

TEST_CASE("rope: pair (i, i + dims/2) turns by position * theta^(-2i/dims)") {
  for (const std::size_t dims : {0u, 2u, 4u, 10u, 16u}) {
    nn::rope table(dims, 10000.0);
    table.reserve(300);
    for (const std::size_t position : {0u, 1u, 7u, 299u}) {
      const auto before = random_head(16, 1);
      auto after = before;
      table.rotate(after.data(), position);
      for (std::size_t i = 0; i < dims / 2; ++i) {
        const double angle = static_cast<double>(position) *
                             std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
        const std::complex<double> turned =
            std::complex<double>(before[i], before[i + dims / 2]) * std::polar(1.0, angle);
        CHECK(std::fabs(after[i] - turned.real()) < 1e-6);
        CHECK(std::fabs(after[i + dims / 2] - turned.imag()) < 1e-6);
      }
      for (std::size_t i = dims; i < 16; ++i) CHECK(after[i] == before[i]);  // the rest of the head does not turn
    }
  }
}

TEST_CASE("rope: a product of two heads depends on the distance of their positions only") {
  nn::rope table(32, 500.0);
  table.reserve(200);
  const auto q = random_head(32, 2), k = random_head(32, 3);
  const auto score = [&](std::size_t at_q, std::size_t at_k) {
    auto a = q, b = k;
    table.rotate(a.data(), at_q);
    table.rotate(b.data(), at_k);
    return dot(a, b);
  };
  for (const std::size_t shift : {1u, 50u, 150u})
    CHECK(std::fabs(score(40 + shift, 13 + shift) - score(40, 13)) < 1e-4);
  CHECK(std::fabs(score(40, 13) - score(40, 14)) > 1e-2);
}

TEST_CASE("rope: a table that grows keeps its values") {
  nn::rope small(8, 10000.0), large(8, 10000.0);
  small.reserve(5);
  small.reserve(3);
  CHECK(small.positions() == 5);
  small.reserve(40);
  large.reserve(40);
  for (std::size_t p = 0; p < 40; ++p) {
    auto a = random_head(8, 4), b = a;
    small.rotate(a.data(), p);
    large.rotate(b.data(), p);
    CHECK(a == b);
  }
}
