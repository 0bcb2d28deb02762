// SPDX-License-Identifier: MIT
#include <nibble/io/llm_int8.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using test::golden_layer;

template <class Layer>  // golden_layer or original_layer
io::llm_int8_tensors tensors_of(const Layer& g) {
  return {g.view(".weight"), g.view(".SCB"), g.find(".weight_format")};
}

}  // namespace

TEST_CASE("llm_int8: values are (q SCB) / 127, bit for bit, and the file is written back byte for byte") {
  const golden_layer golden("int8");
  const io::checkpoint_matrix layer = io::read_llm_int8(tensors_of(golden));
  CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  test::check_written(golden, io::write_llm_int8(layer, "l", true));
}

TEST_CASE(
    "llm_int8: a layer saved by bitsandbytes has the values that it computes but for roundings, and is written back") {
  const test::original_layer original("bitsandbytes", "int8");
  const io::checkpoint_matrix layer = io::read_llm_int8(tensors_of(original));
  const std::vector<float> values = test::values_of(layer), theirs = original.dequantized();
  REQUIRE(values.size() == theirs.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(i);
    const auto q = static_cast<float>(static_cast<std::int8_t>(original.view(".weight").bytes[i]));
    // bitsandbytes multiplies by 1 / 127 rounded to float where the formula divides: one rounding more.
    CHECK(theirs[i] == q * layer.row_absmax[i / 40] * (1.0f / 127.0f));
    CHECK(std::abs(values[i] - theirs[i]) <= 1.2e-7f * std::abs(theirs[i]));
  }
  test::check_written(original, io::write_llm_int8(layer, "int8", true));
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
