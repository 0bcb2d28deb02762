// SPDX-License-Identifier: MIT
#include <nibble/tensor/convert.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/quant/qtype.hpp>

#include "support/matrices.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;

std::vector<float> values_of(const quantized_view& v) {
  std::vector<float> out(v.N * v.K);
  dequantize(v, make_span2d(out.data(), v.N, v.K));
  return out;
}

constexpr ggml_type types[] = {ggml_type::q8_0,   ggml_type::q4_0,  ggml_type::q4_1,  ggml_type::q5_0, ggml_type::q5_1,
                               ggml_type::iq4_nl, ggml_type::mxfp4, ggml_type::q2_k,  ggml_type::q3_k, ggml_type::q4_k,
                               ggml_type::q5_k,   ggml_type::q6_k,  ggml_type::iq4_xs};

template <class Format>
void decode_all(const std::vector<std::byte>& blocks, std::vector<float>& y) {
  for (std::size_t b = 0; b < blocks.size() / Format::block_bytes; ++b)
    Format::decode(blocks.data() + b * Format::block_bytes, y.data() + b * Format::block_elements);
}
std::vector<float> decode(ggml_type type, const std::vector<std::byte>& blocks, std::size_t count) {
  using namespace quant::ggml;
  std::vector<float> y(count);
  switch (type) {
    case ggml_type::q8_0: decode_all<q8_0>(blocks, y); break;
    case ggml_type::q4_0: decode_all<q4_0>(blocks, y); break;
    case ggml_type::q4_1: decode_all<q4_1>(blocks, y); break;
    case ggml_type::q5_0: decode_all<q5_0>(blocks, y); break;
    case ggml_type::q5_1: decode_all<q5_1>(blocks, y); break;
    case ggml_type::iq4_nl: decode_all<iq4_nl>(blocks, y); break;
    case ggml_type::mxfp4: decode_all<mxfp4>(blocks, y); break;
    case ggml_type::q2_k: decode_all<q2_k>(blocks, y); break;
    case ggml_type::q3_k: decode_all<q3_k>(blocks, y); break;
    case ggml_type::q4_k: decode_all<q4_k>(blocks, y); break;
    case ggml_type::q5_k: decode_all<q5_k>(blocks, y); break;
    case ggml_type::q6_k: decode_all<q6_k>(blocks, y); break;
    default: decode_all<iq4_xs>(blocks, y);
  }
  return y;
}

/// Blocks of random bits whose halves are finite.
std::vector<std::byte> random_blocks(ggml_type type, std::size_t blocks, unsigned seed) {
  const quant::ggml_type_info& info = quant::info_of(type);
  std::mt19937 rng(seed);
  std::vector<std::byte> out(blocks * info.block_bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(rng());
  const auto halves = [&]() -> std::vector<std::size_t> {
    switch (type) {
      case ggml_type::mxfp4: return {};
      case ggml_type::q4_1:
      case ggml_type::q5_1:
      case ggml_type::q4_k:
      case ggml_type::q5_k: return {0, 2};
      case ggml_type::q2_k: return {80, 82};
      case ggml_type::q3_k: return {108};
      case ggml_type::q6_k: return {208};
      default: return {0};
    }
  }();
  for (std::size_t b = 0; b < blocks; ++b)
    for (const std::size_t at : halves) out[b * info.block_bytes + at + 1] &= std::byte{0xbf};
  return out;
}

}  // namespace

TEST_CASE("convert: block formats of GGUF files become matrices with the same values, bit for bit") {
  for (const ggml_type type : types) {
    CAPTURE(quant::info_of(type).name);
    constexpr std::size_t N = 6, K = 512;
    const auto blocks = random_blocks(type, N * K / quant::info_of(type).block_elements, 7);
    const any_qmatrix m = from_ggml(type, blocks, N, K);
    CHECK(test::same_bits(values_of(m.view()), decode(type, blocks, N * K)));
  }
}

TEST_CASE("convert: plain blocks come back byte for byte") {
  for (const ggml_type type : types) {
    if (!quant::has_plain_blocks(type)) continue;
    CAPTURE(quant::info_of(type).name);
    const auto blocks = random_blocks(type, 3 * 5, 8);
    CHECK(to_ggml(type, from_ggml(type, blocks, 3, 160).view()) == blocks);
  }
}

TEST_CASE("convert: every pair that is called lossless keeps every bit, and every other pair is refused") {
  std::size_t pairs = 0;
  for (const auto& [narrow, wide] : {std::pair{3, 3}, std::pair{3, 4}, std::pair{4, 8}, std::pair{4, 3}}) {
    const auto targets = test::all_formats(wide, {8, 32});
    for (const format_desc& from : test::all_formats(narrow, {8, 32})) {
      const any_qmatrix m = test::random_qmatrix(from, 3, 45, 9);
      const auto want = values_of(m.view());
      for (const format_desc& to : targets) {
        if (!quant::is_lossless({from, m.view().table}, {to, nullptr})) {
          if (to.scale == scale_storage::f32) CHECK_THROWS_AS(convert(m.view(), to), error);
          continue;
        }
        ++pairs;
        const any_qmatrix got = convert(m.view(), to);
        const bool same = test::same_bits(values_of(got.view()), want);
        if (same) continue;
        CAPTURE(test::describe(from));
        CAPTURE(test::describe(to));
        CHECK(same);
      }
    }
  }
  CHECK(pairs > 1000);
}

