// SPDX-License-Identifier: MIT
#include <nibble/io/compressed_tensors.hpp>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using io::word_packing;
using test::golden_layer;
using test::original_layer;

template <class Layer>  // golden_layer or original_layer
io::packed_tensors tensors_of(const Layer& g) {
  return {g.view(".weight_packed"), g.view(".weight_scale"), g.view(".weight_shape"), g.find(".weight_zero_point"),
          g.find(".weight_g_idx")};
}

struct golden_case {
  const char* name;
  int bits;
  std::size_t group_size;
  bool g_idx;
};
const golden_case cases[] = {{"packed3", 3, 16, false}, {"packed4", 4, 20, true}, {"packed8", 8, 0, false}};

test::refusal refusal(const io::packed_tensors& t, int bits, std::size_t group_size) {
  const test::refusal r = test::refusal_of([&] { io::read_pack_quantized(t, bits, group_size, word_packing::whole); });
  CHECK(r.code == errc::bad_file);
  return r;
}

std::vector<io::tensor_bytes> write(const any_qmatrix& m, const io::packed_form& form = {}) {
  return io::write_pack_quantized({m, {}, {}, {}}, "x", form);
}

}  // namespace

TEST_CASE("compressed_tensors: 3, 4 and 8 bits have the values of the format's formula, bit for bit") {
  for (const golden_case& c : cases) {
    CAPTURE(c.name);
    const golden_layer golden(c.name);
    const io::checkpoint_matrix layer =
        io::read_pack_quantized(tensors_of(golden), c.bits, c.group_size, word_packing::whole);
    CHECK(layer.column_order.empty() == !c.g_idx);
    CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  }
}

TEST_CASE("compressed_tensors: what was read is written back byte for byte") {
  for (const golden_case& c : cases) {
    CAPTURE(c.name);
    const golden_layer golden(c.name);
    const io::checkpoint_matrix layer =
        io::read_pack_quantized(tensors_of(golden), c.bits, c.group_size, word_packing::whole);
    test::check_written(golden, io::write_pack_quantized(layer, "l", {.g_idx = c.g_idx}));
  }
}

TEST_CASE(
    "compressed_tensors: layers of both ways of packing have the values that the tool computes, and are written back") {
  for (const std::string tool : {"compressed_tensors", "compressed_tensors_dense"}) {
    const bool dense = tool.ends_with("dense");
    for (const int bits : dense ? std::vector{3, 5, 7} : std::vector{3, 4, 8}) {
      for (const std::string kind : {"sym_32", "sym_rows", "asym_32", "asym_rows"}) {
        const std::string name = "w" + std::to_string(bits) + "_" + kind;
        CAPTURE(tool);
        CAPTURE(name);
        const original_layer original(tool, name);
        const std::size_t group_size = kind.ends_with("rows") ? 0 : 32;
        const io::checkpoint_matrix layer = io::read_pack_quantized(tensors_of(original), bits, group_size);
        // The tool's dtype is that of its scales, and code minus zero point is exact in it: one product, rounded once.
        CHECK(test::same_bits(original.in_its_dtype(test::values_of(layer)), original.dequantized()));
        const io::packed_form form{.packing = dense ? word_packing::stream : word_packing::whole};
        test::check_written(original, io::write_pack_quantized(layer, name, form));
      }
    }
  }
}

TEST_CASE("compressed_tensors: where both ways of packing take as many words, the caller says which it is") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (std::size_t K = 1; K < 400; ++K) {
      const std::size_t whole = io::detail::words_of(K, bits, word_packing::whole),
                        stream = io::detail::words_of(K, bits, word_packing::stream);
      CHECK(stream <= whole);
      if (K >= 160 || 32 % bits == 0) CHECK((stream == whole) == (32 % bits == 0));
    }
  }
  const golden_layer golden("packed3");  // 76 codes of 3 bits: 8 words by tens, 228 bits in 8 words
  const test::refusal r = test::refusal_of([&] { io::read_pack_quantized(tensors_of(golden), 3, 16); });
  CHECK(r.code == errc::bad_file);
  CHECK(r.says("'l.weight_packed': rows of 76 codes of 3 bits have 8 words whether codes straddle words or not"));
  CHECK(test::refusal_of([&] {
          io::read_pack_quantized(tensors_of(golden), 3, 16, word_packing::stream);
        }).says("has bits that belong to no code"));
}

TEST_CASE("compressed_tensors: bits above the last code of a stream must be 0") {
  const original_layer original("compressed_tensors_dense", "w3_asym_rows");  // 222 bits in 7 words, 33 bits in 2
  io::packed_tensors t = tensors_of(original);
  io::tensor_bytes packed = test::copy_of(t.weight_packed);
  packed.bytes[4 * 7 * 2 - 1] |= std::byte{0x40};
  t.weight_packed = io::view_of(packed);
  CHECK(refusal(t, 3, 0).says("row 1 has bits that belong to no code"));
  t = tensors_of(original);
  io::tensor_bytes zeros = test::copy_of(*t.weight_zero_point);
  zeros.bytes[7] |= std::byte{0x80};
  t.weight_zero_point = io::view_of(zeros);
  CHECK(refusal(t, 3, 0).says("'w3_asym_rows.weight_zero_point': column 0 has bits"));
}

