// SPDX-License-Identifier: MIT
#include <nibble/io/gguf_text.hpp>

#include <map>
#include <string>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 16 << 10;

/// The first line is the JSON of the types, what follows the text of the key "k".
void run(std::span<const std::byte> input) {
  const std::string_view text{reinterpret_cast<const char*>(input.data()), input.size()};
  const std::size_t end = text.find('\n');
  if (end == text.npos) return;
  const std::map<std::string, std::string> strings{{std::string{io::gguf_types_key}, std::string{text.substr(0, end)}},
                                                   {"k", std::string{text.substr(end + 1)}}};
  // An element of JSON takes 2 bytes of text and 16 of memory in a vector that grows by doubling, a pair of an object more.
  const memory_limit limit(80 * input.size() + (32 << 10));
  io::gguf_writer out;
  try {
    io::set_gguf_strings(out, strings);
  } catch (const error& e) {  // a string that is not UTF-8 is the writer's to refuse
    require(e.code() == errc::bad_file || e.code() == errc::bad_value, e.what());
  }
}

void make_seeds(const add_seed& add) {
  const auto text = [&](std::string_view name, std::string_view s) { add(name, std::as_bytes(std::span{s})); };
  text("u32", "{\"k\":\"u32\"}\n4294967295");
  text("f32", "{\"k\":\"f32\"}\n-1.5e-3");
  text("inf", "{\"k\":\"f64\"}\n\"-inf\"");
  text("bool", "{\"k\":\"bool\"}\ntrue");
  text("i8", "{\"k\":\"[i8]\"}\n[-128,0,127]");
  text("words", "{\"k\":\"[string]\"}\n[\"a\",\"\\u00e9\\n\",\"\"]");
  text("nested", "{\"k\":\"[array]\"}\n[{\"u8\":[1,2]},{\"string\":[\"x\"]},{\"array\":[{\"f32\":[]}]}]");
}

}  // namespace nibble::fuzz
