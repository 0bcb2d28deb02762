// SPDX-License-Identifier: MIT
#include <nibble/io/imatrix.hpp>

#include <bit>
#include <optional>
#include <string>

#include <nibble/io/gguf_writer.hpp>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 16 << 10;

void run(std::span<const std::byte> input) {
  // Each number of a file is a float of memory, beside it the floats of one weight as they were read, and a GGUF file's index.
  std::optional<io::imatrix> file;
  {
    const memory_limit limit(32 * input.size() + (32 << 10));
    file.emplace(input, "input");
  }
  require(file->size() > 0, "a file has an entry");
  try {
    touch(std::as_bytes(file->of("blk.0.attn_q.weight", 3, 2, 1)));
  } catch (const error& e) {
    require(e.code() == errc::bad_shape, e.what());
  }
}

void make_seeds(const add_seed& add) {
  const float sums[] = {2.0f, 4.0f, 6.0f, 0.0f, 1.0f, 9.0f}, counts[] = {2.0f, 0.0f};
  add("sums.gguf", saved([&](const std::string& path) {
        io::gguf_writer w;
        w.set("general.type", "imatrix");
        w.add("blk.0.attn_q.weight.in_sum2", ggml_type::f32, {3, 2}, std::as_bytes(std::span{sums}));
        w.add("blk.0.attn_q.weight.counts", ggml_type::f32, {1, 2}, std::as_bytes(std::span{counts}));
        w.save(path);
      }));
  std::string text;
  const auto number = [&](std::uint32_t v) { text.append(reinterpret_cast<const char*>(&v), 4); };
  number(2);
  for (const std::string_view name : {"blk.0.attn_q.weight", "output.weight"}) {
    number(static_cast<std::uint32_t>(name.size()));
    text += name;
    number(4);  // calls
    number(6);
    for (const float v : sums) number(std::bit_cast<std::uint32_t>(v));
  }
  add("legacy.dat", std::as_bytes(std::span{text}));
}

}  // namespace nibble::fuzz
