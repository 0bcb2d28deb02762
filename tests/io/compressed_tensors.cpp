// SPDX-License-Identifier: MIT
#include <nibble/io/compressed_tensors.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/checkpoint_golden.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble;
using test::golden_layer;

io::packed_tensors tensors_of(const golden_layer& g) {
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
  const test::refusal r = test::refusal_of([&] { io::read_pack_quantized(t, bits, group_size); });
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
    const io::checkpoint_matrix layer = io::read_pack_quantized(tensors_of(golden), c.bits, c.group_size);
    CHECK(layer.column_order.empty() == !c.g_idx);
    CHECK(test::same_bits(test::values_of(layer), golden.dense()));
  }
}

TEST_CASE("compressed_tensors: what was read is written back byte for byte") {
  for (const golden_case& c : cases) {
    CAPTURE(c.name);
    const golden_layer golden(c.name);
    const io::checkpoint_matrix layer = io::read_pack_quantized(tensors_of(golden), c.bits, c.group_size);
    test::check_written(golden, io::write_pack_quantized(layer, "l", {.g_idx = c.g_idx}));
  }
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
      for (const auto kind : {granularity_kind::grouped, granularity_kind::per_channel, granularity_kind::per_tensor}) {
        const std::uint32_t size = kind == granularity_kind::grouped ? 32 : 0;
        const format_desc f{rule, static_cast<std::uint8_t>(bits), kind, scale_storage::bf16, size};
        const any_qmatrix m = test::random_qmatrix(f, 7, 45, 5);
        const auto t = write(m);
        CAPTURE(test::describe(f));
        io::packed_tensors views{io::view_of(t[0]), io::view_of(t[1]), io::view_of(t[2]), std::nullopt, std::nullopt};
        if (rule == code_rule::asymmetric) views.weight_zero_point = io::view_of(t[3]);
        const any_qmatrix back = io::read_pack_quantized(views, bits, size).matrix;
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
