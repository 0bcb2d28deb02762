// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using native = kernels::activation<isa::native>;
using scalar = kernels::activation<isa::scalar>;

/// Every 2^9-th float of each sign, infinities and NaN among them.
std::vector<float> all_over() {
  std::vector<float> x;
  for (std::uint64_t u = 0; u < std::uint64_t{1} << 32; u += 509)
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(u)));
  for (const float v : {0.0f, -0.0f, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                        std::numeric_limits<float>::quiet_NaN()})
    x.push_back(v);
  return x;
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

TEST_CASE("activation: the scalar kernel takes part") { CHECK(test::covers<scalar, isa::scalar>()); }

TEST_CASE("activation: exp is within 1.5 units in the last place of the exact value") {
  double worst = 0.0;
  bool limits = true;
  for (const float x : all_over()) {
    const double want = std::exp(static_cast<double>(x));
    const float got = scalar::exp(x);
    if (std::isnan(x)) limits = limits && std::isnan(got);
    else if (want > static_cast<double>(std::numeric_limits<float>::max()) * (1.0 + 0x1p-25))
      limits = limits && std::isinf(got);
    else {
      const double unit = std::max(std::exp2(std::floor(std::log2(want)) - 23.0), 0x1p-149);
      worst = std::max(worst, std::abs(static_cast<double>(got) - want) / unit);
    }
  }
  CHECK(limits);
  CHECK(worst < 1.5);
}

TEST_CASE("activation: gelu has the relative error that its contract states, also far below zero") {
  double worst = 0.0, near = 0.0;
  bool limits = true;
  for (const float x : all_over()) {
    const float got = scalar::gelu(x);
    if (std::isnan(x) || std::isinf(x)) {
      limits = limits && (x > 0.0f ? got == x : std::isnan(got));
      continue;
    }
    const double want = 0.5 * static_cast<double>(x) * std::erfc(-static_cast<double>(x) * std::sqrt(0.5));
    const double error = std::abs(static_cast<double>(got) - want) / std::max(std::abs(want), 0x1p-126);
    worst = std::max(worst, error);
    if (x > -1.0f) near = std::max(near, error);
  }
  CHECK(limits);
  CHECK(worst < 4.5e-6);
  CHECK(near < 4.2e-7);
}

TEST_CASE("activation: native equals scalar bit for bit on floats of every size") {
  if (!test::covers<native, native::isa_type>()) return;
  const auto x = all_over();
  const auto differ = [&](auto f, auto g) {
    std::vector<float> a = x, b = x;
    f(a);
    g(b);
    std::size_t count = 0;
    for (std::size_t i = 0; i < a.size(); ++i) count += same_bits(a[i], b[i]) ? 0 : 1;
    return count;
  };
  using v = std::vector<float>;
  CHECK(differ([](v& a) { native::exp_scaled(a.data(), a.size(), 3.0f, 0.25f); },
               [](v& a) { scalar::exp_scaled(a.data(), a.size(), 3.0f, 0.25f); }) == 0);
  CHECK(differ([](v& a) { native::silu(a.data(), a.size()); }, [](v& a) { scalar::silu(a.data(), a.size()); }) == 0);
  CHECK(differ([](v& a) { native::gelu(a.data(), a.size()); }, [](v& a) { scalar::gelu(a.data(), a.size()); }) == 0);
  CHECK(differ([](v& a) { native::gelu_tanh(a.data(), a.size()); },
               [](v& a) { scalar::gelu_tanh(a.data(), a.size()); }) == 0);
}

TEST_CASE("activation: an element's result does not depend on its place, and nothing past n is touched") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t n : test::ragged_sizes(32)) {
    CAPTURE(n);
    const test::guarded<float> x(n);
    const auto from = test::gaussian(n, 1, 4.0f);
    std::copy(from.begin(), from.end(), x.begin());
    native::silu(x.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      float one = from[i];
      scalar::silu(&one, 1);
      CHECK(same_bits(x[i], one));
    }
  }
}
