// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/affine.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/random.hpp"

using namespace nibble;
using quant::group_params;

namespace {

constexpr code_rule rules[] = {code_rule::symmetric, code_rule::symmetric_full, code_rule::mid_rise,
                               code_rule::asymmetric, code_rule::asymmetric_offset};
constexpr scale_storage storages[] = {scale_storage::f32, scale_storage::f16, scale_storage::bf16};
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float greatest = std::numeric_limits<float>::max();

int encode(code_rule rule, float x, int bits, group_params p) {
  switch (rule) {
    case code_rule::symmetric: return quant::affine_code<code_rule::symmetric>(x, bits, p);
    case code_rule::symmetric_full: return quant::affine_code<code_rule::symmetric_full>(x, bits, p);
    case code_rule::mid_rise: return quant::affine_code<code_rule::mid_rise>(x, bits, p);
    case code_rule::asymmetric: return quant::affine_code<code_rule::asymmetric>(x, bits, p);
    default: return quant::affine_code<code_rule::asymmetric_offset>(x, bits, p);
  }
}
float decode(code_rule rule, int u, int bits, group_params p) {
  switch (rule) {
    case code_rule::symmetric: return quant::affine_value<code_rule::symmetric>(u, bits, p);
    case code_rule::symmetric_full: return quant::affine_value<code_rule::symmetric_full>(u, bits, p);
    case code_rule::mid_rise: return quant::affine_value<code_rule::mid_rise>(u, bits, p);
    case code_rule::asymmetric: return quant::affine_value<code_rule::asymmetric>(u, bits, p);
    default: return quant::affine_value<code_rule::asymmetric_offset>(u, bits, p);
  }
}

group_params fit(code_rule rule, int bits, scale_storage s, const std::vector<float>& x) {
  quant::range_scan scan;
  scan.add(x.data(), x.size());
  return quant::affine_params(rule, bits, s, scan.range());
}

float ulp(float x) {
  const float a = std::fabs(x);
  return std::nextafter(a, inf) - a;
}

}  // namespace

TEST_CASE("affine: every code decodes to the value of its formula") {
  const float s = 0.375f;
  for (int bits = 2; bits <= 8; ++bits)
    for (int u = 0; u < 1 << bits; ++u) {
      const float h = static_cast<float>(1 << (bits - 1)), c = static_cast<float>(u);
      CHECK(decode(code_rule::symmetric, u, bits, {s, 0}) == s * (c - h));
      CHECK(decode(code_rule::symmetric_full, u, bits, {s, 0}) == s * (c - h));
      CHECK(decode(code_rule::mid_rise, u, bits, {s, 0}) == s * (c - h + 0.5f));
      CHECK(decode(code_rule::asymmetric, u, bits, {s, 2}) == s * (c - 2.0f));
      CHECK(decode(code_rule::asymmetric_offset, u, bits, {s, -1.3f}) == std::fma(s, c, -1.3f));
    }
}

TEST_CASE("affine: encode gives a decoded value its own code, for every code that the rule uses") {
  for (const code_rule rule : rules)
    for (int bits = 2; bits <= 8; ++bits) {
      const int top = (1 << bits) - 1;
      for (const float scale : {1.0f, 0.0127f, 3e-39f})
        for (const float zero : {0.0f, 1.0f, static_cast<float>(top)}) {
          const bool zeros = rule == code_rule::asymmetric || rule == code_rule::asymmetric_offset;
          if (!zeros && zero != 0.0f) continue;
          for (int u = rule == code_rule::symmetric ? 1 : 0; u <= top; ++u) {
            const group_params p{scale, rule == code_rule::asymmetric_offset ? zero * scale : zero};
            CAPTURE(static_cast<int>(rule));
            CAPTURE(bits);
            REQUIRE(encode(rule, decode(rule, u, bits, p), bits, p) == u);
          }
        }
    }
}