TEST_CASE("compressed_tensors: bits that belong to no code must be 0") {
  const golden_layer golden("packed3");
  io::packed_tensors t = tensors_of(golden);
  io::tensor_bytes packed = test::copy_of(t.weight_packed);
  packed.bytes[4 * 8 * 2 + 3] ^= std::byte{0x40};  // row 2, word 0, bit 30: above ten codes of 3 bits
  t.weight_packed = io::view_of(packed);
  CHECK(refusal(t, 3, 16).says("'l.weight_packed': row 2 has bits that belong to no code"));
  t = tensors_of(golden);
  io::tensor_bytes zeros = test::copy_of(*t.weight_zero_point);
  zeros.bytes[zeros.bytes.size() - 1] ^= std::byte{0x80};
  t.weight_zero_point = io::view_of(zeros);
  CHECK(refusal(t, 3, 16).says("'l.weight_zero_point': column 4 has bits"));
  // The end of a row: 76 = 7 * 10 + 6 codes.
  t = tensors_of(golden);
  packed = test::copy_of(t.weight_packed);
  packed.bytes[4 * 7 + 2] |= std::byte{0x04};  // code 6 of the last word
  t.weight_packed = io::view_of(packed);
  CHECK(refusal(t, 3, 16).says("row 0 has bits"));
}

TEST_CASE(
    "compressed_tensors: every width, symmetric and not, round trips with scales for groups, rows and the matrix") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const code_rule rule : {code_rule::symmetric_full, code_rule::asymmetric}) {
      for (const auto& [kind, packing] : {std::pair{granularity_kind::grouped, word_packing::whole},
                                          std::pair{granularity_kind::grouped, word_packing::stream},
                                          std::pair{granularity_kind::per_channel, word_packing::stream},
                                          std::pair{granularity_kind::per_tensor, word_packing::whole}}) {
        const std::uint32_t size = kind == granularity_kind::grouped ? 32 : 0;
        const format_desc f{rule, static_cast<std::uint8_t>(bits), kind, scale_storage::bf16, size};
        const any_qmatrix m = test::random_qmatrix(f, 7, 45, 5);
        const auto t = write(m, {.packing = packing});
        CAPTURE(test::describe(f));
        io::packed_tensors views{io::view_of(t[0]), io::view_of(t[1]), io::view_of(t[2]), std::nullopt, std::nullopt};
        if (rule == code_rule::asymmetric) views.weight_zero_point = io::view_of(t[3]);
        const any_qmatrix back = io::read_pack_quantized(views, bits, size, packing).matrix;
        CHECK(quant::same_format(back.format(), f));
        // Padding at the end of rows is not code: compare values.
        CHECK(test::same_bits(test::values_of({back, {}, {}, {}}), test::values_of({m, {}, {}, {}})));
        CHECK(test::same_bytes(back.zero_plane(), m.zero_plane()));
        CHECK(test::same_bytes(back.scale_plane(), m.scale_plane()));
      }
    }
  }
}

TEST_CASE("compressed_tensors: one scale may have the shape [], [1] or [1, 1], and the shape tensor 32 bits") {
  const format_desc f{code_rule::symmetric_full, 4, granularity_kind::per_tensor, scale_storage::f32, 0};
  const any_qmatrix m = test::random_qmatrix(f, 3, 16, 5);
  for (std::size_t rank = 0; rank <= 2; ++rank) {
    const auto t = write(m, {.shape_type = io::dtype::i32, .scale_rank = rank});
    CHECK(t[1].shape.size() == rank);
    CHECK(t[2].type == io::dtype::i32);
    const auto back = io::read_pack_quantized(
        {io::view_of(t[0]), io::view_of(t[1]), io::view_of(t[2]), std::nullopt, std::nullopt}, 4, 0);
    CHECK(test::same_bytes(back.matrix.codes(), m.codes()));
    CHECK(back.matrix.format().granularity == granularity_kind::per_tensor);
  }
}

TEST_CASE("compressed_tensors: shapes that do not fit each other are refused") {
  const golden_layer golden("packed4");
  const io::packed_tensors t = tensors_of(golden);
  CHECK(refusal(t, 8, 20).says("'l.weight_packed' has the shape [20, 10]; rule: [20, 19]"));
  CHECK(refusal(t, 4, 40).says("'l.weight_scale' has the shape [20, 4]; rule: [20, 2]"));
  CHECK(refusal(t, 4, 0).says("'l.weight_scale' has the shape [20, 4]; rule: [20, 1]"));
  const auto with_shape = [&](std::int64_t N, std::int64_t K) {
    io::tensor_bytes shape = test::copy_of(t.weight_shape);
    std::memcpy(shape.bytes.data(), &N, 8);
    std::memcpy(shape.bytes.data() + 8, &K, 8);
    io::packed_tensors bad = t;
    bad.weight_shape = io::view_of(shape);
    return refusal(bad, 4, 20);
  };
  CHECK(with_shape(20, 84).says("rule: [20, 11]"));
  CHECK(with_shape(21, 76).says("rule: [21, 10]"));
  CHECK(with_shape(-1, 76).says("extent 0 is -1"));
  CHECK(with_shape(20, std::int64_t{1} << 40).says("extent 1 is 1099511627776"));
  io::packed_tensors bad = t;
  bad.weight_shape.shape = {1, 2};
  CHECK(refusal(bad, 4, 20).says("'l.weight_shape' has the shape [1, 2]; rule: [2]"));
  CHECK(test::refusal_of([&] { io::read_pack_quantized(t, 9, 20); }).code == errc::unsupported_format);
}
