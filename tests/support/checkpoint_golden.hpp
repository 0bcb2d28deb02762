// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The layers of tests/golden/checkpoint_*.safetensors, written by make_checkpoint_golden.py from the formats' formulas, those of
/// original_*.safetensors, which the formats' own tools wrote by make_original_golden.py, and what every format's tests do with
/// them.

#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/core/half.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/safetensors.hpp>

#include "matrices.hpp"

namespace nibble::test {

/// One golden file; view(".qweight") is a tensor of its layer `l`.
struct golden_layer {
  io::safetensors_reader file;

  static std::string path_of(const std::string& name) {
    return std::string(NIBBLE_TEST_SOURCE_DIR) + "/tests/golden/checkpoint_" + name + ".safetensors";
  }
  explicit golden_layer(const std::string& name) : file(path_of(name)) {}
  io::tensor_view view(const std::string& suffix) const { return file.view(file.at("l" + suffix)); }
  std::optional<io::tensor_view> find(const std::string& suffix) const {
    if (!file.contains("l" + suffix)) return std::nullopt;
    return view(suffix);
  }
  std::vector<float> dense() const {
    const auto values = file.read_f32("dense");
    return {values.begin(), values.end()};
  }
};

/// A layer `name` of one tool's file; view(".qweight") is one of its tensors.
struct original_layer {
  io::safetensors_reader file;
  std::string name;

  static std::string path_of(const std::string& tool) {
    return std::string(NIBBLE_TEST_SOURCE_DIR) + "/tests/golden/original_" + tool + ".safetensors";
  }
  original_layer(const std::string& tool, const std::string& layer) : file(path_of(tool)), name(layer) {}
  io::tensor_view view(const std::string& suffix) const { return file.view(file.at(name + suffix)); }
  std::optional<io::tensor_view> find(const std::string& suffix) const {
    if (!file.contains(name + suffix)) return std::nullopt;
    return view(suffix);
  }
  /// What the tool itself makes of the layer's tensors, in the tool's own dtype.
  std::vector<float> dequantized() const {
    const auto values = file.read_f32(name + ".dequantized");
    return {values.begin(), values.end()};
  }
  /// `values` rounded once to that dtype.
  std::vector<float> in_its_dtype(std::vector<float> values) const {
    const io::dtype type = file.at(name + ".dequantized").type;
    for (float& x : values)
      x = type == io::dtype::f16 ? to_float(to_half(x)) : type == io::dtype::bf16 ? to_float(to_bfloat16(x)) : x;
    return values;
  }
};

inline std::vector<float> values_of(const io::checkpoint_matrix& layer) {
  std::vector<float> out(layer.matrix.N() * layer.matrix.K());
  io::dequantize(layer, make_span2d(out.data(), layer.matrix.N(), layer.matrix.K()));
  return out;
}

/// CHECKs that the tensors stand in the file, byte for byte.
inline void check_contained(const io::safetensors_reader& file, const std::vector<io::tensor_bytes>& tensors) {
  for (const io::tensor_bytes& t : tensors) {
    CAPTURE(t.name);
    REQUIRE(file.contains(t.name));
    const io::tensor_info& want = file.at(t.name);
    CHECK(t.type == want.type);
    CHECK(t.shape == want.shape);
    CHECK(same_bytes(t.bytes, file.bytes(want)));
  }
}

/// CHECKs that the tensors are those of the golden file, all of them and byte for byte.
inline void check_written(const golden_layer& golden, const std::vector<io::tensor_bytes>& tensors) {
  CHECK(tensors.size() + 1 == golden.file.tensors().size());  // and `dense`
  check_contained(golden.file, tensors);
}

/// The same for a layer of a tool's file.
inline void check_written(const original_layer& original, const std::vector<io::tensor_bytes>& tensors) {
  std::size_t count = 0;
  for (const io::tensor_info& t : original.file.tensors()) count += t.name.starts_with(original.name + ".") ? 1u : 0u;
  CHECK(tensors.size() + 1 == count);  // and `dequantized`
  check_contained(original.file, tensors);
}

/// A tensor of the file with bytes of its own, to be damaged.
inline io::tensor_bytes copy_of(const io::tensor_view& t) {
  return {t.name, t.type, t.shape, std::vector<std::byte>(t.bytes.begin(), t.bytes.end())};
}

}  // namespace nibble::test
