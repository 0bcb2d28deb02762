// SPDX-License-Identifier: MIT
#include <nibble/io/gguf.hpp>

#include <optional>

#include <nibble/io/ggml_mixture.hpp>
#include <nibble/io/gguf_writer.hpp>

#include "target.hpp"

namespace nibble::fuzz {
namespace {

void visit(const io::gguf_value& value, int depth = 0) {
  require(depth <= io::gguf_max_depth, "arrays nest no deeper than their limit");
  touch(value.bytes());
  static_cast<void>(value.as<std::string_view>());
  static_cast<void>(value.as<double>());
  static_cast<void>(value.as<std::uint64_t>());
  static_cast<void>(value.as<std::int8_t>());
  value.for_each([&](const io::gguf_value& element) { visit(element, depth + 1); });
}

void read(const io::gguf_reader& file, const io::gguf_tensor& t) {
  require(file.find_tensor(t.name) == &t, "a tensor is found by its name");
  const std::span<const std::byte> bytes = file.bytes(t);
  require(bytes.size() == t.bytes, "a tensor has its bytes");
  touch(bytes);
  if (!can_decode_ggml(t.type)) return;
  const memory_limit limit(t.elements * sizeof(float) + 4096);
  touch(std::as_bytes(std::span<const float>{file.read_f32(t)}));
}

}  // namespace

const std::size_t max_input_bytes = 64 << 10;

void run(std::span<const std::byte> input) {
  std::optional<io::gguf_reader> file;
  {
    // A tensor's info takes 24 bytes of a file and 96 of memory, a key 13 and 40.
    const memory_limit limit(16 * input.size() + (16 << 10));
    file.emplace(input);
  }
  for (const io::gguf_entry& entry : file->metadata()) {
    require(file->find(entry.key) != nullptr, "a value is found by its key");
    visit(entry.value);
  }
  for (const io::gguf_tensor& t : file->tensors()) read(*file, t);
  const io::model_facts facts = io::facts_of(*file);
  for (const char* plan : {"Q4_K_M", "Q2_K"})
    require(io::plan_of(plan).choose(facts, file->tensors()).size() == file->tensors().size(),
            "a mixture has one choice for each tensor");
}

void make_seeds(const add_seed& add) {
  const std::vector<std::byte> data(4096, std::byte{0x35});
  const auto tensor = [&](io::gguf_writer& w, const std::string& name, ggml_type type, std::vector<std::size_t> dims) {
    const quant::ggml_type_info& info = quant::info_of(type);
    std::size_t bytes = info.block_bytes;
    for (const std::size_t d : dims) bytes *= d;
    w.add(name, type, dims, std::span{data}.first(bytes / info.block_elements));
  };
  io::gguf_writer keys;
  keys.set("general.architecture", "llama");
  keys.set("llama.block_count", 2u);
  keys.set("llama.attention.head_count", std::int64_t{8});
  keys.set("u8", std::uint8_t{1});
  keys.set("i8", std::int8_t{-1});
  keys.set("u16", std::uint16_t{1});
  keys.set("i16", std::int16_t{-1});
  keys.set("i32", -1);
  keys.set("f32", 0.5f);
  keys.set("f64", 0.5);
  keys.set("u64", std::uint64_t{1});
  keys.set("bool", true);
  const std::string words[] = {"a", "", "\xc3\xa9"};
  const std::uint32_t numbers[] = {8, 2};
  keys.set_array<std::uint32_t>("llama.attention.head_count_kv", numbers);
  keys.set_array("tokenizer.ggml.tokens", std::span<const std::string>{words});
  tensor(keys, "token_embd.weight", ggml_type::f32, {32, 3});
  tensor(keys, "blk.0.attn_v.weight", ggml_type::bf16, {5});
  tensor(keys, "blk.1.ffn_down.weight", ggml_type::q4_0, {64, 1, 2});
  add("keys.gguf", saved([&](const std::string& path) { keys.save(path); }));

  io::gguf_writer types(64);
  for (std::uint32_t id = 0; id < 64; ++id) {
    const quant::ggml_type_info* const info = quant::find_ggml_type(id);
    if (info != nullptr) tensor(types, "t" + std::to_string(id), info->type, {info->block_elements, 2});
  }
  add("types.gguf", saved([&](const std::string& path) { types.save(path); }));

  add("empty.gguf", saved([&](const std::string& path) { io::gguf_writer{}.save(path); }));
}

}  // namespace nibble::fuzz
