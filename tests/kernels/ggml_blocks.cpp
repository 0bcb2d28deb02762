// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/scalar/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_blocks.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/ggml_fit.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
namespace g = nibble::quant::ggml;

struct input {
  std::string_view name;
  std::vector<float> x;
};

/// n values of each kind that the formats treat apart.
std::vector<input> inputs(std::size_t n) {
  std::vector<input> all;
  const auto add = [&](std::string_view name, auto f) {
    std::vector<float> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = f(i);
    all.push_back({name, x});
  };
  const auto bell = test::gaussian(n, 1), wide = test::gaussian(n, 2), flat = test::uniform(n, 3);
  all.push_back({"gaussian", bell});
  all.push_back({"uniform", flat});
  all.push_back({"adversarial", test::adversarial(n, 4)});
  add("positive", [&](std::size_t i) { return std::fabs(bell[i]) + 0.5f; });
  add("negative", [&](std::size_t i) { return -std::fabs(bell[i]) - 0.5f; });
  add("ramp", [&](std::size_t i) { return static_cast<float>(i) - static_cast<float>(n / 2); });
  add("constant runs", [&](std::size_t i) { return bell[i / 32 * 32]; });
  add("constant", [](std::size_t) { return -0.75f; });
  add("zeros of both signs", [&](std::size_t i) { return bell[i] < 0.0f ? -0.0f : 0.0f; });
  add("sparse", [&](std::size_t i) { return std::fabs(wide[i]) > 2.0f ? bell[i] : 0.0f; });
  add("few levels", [&](std::size_t i) { return std::round(bell[i] * 2.0f); });
  add("outliers", [&](std::size_t i) { return i % 61 == 0 ? 64.0f * bell[i] : bell[i]; });
  add("subnormal", [&](std::size_t i) { return bell[i] * 1e-40f; });
  add("scales below the halves", [&](std::size_t i) { return bell[i] * 1e-9f; });
  add("around 1e-15", [&](std::size_t i) { return bell[i] * 1e-15f; });
  add("squares below the normal range", [&](std::size_t i) { return bell[i] * 1e-19f; });
  add("large", [&](std::size_t i) { return bell[i] * 1e5f; });
  add("to the greatest", [&](std::size_t i) { return flat[i] * 0x1p28f; });
  add("sub-blocks of all sizes", [&](std::size_t i) {
    return bell[i] * std::exp2(8.0f * wide[i / 16 * 16]) * (wide[i / 256 * 256] < -0.5f ? 1e-12f : 1.0f);
  });
  add("midpoints of IQ4_NL",
      [&](std::size_t i) { return i % 32 == 0 ? -127.0f : std::round(253.0f * flat[i]) * 0.5f; });
  add("midpoints of MXFP4", [&](std::size_t i) {
    return i % 32 == 0 ? 8.0f
                       : std::nextafter(std::round(24.0f * flat[i]) * 0.5f, (bell[i] < 0.0f ? -1.0f : 1.0f) * 20.0f);
  });
  add("ties of MXFP4", [&](std::size_t i) { return i % 32 == 0 ? -8.0f : std::round(24.0f * flat[i]) * 0.5f; });
  add("just below powers of two", [&](std::size_t i) {
    const float steps = std::floor(std::fabs(wide[i]) * 20.0f);
    return std::ldexp(1.0f - steps * 0x1p-24f, static_cast<int>(bell[i / 32 * 32] * 9.0f)) *
           (bell[i] < 0.0f ? -1.0f : 1.0f);
  });
  add("zero blocks", [&](std::size_t i) { return wide[i / 16 * 16] < 0.0f ? 0.0f : bell[i]; });
  return all;
}

template <class Kernel, class Format>
std::vector<std::byte> encoded(const std::vector<float>& x) {
  const std::size_t count = x.size() / Format::block_elements;
  std::vector<std::byte> blocks(count * Format::block_bytes, std::byte{0x5a});
  Kernel::run(x.data(), count, blocks.data());
  return blocks;
}

#define NIBBLE_TEST_ENCODED                                                                                      \
  g::q8_0, g::q4_0, g::q4_1, g::q5_0, g::q5_1, g::iq4_nl, g::mxfp4, g::q2_k, g::q3_k, g::q4_k, g::q5_k, g::q6_k, \
      g::iq4_xs

}  // namespace

