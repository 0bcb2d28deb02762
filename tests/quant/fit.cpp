// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/fit.hpp>
#include <nibble/quant/qtype.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/random.hpp"

using namespace nibble;
using quant::group_params;

namespace {

quant::group_codec codec_of(qtype type) { return {quant::info_of(type).format, quant::info_of(type).book}; }

group_params fit(const quant::group_codec& c, const std::vector<float>& x, const fit_options& options) {
  quant::range_scan scan;
  scan.add(x.data(), x.size());
  return quant::fit_group(c, quant::contiguous_source{x.data(), x.size()}, scan.range(), options);
}

double squared_error(const quant::group_codec& c, const std::vector<float>& x, group_params p) {
  return quant::detail::squared_error(c, quant::contiguous_source{x.data(), x.size()}, p);
}

/// D = |w - q|^2 / |w|^2 over rows of n normals, each row fitted alone; also the mean cosine.
struct quality {
  double distortion, cosine;
};
quality gaussian_quality(qtype type, std::size_t n, std::size_t rows, const fit_options& options = {}) {
  const quant::group_codec c = codec_of(type);
  double e = 0.0, energy = 0.0, cosine = 0.0;
  std::vector<std::uint8_t> codes(n);
  std::vector<float> y(n);
  for (std::size_t r = 0; r < rows; ++r) {
    const auto x = test::gaussian(n, r + 1);
    const group_params p = fit(c, x, options);
    quant::encode_group(c, p, x.data(), n, codes.data());
    quant::decode_group(c, p, codes.data(), n, y.data());
    double xx = 0.0, yy = 0.0, xy = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
      e += (a - b) * (a - b), xx += a * a, yy += b * b, xy += a * b;
    }
    energy += xx;
    cosine += xy / std::sqrt(xx * yy);
  }
  return {e / energy, cosine / static_cast<double>(rows)};
}

}  // namespace

TEST_CASE("fit: percentile is the order statistic, for magnitudes and for two tails") {
  for (std::size_t n : {1u, 2u, 10u, 999u, 5000u})
    for (const double p : {1.0, 0.999, 0.99, 0.5, 0.01}) {
      const auto x = n % 2 == 0 ? test::gaussian(n, n) : test::adversarial(n, n);
      std::vector<float> sorted = x, magnitudes = x;
      for (float& v : magnitudes) v = std::fabs(v);
      std::sort(sorted.begin(), sorted.end());
      std::sort(magnitudes.begin(), magnitudes.end());
      const quant::contiguous_source source{x.data(), n};
      const auto outside = [&](double share) { return static_cast<std::size_t>(share * static_cast<double>(n)); };
      const auto one = quant::detail::percentile_range(codec_of(qtype::w4_channel), source, p);
      CHECK(one.hi == magnitudes[n - 1 - std::min(outside(1.0 - p), n - 1)]);
      CHECK(one.lo == -one.hi);
      const auto two = quant::detail::percentile_range(codec_of(qtype::w4a_channel), source, p);
      const std::size_t tail = std::min(outside((1.0 - p) / 2.0), (n - 1) / 2);
      CHECK(two.lo == sorted[tail]);
      CHECK(two.hi == sorted[n - 1 - tail]);
    }
}

TEST_CASE("fit: percentile 1 is min-max") {
  const auto x = test::gaussian(333, 8);
  for (const qtype type :
       {qtype::w4_channel, qtype::w4a_channel, qtype::w4o_channel, qtype::w4m_g128, qtype::nf4_g64}) {
    const group_params a = fit(codec_of(type), x, {.method = fitter::percentile, .percentile = 1.0});
    const group_params b = fit(codec_of(type), x, {});
    CHECK(a.scale == b.scale);
    CHECK(a.zero == b.zero);
  }
}

