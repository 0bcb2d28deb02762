// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include <nibble/kernels/scalar/ggml_blocks.hpp>
#include <nibble/quant/ggml_fit.hpp>

#include "support/random.hpp"

namespace {

using namespace nibble;
namespace g = nibble::quant::ggml;

template <class Format>
std::vector<float> decoded(const std::vector<std::byte>& blocks) {
  std::vector<float> y(blocks.size() / Format::block_bytes * 256);
  kernels::decode_ggml_blocks<isa::scalar, Format>::run(blocks.data(), y.size() / 256, y.data());
  return y;
}
template <class Format>
std::vector<float> fitted(const std::vector<float>& x, const float* importance = nullptr) {
  std::vector<std::byte> blocks(x.size() / 256 * Format::block_bytes);
  kernels::fit_ggml_blocks<isa::scalar, Format>::run(x.data(), x.size() / 256, {importance, 1, 0}, blocks.data());
  return decoded<Format>(blocks);
}
template <class Format>
std::vector<float> as_the_original(const std::vector<float>& x) {
  std::vector<std::byte> blocks(x.size() / 256 * Format::block_bytes);
  kernels::encode_ggml_blocks<isa::scalar, Format>::run(x.data(), x.size() / 256, blocks.data());
  return decoded<Format>(blocks);
}
/// The sum of squared differences of every step-th value from `first` on.
double squared(const std::vector<float>& x, const std::vector<float>& y, std::size_t first = 0, std::size_t step = 1) {
  double sum = 0.0;
  for (std::size_t i = first; i < x.size(); i += step) sum += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  return sum;
}
/// Values with the density exp(-|x|) / 2.
std::vector<float> laplace(std::size_t n, std::uint64_t seed) {
  std::vector<float> x = test::uniform(n, seed);  // in [-1, 1)
  for (float& v : x) {
    const double u = v;
    v = static_cast<float>(u < 0.0 ? std::log1p(u) : -std::log1p(-u));
    if (!std::isfinite(v)) v = 0.0f;
  }
  return x;
}

/// A share of the error of the original's search that must not be left.
template <class Format>
constexpr double most_left = 0.0;
template <>
constexpr double most_left<g::q2_k> = 0.80;
template <>
constexpr double most_left<g::q3_k> = 0.93;
template <>
constexpr double most_left<g::q4_k> = 0.96;
template <>
constexpr double most_left<g::q5_k> = 0.91;
template <>
constexpr double most_left<g::q6_k> = 0.92;

}  // namespace

#define NIBBLE_TEST_FITTED g::q2_k, g::q3_k, g::q4_k, g::q5_k, g::q6_k

TEST_CASE_TEMPLATE("ggml_fit: less squared error than the original's search on Gaussian and Laplace values", Format,
                   NIBBLE_TEST_FITTED) {
  const std::string_view name = quant::name_of(Format::type);
  CAPTURE(name);
  for (const std::vector<float>& x : {test::gaussian(128 * 256, 1, 0.02f), laplace(128 * 256, 2)})
    CHECK(squared(x, fitted<Format>(x)) < most_left<Format> * squared(x, as_the_original<Format>(x)));
}

TEST_CASE_TEMPLATE("ggml_fit: the error of important columns falls, that of the others rises", Format,
                   NIBBLE_TEST_FITTED) {
  const auto x = test::gaussian(64 * 256, 3);
  std::vector<float> importance(256, 1.0f);
  for (std::size_t k = 0; k < 256; k += 4) importance[k] = 100.0f;
  const auto plain = fitted<Format>(x), weighted = fitted<Format>(x, importance.data());
  CHECK(squared(x, weighted, 0, 4) < 0.9 * squared(x, plain, 0, 4));
  CHECK(squared(x, weighted, 1, 4) > squared(x, plain, 1, 4));
}

TEST_CASE_TEMPLATE("ggml_fit: importance counts by ratios, and where all is zero every column counts the same", Format,
                   NIBBLE_TEST_FITTED) {
  const auto x = test::gaussian(4 * 256, 4);
  std::vector<float> importance(256), larger(256);
  for (std::size_t k = 0; k < 256; ++k)
    importance[k] = static_cast<float>(k % 7 + 1), larger[k] = importance[k] * 0x1p90f;
  CHECK(fitted<Format>(x, importance.data()) == fitted<Format>(x, larger.data()));
  const std::vector<float> none(256, 0.0f);
  CHECK(fitted<Format>(x, none.data()) == fitted<Format>(x));
}

TEST_CASE_TEMPLATE("ggml_fit: zeros stay zeros", Format, NIBBLE_TEST_FITTED) {
  const std::vector<float> zeros(256, 0.0f);
  CHECK(fitted<Format>(zeros) == zeros);
  // So do sub-blocks of zeros beside others.
  auto x = test::gaussian(256, 5);
  for (std::size_t i = 64; i < 128; ++i) x[i] = 0.0f;
  const auto y = fitted<Format>(x);
  for (std::size_t i = 64; i < 128; ++i) CHECK(y[i] == 0.0f);
}

TEST_CASE_TEMPLATE("ggml_fit: what a block holds exactly comes back exactly", Format, NIBBLE_TEST_FITTED) {
  // Whole numbers over all codes of each sub-block, with the scale 1 of all of them.
  const int least = std::is_same_v<Format, g::q3_k> ? -4 : std::is_same_v<Format, g::q6_k> ? -32 : 0;
  const int levels = std::is_same_v<Format, g::q2_k>   ? 4
                     : std::is_same_v<Format, g::q3_k> ? 8
                     : std::is_same_v<Format, g::q4_k> ? 16
                     : std::is_same_v<Format, g::q5_k> ? 32
                                                       : 64;
  std::vector<float> x(256);
  for (int i = 0; i < 256; ++i) {
    const int within = i % 16, code = levels <= 16 ? within % levels : within * (levels - 1) / 15;
    x[static_cast<std::size_t>(i)] = static_cast<float>(least + code);
  }
  CHECK(squared(x, fitted<Format>(x)) <= 1e-6 * squared(x, std::vector<float>(256, 0.0f)));
}

TEST_CASE_TEMPLATE("ggml_fit: values too large for the halves give halves that are not finite", Format,
                   NIBBLE_TEST_FITTED) {
  std::vector<float> x(256, 0.0f);
  x[0] = -0x1p28f;
  std::array<std::byte, Format::block_bytes> block;
  kernels::fit_ggml_blocks<isa::scalar, Format>::run(x.data(), 1, {}, block.data());
  CHECK(Format::check_block(block.data()) == g::refusal::too_large);
}
