// SPDX-License-Identifier: MIT
#include <nibble/io/llm_int8.hpp>

#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using test::golden_layer;

io::llm_int8_tensors tensors_of(const golden_layer& g) {
  return {g.view(".weight"), g.view(".SCB"), g.find(".weight_format")};
}

}  // namespace

TEST_CASE("llm_int8: values are (q SCB) / 127, bit for bit, and the file is written back byte for byte") {
  const golden_layer golden("int8");
  const io::checkpoint_matrix layer = io::read_llm_int8(tensors_of(golden));
  CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  test::check_written(golden, io::write_llm_int8(layer, "l", true));
}

TEST_CASE("llm_int8: two row maxima with one quotient by 127 stay apart") {
  const golden_layer golden("int8");
  const io::checkpoint_matrix layer = io::read_llm_int8(tensors_of(golden));
  const quantized_view v = layer.matrix.view();
  REQUIRE(layer.row_absmax.size() == 12);
  CHECK(layer.row_absmax[10] != layer.row_absmax[11]);
  CHECK(quant::scale_at(v, 10) == quant::scale_at(v, 11));
}

TEST_CASE("llm_int8: other dtypes, shapes and orders are refused") {
  const golden_layer golden("int8");
  const io::llm_int8_tensors t = tensors_of(golden);
  io::llm_int8_tensors bad = t;
  bad.weight.type = io::dtype::u8;
  CHECK(test::refusal_of([&] { io::read_llm_int8(bad); }).says("'l.weight' is U8; rule: I8"));
  bad = t;
  bad.scb.shape = {11};
  CHECK(test::refusal_of([&] { io::read_llm_int8(bad); }).says("'l.SCB' has the shape [11]; rule: [12]"));
  bad = t;
  const std::byte turing{2};
  bad.weight_format->bytes = {&turing, 1};
  CHECK(test::refusal_of([&] { io::read_llm_int8(bad); }).says("'l.weight_format' is 2; rule: 0"));
}

TEST_CASE("llm_int8: a matrix without row maxima is not written") {
  const golden_layer golden("int8");
  io::checkpoint_matrix layer = io::read_llm_int8(tensors_of(golden));
  layer.row_absmax.clear();
  CHECK(test::refusal_of([&] { io::write_llm_int8(layer, "l"); }).code == errc::unsupported_format);
}
