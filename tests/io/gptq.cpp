// SPDX-License-Identifier: MIT
#include <nibble/io/gptq.hpp>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/gemm/gemm.hpp>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using io::gptq_form;
using io::gptq_full_zero;
using io::gptq_tensors;
using io::gptq_version;
using test::golden_layer;

template <class Layer>  // golden_layer or original_layer
gptq_tensors tensors_of(const Layer& g) {
  return {g.view(".qweight"), g.view(".qzeros"), g.view(".scales"), g.find(".g_idx")};
}

struct golden_case {
  const char* name;
  gptq_form form;
};
const golden_case cases[] = {
    {"gptq2", {2, 16}}, {"gptq3", {3, 32}}, {"gptq4", {4, 16, gptq_version::v2}}, {"gptq8", {8, 0}}};

/// What reading `t` says; bad_file is demanded.
std::string refusal(const gptq_tensors& t, const gptq_form& form) {
  const test::refusal r = test::refusal_of([&] { io::read_gptq(t, form); });
  CHECK(r.code == errc::bad_file);
  return r.message;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("gptq: 2, 3, 4 and 8 bits have the values of the format's formula, bit for bit") {
  for (const golden_case& c : cases) {
    CAPTURE(c.name);
    const golden_layer golden(c.name);
    CHECK(test::same_bits(test::values_of(io::read_gptq(tensors_of(golden), c.form)), golden.dense()));
  }
}

TEST_CASE("gptq: layers packed by AutoGPTQ and GPTQModel have the values that those compute, and are written back") {
  for (const std::string tool : {"auto_gptq", "gptqmodel"}) {
    const gptq_version version = tool.starts_with("auto") ? gptq_version::v1 : gptq_version::v2;
    for (const golden_case& c : {golden_case{"w2", {2, 32, version}}, golden_case{"w3", {3, 32, version}},
                                 golden_case{"w4", {4, 64, version}}, golden_case{"w4_order", {4, 32, version}},
                                 golden_case{"w8", {8, 64, version}}, golden_case{"w4_rows", {4, 0, version}}}) {
      CAPTURE(tool);
      CAPTURE(c.name);
      const test::original_layer original(tool, c.name);
      const io::checkpoint_matrix layer = io::read_gptq(tensors_of(original), c.form);
      const std::string_view name = c.name;
      CHECK(layer.column_order.empty() == (name != "w3" && name != "w4_order" && name != "w8"));
      // Half precision, one product a value: scale and code minus zero point are exact, so it is rounded once.
      CHECK(test::same_bits(original.in_its_dtype(test::values_of(layer)), original.dequantized()));
      test::check_written(original, io::write_gptq(layer, c.form, c.name));
    }
  }
}

TEST_CASE("gptq: AutoGPTQ reads the zero point 0 that it wrote as 2^b") {
  const test::original_layer original("auto_gptq", "w4");
  const io::checkpoint_matrix layer = io::read_gptq(tensors_of(original), {4, 64});
  CHECK(layer.matrix.zero_plane()[31 * 2] == std::byte{16});
  const auto dense = original.dequantized();
  CHECK(*std::max_element(dense.begin() + 31 * 96, dense.end()) < 0.0f);
}

TEST_CASE("gptq: what was read is written back byte for byte") {
  for (const golden_case& c : cases) {
    CAPTURE(c.name);
    const golden_layer golden(c.name);
    test::check_written(golden, io::write_gptq(io::read_gptq(tensors_of(golden), c.form), c.form, "l"));
  }
}

TEST_CASE("gptq: act-order becomes a permutation of columns, which a product needs once") {
  const golden_layer golden("gptq4");
  const io::checkpoint_matrix layer = io::read_gptq(tensors_of(golden), cases[2].form);
  const std::size_t K = layer.matrix.K(), N = layer.matrix.N();
  REQUIRE(layer.column_order.size() == K);
  const auto dense = golden.dense();
  // One 1 in each row of X: the product is a column of the dense matrix, exactly.
  std::vector<float> x(K * K), ordered(K * K), y(K * N), want(K * N);
  for (std::size_t k = 0; k < K; ++k) {
    x[k * K + k] = 1.0f;
    for (std::size_t n = 0; n < N; ++n) want[k * N + n] = dense[n * K + k] + 0.0f;  // -0 comes out of a sum as +0
  }
  io::permute_columns(make_span2d<const float>(x.data(), K, K), layer.column_order, make_span2d(ordered.data(), K, K));
  multiply(make_span2d<const float>(ordered.data(), K, K), pack_matrix(layer.matrix.view()).view(),
           make_span2d(y.data(), K, N));
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == want[i]);
}

