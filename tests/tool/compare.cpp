// SPDX-License-Identifier: MIT
// nibble compare: values, bytes of what is data, and values that are not finite.

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/safetensors.hpp>

#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::ggml_type;
using nibble::io::dtype;
using nibble::test::run_tool;
using nibble::test::temporary_file;
using nibble::test::tool_result;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(),
                infinity = std::numeric_limits<float>::infinity();

std::string both(const temporary_file& a, const temporary_file& b) { return "'" + a.path + "' '" + b.path + "'"; }

/// A file of one tensor "t" with 3 rows of 2 values.
template <class T>
void save(const temporary_file& file, const std::array<T, 6>& values) {
  const auto bytes = std::as_bytes(std::span{values});
  nibble::io::safetensors_writer w;
  w.add({"t", std::is_same_v<T, double> ? dtype::f64 : dtype::f32, {3, 2}, {bytes.begin(), bytes.end()}});
  w.save(file.path);
}

/// Bytes 0, 1, ... of that type, the last one changed by `change`.
nibble::io::tensor_bytes counted(std::string name, dtype type, std::uint8_t change) {
  nibble::io::tensor_bytes t{std::move(name), type, {2, 3}, {}};
  for (std::size_t i = 0; i < 6 * bits_of(type) / 8; ++i) t.bytes.push_back(static_cast<std::byte>(i % 2));
  t.bytes.back() ^= std::byte{change};
  return t;
}

void save_data(const temporary_file& file, std::uint8_t change) {
  nibble::io::safetensors_writer w;
  for (const dtype type : {dtype::boolean, dtype::u8, dtype::i32, dtype::i64, dtype::f8_e8m0, dtype::f4})
    w.add(counted(std::string{name_of(type)}, type, change));
  w.save(file.path);
}

}  // namespace

TEST_CASE("nibble compare: data whose values are not computed are compared as bytes, and equal ones are exact") {
  const temporary_file a{"a.safetensors"};
  save_data(a, 0);
  const tool_result r = run_tool("compare --json " + both(a, a));
  CHECK(r.code == 0);
  const auto j = nlohmann::json::parse(r.out);
  CHECK(j["problems"].empty());
  REQUIRE(j["tensors"].size() == 6);
  for (const auto& t : j["tensors"]) {
    CAPTURE(t["name"].get<std::string>());
    CHECK(t["compared"] == "bytes");
    CHECK(t["different_bytes"] == 0);
  }
}

TEST_CASE("nibble compare: data that differ in a byte are a difference, which names the byte") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"};
  save_data(a, 0);
  save_data(b, 2);
  const tool_result r = run_tool("compare --json " + both(a, b));
  CHECK(r.code == 3);
  CHECK(r.says("'I64' is I64 in both, compared as bytes: 1 of 48 differ, the first is byte 47"));
  const auto j = nlohmann::json::parse(r.out);
  CHECK(j["problems"].size() == 6);
  for (const auto& t : j["tensors"]) CHECK(t["different_bytes"] == 1);
}

TEST_CASE("nibble compare: blocks of a GGUF file that nibble does not decode are compared as bytes") {
  const temporary_file a{"a.gguf"}, b{"b.gguf"};
  const auto save_blocks = [](const temporary_file& file, std::uint8_t last) {
    std::vector<std::byte> blocks(66), integers(8);  // IQ2_XXS: 66 bytes for 256 values
    blocks.back() = integers.back() = std::byte{last};
    nibble::io::gguf_writer w;
    w.add("blocks", ggml_type::iq2_xxs, {256, 1}, blocks);
    w.add("integers", ggml_type::i32, {2}, integers);
    w.save(file.path);
  };
  save_blocks(a, 1);
  save_blocks(b, 2);
  CHECK(run_tool("compare " + both(a, a)).code == 0);
  const tool_result r = run_tool("compare " + both(a, b));
  CHECK(r.code == 3);
  CHECK(r.says("'blocks' is IQ2_XXS in both, compared as bytes: 1 of 66 differ, the first is byte 65"));
  CHECK(r.says("'integers' is I32 in both"));
}

