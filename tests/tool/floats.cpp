// SPDX-License-Identifier: MIT
// The program nibble with floats that are not 32 or 16 bits wide: F8 and F64, and 8-bit floats with scales beside them.

#include <array>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/core/half.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/safetensors.hpp>

#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::io::dtype;
using nibble::io::safetensors_reader;
using nibble::test::run_tool;
using nibble::test::temporary_file;
using nibble::test::tool_result;

std::string both(const temporary_file& a, const temporary_file& b) { return "'" + a.path + "' '" + b.path + "'"; }

/// A file with a tensor "x.weight" of 4 rows of 32 bytes that are all finite, and one of scales if it has a name.
void save_f8(const temporary_file& file, dtype type, const std::string& scales = "") {
  nibble::io::safetensors_writer w;
  nibble::io::tensor_bytes t{"x.weight", type, {4, 32}, {}};
  for (std::size_t i = 0; i < 128; ++i) t.bytes.push_back(static_cast<std::byte>(i * 2 % 112));
  w.add(std::move(t));
  const std::array<float, 2> ones{1.0f, 1.0f};
  if (!scales.empty()) w.add<float>(scales, {2}, std::span{ones});
  w.save(file.path);
}

void save_f64(const temporary_file& file, const std::vector<double>& values) {
  const auto bytes = std::as_bytes(std::span{values});
  nibble::io::safetensors_writer w;
  w.add({"x.weight", dtype::f64, {1, values.size()}, {bytes.begin(), bytes.end()}});
  w.save(file.path);
}

}  // namespace

TEST_CASE("nibble inspect: 8-bit floats and F64 have statistics, integers have none") {
  const temporary_file file{"f.safetensors"};
  for (const dtype type : {dtype::f8_e4m3, dtype::f8_e5m2, dtype::f8_e4m3fnuz, dtype::f8_e5m2fnuz}) {
    CAPTURE(name_of(type));
    save_f8(file, type);
    const auto t = nlohmann::json::parse(run_tool("inspect --json '" + file.path + "'").out)["tensors"][0];
    CHECK(t["absmax"] == nibble::io::float8_value(type, 110));
    CHECK(t["not_finite"] == 0);
  }
  save_f64(file, {3e200, -4e200});
  const auto wide = nlohmann::json::parse(run_tool("inspect --json '" + file.path + "'").out)["tensors"][0];
  CHECK(wide["absmax"] == 4e200);  // no float is
  CHECK(wide["not_finite"] == 0);
  nibble::io::safetensors_writer w;
  w.add({"ids", dtype::i64, {1}, std::vector<std::byte>(8)});
  w.save(file.path);
  CHECK_FALSE(nlohmann::json::parse(run_tool("inspect --json '" + file.path + "'").out)["tensors"][0].contains("rms"));
}

TEST_CASE("nibble convert: 8-bit floats are exact as F32, F16 and BF16, in both containers") {
  const temporary_file from{"f8.safetensors"}, safe{"to.safetensors"}, gguf{"to.gguf"};
  for (const dtype type : {dtype::f8_e4m3, dtype::f8_e5m2}) {
    save_f8(from, type);
    const auto values = safetensors_reader{from.path}.read_f32("x.weight");
    for (const char* const to : {"F32", "F16", "BF16"}) {
      CAPTURE(name_of(type));
      CAPTURE(to);
      const tool_result r = run_tool("convert --json --strict --to " + std::string{to} + " " + both(from, safe));
      CHECK(r.code == 0);
      CHECK(nlohmann::json::parse(r.out)["tensors"][0]["exact"] == true);
      CHECK(safetensors_reader{safe.path}.read_f32("x.weight") == values);
      CHECK(name_of(safetensors_reader{safe.path}.at("x.weight").type) == to);
      CHECK(run_tool("convert --strict --to " + std::string{to} + " " + both(from, gguf)).code == 0);
      CHECK(nibble::io::gguf_reader{gguf.path}.read_f32("x.weight") == values);
    }
  }
  const tool_result r = run_tool("convert " + both(from, gguf));
  CHECK(r.code == 4);
  CHECK(r.says("F8_E5M2, a type that gguf does not have; --to F32, F16 or BF16 writes its values exactly"));
}

