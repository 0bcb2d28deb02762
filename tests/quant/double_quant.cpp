// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/double_quant.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "golden/bnb_golden.inc"
#include "support/random.hpp"

using namespace nibble;

TEST_CASE("double_quant: the dynamic map equals the independent implementation in all 256 bits patterns") {
  for (std::size_t i = 0; i < 256; ++i)
    CHECK(std::bit_cast<std::uint32_t>(quant::dynamic_map[i]) == golden_dynamic_map[i]);
}

TEST_CASE("double_quant: the dynamic map is what its definition gives") {
  std::vector<float> values{0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    const int n = (1 << i) + 1;
    const float step = (1.0f - 0.1f) / static_cast<float>(n - 1);
    const auto point = [&](int k) {
      return k < n / 2 ? std::fma(step, static_cast<float>(k), 0.1f)
                       : std::fma(-step, static_cast<float>(n - 1 - k), 1.0f);
    };
    const float power = static_cast<float>(std::pow(10.0, i - 6));
    for (int k = 0; k + 1 < n; ++k) {
      const float v = (point(k) + point(k + 1)) / 2.0f * power;
      values.push_back(v);
      values.push_back(-v);
    }
  }
  std::sort(values.begin(), values.end());
  REQUIRE(values.size() == 256);
  for (std::size_t i = 0; i < 256; ++i) CHECK(values[i] == quant::dynamic_map[i]);
}

TEST_CASE("double_quant: a code is the nearest map value, ties to the lower") {
  for (int code = 0; code < 256; ++code) {
    const auto c = static_cast<std::size_t>(code);
    CHECK(quant::dynamic_code(quant::dynamic_map[c]) == code);
    if (code == 255) continue;
    CHECK(quant::dynamic_code(quant::dynamic_map_thresholds[c]) == code);
    CHECK(quant::dynamic_code(std::nextafter(quant::dynamic_map_thresholds[c], 2.0f)) == code + 1);
  }
}

TEST_CASE("double_quant: codes, maxima, offset and rebuilt scales equal the independent implementation") {
  constexpr std::size_t count = std::size(golden_scales);
  std::vector<float> scales(count);
  for (std::size_t i = 0; i < count; ++i) scales[i] = std::bit_cast<float>(golden_scales[i]);
  std::vector<std::uint8_t> codes(count);
  std::vector<float> super(quant::super_scale_count(count));
  REQUIRE(super.size() == std::size(golden_super_scales));
  quant::quantize_scales(scales.data(), count, codes.data(), super.data());
  for (std::size_t i = 0; i < super.size(); ++i)
    CHECK(std::bit_cast<std::uint32_t>(super[i]) == golden_super_scales[i]);
  for (std::size_t i = 0; i < count; ++i) {
    CHECK(codes[i] == golden_scale_codes[i]);
    const float rebuilt = quant::double_quant_scale(codes[i], super[i / 256], super.back());
    CHECK(std::bit_cast<std::uint32_t>(rebuilt) == golden_rebuilt_scales[i]);
  }
}

TEST_CASE("double_quant: equal scales come back exactly, zeros as zeros") {
  for (const float value : {0.0f, 1.5f, 1e-40f}) {
    const std::vector<float> scales(300, value);
    std::vector<std::uint8_t> codes(300);
    std::vector<float> super(quant::super_scale_count(300));
    quant::quantize_scales(scales.data(), 300, codes.data(), super.data());
    for (std::size_t i = 0; i < 300; ++i)
      CHECK(quant::double_quant_scale(codes[i], super[i / 256], super.back()) == value);
  }
}

TEST_CASE("double_quant: subnormal scales do not divide by zero") {
  std::vector<float> scales(256);
  for (std::size_t i = 0; i < 256; ++i) scales[i] = static_cast<float>(i) * 0x1p-149f;
  std::vector<std::uint8_t> codes(256);
  std::vector<float> super(2);
  quant::quantize_scales(scales.data(), 256, codes.data(), super.data());
  for (std::size_t i = 0; i < 256; ++i) {
    const float rebuilt = quant::double_quant_scale(codes[i], super[0], super[1]);
    // Neighbours in the map are 0.0141 apart near its ends, of a half width of 128 units; plus two roundings to units.
    CHECK(std::fabs(rebuilt - scales[i]) <= 3.0f * 0x1p-149f);
  }
}

TEST_CASE("double_quant: a scale of 0 comes back as 0 when it must, at the price of the offset") {
  std::vector<float> scales(600);
  for (std::size_t i = 0; i < 600; ++i) scales[i] = 1.0f + 0.3f * std::sin(static_cast<float>(i));
  const auto rebuilt = [&](quant::zero_scale zeros) {
    std::vector<std::uint8_t> codes(600);
    std::vector<float> super(quant::super_scale_count(600)), out(600);
    quant::quantize_scales(scales.data(), 600, codes.data(), super.data(), zeros);
    for (std::size_t i = 0; i < 600; ++i) out[i] = quant::double_quant_scale(codes[i], super[i / 256], super.back());
    return out;
  };
  // Without such a scale nothing changes.
  CHECK(rebuilt(quant::zero_scale::exact) == rebuilt(quant::zero_scale::nearest));
  scales[300] = 0.0f;
  scales[599] = 2.7e-7f;  // below half of the map's least value: underflow
  const auto exact = rebuilt(quant::zero_scale::exact), nearest = rebuilt(quant::zero_scale::nearest);
  CHECK(exact[300] == 0.0f);
  CHECK(exact[599] == 0.0f);
  CHECK(nearest[300] != 0.0f);
  // Steps of 0.9 / 64 of the greatest scale, 1.3; the ends of the map are half a step further apart.
  for (std::size_t i = 0; i < 600; ++i)
    CHECK(std::fabs(exact[i] - scales[i]) <= (i == 599 ? 2.7e-7f : 1.3f * 0.75f * 0.9f / 64.0f));
  // A block of zeros beside blocks that have none.
  std::fill_n(scales.data(), 256, 0.0f);
  const auto block = rebuilt(quant::zero_scale::exact);
  CHECK(std::count(block.begin(), block.begin() + 256, 0.0f) == 256);
}
