// SPDX-License-Identifier: MIT
#include <nibble/nn/kv_codec.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

std::vector<float> random_vector(std::size_t n, float middle, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(middle, spread);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

}  // namespace

TEST_CASE("kv_codec: online codes are rne((x - min) / scale), scale = (max - min) / 255") {
  // min -2, max 0.55: scale 0.01 to a rounding; codes by hand.
  const std::vector<float> x{-2.0f, 0.55f, -1.0f, -1.996f, 0.0f};
  std::vector<std::uint8_t> codes(x.size());
  const nn::kv_online_params p = nn::encode_kv_online(x, codes.data());
  CHECK(p.zero == -2.0f);
  CHECK(p.scale == (0.55f + 2.0f) / 255.0f);
  CHECK(codes == std::vector<std::uint8_t>{0, 255, 100, 0, 200});
}

TEST_CASE("kv_codec: online error is at most scale / 2") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const float middle = seed % 3 == 0 ? 0.0f : 5.0f, spread = std::exp2(static_cast<float>(seed % 20) - 10.0f);
    const auto x = random_vector(1 + seed, middle, spread, seed);
    std::vector<std::uint8_t> codes(x.size());
    std::vector<float> y(x.size());
    const nn::kv_online_params p = nn::encode_kv_online(x, codes.data());
    nn::decode_kv_online(codes.data(), p, y);
    float largest = 0.0f;
    for (const float v : x) largest = std::max(largest, std::fabs(v));
    // Beside the half step: x - min, the quotient (255 at most) and the result are each rounded once.
    const double bound = 0.5 * p.scale + 4 * 0x1p-24 * 3.0 * largest;
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::fabs(static_cast<double>(y[i]) - x[i]) <= bound);
  }
}

TEST_CASE("kv_codec: a constant vector comes back exactly, also a tiny one") {
  for (const float value : {0.0f, -3.25f, 1e-42f, 3e38f}) {
    const std::vector<float> x(20, value);
    std::vector<std::uint8_t> codes(x.size(), 7);
    std::vector<float> y(x.size());
    const nn::kv_online_params p = nn::encode_kv_online(x, codes.data());
    CHECK(p.scale == 0.0f);
    nn::decode_kv_online(codes.data(), p, y);
    CHECK(y == x);
  }
  // The range has no scale above zero; the values are constant to within it.
  const std::vector<float> x{0.0f, 0x1p-149f};
  std::vector<std::uint8_t> codes(2);
  std::vector<float> y(2);
  nn::decode_kv_online(codes.data(), nn::encode_kv_online(x, codes.data()), y);
  CHECK(y == std::vector<float>{0.0f, 0.0f});
}

TEST_CASE("kv_codec: a vector that is not finite comes back as NaN") {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& x :
       {std::vector<float>{1.0f, nan}, {nan, 1.0f}, {infinity, 0.0f}, {0.0f, -infinity}, {3e38f, -3e38f}}) {
    std::vector<std::uint8_t> codes(2);
    std::vector<float> y(2);
    nn::decode_kv_online(codes.data(), nn::encode_kv_online(x, codes.data()), y);
    CHECK(std::isnan(y[0]));
    CHECK(std::isnan(y[1]));
  }
}

TEST_CASE("kv_codec: static examples, computed by hand") {
  // Symmetric over absmax 12.7: scale 0.1.
  const nn::kv_static_params symmetric = nn::fit_kv_symmetric(12.7f);
  CHECK(symmetric.scale == 12.7f / 127.0f);
  CHECK(symmetric.zero_point == 0.0f);
  std::vector<std::uint8_t> codes(6);
  nn::encode_kv_static(std::vector<float>{0.0f, 12.7f, -12.7f, 1.0f, 100.0f, -100.0f}, symmetric, codes.data());
  CHECK(codes == std::vector<std::uint8_t>{128, 255, 1, 138, 255, 0});  // beyond the range: clamped

  // Asymmetric over [-1, 4.1]: scale 0.02, zero point 1.55, a float. The least value takes code 0 (-127.5 + 128 = 0.5, a
  // tie, goes to even) or 1 by a rounding of the quotient; the greatest, +127.5 + 128 = 255.5, is clamped to 255.
  const nn::kv_static_params asymmetric = nn::fit_kv_asymmetric(-1.0f, 4.1f);
  CHECK(asymmetric.scale == doctest::Approx(0.02));
  CHECK(asymmetric.zero_point == doctest::Approx(1.55));
  nn::encode_kv_static(std::vector<float>{-1.0f, 4.1f, 1.55f, 1.57f, 1.555f, 2.55f}, asymmetric, codes.data());
  CHECK(codes[0] <= 1);
  CHECK(codes[1] == 255);
  CHECK(codes[2] == 128);
  CHECK(codes[3] == 129);
  CHECK(codes[4] == 128);
  CHECK(codes[5] == 178);
  std::vector<float> y(6);
  nn::decode_kv_static(codes.data(), asymmetric, y);
  CHECK(y[3] == doctest::Approx(1.57));
  CHECK(y[1] == doctest::Approx(4.09));  // off by scale / 2: the one value where the bound is reached
}

TEST_CASE("kv_codec: static error inside the fitted range is at most scale / 2") {
  for (unsigned seed = 0; seed < 100; ++seed) {
    const auto x = random_vector(64, static_cast<float>(seed % 5), 1.5f, seed);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    for (const bool symmetric : {false, true}) {
      const nn::kv_static_params p =
          symmetric ? nn::fit_kv_symmetric(std::max(-*low, *high)) : nn::fit_kv_asymmetric(*low, *high);
      std::vector<std::uint8_t> codes(x.size());
      std::vector<float> y(x.size());
      nn::encode_kv_static(x, p, codes.data());
      nn::decode_kv_static(codes.data(), p, y);
      // The place in [0, 256) carries two roundings of 2^-24 * 256; in values that is 2^-16 * 2 scales at most.
      for (std::size_t i = 0; i < x.size(); ++i)
        CHECK(std::fabs(static_cast<double>(y[i]) - x[i]) <= (0.5 + 0x1p-14) * p.scale + 0x1p-23 * 10.0);
    }
  }
}

TEST_CASE("kv_codec: scale 0 stores the zero point") {
  std::vector<std::uint8_t> codes(2);
  std::vector<float> y(2);
  const nn::kv_static_params p = nn::fit_kv_asymmetric(2.5f, 2.5f);
  nn::encode_kv_static(std::vector<float>{2.5f, 9.0f}, p, codes.data());
  nn::decode_kv_static(codes.data(), p, y);
  CHECK(y == std::vector<float>{2.5f, 2.5f});
}