TEST_CASE("gptq: without act-order there is no permutation, with g_idx or without") {
  const golden_layer golden("gptq2");
  gptq_tensors t = tensors_of(golden);
  CHECK(io::read_gptq(t, cases[0].form).column_order.empty());
  t.g_idx.reset();
  const io::checkpoint_matrix layer = io::read_gptq(t, cases[0].form);
  CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  CHECK(io::write_gptq(layer, cases[0].form, "l", false).size() == 3);
}

TEST_CASE("gptq: a stored zero point of all ones in version 1 is 2^b, or 0 where that is asked for") {
  const golden_layer golden("gptq2");
  const gptq_tensors t = tensors_of(golden);
  gptq_form form = cases[0].form;
  const io::checkpoint_matrix power = io::read_gptq(t, form);
  CHECK(power.matrix.zero_plane()[0] == std::byte{4});
  form.full_zero = gptq_full_zero::is_zero;
  const io::checkpoint_matrix zero = io::read_gptq(t, form);
  CHECK(zero.matrix.zero_plane()[0] == std::byte{0});
  test::check_written(golden, io::write_gptq(zero, form, "l"));
  // Each reading has one code of version 1 only, and version 2 has none for 2^b.
  CHECK(test::refusal_of([&] {
          io::write_gptq(power, form, "l");
        }).says("zero point 4 of group 0 of output 0 has no code"));
  CHECK(test::refusal_of([&] { io::write_gptq(zero, cases[0].form, "l"); }).says("zero point 0 of group 0"));
  form.version = gptq_version::v2;
  CHECK(test::refusal_of([&] { io::write_gptq(power, form, "l"); }).code == errc::bad_value);
}

TEST_CASE("gptq: zero points of 256 beside codes of 8 bits become exact offsets") {
  const golden_layer golden("gptq8");
  const gptq_tensors t = tensors_of(golden);
  const io::checkpoint_matrix layer = io::read_gptq(t, cases[3].form);
  CHECK(layer.matrix.format().rule == code_rule::asymmetric_offset);
  CHECK(quant::zero_at(layer.matrix.view(), 0) == -256.0f * quant::scale_at(layer.matrix.view(), 0));
  // A scale of 0 would lose the zero point: refused, unless it is read as 0.
  io::tensor_bytes scales = test::copy_of(t.scales);
  std::memset(scales.bytes.data(), 0, 2);
  gptq_tensors damaged = t;
  damaged.scales = io::view_of(scales);
  const test::refusal r = test::refusal_of([&] { io::read_gptq(damaged, cases[3].form); });
  CHECK(r.code == errc::unsupported_format);
  CHECK(r.says("group 0 of output 0 has 0 in F16"));
  gptq_form form = cases[3].form;
  form.full_zero = gptq_full_zero::is_zero;
  CHECK(io::read_gptq(damaged, form).matrix.format().rule == code_rule::asymmetric);
}

TEST_CASE("gptq: versions 1 and 2 differ by one in every zero point") {
  const golden_layer golden("gptq4");
  const io::checkpoint_matrix v2 = io::read_gptq(tensors_of(golden), {4, 16, gptq_version::v2});
  const io::checkpoint_matrix v1 = io::read_gptq(tensors_of(golden), {4, 16, gptq_version::v1});
  for (std::size_t i = 0; i < v2.matrix.zero_plane().size(); ++i)
    CHECK(std::to_integer<int>(v1.matrix.zero_plane()[i]) == std::to_integer<int>(v2.matrix.zero_plane()[i]) + 1);
}

TEST_CASE("gptq: a form that is not the file's is refused with tensor and rule") {
  const golden_layer golden("gptq4");
  const gptq_tensors t = tensors_of(golden);
  CHECK(contains(refusal(t, {2, 16}), "'l.scales' has the shape [4, 32]; rule: [8, 32]"));
  CHECK(contains(refusal(t, {4, 32}), "'l.scales' has the shape [4, 32]; rule: [2, 32]"));
  CHECK(contains(refusal(t, {4, 0}), "rule: [1, 32]"));
  CHECK(contains(refusal(t, {3, 16}), "'l.qweight' has 8 rows of words; rule: whole codes of 3 bits"));
  CHECK(test::refusal_of([&] { io::read_gptq(t, {5, 16}); }).code == errc::unsupported_format);
  CHECK(test::refusal_of([&] { io::read_gptq(t, {4, 18}); }).says("groups of 18; rule: a multiple of 4"));
}

