// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using native = kernels::quantize_row<isa::native>;
using scalar = kernels::quantize_row<isa::scalar>;

struct quantized {
  std::vector<std::int8_t> codes;
  std::uint32_t scale_bits;
  bool operator==(const quantized&) const = default;
};

template <class Kernel>
quantized run(const std::vector<float>& x, std::size_t padded) {
  std::vector<std::int8_t> codes(padded, 99);
  const float scale = Kernel::run(x.data(), x.size(), codes.data(), padded);
  return {codes, std::bit_cast<std::uint32_t>(scale)};
}

}  // namespace

TEST_CASE("quantize_row: the scalar kernel takes part") { CHECK(test::covers<scalar, isa::scalar>()); }

TEST_CASE("quantize_row: native equals scalar bit for bit on ragged lengths") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t K : test::ragged_sizes(64)) {
    CAPTURE(K);
    const auto x = test::gaussian(K, 1, 3.0f);
    CHECK(run<native>(x, K + 7) == run<scalar>(x, K + 7));
  }
}

TEST_CASE("quantize_row: native equals scalar on extremes: zeros, subnormals, the largest floats") {
  for (const float size : {0.0f, -0.0f, 0x1p-149f, 0x1p-140f, 0x1p-126f, std::numeric_limits<float>::max()}) {
    CAPTURE(size);
    std::vector<float> x(37);
    for (std::size_t k = 0; k < x.size(); ++k) x[k] = k % 2 == 0 ? size : -size / 3.0f;
    CHECK(run<native>(x, 64) == run<scalar>(x, 64));
  }
}

TEST_CASE("quantize_row: ties round to even") {
  // absmax 127 makes the scale 1, so the codes are the rounded values.
  const std::vector<float> x = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f};
  const std::vector<std::int8_t> want = {127, 0, 2, 2, 0, -2, -2, 126};
  CHECK(run<native>(x, 8).codes == want);
  CHECK(run<scalar>(x, 8).codes == want);
}

TEST_CASE("quantize_row: the error of a code is at most half a step") {
  // code = rne(fl(x / s)): the quotient, at most 127, is off by at most 2^-18, so the rounding by 1/2 + 2^-18 of a step.
  const auto x = test::gaussian(1000, 5);
  const quantized q = run<native>(x, 1000);
  const double scale = std::bit_cast<float>(q.scale_bits);
  for (std::size_t k = 0; k < x.size(); ++k) CHECK(std::abs(x[k] - scale * q.codes[k]) <= (0.5 + 0x1p-18) * scale);
}

TEST_CASE("quantize_row: a NaN or infinity anywhere makes the scale NaN and the codes zero") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const std::size_t place : {std::size_t{0}, std::size_t{15}, std::size_t{36}}) {
      auto x = test::gaussian(37, 2);
      x[place] = bad;
      const quantized q = run<native>(x, 40);
      CHECK(std::isnan(std::bit_cast<float>(q.scale_bits)));
      CHECK(q.codes == std::vector<std::int8_t>(40, 0));
    }
  }
}

TEST_CASE("quantize_row: reads nothing past K and writes nothing past the padding") {
  for (const std::size_t K : test::ragged_sizes(32)) {
    CAPTURE(K);
    const test::guarded<float> x(K);
    const auto values = test::gaussian(K, 3);
    std::copy(values.begin(), values.end(), x.begin());
    const test::guarded<std::int8_t> codes(K + 3);
    native::run(x.data(), K, codes.data(), K + 3);
    CHECK(std::vector<std::int8_t>(codes.begin(), codes.end()) == run<scalar>(values, K + 3).codes);
  }
}

TEST_CASE("quantize_row: native equals scalar where quotients are ties or a few units beside them") {
  // x = fl((i + 1/2) * s) moved by up to two units in the last place; the first value fixes the scale.
  if (!test::covers<native, native::isa_type>()) return;
  for (const float scale : {1.0f, 0.3f, 0x1.fffffep-9f, 7e-39f, 1e-30f, 2e36f}) {
    CAPTURE(scale);
    for (int units = -2; units <= 2; ++units) {
      std::vector<float> x = {127.0f * scale};
      for (int i = -127; i < 127; ++i) {
        float v = (static_cast<float>(i) + 0.5f) * scale;
        for (int u = 0; u < std::abs(units); ++u) v = std::nextafter(v, units < 0 ? -1e38f : 1e38f);
        x.push_back(v);
      }
      CHECK(run<native>(x, x.size()) == run<scalar>(x, x.size()));
    }
  }
}

TEST_CASE("quantize_row: native equals scalar on many scales") {
  if (!test::covers<native, native::isa_type>()) return;
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    const auto x = test::gaussian(4096, seed, std::exp2(static_cast<float>(seed % 60) * 0.37f - 10.0f));
    CHECK(run<native>(x, x.size()) == run<scalar>(x, x.size()));
  }
}

TEST_CASE("sum_groups: native equals scalar on every group and ragged length") {
  using native_sums = kernels::sum_groups<isa::native>;
  if (!test::covers<native_sums, native_sums::isa_type>()) return;
  for (const std::size_t group : {1u, 4u, 8u, 16u, 24u, 32u, 36u, 64u, 128u, 1000u}) {
    for (const std::size_t K : test::ragged_sizes(64)) {
      CAPTURE(group);
      CAPTURE(K);
      const test::guarded<std::int8_t> codes(K);
      for (std::size_t k = 0; k < K; ++k)
        codes.begin()[k] = static_cast<std::int8_t>(static_cast<int>((k * 77 + group) % 255) - 127);
      std::vector<std::int32_t> got(K / group + 1, 5), want(K / group + 1, 5);
      native_sums::run(codes.begin(), K, group, got.data());
      kernels::sum_groups<isa::scalar>::run(codes.begin(), K, group, want.data());
      CHECK(got == want);
    }
  }
}

TEST_CASE("group_sums: sums of each group, the last one short") {
  const std::vector<std::int8_t> codes = {1, 2, 3, 4, -5, 6, 7, 8, 127, -127};
  std::int32_t sums[3];
  kernels::group_sums(codes.data(), codes.size(), 4, sums);
  CHECK(sums[0] == 10);
  CHECK(sums[1] == 16);
  CHECK(sums[2] == 0);
}