TEST_CASE("fit: mse_search is the best of at least 64 clips from 0.3 to 1, both ends included") {
  for (const qtype type : {qtype::w2_channel, qtype::w3m_g128, qtype::w4a_g128, qtype::w4f_channel, qtype::nf4_g64})
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const quant::group_codec c = codec_of(type);
      // Data for which either end of the search wins: evenly spread (no clipping), and one great outlier.
      auto x = seed == 0 ? test::uniform(512, 1) : test::gaussian(512, seed);
      if (seed == 4) x[7] = 40.0f;
      const group_params best = fit(c, x, {.method = fitter::mse_search});
      quant::range_scan scan;
      scan.add(x.data(), x.size());
      for (int i = 0; i < 64; ++i) {
        const double clip = 0.3 + 0.7 * i / 63.0;
        const auto r = quant::detail::clipped(c.format.rule, scan.range(), static_cast<float>(clip));
        REQUIRE(squared_error(c, x, best) <= squared_error(c, x, quant::detail::params_for_range(c, r)) * (1.0 + 1e-6));
      }
    }
  // The lower end itself: 2 bits and an outlier so great that the smallest clip is best.
  auto x = test::gaussian(512, 1);
  x[7] = 12.0f;
  CHECK(fit(codec_of(qtype::w2_channel), x, {.method = fitter::mse_search}).scale == 0.3f * 12.0f);
}

TEST_CASE("fit: mse_search takes the clip that trying all of them in turn takes, the greater one of equals") {
  for (std::size_t f = 0; f < quant::qtype_count; ++f) {
    const auto type = static_cast<qtype>(f);
    CAPTURE(quant::name_of(type));
    const quant::group_codec c = codec_of(type);
    for (const std::size_t n : {1u, 33u, 300u})
      for (const int clips : {2, 17, 64, 99}) {
        auto x = test::gaussian(n, n + f);
        for (float& v : x) v += 0.25f;
        quant::range_scan scan;
        scan.add(x.data(), x.size());
        group_params best = fit(c, x, {});
        double least = squared_error(c, x, best);
        for (int i = 0; i < clips; ++i) {
          const float clip = i == clips - 1 ? 0.3f : static_cast<float>(1.0 - 0.7 * i / (clips - 1));
          const auto range = quant::detail::clipped(c.format.rule, scan.range(), clip);
          const group_params p = quant::detail::params_for_range(c, range);
          const double error = squared_error(c, x, p);
          if (error < least) least = error, best = p;
        }
        const group_params found = fit(c, x, {.method = fitter::mse_search, .clips = clips});
        REQUIRE(found.scale == best.scale);
        REQUIRE(found.zero == best.zero);
      }
  }
}

TEST_CASE("fit: the errors that a search adds up are exactly those of the codes that encode gives") {
  for (std::size_t f = 0; f < quant::qtype_count; ++f) {
    const auto type = static_cast<qtype>(f);
    CAPTURE(quant::name_of(type));
    const quant::group_codec c = codec_of(type);
    const std::size_t n = 77;
    const auto x = test::gaussian(n, f);
    group_params p = fit(c, x, {});
    for (const bool null_scale : {false, true}) {
      if (null_scale) p.scale = 0.0f;
      std::vector<std::uint8_t> codes(n);
      std::vector<float> level(n), error(n);
      quant::encode_group(c, p, x.data(), n, codes.data());
      quant::detail::levels_of(c, p, codes.data(), n, level.data());
      quant::detail::errors_of(c, p, x.data(), n, error.data());
      const float offset = c.format.rule == code_rule::asymmetric_offset ? p.zero : 0.0f;
      for (std::size_t i = 0; i < n; ++i) {
        const double value = static_cast<double>(p.scale) * static_cast<double>(level[i]);
        REQUIRE(error[i] == static_cast<float>((static_cast<double>(x[i]) - static_cast<double>(offset)) - value));
      }
    }
  }
}

TEST_CASE("fit: no search is worse than the format's own rule") {
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const auto type = static_cast<qtype>(i);
    CAPTURE(quant::name_of(type));
    const quant::group_codec c = codec_of(type);
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const auto x = seed % 2 == 0 ? test::gaussian(100, seed) : test::adversarial(100, seed);
      const double plain = squared_error(c, x, fit(c, x, {}));
      CHECK(squared_error(c, x, fit(c, x, {.method = fitter::mse_search})) <= plain);
      CHECK(squared_error(c, x, fit(c, x, {.method = fitter::least_squares})) <= plain);
    }
  }
}

