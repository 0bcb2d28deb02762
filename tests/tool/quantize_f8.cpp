// SPDX-License-Identifier: MIT
// nibble quantize of 8-bit floats: their values, and no plain floats where scales stand beside them.

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/safetensors.hpp>

#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::test::run_tool;
using nibble::test::temporary_file;

void save_f8(const std::string& path, bool scaled) {
  nibble::io::safetensors_writer w;
  nibble::io::tensor_bytes t{"x.weight", nibble::io::dtype::f8_e4m3, {4, 32}, {}};
  for (std::size_t i = 0; i < 128; ++i) t.bytes.push_back(static_cast<std::byte>(i * 2 % 112));
  w.add(std::move(t));
  const std::array<float, 1> one{1.0f};
  if (scaled) w.add<float>("x.weight_scale_inv", {1}, std::span{one});
  w.save(path);
}

}  // namespace

TEST_CASE("nibble quantize: 8-bit floats become floats without loss, and blocks") {
  const temporary_file from{"f8.safetensors"}, to{"to.gguf"};
  save_f8(from.path, false);
  const auto values = nibble::io::safetensors_reader{from.path}.read_f32("x.weight");
  for (const char* const type : {"F32", "F16", "BF16"}) {
    CAPTURE(type);
    CHECK(run_tool("quantize '" + from.path + "' '" + to.path + "' " + type).code == 0);
    CHECK(nibble::io::gguf_reader{to.path}.read_f32("x.weight") == values);
  }
  CHECK(run_tool("quantize '" + from.path + "' '" + to.path + "' Q8_0").code == 0);
  CHECK(run_tool("compare --least-sqnr 35 '" + from.path + "' '" + to.path + "'").code == 0);
}

TEST_CASE("nibble quantize: 8-bit floats with scales beside them are refused by name") {
  const temporary_file from{"f8.safetensors"}, to{"to.gguf"};
  save_f8(from.path, true);
  const auto r = run_tool("quantize '" + from.path + "' '" + to.path + "' Q8_0");
  CHECK(r.code == 1);
  CHECK(r.says(
      "tensor 'x.weight' is F8_E4M3, and its values are to be multiplied by the scales in 'x.weight_scale_inv'"));
}

TEST_CASE("nibble quantize --json: bytes of a file's name that are not UTF-8 are replaced") {
  const temporary_file from{"name_\xff.safetensors"}, to{"to.gguf"};
  save_f8(from.path, false);
  const auto r = run_tool("quantize --json '" + from.path + "' '" + to.path + "' Q8_0");
  CHECK(r.code == 0);
  CHECK(nlohmann::json::parse(r.out, nullptr, false).is_object());
}
