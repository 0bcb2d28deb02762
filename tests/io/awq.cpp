// SPDX-License-Identifier: MIT
#include <nibble/io/awq.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using test::golden_layer;

template <class Layer>  // golden_layer or original_layer
io::awq_tensors tensors_of(const Layer& g) {
  return {g.view(".qweight"), g.view(".qzeros"), g.view(".scales")};
}

}  // namespace

TEST_CASE("awq: values are those of the format's formula, and the file is written back byte for byte") {
  const golden_layer golden("awq");
  const io::checkpoint_matrix layer = io::read_awq(tensors_of(golden), 32);
  CHECK(layer.matrix.N() == 24);
  CHECK(layer.matrix.K() == 96);
  CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  test::check_written(golden, io::write_awq(layer, "l"));
}

TEST_CASE("awq: layers packed by AutoAWQ have the values that it computes, and are written back") {
  for (const std::string name : {"groups", "rows"}) {
    CAPTURE(name);
    const std::size_t group_size = name == "rows" ? 0 : 32;
    const test::original_layer original("awq", name);
    const io::checkpoint_matrix layer = io::read_awq(tensors_of(original), group_size);
    // Half precision, one product a value: code minus zero point is exact, so it is rounded once.
    CHECK(test::same_bits(original.in_its_dtype(test::values_of(layer)), original.dequantized()));
    test::check_written(original, io::write_awq(layer, name));
  }
}

TEST_CASE("awq: a nibble of a word belongs to the output that the interleaved order names") {
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint8_t where[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    std::uint8_t codes[8];
    io::detail::unpack_awq(std::uint32_t{9} << 4 * i, codes);
    for (std::size_t n = 0; n < 8; ++n) CHECK(codes[n] == (n == where[i] ? 9 : 0));
    CHECK(io::detail::pack_awq(codes) == std::uint32_t{9} << 4 * i);
  }
}

TEST_CASE("awq: shapes that do not fit each other are refused") {
  const golden_layer golden("awq");
  const io::awq_tensors t = tensors_of(golden);
  const auto refusal = [&](const io::awq_tensors& bad, std::size_t group_size) {
    const test::refusal r = test::refusal_of([&] { io::read_awq(bad, group_size); });
    CHECK(r.code == errc::bad_file);
    return r;
  };
  CHECK(refusal(t, 16).says("'l.scales' has the shape [3, 24]; rule: [6, 24]"));
  CHECK(refusal(t, 0).says("'l.scales' has the shape [3, 24]; rule: [1, 24]"));
  io::awq_tensors bad = t;
  bad.qweight.shape = {3, 96};
  CHECK(refusal(bad, 32).says("'l.qweight' has 96 words a row for 24 outputs"));
  bad = t;
  bad.qzeros.shape = {1, 9};
  CHECK(refusal(bad, 32).says("'l.qzeros' has the shape [1, 9]; rule: [3, 3]"));
  bad = t;
  bad.qweight.type = io::dtype::f32;
  CHECK(refusal(bad, 32).says("'l.qweight' is F32; rule: I32"));
}

TEST_CASE("awq: zero points of 5 bits and other widths are not written") {
  const format_desc f{code_rule::asymmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  any_qmatrix m = test::random_qmatrix(f, 8, 64, 1);
  m.zero_plane()[3] = std::byte{16};
  CHECK(test::refusal_of([&] { io::write_awq({m, {}, {}, {}}, "x"); }).says("zero point 16 of group 1 of output 1"));
  CHECK(test::refusal_of([&] { io::write_awq({any_qmatrix(f, 9, 64), {}, {}, {}}, "x"); }).code == errc::bad_shape);
  format_desc five = f;
  five.bits = 5;
  CHECK(test::refusal_of([&] {
          io::write_awq({any_qmatrix(five, 8, 64), {}, {}, {}}, "x");
        }).code == errc::unsupported_format);
}
