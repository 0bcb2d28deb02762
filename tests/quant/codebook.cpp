// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/codebook.hpp>
#include <nibble/quant/lloyd_max.hpp>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "golden/bnb_golden.inc"
#include "support/random.hpp"

using namespace nibble;
using quant::group_params;

namespace {

using nf4 = quant::codebook<quant::nf4_table, quant::flat<64>>;
using fp4 = quant::codebook<quant::fp4_table, quant::flat<64>>;

template <std::size_t Size>
std::vector<float> floats(const std::uint32_t (&bits)[Size]) {
  std::vector<float> x;
  for (const std::uint32_t b : bits) x.push_back(std::bit_cast<float>(b));
  return x;
}

/// Codes, scales and values of the policy, block by block, against the golden arrays.
template <class P, std::size_t Blocks, std::size_t Size>
void check_golden(const std::uint32_t (&absmax)[Blocks], const std::uint8_t (&codes)[Size],
                  const std::uint32_t (&values)[Size]) {
  const auto x = floats(golden_x);
  REQUIRE(x.size() == Size);
  REQUIRE((Size + 63) / 64 == Blocks);
  for (std::size_t g = 0; g < Blocks; ++g) {
    const std::span<const float> block(x.data() + g * 64, g * 64 + 64 <= Size ? 64 : Size - g * 64);
    const group_params p = P::fit(block);
    CAPTURE(g);
    CHECK(std::bit_cast<std::uint32_t>(p.scale) == absmax[g]);
    for (std::size_t i = 0; i < block.size(); ++i) {
      CAPTURE(block[i]);
      const int code = P::encode(block[i], p);
      REQUIRE(code == codes[g * 64 + i]);
      // Zeros may differ in their sign.
      REQUIRE(P::decode(code, p) == std::bit_cast<float>(values[g * 64 + i]));
    }
  }
}

}  // namespace

TEST_CASE("codebook: NF4 codes, scales and values equal the independent implementation, bit for bit") {
  check_golden<nf4>(golden_nf4_absmax, golden_nf4_codes, golden_nf4_values);
}

TEST_CASE("codebook: FP4 codes, scales and values equal the independent implementation, bit for bit") {
  check_golden<fp4>(golden_fp4_absmax, golden_fp4_codes, golden_fp4_values);
}

TEST_CASE("codebook: every table value is its own code, and ties go to the lower code") {
  const group_params one{1.0f, 0.0f};
  for (int u = 0; u < 16; ++u) {
    CHECK(nf4::encode(nf4::decode(u, one), one) == u);
    if (u != 8) CHECK(fp4::encode(fp4::decode(u, one), one) == u);  // -0 is 0
  }
  for (std::size_t i = 0; i < 15; ++i) {
    const float t = quant::nf4_table::table.thresholds[i];
    CHECK(nf4::encode(t, one) == static_cast<int>(i));
    CHECK(nf4::encode(std::nextafter(t, 2.0f), one) == static_cast<int>(i) + 1);
  }
  for (std::size_t i = 0; i < 7; ++i) {
    const float t = quant::fp4_table::thresholds[i];
    CHECK(fp4::encode(t, one) == quant::fp4_table::code_of_rank[i]);
    CHECK(fp4::encode(-t, one) == (quant::fp4_table::code_of_rank[i] | 8));
    CHECK(fp4::encode(std::nextafter(t, 2.0f), one) == quant::fp4_table::code_of_rank[i + 1]);
  }
}

TEST_CASE("codebook: scale 0 encodes as the code of zero; a scale without a finite reciprocal is divided by") {
  CHECK(nf4::encode(1.0f, {0.0f, 0.0f}) == 7);
  CHECK(fp4::encode(1.0f, {0.0f, 0.0f}) == 0);
  const group_params tiny{1e-40f, 0.0f};
  CHECK(nf4::encode(1e-40f, tiny) == 15);
  CHECK(nf4::encode(0.0f, tiny) == 7);
  CHECK(nf4::encode(-1e-40f, tiny) == 0);
}

TEST_CASE("codebook: the NF4 error is at most half the widest gap of the table times the scale") {
  // The widest gap of NF4 is 1 - 0.6961928 between codes 0 and 1; v = x / absmax lies in [-1, 1].
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto x = seed % 2 == 0 ? test::gaussian(64, seed) : test::adversarial(64, seed);
    const group_params p = nf4::fit(x);
    for (const float v : x)
      REQUIRE(std::fabs(static_cast<double>(v) - static_cast<double>(nf4::decode(nf4::encode(v, p), p))) <=
              0.5 * (1.0 - 0.6961928) * static_cast<double>(p.scale) * (1.0 + 1e-6) + 0x1p-149);
  }
}

TEST_CASE("codebook: a user's table in any order gives the nearest value, ties to the lower one") {
  test::generator g(3);
  for (int bits = 2; bits <= 8; ++bits) {
    std::vector<float> values(std::size_t{1} << bits);
    for (float& v : values) v = static_cast<float>(g.gaussian());
    const quant::run_time_table table(values, bits);
    const codebook_desc book = table.desc();
    const group_params p{0.7f, 0.0f};
    for (int i = 0; i < 2000; ++i) {
      const float x = static_cast<float>(2.0 * g.gaussian());
      const int code = quant::codebook_code(book, x, p);
      const double v = static_cast<double>(x / p.scale);
      double least = 1e30;
      for (const float t : values) least = std::fmin(least, std::fabs(v - static_cast<double>(t)));
      REQUIRE(std::fabs(v - static_cast<double>(values[static_cast<std::size_t>(code)])) <= least + 1e-6);
    }
    for (int u = 0; u < 1 << bits; ++u) {
      const float exact = p.scale * values[static_cast<std::size_t>(u)];
      REQUIRE(quant::codebook_value(book, u, p) == exact);
    }
  }
  const std::vector<float> four{3.0f, -1.0f, 1.0f, 0.0f};
  const quant::run_time_table table(four, 2);
  CHECK(quant::codebook_code(table.desc(), 2.0f, {1.0f, 0.0f}) == 2);
  CHECK(quant::codebook_code(table.desc(), -0.5f, {1.0f, 0.0f}) == 1);
  CHECK(table.desc().greatest == 3.0f);
}

TEST_CASE("codebook: tables of the wrong size or with non-finite values are refused") {
  const std::vector<float> seven(7, 1.0f), zeros(4, 0.0f),
      bad{0.0f, 1.0f, std::numeric_limits<float>::infinity(), 2.0f};
  CHECK_THROWS_AS(quant::run_time_table(seven, 3), error);
  CHECK_THROWS_AS(quant::run_time_table(zeros, 2), error);
  CHECK_THROWS_AS(quant::run_time_table(bad, 2), error);
  CHECK_THROWS_AS(quant::run_time_table(seven, 9), error);
}

TEST_CASE("codebook: Lloyd-Max scales by the root mean square, the others by the greatest magnitude") {
  const std::vector<float> x{3.0f, -4.0f, 0.0f, 5.0f};
  CHECK(quant::codebook<quant::lloyd_max_table<4>, quant::grouped<4>>::fit(x).scale ==
        static_cast<float>(std::sqrt(12.5)));
  CHECK(quant::codebook<quant::nf4_table, quant::grouped<4>>::fit(x).scale == 5.0f);
  CHECK(quant::codebook<quant::fp4_table, quant::grouped<4>, half>::fit(std::vector<float>{1.0f, 1.0002f}).scale ==
        1.0f);
}