TEST_CASE("nibble convert: F64 is exact as F32 where floats hold its values, else rounded with the error") {
  const temporary_file from{"f64.safetensors"}, to{"f32.safetensors"};
  save_f64(from, {1.0, -0.25, 0x1p100});
  const tool_result exact = run_tool("convert --json --strict --to F32 " + both(from, to));
  CHECK(exact.code == 0);
  CHECK(nlohmann::json::parse(exact.out)["tensors"][0]["exact"] == true);
  CHECK(safetensors_reader{to.path}.read_f32("x.weight")[1] == -0.25f);

  save_f64(from, {1.0 + 0x1p-30, 1.0});
  CHECK(run_tool("convert --strict --to F32 " + both(from, to)).code == 4);
  for (const char* const type : {"F32", "F16"}) {
    CAPTURE(type);
    const tool_result rounded = run_tool("convert --json --to " + std::string{type} + " " + both(from, to));
    CHECK(rounded.code == 0);
    const auto t = nlohmann::json::parse(rounded.out)["tensors"][0];
    CHECK(t["exact"] == false);
    CHECK(t["mse"].get<double>() == doctest::Approx(0x1p-61));  // 2^-60 and 0
    CHECK(safetensors_reader{to.path}.read_f32("x.weight")[0] == 1.0f);
  }
  CHECK(run_tool("convert --strict " + both(from, to)).code == 0);  // a copy
  CHECK(safetensors_reader{to.path}.at("x.weight").type == dtype::f64);
}

TEST_CASE("nibble convert: F64 beyond the greatest float is refused by name, and nothing is written") {
  const temporary_file from{"f64.safetensors"}, to{"f32.safetensors"};
  save_f64(from, {1.0, 1e300});
  const tool_result r = run_tool("convert --to F32 " + both(from, to));
  CHECK(r.code == 4);
  CHECK(r.says("tensor 'x.weight' is F64 and has 1 values beyond the greatest F32"));
  CHECK_FALSE(std::filesystem::exists(to.path));
}

TEST_CASE("nibble: 8-bit floats with scales beside them are no plain floats: listed, copied, refused by name") {
  const temporary_file from{"f8.safetensors"}, to{"to.safetensors"};
  for (const char* const scales : {"x.weight_scale", "x.weight_scale_inv"}) {
    CAPTURE(scales);
    save_f8(from, dtype::f8_e4m3, scales);
    const tool_result listed = run_tool("inspect '" + from.path + "'");
    CHECK(listed.code == 0);
    CHECK(listed.out.find("'x.weight' has no statistics: its values are to be multiplied by the scales in '" +
                          std::string{scales} + "'") != std::string::npos);
    const tool_result r = run_tool("convert --to F32 " + both(from, to));
    CHECK(r.code == 4);
    CHECK(r.says("tensor 'x.weight' is F8_E4M3, and its values are to be multiplied by the scales in '" +
                 std::string{scales} + "'"));
    CHECK_FALSE(std::filesystem::exists(to.path));
    CHECK(run_tool("convert --strict --dry-run " + both(from, to)).code == 0);  // a copy
  }
}

TEST_CASE("nibble quantize: 8-bit floats become floats without loss, and blocks") {
  const temporary_file from{"f8.safetensors"}, to{"to.gguf"};
  save_f8(from, dtype::f8_e4m3);
  const auto values = safetensors_reader{from.path}.read_f32("x.weight");
  for (const char* const type : {"F32", "F16", "BF16"}) {
    CAPTURE(type);
    CHECK(run_tool("quantize '" + from.path + "' '" + to.path + "' " + type).code == 0);
    CHECK(nibble::io::gguf_reader{to.path}.read_f32("x.weight") == values);
  }
  CHECK(run_tool("quantize '" + from.path + "' '" + to.path + "' Q8_0").code == 0);
  CHECK(run_tool("compare --least-sqnr 35 '" + from.path + "' '" + to.path + "'").code == 0);
}

TEST_CASE("nibble quantize: what F64 loses counts from its own values") {
  const temporary_file from{"f64.safetensors"}, to{"to.gguf"};
  save_f64(from, {1.0 + 0x1p-30, 1.0});
  for (const char* const type : {"F32", "F16"}) {
    CAPTURE(type);
    const tool_result r = run_tool("quantize --json " + both(from, to) + " " + type);
    CHECK(r.code == 0);
    CHECK(nlohmann::json::parse(r.out)["tensors"][0]["mse"].get<double>() == doctest::Approx(0x1p-61));  // 2^-60 and 0
  }
}

TEST_CASE("nibble quantize: F64 beyond the greatest float is refused by name and row") {
  const temporary_file from{"f64.safetensors"}, to{"to.gguf"};
  save_f64(from, {1.0, 1e300});
  const tool_result r = run_tool("quantize " + both(from, to) + " F16");
  CHECK(r.code == 1);
  CHECK(r.says("tensor 'x.weight' is F64 and has 1 values beyond the greatest F32 in rows from 0 on [bad_value]"));
  CHECK_FALSE(std::filesystem::exists(to.path));
}

TEST_CASE("nibble quantize: 8-bit floats with scales beside them are refused by name") {
  const temporary_file from{"f8.safetensors"}, to{"to.gguf"};
  save_f8(from, dtype::f8_e4m3, "x.weight_scale_inv");
  const auto r = run_tool("quantize '" + from.path + "' '" + to.path + "' Q8_0");
  CHECK(r.code == 1);
  CHECK(r.says(
      "tensor 'x.weight' is F8_E4M3, and its values are to be multiplied by the scales in 'x.weight_scale_inv'"));
}