TEST_CASE("fit: least squares leaves the scale <x, t> / <t, t> of its own codes") {
  for (const qtype type : {qtype::lloyd2_channel, qtype::lloyd4_channel, qtype::w4m_channel, qtype::w3f_channel}) {
    const quant::group_codec c = codec_of(type);
    const auto x = test::gaussian(1000, 3);
    const group_params p = fit(c, x, {.method = fitter::least_squares});
    std::vector<std::uint8_t> codes(x.size());
    std::vector<float> level(x.size());
    quant::encode_group(c, p, x.data(), x.size(), codes.data());
    quant::decode_group(c, {1.0f, 0.0f}, codes.data(), x.size(), level.data());
    double xt = 0.0, tt = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      xt += static_cast<double>(x[i]) * static_cast<double>(level[i]);
      tt += static_cast<double>(level[i]) * static_cast<double>(level[i]);
    }
    CHECK(static_cast<double>(p.scale) == doctest::Approx(xt / tt).epsilon(1e-5));
  }
}

TEST_CASE("fit: least squares with an offset recovers a line exactly") {
  const quant::group_codec c = codec_of(qtype::w4o_channel);
  std::vector<float> x;
  for (int i = 0; i < 64; ++i) x.push_back(2.5f + 0.25f * static_cast<float>(i % 16));
  const group_params p = fit(c, x, {.method = fitter::least_squares});
  CHECK(p.scale == 0.25f);
  CHECK(p.zero == 2.5f);
}

TEST_CASE("fit: parameters are as stored") {
  const auto x = test::gaussian(128, 4);
  for (const qtype type : {qtype::w4_g128, qtype::w4o_g128, qtype::w4_g128_bf16, qtype::lloyd4_g128, qtype::nf4_g64})
    for (const fitter method : {fitter::min_max, fitter::percentile, fitter::mse_search, fitter::least_squares}) {
      const quant::group_codec c = codec_of(type);
      const group_params p = fit(c, x, {.method = method});
      CHECK(p.scale == quant::as_stored(c.format.scale, p.scale));
      if (c.format.rule == code_rule::asymmetric_offset) CHECK(p.zero == quant::as_stored(c.format.scale, p.zero));
    }
}

// Closed forms and reference values for Gaussian rows. 200 rows leave a standard error well below the tolerances.
TEST_CASE("fit: min-max reaches the closed forms of Gaussian rows") {
  const auto cosine = [](qtype type) { return gaussian_quality(type, 1024, 200).cosine; };
  CHECK(cosine(qtype::w3_channel) == doctest::Approx(.9489).epsilon(2e-3));
  CHECK(cosine(qtype::w4_channel) == doctest::Approx(.9901).epsilon(4e-4));
  CHECK(cosine(qtype::w5_channel) == doctest::Approx(.99780).epsilon(1e-4));
  CHECK(cosine(qtype::w6_channel) == doctest::Approx(.99948).epsilon(3e-5));
  CHECK(cosine(qtype::w8_channel) == doctest::Approx(.999969).epsilon(2e-6));
  CHECK(cosine(qtype::w3a_channel) == doctest::Approx(.9660).epsilon(2e-3));
  CHECK(cosine(qtype::w4a_channel) == doctest::Approx(.99223).epsilon(4e-4));
  CHECK(cosine(qtype::w6a_channel) == doctest::Approx(.99955).epsilon(3e-5));
  CHECK(cosine(qtype::w8a_channel) == doctest::Approx(.999973).epsilon(2e-6));
  CHECK(cosine(qtype::w2f_channel) == doctest::Approx(.6246).epsilon(5e-3));  // R2's ternary, n = 1024
  CHECK(gaussian_quality(qtype::nf4_flat64, 64, 3000).distortion == doctest::Approx(.00844).epsilon(0.01));
  CHECK(gaussian_quality(qtype::w8_g32, 32, 3000).distortion == doctest::Approx(2.85e-5).epsilon(0.02));
}