TEST_CASE("affine: values beyond the grid take its ends; symmetric never uses -2^(bits-1)") {
  for (const code_rule rule : rules)
    for (int bits = 2; bits <= 8; ++bits) {
      const group_params p{0.5f, rule == code_rule::asymmetric ? 1.0f : 0.0f};
      CHECK(encode(rule, greatest, bits, p) == (1 << bits) - 1);
      CHECK(encode(rule, -greatest, bits, p) == (rule == code_rule::symmetric ? 1 : 0));
    }
}

TEST_CASE("affine: ties go to the even step") {
  const group_params one{1.0f, 0.0f};
  CHECK(encode(code_rule::symmetric, 0.5f, 4, one) == 8);
  CHECK(encode(code_rule::symmetric, 1.5f, 4, one) == 10);
  CHECK(encode(code_rule::symmetric, -2.5f, 4, one) == 6);
  CHECK(encode(code_rule::mid_rise, 1.0f, 4, one) == 8);   // 0.5 steps above level 0: to 0
  CHECK(encode(code_rule::mid_rise, 2.0f, 4, one) == 10);  // 1.5: to 2
  CHECK(encode(code_rule::asymmetric, 0.5f, 4, {1.0f, 3.0f}) == 3);
  CHECK(encode(code_rule::asymmetric_offset, 1.5f, 4, {1.0f, 1.0f}) == 0);
  CHECK(encode(code_rule::asymmetric_offset, 2.5f, 4, {1.0f, 1.0f}) == 2);
}

TEST_CASE("affine: the quotient is an IEEE division, not a multiplication with a reciprocal") {
  // 4.5 steps exactly: a tie to the even 4. With the reciprocal of this scale the product rounds to above the tie.
  int differing = 0;
  test::generator g(9);
  for (int i = 0; i < 1000; ++i) {
    const float s = static_cast<float>(0.001 + g.unit());
    const float x = s * 4.5f;
    if (x / s != 4.5f) continue;
    REQUIRE(encode(code_rule::symmetric, x, 4, {s, 0.0f}) == 12);
    differing += x * (1.0f / s) > 4.5f;
  }
  CHECK(differing > 0);
}

TEST_CASE("affine: symmetric_full at 2 bits is the ternary scheme of R2") {
  // s = max|row| / qmax with qmax = 1, code = clip(rne(x / s), -2, 1).
  const auto x = test::gaussian(2048, 42);
  const group_params p = fit(code_rule::symmetric_full, 2, scale_storage::f32, x);
  float absmax = 0.0f;
  for (const float v : x) absmax = std::fmax(absmax, std::fabs(v));
  CHECK(p.scale == absmax);
  for (const float v : x) {
    const int code = static_cast<int>(std::fmin(1.0f, std::fmax(-2.0f, std::nearbyint(v / absmax))));
    REQUIRE(encode(code_rule::symmetric_full, v, 2, p) == code + 2);
    REQUIRE(code >= -1);
  }
  // And INT8: qmax = 127.
  CHECK(fit(code_rule::symmetric_full, 8, scale_storage::f32, x).scale == absmax / 127.0f);
}

