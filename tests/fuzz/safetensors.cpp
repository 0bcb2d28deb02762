// SPDX-License-Identifier: MIT
#include <nibble/io/safetensors.hpp>

#include <optional>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 64 << 10;

void run(std::span<const std::byte> input) {
  std::optional<io::safetensors_reader> file;
  {
    // The costliest text is a metadata pair, 7 bytes and more, and an extent, 2 bytes: a node of a map, and 8 bytes in a
    // vector that grows by doubling.
    const memory_limit limit(16 * input.size() + (16 << 10));
    file.emplace(input);
  }
  std::size_t bytes = 0;
  for (const io::tensor_info& t : file->tensors()) {
    require(&file->at(t.name) == &t, "a tensor is found by its name");
    touch(file->bytes(t));
    bytes += file->bytes(t).size();
    if (!io::safetensors_reader::is_float(t)) continue;
    const memory_limit limit(t.elements * sizeof(float) + 4096);
    require(file->read_f32(t).size() == t.elements, "a tensor has as many values as its shape says");
  }
  require(bytes < input.size(), "tensors share no byte");
}

void make_seeds(const add_seed& add) {
  const std::vector<std::byte> data(4096, std::byte{0x35});
  io::safetensors_writer all;
  all.metadata = {{"format", "pt"}, {"k\"\\\n", "\xc3\xa9"}};
  for (std::size_t i = 0; i < io::dtype_table.size(); ++i)
    all.add("t" + std::to_string(i), static_cast<io::dtype>(i), {2, 4},
            [&](io::tensor_sink& sink) { sink.write(std::span{data}.first(sink.left())); });
  all.add("scalar", io::dtype::f16, {}, [&](io::tensor_sink& sink) { sink.write(std::span{data}.first(2)); });
  all.add("nothing", io::dtype::f32, {3, 0}, [](io::tensor_sink&) {});
  add("all.safetensors", saved([&](const std::string& path) { all.save(path); }));
  add("empty.safetensors", saved([](const std::string& path) { io::safetensors_writer{}.save(path); }));
}

}  // namespace nibble::fuzz
