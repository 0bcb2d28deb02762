// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <nibble/kernels/panel_params.hpp>

#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;

template <class T>
void fill_at_random(const test::guarded<T>& bytes, std::uint64_t seed) {
  const std::vector<std::uint8_t> all = test::codes(bytes.size(), seed);
  std::memcpy(bytes.data(), all.data(), all.size());
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

TEST_CASE("panel_params: scales of super-blocks are code times half, where the last block is short, too") {
  for (const std::size_t in_block : {std::size_t{8}, std::size_t{16}}) {
    for (const std::size_t groups :
         {std::size_t{1}, std::size_t{8}, std::size_t{16}, std::size_t{21}, std::size_t{40}}) {
      CAPTURE(in_block);
      CAPTURE(groups);
      const test::guarded<std::int8_t> codes(groups * 16);
      fill_at_random(codes, 1);
      test::guarded<half> blocks(ceil_div(groups, in_block) * 16);
      const std::vector<float> values = test::gaussian(blocks.size(), 2);
      for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = to_half(values[i]);
      blocks[0] = to_half(std::numeric_limits<float>::infinity());
      const test::guarded<float> out(groups * 16);
      kernels::decode_super_blocks(codes.data(), blocks.data(), groups, in_block, out.data());
      bool equal = true;
      for (std::size_t i = 0; i < groups * 16; ++i) {
        const float want = static_cast<float>(codes[i]) * to_float(blocks[i / 16 / in_block * 16 + i % 16]);
        equal = equal && (same_bits(out[i], want) || (out[i] != out[i] && want != want));
      }
      CHECK(equal);
    }
  }
}

TEST_CASE("panel_params: zero points become whole numbers and floats") {
  constexpr std::size_t count = 16 * 17;
  const test::guarded<std::uint8_t> codes(count);
  fill_at_random(codes, 3);
  const test::guarded<std::int32_t> whole(count);
  const test::guarded<float> floats(count);
  kernels::decode_zeros(codes.data(), count, whole.data());
  kernels::decode_zeros(codes.data(), count, floats.data());
  for (std::size_t i = 0; i < count; ++i) {
    CHECK(whole[i] == codes[i]);
    CHECK(floats[i] == static_cast<float>(codes[i]));
  }
}

TEST_CASE(
    "panel_params: double-quantized scales of a panel are those of each index, across blocks and past the last row") {
  struct plane {
    std::size_t rows, groups;
  };
  for (const plane p : {plane{16, 64}, plane{37, 1}, plane{37, 5}, plane{20, 86}, plane{33, 256}, plane{18, 300}}) {
    CAPTURE(p.rows);
    CAPTURE(p.groups);
    const std::vector<float> super_scales = test::gaussian(ceil_div(p.rows * p.groups, std::size_t{256}), 4);
    test::guarded<float> absmax(super_scales.size());
    std::copy(super_scales.begin(), super_scales.end(), absmax.data());
    constexpr float offset = 0.3f;
    for (std::size_t first = 0; first < p.rows; first += 16) {
      const std::size_t columns = p.rows - first < 16 ? p.rows - first : 16;
      const test::guarded<std::uint8_t> codes(p.groups * 16);
      fill_at_random(codes, 5 + first);
      const test::guarded<float> out(p.groups * 16);
      kernels::decode_double_quants(codes.data(), p.groups, first, columns, absmax.data(), offset, out.data());
      bool equal = true;
      for (std::size_t i = 0; i < p.groups * 16; ++i) {
        const std::size_t n = i % 16, index = (first + n) * p.groups + i / 16;
        const float want = n < columns ? kernels::decode_double_quant(codes[i], index, absmax.data(), offset) : 0.0f;
        equal = equal && (n < columns ? same_bits(out[i], want) : out[i] == 0.0f);
      }
      CHECK(equal);
    }
  }
}
