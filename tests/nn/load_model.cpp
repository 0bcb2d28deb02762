// SPDX-License-Identifier: MIT
#include <nibble/nn/load_model.hpp>

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/tiny_model.hpp"

namespace {

using namespace nibble;

struct temporary_file {
  std::string path;
  explicit temporary_file(const std::string& name)
      : path((std::filesystem::temp_directory_path() / ("nibble_test_" + std::to_string(::getpid()) + "_" + name))
                 .string()) {}
  ~temporary_file() { std::filesystem::remove(path); }
};

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
nn::model load(const std::string& bytes) {
  return nn::load_model(io::safetensors_reader{std::as_bytes(std::span{bytes}), "'m'"});
}
std::string refusal(const std::function<void()>& f, errc code = errc::bad_file) {
  try {
    f();
  } catch (const error& e) {
    CHECK(e.code() == code);
    return e.what();
  }
  return "";
}
bool says(const std::string& message, const std::string& part) { return message.find(part) != message.npos; }

bool equal(const nn::model& a, const nn::model& b) {
  std::vector<const aligned_vector<float>*> values;
  std::vector<std::string> names;
  nn::for_each_tensor(
      a, [&](const nn::tensor_slot& slot, const auto& v) { names.push_back(slot.name), values.push_back(&v); });
  std::size_t i = 0;
  bool same = a.config == b.config;
  nn::for_each_tensor(b, [&](const nn::tensor_slot& slot, const auto& v) {
    same = same && i < values.size() && names[i] == slot.name && *values[i] == v;
    ++i;
  });
  return same && i == values.size();
}

/// A file with the model's tensors, changed by `change` before it is written.
std::string file_with(
    const nn::model& m,
    const std::function<void(std::map<std::string, std::pair<std::vector<std::size_t>, std::vector<float>>>&)>& change,
    std::map<std::string, std::string> metadata = {}) {
  std::map<std::string, std::pair<std::vector<std::size_t>, std::vector<float>>> tensors;
  nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, const auto& v) {
    if (!v.empty()) tensors[slot.name] = {slot.shape, {v.begin(), v.end()}};
  });
  change(tensors);
  io::safetensors_writer writer;
  writer.metadata = nn::to_metadata(m.config);
  for (const auto& [key, value] : metadata) writer.metadata[key] = value;
  for (const auto& [name, t] : tensors) writer.add(name, t.first, std::span<const float>{t.second});
  const temporary_file file{"changed.safetensors"};
  writer.save(file.path);
  return bytes_of(file.path);
}

}  // namespace

TEST_CASE("load_model: what save_model writes is read back, biases where they are") {
  for (const nn::model_config& c : test::all_configs()) {
    const nn::model m = test::random_model(c, 1);
    const temporary_file file{"model.safetensors"};
    nn::save_model(file.path, m, io::dtype::f32, {{"note", "kept"}});
    const nn::model read = nn::load_model(file.path);
    CHECK(equal(read, m));
    CHECK(io::safetensors_reader{file.path}.metadata().at("note") == "kept");
    for (const io::dtype type : {io::dtype::f16, io::dtype::bf16}) {
      nn::model rounded = m;
      nn::for_each_tensor(rounded, [&](const nn::tensor_slot&, auto& v) {
        for (float& x : v) x = type == io::dtype::f16 ? to_float(to_half(x)) : to_float(to_bfloat16(x));
      });
      nn::save_model(file.path, m, type);
      CHECK(equal(nn::load_model(file.path), rounded));
    }
  }
}

TEST_CASE("load_model: canonical names are those of the container") {
  std::vector<std::string> names;
  const nn::model m = test::random_model(test::neox_config(), 1);
  nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, const auto&) { names.push_back(slot.name); });
  const auto has = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  for (const char* name :
       {"embed.weight", "blocks.0.attn_norm.weight", "blocks.1.attn_norm.bias", "blocks.0.attn.q.weight",
        "blocks.0.attn.k.bias", "blocks.0.attn.v.weight", "blocks.1.attn.o.bias", "blocks.0.mlp_norm.weight",
        "blocks.0.mlp.up.weight", "blocks.0.mlp.down.bias", "final_norm.weight", "final_norm.bias", "head.weight"})
    CHECK_MESSAGE(has(name), name);
  CHECK_FALSE(has("blocks.0.mlp.gate.weight"));
  CHECK_FALSE(has("blocks.0.attn.q_norm.weight"));
}

