// SPDX-License-Identifier: MIT
#include <nibble/nn/activation.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

using namespace nibble;

TEST_CASE("activation: each function equals its formula in double") {
  for (int i = -400; i <= 400; ++i) {
    const float x = static_cast<float>(i) * 0.025f;
    const double d = x;
    CAPTURE(x);
    const double gelu = d / 2 * (1 + std::erf(d / std::sqrt(2.0)));
    const double inner = std::sqrt(2.0 / std::acos(-1.0)) * (d + 0.044715 * d * d * d);
    const double gelu_tanh = d / 2 * (1 + std::tanh(inner));
    const double silu = d / (1 + std::exp(-d));
    CHECK(std::fabs(nn::gelu(x) - gelu) < 1e-6);
    CHECK(std::fabs(nn::gelu_tanh(x) - gelu_tanh) < 1e-6);
    CHECK(std::fabs(nn::silu(x) - silu) < 1e-6);
    CHECK(nn::relu(x) == (x > 0.0f ? x : 0.0f));
    // The tanh form is an approximation of the exact one, and not the same function.
    CHECK(std::fabs(nn::gelu(x) - nn::gelu_tanh(x)) < 5e-4);
  }
  CHECK(std::fabs(nn::gelu(2.2f) - nn::gelu_tanh(2.2f)) > 2e-4);
}

TEST_CASE("activation: large inputs have their limits, NaN stays NaN") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto kind : {nn::activation_kind::gelu, nn::activation_kind::gelu_tanh, nn::activation_kind::silu,
                          nn::activation_kind::relu}) {
    CAPTURE(static_cast<int>(kind));
    std::vector<float> x{1e30f, -1e30f, nan, 0.0f};
    nn::activate(kind, x.data(), x.size());
    CHECK(x[0] == 1e30f);
    CHECK(x[1] == 0.0f);
    CHECK(std::isnan(x[2]));
    CHECK(x[3] == 0.0f);
  }
}
