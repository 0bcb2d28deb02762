// SPDX-License-Identifier: MIT
#include <nibble/tensor/convert.hpp>

#include <cmath>
#include <cstring>
#include <limits>
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

}  // namespace

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

TEST_CASE("convert: formats with half scales are blocks of GGUF files without loss") {
  const auto x = test::normal_values(4 * 256, 2);
  const auto check = [&](const any_qmatrix& w, ggml_type type) {
    CAPTURE(quant::name_of(type));
    const auto blocks = convert_to_ggml(w.view(), type);
    std::vector<float> values(4 * 256);
    decode_ggml(type, blocks, values);
    CHECK(test::same_bits(values, values_of(w.view())));
  };
  const auto W = make_span2d(x.data(), 4, 256);
  check(quantize(qtype::w4_g128, W), ggml_type::q4_0);
  check(quantize(qtype::w3_g64, W), ggml_type::q5_0);
  check(quantize(qtype::w6_g32, W), ggml_type::q8_0);
  check(quantize(qtype::w4o_g128, W), ggml_type::q4_1);
  check(quantize(qtype::w5o_g128, W), ggml_type::q5_1);
}

TEST_CASE("convert: K-quants are formats with a float for each sub-block, bit for bit") {
  const auto x = test::normal_values(4 * 512, 2);
  for (const ggml_type type : {ggml_type::q2_k, ggml_type::q3_k, ggml_type::q4_k, ggml_type::q5_k, ggml_type::q6_k}) {
    CAPTURE(quant::name_of(type));
    std::vector<std::byte> blocks(detail::ggml_bytes(type, 4 * 512, "test"));
    encode_ggml(type, make_span2d(x.data(), 4, 512), blocks);
    const any_qmatrix two = matrix_from_ggml(type, blocks, 4, 512);
    format_desc f = two.format();
    f.scale = scale_storage::f32;
    CHECK(test::same_bits(values_of(convert(two.view(), f).view()), values_of(two.view())));
    CHECK(test::same_bits(values_of(convert(two.view(), two.format()).view()), values_of(two.view())));
  }
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
  CHECK(test::refusal_of([&] { convert_to_ggml(m.view(), ggml_type::q4_1); }).code == errc::unsupported_format);
  CHECK(test::refusal_of([&] {
          convert_to_ggml(m.view(), ggml_type::q4_k);
        }).says("not every matrix fits blocks of Q4_K"));
  const any_qmatrix odd = test::random_qmatrix(quant::w4_g32::format(), 2, 40, 1);
  CHECK(test::refusal_of([&] { convert_to_ggml(odd.view(), ggml_type::q4_0); }).code == errc::bad_shape);
}