TEST_CASE_TEMPLATE("ggml_blocks: native encodes as the scalar kernel, byte for byte", Format, NIBBLE_TEST_ENCODED) {
  using native = kernels::encode_ggml_blocks<isa::native, Format>;
  using scalar = kernels::encode_ggml_blocks<isa::scalar, Format>;
  if (!test::covers<native, typename native::isa_type>()) return;
  const std::string_view name = quant::name_of(Format::type);
  CAPTURE(name);
  for (const std::size_t count : {1u, 2u, 3u, 5u, 8u, 67u})
    for (const input& in : inputs(count * Format::block_elements)) {
      CAPTURE(count);
      CAPTURE(in.name);
      const auto want = encoded<scalar, Format>(in.x), got = encoded<native, Format>(in.x);
      const auto differs = std::mismatch(want.begin(), want.end(), got.begin()).first - want.begin();
      CHECK(differs == static_cast<std::ptrdiff_t>(want.size()));
    }
}

TEST_CASE_TEMPLATE("ggml_blocks: encoding touches nothing beyond values and blocks", Format, NIBBLE_TEST_ENCODED) {
  for (const std::size_t count : {1u, 3u, 7u, 16u, 17u}) {
    const auto values = test::gaussian(count * Format::block_elements, 5);
    const test::guarded<float> x(values.size());
    std::copy(values.begin(), values.end(), x.begin());
    const test::guarded<std::byte> blocks(count * Format::block_bytes);
    kernels::encode_ggml_blocks<isa::native, Format>::run(x.data(), count, blocks.data());
    CHECK(std::memcmp(blocks.data(), encoded<kernels::encode_ggml_blocks<isa::scalar, Format>, Format>(values).data(),
                      blocks.size()) == 0);
  }
}

#define NIBBLE_TEST_WEIGHTED g::iq4_nl, g::iq4_xs

TEST_CASE_TEMPLATE("ggml_blocks: native weighs by importance as the scalar kernel, byte for byte", Format,
                   NIBBLE_TEST_WEIGHTED) {
  using native = kernels::encode_ggml_blocks<isa::native, Format>;
  using scalar = kernels::encode_ggml_blocks<isa::scalar, Format>;
  if (!test::covers<native, typename native::isa_type>()) return;
  const std::string_view name = quant::name_of(Format::type);
  CAPTURE(name);
  constexpr std::size_t of_row = 3, N = Format::block_elements;
  std::vector<float> columns = test::gaussian(of_row * N, 7);
  for (float& c : columns) c *= c;
  for (std::size_t i = 0; i < N; ++i) columns[N + i] = i % 3 == 0 ? 0x1p56f : columns[i] * 1e-38f;
  std::fill(columns.begin() + 2 * N, columns.begin() + 2 * N + N / 2, 0.0f);
  for (const std::size_t count : {1u, 2u, 3u, 5u, 8u, 67u})
    for (const input& in : inputs(count * N)) {
      CAPTURE(count);
      CAPTURE(in.name);
      std::vector<std::byte> want(count * Format::block_bytes, std::byte{0x5a}), got(want.size(), std::byte{0xa5});
      scalar::run(in.x.data(), count, {columns.data(), of_row, 2}, want.data());
      native::run(in.x.data(), count, {columns.data(), of_row, 2}, got.data());
      const auto differs = std::mismatch(want.begin(), want.end(), got.begin()).first - want.begin();
      CHECK(differs == static_cast<std::ptrdiff_t>(want.size()));
    }
}

TEST_CASE("ggml_blocks: native encodes magnitudes of all floats as MXFP4 as the scalar kernel, byte for byte") {
  using native = kernels::encode_ggml_blocks<isa::native, g::mxfp4>;
  using scalar = kernels::encode_ggml_blocks<isa::scalar, g::mxfp4>;
  if (!test::covers<native, typename native::isa_type>()) return;
  test::generator random(9);
  std::vector<float> x(32 * 255 * 5);
  for (std::size_t b = 0; b < x.size() / 32; ++b) {
    const auto exponent = static_cast<std::uint32_t>(b % 255);
    for (std::size_t i = 0; i < 32; ++i) {
      const auto bits = static_cast<std::uint32_t>(random.next());
      const std::uint32_t less = i < 8 ? 0 : bits >> 8 & 7u, near = bits % 128;  // mantissas from all ones down, too
      const std::uint32_t mantissa = b % 5 < 2 && i < 4 ? 0x7fffffu - near : bits & 0x7fffffu;
      x[32 * b + i] =
          std::bit_cast<float>((bits & 0x80000000u) | (exponent < less ? 0 : exponent - less) << 23 | mantissa);
    }
  }
  CHECK(encoded<native, g::mxfp4>(x) == encoded<scalar, g::mxfp4>(x));
}

