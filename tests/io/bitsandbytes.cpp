// SPDX-License-Identifier: MIT
#include <nibble/io/bitsandbytes.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using test::golden_layer;

const char* const names[] = {"nf4", "nf4_nested", "fp4"};

template <class Layer>  // golden_layer or original_layer
io::bnb_tensors tensors_of(const Layer& g, const std::string& kind) {
  return {g.view(".weight"),
          g.view(".weight.absmax"),
          g.view(".weight.quant_map"),
          g.view(".weight.quant_state.bitsandbytes__" + kind),
          g.find(".weight.nested_absmax"),
          g.find(".weight.nested_quant_map")};
}
std::string kind_of(const std::string& name) { return name.substr(0, 3); }

test::refusal refusal(const io::bnb_tensors& t) {
  return test::refusal_of([&] { io::read_bnb(t); });
}
/// What the JSON text in place of the file's own says.
test::refusal refusal(const golden_layer& g, const std::string& text) {
  io::bnb_tensors t = tensors_of(g, "nf4");
  t.quant_state.bytes = std::as_bytes(std::span{text});
  t.quant_state.shape = {text.size()};
  return refusal(t);
}

io::checkpoint_matrix read_back(const std::vector<io::tensor_bytes>& t, bool nested) {
  io::bnb_tensors views{io::view_of(t[0]), io::view_of(t[1]), io::view_of(t[2]), io::view_of(t.back()), {}, {}};
  if (nested) {
    views.nested_absmax = io::view_of(t[3]);
    views.nested_quant_map = io::view_of(t[4]);
  }
  return io::read_bnb(views);
}

}  // namespace

TEST_CASE("bitsandbytes: values are those of the format's formula, an odd count and short blocks included") {
  for (const std::string name : names) {
    CAPTURE(name);
    const golden_layer golden(name);
    CHECK(test::same_bits(test::values_of(io::read_bnb(tensors_of(golden, kind_of(name)))), golden.dense()));
  }
}

TEST_CASE("bitsandbytes: what was read is written back byte for byte") {
  for (const std::string name : names) {
    CAPTURE(name);
    const golden_layer golden(name);
    test::check_written(golden, io::write_bnb(io::read_bnb(tensors_of(golden, kind_of(name))), "l.weight"));
  }
}

TEST_CASE("bitsandbytes: layers saved by bitsandbytes have the values that it computes, and are written back") {
  for (const std::string name : {"nf4", "nf4_nested", "nf4_odd", "nf4_128", "fp4", "fp4_nested"}) {
    CAPTURE(name);
    const test::original_layer original("bitsandbytes", name);
    const io::checkpoint_matrix layer = io::read_bnb(tensors_of(original, kind_of(name)));
    std::vector<float> theirs = original.dequantized();
    // FP4's code 8: the quant_map that is saved says +0, the code that decodes on a CPU has -0 built in.
    if (name.starts_with("fp4"))
      for (float& x : theirs) x += 0.0f;
    CHECK(test::same_bits(original.in_its_dtype(test::values_of(layer)), theirs));
    test::check_written(original, io::write_bnb(layer, name + ".weight"));
  }
}

TEST_CASE("bitsandbytes: the unused half of the last byte comes back") {
  const golden_layer golden("nf4");
  io::bnb_tensors t = tensors_of(golden, "nf4");
  io::tensor_bytes weight = test::copy_of(t.weight);
  weight.bytes.back() |= std::byte{0x0b};
  t.weight = io::view_of(weight);
  CHECK(test::same_bytes(io::write_bnb(io::read_bnb(t), "l.weight")[0].bytes, weight.bytes));
}

TEST_CASE("bitsandbytes: nibble's own NF4 and FP4 matrices are written with a quant_state of their own and read back") {
  for (const qtype type : {qtype::nf4_flat64, qtype::nf4_flat64_dq, qtype::fp4_flat64, qtype::fp4_flat64_dq}) {
    CAPTURE(quant::name_of(type));
    const bool nested = quant::info_of(type).format.scale == scale_storage::double_quant;
    const auto values = test::normal_values(130 * 131, 3);  // more than 256 blocks
    const any_qmatrix m = quantize(type, make_span2d(values.data(), 130, 131));
    const io::checkpoint_matrix back = read_back(io::write_bnb({m, {}, {}, {}}, "x"), nested);
    CHECK(test::same_bytes(back.matrix.codes(), m.codes()));
    CHECK(test::same_bytes(back.matrix.scale_plane(), m.scale_plane()));
    CHECK(test::same_bits(back.matrix.super_scales(), m.super_scales()));
    CHECK(back.matrix.view().table == m.view().table);  // nibble's own, not a copy
  }
}

