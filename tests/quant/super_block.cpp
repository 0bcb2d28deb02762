// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/granularity.hpp>
#include <nibble/quant/super_block.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "support/random.hpp"
#include "support/refusal.hpp"

using namespace nibble;
using test::refusal_of;

TEST_CASE("super_block: a value is exactly its code times its half") {
  test::generator random(1);
  for (int i = 0; i < 100000; ++i) {
    half h{static_cast<std::uint16_t>(random.next() >> 40)};
    if (!is_finite(to_float(h))) continue;
    const auto code = static_cast<std::int8_t>(random.next() >> 33);
    const double exact = static_cast<double>(code) * static_cast<double>(to_float(h));
    CHECK(static_cast<double>(quant::super_block_value(code, h)) == exact);
  }
}

TEST_CASE("super_block: quantized values are off by half a step, the greatest by what the half is rounded") {
  test::generator random(2);
  for (int trial = 0; trial < 2000; ++trial) {
    const std::size_t count = 1 + random.next() % 32;
    std::vector<float> v(count);
    const double size = std::ldexp(1.0, static_cast<int>(random.next() % 24) - 12);
    double most = 0.0;
    for (float& x : v) {
      x = static_cast<float>((static_cast<double>(random.next() >> 11) * 0x1p-53 - 0.25) * size);
      most = std::max(most, std::fabs(static_cast<double>(x)));
    }
    std::vector<std::int8_t> codes(count);
    const half d = quant::quantize_super_block(v.data(), count, quant::small_value::zero, codes.data());
    const double step = to_float(d);
    // Half a step, and for values near the greatest that the half was rounded down: half a unit in its last place, 127 times.
    const double bound = 0.5000001 * step + most * 0x1p-11 + 127 * 0x1p-25;
    for (std::size_t i = 0; i < count; ++i)
      CHECK(std::fabs(static_cast<double>(quant::super_block_value(codes[i], d)) - static_cast<double>(v[i])) <= bound);
  }
}

TEST_CASE("super_block: a scale that is not 0 keeps a step, an offset becomes 0") {
  const float v[] = {100.0f, 0.01f, -0.01f, 0.0f};
  std::int8_t codes[4];
  quant::quantize_super_block(v, 4, quant::small_value::step, codes);
  CHECK(codes[0] == 127);
  CHECK(codes[1] == 1);
  CHECK(codes[2] == -1);
  CHECK(codes[3] == 0);
  quant::quantize_super_block(v, 4, quant::small_value::zero, codes);
  CHECK(codes[1] == 0);
  CHECK(codes[2] == 0);
}

TEST_CASE("super_block: zeros, subnormal and too great values") {
  std::int8_t codes[2] = {5, 5};
  const float zeros[] = {0.0f, -0.0f};
  CHECK(quant::quantize_super_block(zeros, 2, quant::small_value::step, codes) == half{0});
  CHECK(codes[0] == 0);
  const float tiny[] = {std::numeric_limits<float>::denorm_min(), 1e-9f};
  CHECK(quant::quantize_super_block(tiny, 2, quant::small_value::step, codes) == half{0});
  CHECK(codes[1] == 0);
  const float great[] = {std::numeric_limits<float>::max(), 1.0f};
  CHECK_FALSE(is_finite(to_float(quant::quantize_super_block(great, 2, quant::small_value::step, codes))));
}

TEST_CASE("super_block: formats whose groups do not divide 256 are refused") {
  const auto refused = [](granularity_kind kind, std::uint32_t size) {
    const format_desc f{code_rule::symmetric, 4, kind, scale_storage::super_block, size};
    return refusal_of([&] { quant::check_format(f, "test"); }).code;
  };
  CHECK(refused(granularity_kind::grouped, 96) == errc::unsupported_format);
  CHECK(refused(granularity_kind::grouped, 512) == errc::unsupported_format);
  CHECK(refused(granularity_kind::per_channel, 0) == errc::unsupported_format);
  CHECK(refused(granularity_kind::flat, 64) == errc::unsupported_format);
  CHECK(refused(granularity_kind::grouped, 256) == errc::ok);
}