TEST_CASE_TEMPLATE("ggml_blocks: native decodes random blocks as the scalar kernel, bit for bit", Format,
                   NIBBLE_TEST_ENCODED, g::f16, g::bf16) {
  using native = kernels::decode_ggml_blocks<isa::native, Format>;
  using scalar = kernels::decode_ggml_blocks<isa::scalar, Format>;
  const std::string_view name = quant::name_of(Format::type);
  CAPTURE(name);
  for (const std::size_t count : {1u, 2u, 7u, 300u}) {
    CAPTURE(count);
    const auto random = test::codes(count * Format::block_bytes, 6 + count);
    const test::guarded<std::byte> blocks(random.size());
    std::memcpy(blocks.data(), random.data(), random.size());
    const test::guarded<float> want(count * Format::block_elements), got(want.size());
    scalar::run(blocks.data(), count, want.data());
    native::run(blocks.data(), count, got.data());
    std::size_t differ = 0;
    for (std::size_t i = 0; i < want.size(); ++i)  // of a NaN only that it is one
      differ += std::isnan(want[i]) ? !std::isnan(got[i])
                                    : std::bit_cast<std::uint32_t>(want[i]) != std::bit_cast<std::uint32_t>(got[i]);
    CHECK(differ == 0);
  }
}

#define NIBBLE_TEST_FITTED g::q2_k, g::q3_k, g::q4_k, g::q5_k, g::q6_k

TEST_CASE_TEMPLATE("ggml_blocks: native fits as the scalar kernel, byte for byte, with importance and without", Format,
                   NIBBLE_TEST_FITTED) {
  using native = kernels::fit_ggml_blocks<isa::native, Format>;
  using scalar = kernels::fit_ggml_blocks<isa::scalar, Format>;
  if (!test::covers<native, typename native::isa_type>()) return;
  const std::string_view name = quant::name_of(Format::type);
  CAPTURE(name);
  std::vector<float> columns = test::uniform(3 * 256, 7);
  for (float& c : columns) c = c < 0.0f ? 0.0f : c * c;
  std::fill(columns.begin() + 256, columns.begin() + 512, 0.0f);
  for (const std::size_t count : {1u, 3u, 18u})
    for (const input& in : inputs(count * 256))
      for (const kernels::ggml_importance importance :
           {kernels::ggml_importance{}, kernels::ggml_importance{columns.data(), 3, 2}}) {
        CAPTURE(count);
        CAPTURE(in.name);
        CAPTURE((importance.values != nullptr));
        std::vector<std::byte> want(count * Format::block_bytes, std::byte{0x5a}), got(want.size(), std::byte{0xa5});
        scalar::run(in.x.data(), count, importance, want.data());
        native::run(in.x.data(), count, importance, got.data());
        const auto differs = std::mismatch(want.begin(), want.end(), got.begin()).first - want.begin();
        CHECK(differs == static_cast<std::ptrdiff_t>(want.size()));
      }
}

TEST_CASE_TEMPLATE("ggml_blocks: fitting touches nothing beyond values, importance and blocks", Format,
                   NIBBLE_TEST_FITTED) {
  for (const std::size_t count : {1u, 4u, 17u}) {
    const auto values = test::gaussian(count * 256, 5);
    const test::guarded<float> x(values.size()), columns(512);
    std::copy(values.begin(), values.end(), x.begin());
    std::fill(columns.begin(), columns.end(), 1.0f);
    const test::guarded<std::byte> blocks(count * Format::block_bytes);
    std::vector<std::byte> want(blocks.size());
    kernels::fit_ggml_blocks<isa::native, Format>::run(x.data(), count, {columns.data(), 2, 1}, blocks.data());
    kernels::fit_ggml_blocks<isa::scalar, Format>::run(x.data(), count, {}, want.data());
    CHECK(std::memcmp(blocks.data(), want.data(), blocks.size()) == 0);  // all columns alike: as if there were none
  }
}