TEST_CASE("convert: rows with a longer stride are read as such") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  const any_qmatrix m = test::random_qmatrix(f, 3, 64, 1);
  std::vector<std::byte> wide(3 * 50, std::byte{0xee});
  for (std::size_t n = 0; n < 3; ++n) std::memcpy(&wide[n * 50], m.view().codes + n * 32, 32);
  quantized_view v = m.view();
  v.codes = wide.data();
  v.row_stride_bytes = 50;
  CHECK(test::same_bits(values_of(convert(v, f).view()), values_of(m.view())));
}

TEST_CASE("convert: formats known at compile time") {
  const auto x = test::normal_values(4 * 256, 2);
  const auto w = quantize<quant::w4_g128>(make_span2d(x.data(), 4, 256));
  const qmatrix<quant::w4a_g128> a = convert<quant::w4a_g128>(w);
  CHECK(test::same_bits(values_of(a.view()), values_of(w.view())));
  const auto nf4 = quantize<quant::nf4_flat64_dq>(make_span2d(x.data(), 4, 256));
  CHECK(test::same_bits(values_of(convert<quant::nf4_flat64>(nf4).view()), values_of(nf4.view())));
}

TEST_CASE("convert: groups of 128 with half scales are Q4_0 without loss") {
  const auto x = test::normal_values(4 * 256, 2);
  const auto w = quantize<quant::w4_g128>(make_span2d(x.data(), 4, 256));
  const auto blocks = to_ggml(ggml_type::q4_0, w.view());
  CHECK(test::same_bits(decode(ggml_type::q4_0, blocks, 4 * 256), values_of(w.view())));
}

TEST_CASE("convert: a lossy conversion reports the error of its values") {
  const auto x = test::normal_values(5 * 96, 3);
  const auto w = quantize(qtype::w8_channel, make_span2d(x.data(), 5, 96));
  const lossy_conversion c = convert_lossy<quant::w3_g32>(w.view());
  const auto before = values_of(w.view()), after = values_of(c.matrix.view());
  double squares = 0.0, errors = 0.0, greatest = 0.0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const double e = static_cast<double>(after[i]) - static_cast<double>(before[i]);
    squares += static_cast<double>(before[i]) * static_cast<double>(before[i]);
    errors += e * e;
    greatest = std::max(greatest, std::abs(e));
  }
  CHECK(c.error.mse == doctest::Approx(errors / 480.0));
  CHECK(c.error.sqnr_db == doctest::Approx(10.0 * std::log10(squares / errors)));
  CHECK(c.error.max_abs == greatest);
  CHECK(c.error.mse > 0.0);
  // A matrix that the format happens to hold costs nothing; one of zeros has no signal either.
  const any_qmatrix zeros(quant::w8_channel::format(), 2, 32);
  const lossy_conversion none = convert_lossy<quant::w4_g32>(zeros.view());
  CHECK(none.error.mse == 0.0);
  CHECK(none.error.sqnr_db == std::numeric_limits<double>::infinity());
}

TEST_CASE("convert: what cannot be done without loss is refused by name") {
  const any_qmatrix m = test::random_qmatrix(quant::w4a_g128::format(), 2, 256, 1);
  CHECK(test::refusal_of([&] { convert(m.view(), quant::w4_g128::format()); }).says("convert_lossy rounds"));
  CHECK(test::refusal_of([&] { to_ggml(ggml_type::q4_1, m.view()); }).code == errc::unsupported_format);
  CHECK(test::refusal_of([&] { to_ggml(ggml_type::q4_k, m.view()); }).says("Q4_K shares scales on two levels"));
  const any_qmatrix odd = test::random_qmatrix(quant::w4_g32::format(), 2, 40, 1);
  CHECK(test::refusal_of([&] { to_ggml(ggml_type::q4_0, odd.view()); }).says("rows of 40 are no whole blocks of 32"));
  const std::vector<std::byte> bytes(35);
  CHECK(test::refusal_of([&] { from_ggml(ggml_type::q8_0, bytes, 1, 32); }).says("35 bytes; 1 rows of 34 are needed"));
  CHECK(test::refusal_of([&] { from_ggml(ggml_type::iq2_s, bytes, 1, 256); }).code == errc::unsupported_format);
  CHECK(test::refusal_of([&] { from_ggml(ggml_type::f32, bytes, 1, 32); }).code == errc::unsupported_format);
}