// The bound on the error of an element inside the range that the parameters were fitted to:
//
// Let t be the exact quotient in steps. The code is the integer nearest to fl(t), clamped to the grid. affine_params
// stores the scale so that the range reaches at most half a step beyond the grid, so clamping, too, leaves an error of
// at most s / 2 in exact arithmetic. Rounding adds: the quotient (and for asymmetric_offset the difference before it)
// moves t by at most 2^-24 |t| each, hence the error by at most 2^-24 s |t|, which is half an ulp of |x - z| each; the
// decoded product or fused sum rounds by half an ulp of the value, which is below |x| + s. Together less than two ulps
// of the greatest magnitude involved, max(|x|, |z|, |value|).
//
// A scale that underflows its storage is 0: then range / divisor was at most half the least stored number, and all values
// become 0 (or the offset), so the error is at most divisor * least / 2, the divisor being at most 255.
TEST_CASE("affine: min-max keeps the error within half a step and two ulps, for all rules, widths and scale types") {
  for (const code_rule rule : rules)
    for (int bits = 2; bits <= 8; ++bits)
      for (const scale_storage storage : storages)
        for (std::uint64_t seed = 0; seed < 60; ++seed) {
          CAPTURE(static_cast<int>(rule));
          CAPTURE(bits);
          CAPTURE(static_cast<int>(storage));
          CAPTURE(seed);
          const std::size_t n = 1 + seed * 7 % 70;
          auto x = seed % 3 == 0   ? test::gaussian(n, seed)
                   : seed % 3 == 1 ? test::adversarial(n, seed)
                                   : test::uniform(n, seed, 99.0f, 101.0f);
          if (seed % 5 == 4)
            for (float& v : x) v *= 1e-40f;
          const group_params p = fit(rule, bits, storage, x);
          REQUIRE(is_finite(p.scale));
          REQUIRE(p.scale >= 0.0f);
          REQUIRE(quant::as_stored(storage, p.scale) == p.scale);
          const double least = storage == scale_storage::f16    ? 0x1p-24
                               : storage == scale_storage::bf16 ? 0x1p-133
                                                                : 0x1p-149;
          for (const float v : x) {
            const int u = encode(rule, v, bits, p);
            REQUIRE(u >= (rule == code_rule::symmetric ? 1 : 0));
            REQUIRE(u < 1 << bits);
            const float value = decode(rule, u, bits, p);
            const double offset = rule == code_rule::asymmetric_offset ? static_cast<double>(p.zero) : 0.0;
            const float magnitude =
                std::fmax(std::fmax(std::fabs(v), std::fabs(value)), static_cast<float>(std::fabs(offset)));
            const double bound = p.scale == 0.0f ? 255.0 * least / 2.0 : static_cast<double>(p.scale) / 2.0;
            const double error = std::fabs(static_cast<double>(v) - static_cast<double>(value));
            CAPTURE(v);
            CAPTURE(value);
            CAPTURE(p.scale);
            CAPTURE(p.zero);
            REQUIRE(error <= bound + 2.0 * static_cast<double>(ulp(magnitude)));
          }
        }
}

TEST_CASE("affine: an all-zero group has scale 0 and decodes to zeros") {
  const std::vector<float> x(33, 0.0f);
  for (const code_rule rule : rules)
    for (int bits = 2; bits <= 8; ++bits)
      for (const scale_storage storage : storages) {
        const group_params p = fit(rule, bits, storage, x);
        CHECK(p.scale == 0.0f);
        CHECK(decode(rule, encode(rule, 0.0f, bits, p), bits, p) == 0.0f);
      }
}

TEST_CASE("affine: a constant group survives asymmetric_offset exactly") {
  for (const float c : {1.0f, -3.1415926f, 1e-40f, 77.7f}) {
    const group_params p = fit(code_rule::asymmetric_offset, 4, scale_storage::f32, std::vector<float>(9, c));
    CHECK(p.scale == 0.0f);
    CHECK(decode(code_rule::asymmetric_offset, encode(code_rule::asymmetric_offset, c, 4, p), 4, p) == c);
  }
}

TEST_CASE("affine: the greatest floats neither overflow a scale nor decode to infinity") {
  // 0.99: nearer to the end a bfloat16 scale of one step itself would round to infinity.
  const float most = 0.99f * greatest;
  const std::vector<float> x{-most, -most / 2, 0.0f, most / 3, most};
  for (int bits = 2; bits <= 8; ++bits) {
    for (const scale_storage storage : {scale_storage::f32, scale_storage::bf16})
      for (const code_rule rule :
           {code_rule::symmetric, code_rule::symmetric_full, code_rule::mid_rise, code_rule::asymmetric}) {
        CAPTURE(bits);
        CAPTURE(static_cast<int>(rule));
        CAPTURE(static_cast<int>(storage));
        const group_params p = fit(rule, bits, storage, x);
        REQUIRE(is_finite(p.scale));
        for (const float v : x) {
          const float value = decode(rule, encode(rule, v, bits, p), bits, p);
          CHECK(is_finite(value));
          // A zero point between two integers puts one end of the grid up to half a step outside the range, here beyond
          // the greatest float: the scale gives way.
          const double steps = rule == code_rule::asymmetric ? 1.01 : 0.501;
          CHECK(std::fabs(static_cast<double>(v) - static_cast<double>(value)) <= steps * static_cast<double>(p.scale));
        }
      }
    CHECK(is_finite(fit(code_rule::symmetric, bits, scale_storage::f32, {greatest, -greatest}).scale));
    const group_params upper = fit(code_rule::asymmetric_offset, bits, scale_storage::f32, {0.0f, greatest});
    CHECK(is_finite(decode(code_rule::asymmetric_offset, (1 << bits) - 1, bits, upper)));
    // The range itself exceeds the greatest float: reported, not hidden.
    CHECK_FALSE(is_finite(fit(code_rule::asymmetric_offset, bits, scale_storage::f32, x).scale));
  }
}