TEST_CASE("fit: Lloyd-Max and MSE-clipped grids reach the optima of scalar quantization") {
  const double lloyd[] = {.117482, .034548, .0095010, .0025047, .00064424, .00016348, .000041185};
  const double uniform[] = {.118846, .037440, .011543, .0034952, .00104005, .00030433, .000087686};
  const qtype tables[] = {qtype::lloyd2_channel, qtype::lloyd3_channel, qtype::lloyd4_channel, qtype::lloyd5_channel,
                          qtype::lloyd6_channel, qtype::lloyd7_channel, qtype::lloyd8_channel};
  const qtype grids[] = {qtype::w2m_channel, qtype::w3m_channel, qtype::w4m_channel, qtype::w5m_channel,
                         qtype::w6m_channel, qtype::w7m_channel, qtype::w8m_channel};
  for (std::size_t i = 0; i < 7; ++i) {
    CAPTURE(i + 2);
    CHECK(gaussian_quality(tables[i], 16384, 8).distortion == doctest::Approx(lloyd[i]).epsilon(0.02));
    // A row of 16384 knows its own tail: at many levels its best grid is a little better than the infinite one.
    const double d = gaussian_quality(grids[i], 16384, 4, {.method = fitter::mse_search}).distortion;
    CHECK(d < uniform[i] * 1.02);
    CHECK(d > uniform[i] * 0.85);
  }
}

TEST_CASE("fit: the two-bit grids on the rows of R2's shapes reach their reference cosines") {
  // Mean cosine over the three weight matrices with rows of 2h, h and h/2... as columns of (4h,2h), (2h,h), (h,h/2).
  const auto mean_cosine = [](qtype type, std::size_t h, const fit_options& options) {
    double sum = 0.0;
    for (const std::size_t n : {2 * h, h, h / 2}) {
      // One cosine for each matrix, not the mean over rows.
      const quant::group_codec c = codec_of(type);
      double xx = 0.0, yy = 0.0, xy = 0.0;
      std::vector<std::uint8_t> codes(n);
      std::vector<float> y(n);
      for (std::size_t r = 0; r < std::min<std::size_t>(2 * n, 200); ++r) {
        const auto x = test::gaussian(n, 1000 * n + r);
        const group_params p = fit(c, x, options);
        quant::encode_group(c, p, x.data(), n, codes.data());
        quant::decode_group(c, p, codes.data(), n, y.data());
        for (std::size_t i = 0; i < n; ++i) {
          const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
          xx += a * a, yy += b * b, xy += a * b;
        }
      }
      sum += xy / std::sqrt(xx * yy);
    }
    return sum / 3.0;
  };
  const fit_options clipped{.method = fitter::mse_search}, least{.method = fitter::least_squares};
  const double h[] = {32, 128, 512};
  const double mid_rise[] = {.9456, .9405, .9391}, lloyd[] = {.9463, .9413, .9399}, ternary[] = {.8197, .7414, .6629};
  const double zero_point[] = {.9268, .8923, .8585}, offset[] = {.9327, .8965, .8656};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto width = static_cast<std::size_t>(h[i]);
    CAPTURE(width);
    CHECK(mean_cosine(qtype::w2m_channel, width, clipped) == doctest::Approx(mid_rise[i]).epsilon(0.002));
    CHECK(mean_cosine(qtype::lloyd2_channel, width, least) == doctest::Approx(lloyd[i]).epsilon(0.002));
    CHECK(mean_cosine(qtype::w2f_channel, width, {}) == doctest::Approx(ternary[i]).epsilon(0.01));
    CHECK(mean_cosine(qtype::w2a_channel, width, {}) == doctest::Approx(zero_point[i]).epsilon(0.008));
    CHECK(mean_cosine(qtype::w2o_channel, width, {}) == doctest::Approx(offset[i]).epsilon(0.008));
  }
}