TEST_CASE("bitsandbytes: every rule of quant_state is one error") {
  const golden_layer g("nf4");
  const auto says = [&](const std::string& text, const char* part) {
    const test::refusal r = refusal(g, text);
    CAPTURE(r.message);
    CHECK(r.says(part));
    CHECK(r.says("l.weight.quant_state.bitsandbytes__nf4"));
  };
  const std::string good = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [13, 21]})";
  CHECK(refusal(g, good).code == errc::ok);
  says(R"([])", "rule: one JSON object");
  says(good + "x", "not JSON at byte");
  says(std::string("{\0}", 3), "NUL byte at byte 1");
  says(R"({"blocksize": 64, "blocksize": 64})", "the key 'blocksize' occurs twice");
  says(R"({"a":)" + std::string(100, '['), "more than 64 brackets");
  says(R"({"blocksize": 64, "dtype": "float16", "shape": [13, 21]})", "'quant_type' is missing");
  says(R"({"quant_type": "nf5", "blocksize": 64, "dtype": "f", "shape": [13, 21]})", "quant_type 'nf5'");
  says(R"({"quant_type": 4, "blocksize": 64, "dtype": "f", "shape": [13, 21]})", "'quant_type' is no string");
  says(R"({"quant_type": "nf4", "blocksize": -64, "dtype": "f", "shape": [13, 21]})", "'blocksize' holds -64");
  says(R"({"quant_type": "nf4", "blocksize": 60, "dtype": "f", "shape": [13, 21]})", "blocksize 60; rule");
  says(R"({"quant_type": "nf4", "blocksize": 64.5, "dtype": "f", "shape": [13, 21]})", "'blocksize' holds 64.5");
  says(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "f", "shape": [273]})", "shape [273]; rule: two extents");
  says(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "f", "shape": [13, 0]})", "'shape' holds 0");
}

TEST_CASE("bitsandbytes: tensors that do not fit the state are refused") {
  const golden_layer g("nf4");
  const test::refusal more =
      refusal(g, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "f", "shape": [4294967295, 4294967295]})");
  CHECK(more.says("tensor 'l.weight' has the shape [137, 1]"));
  CHECK(refusal(g, R"({"quant_type": "nf4", "blocksize": 32, "dtype": "f", "shape": [13, 21]})")
            .says("'l.weight.absmax' has the shape [5]; rule: [9]"));
  CHECK(refusal(g, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "f", "shape": [13, 21], "nested_blocksize": 256,)"
                   R"( "nested_offset": 0.5})")
            .says("'l.weight.absmax' is F32; rule: U8"));
  const std::string rest = R"(, "shape": [13, 21], "nested_blocksize": 256, "nested_offset": )";
  const std::string start = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "f")";
  CHECK(refusal(g, start + rest + "1e39}").says("'nested_offset' is 1e+39; rule: a float"));
  CHECK(refusal(g, start + rest + "\"1\"}").says("'nested_offset' is \"1\"; rule: a float"));
  CHECK(refusal(g, start + rest + "1e999}").says("not JSON at byte"));
  CHECK(refusal(g, start + R"(, "shape": [13, 21], "nested_blocksize": 128})").says("nested_blocksize 128; rule: 256"));
  const golden_layer nested("nf4_nested");
  io::bnb_tensors t = tensors_of(nested, "nf4");
  t.nested_absmax.reset();
  CHECK(refusal(t).says("disagree about double quantization"));
  t = tensors_of(nested, "nf4");
  io::tensor_bytes map = test::copy_of(*t.nested_quant_map);
  map.bytes[4 * 17] ^= std::byte{1};
  t.nested_quant_map = io::view_of(map);
  CHECK(refusal(t).says("'l.weight.nested_quant_map': entry 17 is"));
}

TEST_CASE("bitsandbytes: a quant_state of another matrix is not written") {
  const golden_layer golden("nf4");
  io::checkpoint_matrix layer = io::read_bnb(tensors_of(golden, "nf4"));
  layer.quant_state = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [21, 13]})";
  CHECK(test::refusal_of([&] { io::write_bnb(layer, "x"); }).says("describes another matrix than 13 x 21"));
}

TEST_CASE("bitsandbytes: a state cut anywhere is an error") {
  const golden_layer g("nf4");
  const std::string good = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [13, 21]})";
  for (std::size_t n = 1; n < good.size(); ++n) CHECK(refusal(g, good.substr(0, n)).code == errc::bad_file);
}