TEST_CASE("load_model: tensors that are not those of the configuration are refused by name and shape") {
  const nn::model m = test::random_model(test::llama_config(), 2);
  CHECK(equal(load(file_with(m, [](auto&) {})), m));
  CHECK(says(refusal([&] { load(file_with(m, [](auto& t) { t.erase("blocks.1.mlp.down.weight"); })); }),
             "model 'm': tensor 'blocks.1.mlp.down.weight' [32, 56] is missing"));
  CHECK(says(refusal([&] { load(file_with(m, [](auto& t) {
                             t["blocks.0.attn.k.weight"].first = {32, 16};
                           })); }),
             "tensor 'blocks.0.attn.k.weight' has shape [32, 16], expected [16, 32]"));
  CHECK(says(refusal([&] { load(file_with(m, [](auto& t) { t["blocks.0.attn.k.weight"].first = {512}; })); }),
             "has shape [512], expected [16, 32]"));
  CHECK(says(refusal([&] { load(file_with(m, [](auto& t) {
                             t["blocks.2.attn.k.weight"] = {{1}, {1.0f}};
                           })); }),
             "tensor 'blocks.2.attn.k.weight' [1] is not part of the configuration"));
  CHECK(says(refusal([&] { load(file_with(m, [](auto& t) {
                             t["blocks.0.attn.q.bias"] = {{2}, {1.0f, 2.0f}};
                           })); }),
             "tensor 'blocks.0.attn.q.bias' has shape [2], expected [32]"));
  CHECK(says(refusal([&] {
               load(file_with(m, [](auto&) {}, {{"n_layers", "3"}}));
             }),
             "tensor 'blocks.2.attn_norm.weight' [32] is missing"));
  CHECK(says(refusal([&] {
               load(file_with(m, [](auto&) {}, {{"n_layers", "100000000"}}));
             }),
             "n_layers is 100000000, but there are 27 tensors"));
  CHECK(says(refusal([&] {
               load(file_with(m, [](auto&) {}, {{"d_model", "268435456"}}));
             }),
             "tensor 'embed.weight' has shape [40, 32]"));
  CHECK(says(refusal([&] {
               load(file_with(m, [](auto&) {}, {{"tied_head", "true"}}));
             }),
             "tensor 'head.weight' [40, 32] is not part"));
  CHECK(says(refusal([&] {
               load(file_with(
                   m, [](auto& t) { t["final_norm.weight"].second[3] = std::numeric_limits<float>::infinity(); }));
             }),
             "tensor 'final_norm.weight' holds inf at element 3"));
}

TEST_CASE("load_model: integer weights are refused by name") {
  const nn::model m = test::random_model(test::llama_config(), 3);
  const temporary_file file{"integers.safetensors"};
  io::safetensors_writer writer;
  writer.metadata = nn::to_metadata(m.config);
  const std::vector<std::int32_t> integers(32);
  nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, const auto& v) {
    if (slot.name == "final_norm.weight") writer.add(slot.name, slot.shape, std::span<const std::int32_t>{integers});
    else if (!v.empty()) writer.add(slot.name, slot.shape, std::span<const float>{v});
  });
  writer.save(file.path);
  CHECK(
      says(refusal([&] { nn::load_model(file.path); }, errc::unsupported_format), "tensor 'final_norm.weight' is I32"));
}

TEST_CASE("load_model: a file cut at any place or with a header bit flipped is an error or a model, never more") {
  nn::model_config c = test::example_config();
  c.d_model = 4;
  c.n_heads = 2;
  c.head_dim = c.rope_dims = 2;
  c.d_ff = 3;
  c.vocab_size = 5;
  const nn::model m = test::random_model(c, 4);
  const std::string bytes = file_with(m, [](auto&) {});
  for (std::size_t size = 0; size < bytes.size(); ++size) CHECK_THROWS_AS(load(bytes.substr(0, size)), error);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < 8 * (8 + header); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    try {
      load(flipped);  // a digit of norm_eps, say, may change without breaking a rule
    } catch (const error&) {
      ++refused;
    }
  }
  CHECK(refused > 4 * header);
}

TEST_CASE("load_model: save_model refuses what the type cannot hold") {
  nn::model m = test::random_model(test::llama_config(), 5);
  m.embed[7] = 1e6f;
  const temporary_file file{"overflow.safetensors"};
  CHECK(says(refusal([&] { nn::save_model(file.path, m, io::dtype::f16); }, errc::bad_value),
             "'embed.weight' element 7 is 1000000, too large for F16"));
  CHECK(says(refusal([&] { nn::save_model(file.path, m, io::dtype::i32); }, errc::bad_value),
             "type I32; F32, F16 or BF16"));
  CHECK_FALSE(std::filesystem::exists(file.path));
}