TEST_CASE("gptq: groups out of range or of a wrong size are refused") {
  const golden_layer golden("gptq2");
  const gptq_tensors t = tensors_of(golden);
  io::tensor_bytes g_idx = test::copy_of(*t.g_idx);
  const auto with = [&](std::size_t column, std::int32_t group) {
    io::tensor_bytes copy = g_idx;
    std::memcpy(copy.bytes.data() + 4 * column, &group, 4);
    gptq_tensors damaged = t;
    damaged.g_idx = io::view_of(copy);
    return refusal(damaged, cases[0].form);
  };
  CHECK(contains(with(63, 4), "column 63 is in group 4 of 4"));
  CHECK(contains(with(5, -1), "column 5 is in group -1 of 4"));
  CHECK(contains(with(63, 0), "group 0 has more than 16 columns, column 63 among them"));
}

TEST_CASE("gptq: each tensor's dtype and shape are checked") {
  const golden_layer golden("gptq2");
  const gptq_tensors t = tensors_of(golden);
  gptq_tensors bad = t;
  bad.qweight.type = io::dtype::u32;
  CHECK(contains(refusal(bad, cases[0].form), "'l.qweight' is U32; rule: I32"));
  bad = t;
  bad.qweight.shape = {128};
  CHECK(contains(refusal(bad, cases[0].form), "'l.qweight' has the shape [128]; rule: 2 extents"));
  bad = t;
  bad.qweight.bytes = bad.qweight.bytes.first(bad.qweight.bytes.size() - 1);
  CHECK(contains(refusal(bad, cases[0].form), "'l.qweight' of I32 [4, 32] has 511 bytes"));
  bad = t;
  bad.scales.shape = {4, 0};
  CHECK(contains(refusal(bad, cases[0].form), "rule: 2 extents of at least 1"));
  bad = t;
  bad.qzeros.shape = {2, 4};
  CHECK(contains(refusal(bad, cases[0].form), "'l.qzeros' has the shape [2, 4]; rule: [4, 2]"));
  bad = t;
  bad.g_idx->shape = {63};
  CHECK(contains(refusal(bad, cases[0].form), "'l.g_idx' has the shape [63]; rule: [64]"));
  bad = t;
  bad.scales.type = io::dtype::i16;
  CHECK(test::refusal_of([&] {
          io::read_gptq(bad, cases[0].form);
        }).says("'l.scales' is I16; scales are F32, F16 or BF16"));
  // Extents whose product wraps around.
  bad = t;
  bad.qweight.shape = {std::size_t{1} << 59, std::size_t{1} << 59};
  CHECK(contains(refusal(bad, {8, 0}), "'l.qweight' has 576460752303423488 rows of words"));
  bad.qweight.shape = {std::size_t{1} << 58, std::size_t{1} << 58};
  CHECK(contains(refusal(bad, {8, 0}), "'l.qweight': K = 1152921504606846976; at most 2^32 - 1"));
}

TEST_CASE("gptq: any asymmetric matrix of whole words is written and read to the same planes") {
  for (const int bits : {2, 3, 4, 8}) {
    const format_desc f{code_rule::asymmetric, static_cast<std::uint8_t>(bits), granularity_kind::grouped,
                        scale_storage::f16, 32};
    const any_qmatrix m = test::random_qmatrix(f, 64, 160, 3);
    const gptq_form form{bits, 32, gptq_version::v2};
    const auto t = io::write_gptq({m, {}, {}, {}}, form, "x");
    const any_qmatrix back =
        io::read_gptq({io::view_of(t[0]), io::view_of(t[1]), io::view_of(t[2]), io::view_of(t[3])}, form).matrix;
    CHECK(test::same_bytes(back.codes(), m.codes()));
    CHECK(test::same_bytes(back.zero_plane(), m.zero_plane()));
    CHECK(test::same_bytes(back.scale_plane(), m.scale_plane()));
  }
}