TEST_CASE("affine: what overflows the storage type comes back infinite") {
  CHECK_FALSE(is_finite(fit(code_rule::symmetric, 8, scale_storage::f16, {65504.0f * 128.0f}).scale));
  CHECK(is_finite(fit(code_rule::symmetric, 8, scale_storage::f16, {65504.0f * 127.0f}).scale));
  CHECK_FALSE(is_finite(fit(code_rule::asymmetric_offset, 8, scale_storage::f16, {-1e6f, 0.0f}).zero));
}

TEST_CASE("affine: the range need not hold zero for an offset, and must for a zero point") {
  const std::vector<float> x = test::uniform(100, 5, 10.0f, 11.0f);
  const group_params offset = fit(code_rule::asymmetric_offset, 4, scale_storage::f32, x);
  CHECK(offset.scale == doctest::Approx(1.0 / 15).epsilon(0.05));
  const group_params zero = fit(code_rule::asymmetric, 4, scale_storage::f32, x);
  CHECK(zero.zero == 0.0f);
  CHECK(zero.scale == doctest::Approx(11.0 / 15).epsilon(0.01));
  const group_params negative =
      fit(code_rule::asymmetric, 4, scale_storage::f32, test::uniform(100, 5, -11.0f, -10.0f));
  CHECK(negative.zero == 15.0f);
}

TEST_CASE("affine: a policy's format says what its template arguments say") {
  using p = quant::affine<3, code_rule::asymmetric_offset, quant::grouped<32>, half>;
  constexpr format_desc f = p::format();
  CHECK(f.bits == 3);
  CHECK(f.rule == code_rule::asymmetric_offset);
  CHECK(f.granularity == granularity_kind::grouped);
  CHECK(f.group_size == 32);
  CHECK(f.scale == scale_storage::f16);
  CHECK(std::is_same_v<p::zero_type, half>);
  CHECK(
      std::is_same_v<quant::affine<3, code_rule::asymmetric_offset, quant::grouped<32>, quant::double_quant>::zero_type,
                     float>);
  CHECK(std::is_same_v<quant::affine<3, code_rule::asymmetric, quant::per_tensor>::zero_type, std::uint8_t>);
}

TEST_CASE("affine: a block codec keeps its parameters and codes together") {
  using p = quant::affine<4, code_rule::symmetric, quant::grouped<32>, half>;
  const auto x = test::gaussian(31, 8);  // a short last block
  p::block b;
  p::encode_block(x, b);
  std::vector<float> y(31);
  p::decode_block(b, y);
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == p::decode(p::encode(x[i], b.params), b.params));
  CHECK_THROWS_AS(p::encode_block(test::gaussian(33, 8), b), error);
  std::vector<float> longer(32);
  CHECK_THROWS_AS(p::decode_block(b, longer), error);
  CHECK_THROWS_AS(p::encode_block(std::vector<float>{1.0f, inf}, b), error);
  using row = quant::affine<8, code_rule::symmetric, quant::per_channel>;
  row::block whole;
  row::encode_block(test::gaussian(1000, 9), whole);
  CHECK(whole.codes.size() == 1000);
}
