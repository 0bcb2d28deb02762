// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <vector>

#include <nibble/quant/codebook.hpp>
#include <nibble/quant/integer_image.hpp>

#include "support/random.hpp"

namespace {

using namespace nibble;
using quant::integer_image;

/// The value of code u in an image, before the scale.
double value(const integer_image& image, std::size_t u) {
  double v = 0.0;
  for (int p = 0; p < image.planes; ++p) v += static_cast<double>(image.units[p]) * (image.codes[p][u] - image.zero());
  return v;
}

/// max |v - t * unit| over greatest |v|.
double error_of(const std::vector<float>& table, table_image kind) {
  const int bits = static_cast<int>(std::lround(std::log2(static_cast<double>(table.size()))));
  const integer_image image = quant::make_integer_image(table.data(), bits, kind);
  double greatest = 0.0, worst = 0.0;
  for (std::size_t u = 0; u < table.size(); ++u) {
    greatest = std::max(greatest, std::abs(static_cast<double>(table[u])));
    worst = std::max(worst, std::abs(value(image, u) - static_cast<double>(table[u])));
  }
  return worst / greatest;
}

const std::vector<float> nf4(quant::nf4_table::table.values.begin(), quant::nf4_table::table.values.end());
/// The table of llama.cpp's IQ4_NL: whole numbers.
const std::vector<float> iq4_nl{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// OCP Microscaling (MX) 1.0, section 5.3.3: FP4 E2M1.
const std::vector<float> e2m1{0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

constexpr double rounding = 0x1p-23;  // of `unit` and of its product with 128

}  // namespace

TEST_CASE("integer_image: tables of whole numbers up to 127 are met exactly in one plane") {
  const integer_image image = quant::make_integer_image(iq4_nl.data(), 4, table_image::one_plane);
  CHECK(image.units[0] == 1.0f);
  for (std::size_t u = 0; u < 16; ++u) CHECK(image.codes[0][u] - image.zero() == static_cast<int>(iq4_nl[u]));
  CHECK(error_of(e2m1, table_image::one_plane) <= rounding);
}

TEST_CASE("integer_image: one plane errs by at most 1/254 of the greatest value, two planes by 1/16254") {
  for (int bits = 2; bits <= 8; ++bits) {
    CAPTURE(bits);
    for (unsigned seed = 1; seed <= 20; ++seed) {
      const std::vector<float> table = test::gaussian(std::size_t{1} << bits, seed);
      CHECK(error_of(table, table_image::one_plane) <= 1.0 / 254.0 + rounding);
      CHECK(error_of(table, table_image::two_planes) <= 1.0 / 16254.0 + rounding);
    }
  }
}

TEST_CASE("integer_image: up to 4 bits no number of steps from 64 to 127 does better") {
  for (const std::vector<float>& table : {nf4, test::gaussian(4, 1), test::gaussian(8, 2), test::gaussian(16, 3)}) {
    double greatest = 0.0;
    for (const float v : table) greatest = std::max(greatest, std::abs(static_cast<double>(v)));
    double least = 1.0;
    for (int n = 64; n <= 127; ++n) {
      double worst = 0.0;
      for (const float v : table) {
        const double t = static_cast<double>(v) / greatest * n;
        worst = std::max(worst, std::abs(t - std::nearbyint(t)) / n);
      }
      least = std::min(least, worst);
    }
    CHECK(error_of(table, table_image::one_plane) <= least + rounding);
  }
}

TEST_CASE("integer_image: codes fill the width of their plane and no more") {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::vector<float> table = test::gaussian(std::size_t{1} << bits, 9);
    const integer_image one = quant::make_integer_image(table.data(), bits, table_image::one_plane);
    const integer_image two = quant::make_integer_image(table.data(), bits, table_image::two_planes);
    CHECK(one.planes == 1);
    CHECK(two.planes == 2);
    for (std::size_t u = 0; u < table.size(); ++u) {
      CHECK(one.codes[0][u] >= 1);
      CHECK(two.codes[0][u] >= 1);
      CHECK(two.codes[0][u] <= 127);
      CHECK(two.codes[1][u] <= 127);
    }
  }
}

TEST_CASE("integer_image: the greatest and the least normal values keep their share") {
  for (const float greatest : {FLT_MAX, FLT_MIN * 0x1p20f}) {
    const std::vector<float> table{-greatest, 0.0f, greatest * 0.3f, greatest};
    CHECK(error_of(table, table_image::one_plane) <= 1.0 / 254.0 + rounding);
    CHECK(error_of(table, table_image::two_planes) <= 1.0 / 16254.0 + rounding);
  }
}

TEST_CASE("integer_image: a constant expression gives what a call gives") {
  constexpr integer_image at_compile_time =
      quant::make_integer_image(quant::nf4_table::table.values.data(), 4, table_image::two_planes);
  const integer_image called = quant::make_integer_image(nf4.data(), 4, table_image::two_planes);
  for (std::size_t p = 0; p < 2; ++p) {
    CHECK(at_compile_time.units[p] == called.units[p]);
    CHECK(std::equal(at_compile_time.codes[p], at_compile_time.codes[p] + 16, called.codes[p]));
  }
}