TEST_CASE("nibble compare: a NaN of one file only is a difference, in its row") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"};
  save<float>(a, {0, 0, 1, 2, 3, 4});
  save<float>(b, {1, 0, 1, 2, 3, not_a_number});  // row 0 has no signal and some noise: minus infinity decibels
  const tool_result r = run_tool("compare --json " + both(a, b));
  CHECK(r.code == 3);
  CHECK(r.says("'t' differs in 1 values that are not finite in a or in b, the first in row 2"));
  const auto j = nlohmann::json::parse(r.out)["tensors"][0];
  CHECK(j["worst_row"] == 2);
  CHECK(j["not_finite_differences"] == 1);
  CHECK(j["mse"].is_null());
}

TEST_CASE("nibble compare: infinities of other signs are a difference") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"};
  save<float>(a, {1, 2, infinity, 4, 5, 6});
  save<float>(b, {1, 2, -infinity, 4, 5, 6});
  const tool_result r = run_tool("compare " + both(a, b));
  CHECK(r.code == 3);
  CHECK(r.says("the first in row 1"));
}

TEST_CASE("nibble compare: NaN and infinities in the same places are equal values") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"};
  save<float>(a, {1, not_a_number, infinity, 4, -infinity, 6});
  CHECK(run_tool("compare --least-sqnr 200 " + both(a, a)).code == 0);
  save<float>(b, {1, -not_a_number, infinity, 4, -infinity, 6.5f});
  const tool_result r = run_tool("compare --json " + both(a, b));
  CHECK(r.code == 0);
  const auto j = nlohmann::json::parse(r.out)["tensors"][0];
  CHECK(j["worst_row"] == 2);
  CHECK(j["mse"].get<double>() == doctest::Approx(0.25 / 6));
}

TEST_CASE("nibble compare: F64 is compared by its own values, whatever their size") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"}, c{"c.safetensors"};
  save<double>(a, {1, 2, 3, 1e300, 5, 6});
  save<double>(b, {1 + 0x1p-40, 2, 3, 1e300, 5, 6});  // the same as floats
  save<float>(c, {1, 2, 3, 4, 5, 6});
  CHECK(run_tool("compare --least-sqnr 9000 " + both(a, a)).code == 0);
  const tool_result r = run_tool("compare --json " + both(a, b));
  CHECK(r.code == 0);
  const auto j = nlohmann::json::parse(r.out)["tensors"][0];
  CHECK(j["worst_row"] == 0);
  CHECK(j["mse"].get<double>() == doctest::Approx(0x1p-80 / 6));
  save<double>(b, {1, 2, 3, 4, 5, 6});
  CHECK(run_tool("compare --least-sqnr 200 " + both(b, c)).code == 0);  // equal values of two types
}

TEST_CASE("nibble compare: 8-bit floats have values, but those with scales beside them are compared as bytes") {
  const temporary_file a{"a.safetensors"}, b{"b.safetensors"};
  const auto save_f8 = [](const temporary_file& file, const char* scales, bool as_floats) {
    nibble::io::safetensors_writer w;
    const std::array<float, 6> values{0, 0x1p-9f, 0, 0x1p-9f, 0, 0x1p-9f}, ones{1, 1, 1, 1, 1, 1};
    if (as_floats) w.add<float>("x.weight", {2, 3}, std::span<const float>{values});
    else w.add(counted("x.weight", dtype::f8_e4m3, 0));
    if (scales != nullptr) w.add<float>(scales, {6}, std::span<const float>{ones});
    w.save(file.path);
  };
  save_f8(a, nullptr, false);
  save_f8(b, nullptr, true);
  CHECK(run_tool("compare --least-sqnr 200 " + both(a, b)).code == 0);
  for (const char* const scales : {"x.weight_scale", "x.weight_scale_inv"}) {
    CAPTURE(scales);
    save_f8(a, scales, false);
    save_f8(b, scales, true);
    const tool_result r = run_tool("compare " + both(a, b));
    CHECK(r.code == 3);
    CHECK(
        r.says("'x.weight' is F8_E4M3 in a and F32 in b, and of a its values are to be multiplied by the scales in '" +
               std::string{scales} + "'"));
    CHECK(run_tool("compare " + both(a, a)).code == 0);
  }
}
