// SPDX-License-Identifier: MIT
#include <nibble/io/quantized_tensors.hpp>

#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/gemm/gemm.hpp>
#include <nibble/quant/qtype.hpp>

#include "support/matrices.hpp"
#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using namespace nibble;
using io::safetensors_reader;
using io::safetensors_writer;

constexpr std::size_t N = 5, K = 70;

std::vector<std::byte> file_of(const any_qmatrix& m) {
  const test::temporary_file file("quantized");
  safetensors_writer writer;
  io::add_quantized(writer, "w", m.view());
  writer.save(file.path);
  return test::bytes_of(file.path);
}
any_qmatrix grouped(code_rule rule = code_rule::asymmetric, unsigned seed = 1) {
  return test::random_qmatrix({rule, 4, granularity_kind::grouped, scale_storage::f16, 32}, N, K, seed);
}
std::vector<float> product(const quantized_view& w) {
  const auto x = test::normal_values(2 * w.K, 5);
  std::vector<float> y(2 * w.N);
  multiply(make_span2d(x.data(), 2, w.K), packed_view{layout_id::row_major, w}, make_span2d(y.data(), 2, w.N));
  return y;
}
/// What reading matrix `w` of a file with this text in place of another of the same length says.
std::string refusal(std::vector<std::byte> bytes, const std::string& from, const std::string& to) {
  REQUIRE(from.size() == to.size());
  const std::string_view text{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  const std::size_t at = text.find(from);
  REQUIRE(at != text.npos);
  std::memcpy(bytes.data() + at, to.data(), to.size());
  const test::refusal r = test::refusal_of([&] {
    const safetensors_reader file{std::span<const std::byte>{bytes}};
    io::read_quantized(file, "w");
  });
  CHECK((r.code == errc::bad_file || r.code == errc::unsupported_format || r.code == errc::bad_shape));
  return r.message;
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("quantized_tensors: every format of the list comes back plane by plane, copied and where it lies") {
  const auto values = test::normal_values(N * K, 1);
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const qtype type = static_cast<qtype>(i);
    CAPTURE(quant::name_of(type));
    const any_qmatrix m = quantize(type, make_span2d(values.data(), N, K));
    const test::temporary_file path("quantized_list");
    safetensors_writer writer;
    io::add_quantized(writer, "model.w", m.view());
    writer.save(path.path);
    const safetensors_reader file{path.path};
    const any_qmatrix back = io::read_quantized(file, "model.w").matrix;
    CHECK(quant::same_format(back.format(), m.format()));
    CHECK(test::same_bytes(back.codes(), m.codes()));
    CHECK(test::same_bytes(back.scale_plane(), m.scale_plane()));
    CHECK(test::same_bytes(back.zero_plane(), m.zero_plane()));
    CHECK(test::same_bits(back.super_scales(), m.super_scales()));
    CHECK(test::same_bytes(std::as_bytes(back.block_scales()), std::as_bytes(m.block_scales())));
    const quantized_view v = io::view_quantized(file, "model.w").view;
    CHECK(v.codes == file.bytes(file.at("model.w.nibble.codes")).data());
    std::vector<float> want(N * K), got(N * K);
    dequantize(m.view(), make_span2d(want.data(), N, K));
    dequantize(v, make_span2d(got.data(), N, K));
    CHECK(test::same_bits(want, got));
  }
}

TEST_CASE("quantized_tensors: a file of the Python package safetensors has the values of its planes") {
  const safetensors_reader file{std::string(NIBBLE_TEST_SOURCE_DIR) + "/tests/golden/container_own.safetensors"};
  for (const std::string name : {"w", "c"}) {
    CAPTURE(name);
    const io::checkpoint_matrix m = io::read_quantized(file, name);
    const auto want = file.read_f32(name + ".dense");
    REQUIRE(want.size() == m.matrix.N() * m.matrix.K());
    std::vector<float> values(want.size());
    io::dequantize(m, make_span2d(values.data(), m.matrix.N(), m.matrix.K()));
    CHECK(std::memcmp(values.data(), want.data(), want.size() * sizeof(float)) == 0);
  }
  const io::checkpoint_matrix w = io::read_quantized(file, "w");
  CHECK(w.matrix.format().bits == 3);
  CHECK(w.matrix.format().group_size == 16);
  CHECK(w.column_order.size() == 40);
}

TEST_CASE("quantized_tensors: what is written of that file is its planes, byte for byte") {
  const safetensors_reader file{std::string(NIBBLE_TEST_SOURCE_DIR) + "/tests/golden/container_own.safetensors"};
  const test::temporary_file again("quantized");
  safetensors_writer writer;
  for (const char* const name : {"w", "c"}) io::add_quantized(writer, name, io::read_quantized(file, name));
  writer.save(again.path);
  const safetensors_reader own{again.path};
  CHECK(own.tensors().size() + 2 == file.tensors().size());  // and both `dense`
  for (const io::tensor_info& t : own.tensors()) {
    CAPTURE(t.name);
    REQUIRE(file.contains(t.name));
    CHECK(t.type == file.at(t.name).type);
    CHECK(t.shape == file.at(t.name).shape);
    CHECK(test::same_bytes(own.bytes(t), file.bytes(file.at(t.name))));
  }
}

TEST_CASE("quantized_tensors: what is mapped multiplies to the same bits") {
  for (const code_rule rule : {code_rule::symmetric, code_rule::asymmetric, code_rule::codebook}) {
    const any_qmatrix m = grouped(rule);
    const test::temporary_file path("quantized_product");
    safetensors_writer writer;
    io::add_quantized(writer, "w", m.view());
    writer.save(path.path);
    const safetensors_reader file{path.path};
    CHECK(test::same_bits(product(io::view_quantized(file, "w").view), product(m.view())));
  }
}

TEST_CASE("quantized_tensors: rows with a longer stride are written without the gaps") {
  const any_qmatrix m = grouped();
  std::vector<std::byte> wide(N * 40, std::byte{0xee});
  for (std::size_t n = 0; n < N; ++n) std::memcpy(&wide[n * 40], m.view().codes + n * m.row_stride_bytes(), 35);
  quantized_view v = m.view();
  v.codes = wide.data();
  v.row_stride_bytes = 40;
  const test::temporary_file file("quantized_stride");
  safetensors_writer writer;
  io::add_quantized(writer, "w", v);
  writer.save(file.path);
  CHECK(test::bytes_of(file.path) == file_of(m));
}

TEST_CASE("quantized_tensors: column order, row maxima and quant_state come back, from a layer kept or made") {
  io::checkpoint_matrix layer{grouped(), {}, {}, "{\"caf\xc3\xa9\": \"\\n\"}"};
  for (std::size_t k = 0; k < K; ++k) layer.column_order.push_back(static_cast<std::uint32_t>((k * 3) % K));
  layer.row_absmax.assign(N, 2.5f);
  int made = 0;
  safetensors_writer writer;
  io::add_quantized(writer, "kept", layer);
  io::add_quantized(writer, "made", [&] { return ++made, layer; });
  const test::temporary_file path("quantized_layers");
  writer.save(path.path);
  CHECK(made == 6);  // once to learn the format, and for each plane
  const safetensors_reader file{path.path};
  for (const char* const name : {"kept", "made"}) {
    const io::checkpoint_matrix back = io::read_quantized(file, name);
    CHECK(back.column_order == layer.column_order);
    CHECK(back.row_absmax == layer.row_absmax);
    CHECK(back.quant_state == layer.quant_state);
    CHECK(test::same_bytes(back.matrix.codes(), layer.matrix.codes()));
    const io::quantized_tensor view = io::view_quantized(file, name);
    CHECK(view.column_order.size() == K);
    CHECK(view.row_absmax[4] == 2.5f);
  }
}

TEST_CASE("quantized_tensors: a layer that changes between its making is an error, not another matrix") {
  int made = 0;
  safetensors_writer writer;
  io::add_quantized(writer, "w", [&] {
    const format_desc f{code_rule::asymmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
    return io::checkpoint_matrix{any_qmatrix(f, ++made == 1 ? 9 : 3, 64), {}, {}, {}};
  });
  const test::temporary_file path("quantized_changed");
  CHECK(test::refusal_of([&] { writer.save(path.path); }).says("'w': the layer has another form"));
}

TEST_CASE("quantized_tensors: a quant_state that is not UTF-8 is refused") {
  const io::checkpoint_matrix layer{grouped(), {}, {}, "\xff"};
  safetensors_writer writer;
  CHECK(test::refusal_of([&] { io::add_quantized(writer, "w", layer); }).says("'\\xff' is not UTF-8"));
  CHECK(test::refusal_of([&] { io::add_quantized(writer, "w", [&] { return layer; }); }).code == errc::bad_value);
}

TEST_CASE("quantized_tensors: one name holds one matrix") {
  const any_qmatrix m = grouped();
  safetensors_writer writer;
  io::add_quantized(writer, "w", m.view());
  CHECK(test::refusal_of([&] { io::add_quantized(writer, "w", m.view()); }).code == errc::bad_value);
}

TEST_CASE("quantized_tensors: a description that lies is refused with the rule") {
  const auto bytes = file_of(grouped());
  CHECK(
      contains(refusal(bytes, "\\\"N\\\":5", "\\\"N\\\":6"), "'w.nibble.codes' has the shape [5, 35]; rule: [6, 35]"));
  CHECK(contains(refusal(bytes, "\\\"N\\\":5", "\\\"N\\\":0"), "N = 0"));
  CHECK(contains(refusal(bytes, "\\\"K\\\":70", "\\\"K\\\":99"), "rule: [5, 50]"));
  CHECK(contains(refusal(bytes, "\\\"bits\\\":4", "\\\"bits\\\":9"), "'bits' is 9; rule: an integer of at most 8"));
  CHECK(contains(refusal(bytes, "\\\"bits\\\":4", "\\\"bits\\\":1"), "1 bits; 2..8"));
  CHECK(contains(refusal(bytes, "\\\"version\\\":1", "\\\"version\\\":2"), "version 2; this library reads 1"));
  CHECK(contains(refusal(bytes, "asymmetric", "asymmetrix"), "'rule' is \"asymmetrix\""));
  CHECK(contains(refusal(bytes, "\\\"group_size\\\":32", "\\\"group_size\\\":64"),
                 "'w.nibble.scales' has the shape [5, 3]"));
  CHECK(contains(refusal(bytes, "\\\"group_size\\\":32", "\\\"group_size\\\":33"), "group size 33"));
  CHECK(contains(refusal(bytes, "\\\"group_size\\\":", "\\\"gruop_size\\\":"), "'group_size' is missing"));
  CHECK(contains(refusal(bytes, "\"nibble.w\"", "\"nibble.x\""), "no __metadata__ 'nibble.w'"));
  CHECK(
      contains(refusal(bytes, "asymmetric\\\"", "symmetric\\\" "), "'w.nibble.zeros' does not belong to this format"));
  CHECK(contains(refusal(bytes, "w.nibble.zeros", "w.nibble.zeroz"), "has no tensor 'w.nibble.zeros'"));
}

TEST_CASE("quantized_tensors: a column order that is no permutation is refused") {
  io::checkpoint_matrix layer{grouped(), std::vector<std::uint32_t>(K), {}, {}};
  for (std::size_t k = 0; k < K; ++k) layer.column_order[k] = static_cast<std::uint32_t>(K - 1 - k);
  const test::temporary_file path("quantized_order");
  safetensors_writer writer;
  io::add_quantized(writer, "w", layer);
  writer.save(path.path);
  auto bytes = test::bytes_of(path.path);
  const safetensors_reader good{std::span<const std::byte>{bytes}};
  const std::span<const std::byte> order = good.bytes(good.at("w.nibble.column_order"));
  bytes[static_cast<std::size_t>(order.data() - bytes.data()) + 4 * 7] = std::byte{70};
  const safetensors_reader file{std::span<const std::byte>{bytes}};
  for (const bool view : {false, true}) {
    const test::refusal r = test::refusal_of([&] {
      if (view) io::view_quantized(file, "w");
      else io::read_quantized(file, "w");
    });
    CHECK(r.code == errc::bad_file);
    CHECK(r.says("entry 7, column 70"));
  }
}

TEST_CASE("quantized_tensors: a file cut at any byte is an error") {
  const auto bytes = file_of(grouped());
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const test::refusal r = test::refusal_of([&] {
      const safetensors_reader file{std::span{bytes}.first(n)};
      io::read_quantized(file, "w");
    });
    CHECK(r.code == errc::bad_file);
  }
}

TEST_CASE("quantized_tensors: a flipped bit of the header is an error or another matrix, never a crash") {
  const auto good = file_of(grouped());
  std::uint64_t header;
  std::memcpy(&header, good.data(), 8);
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < (8 + header) * 8; ++bit) {
    auto bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    const test::refusal r = test::refusal_of([&] {
      const safetensors_reader file{std::span<const std::byte>{bytes}};
      const io::checkpoint_matrix m = io::read_quantized(file, "w");
      std::vector<float> values(m.matrix.N() * m.matrix.K());
      io::dequantize(m, make_span2d(values.data(), m.matrix.N(), m.matrix.K()));
    });
    refused += r.code != errc::ok;
  }
  CHECK(refused > header * 6);  // most bits are part of a name, a number or a bracket that something depends on
}

TEST_CASE("quantized_tensors: planes that are not aligned are copied, and not viewed") {
  const auto bytes = file_of(grouped());
  std::vector<std::byte> moved{std::byte{0}};
  moved.insert(moved.end(), bytes.begin(), bytes.end());
  const safetensors_reader file{std::span<const std::byte>{moved}.subspan(1)};
  CHECK(test::refusal_of([&] { io::view_quantized(file, "w"); }).code == errc::bad_alignment);
  CHECK(test::same_bytes(io::read_quantized(file, "w").matrix.codes(), grouped().codes()));
}
