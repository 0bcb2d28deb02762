// SPDX-License-Identifier: MIT
#include <cstring>
#include <optional>
#include <string>

#include <nibble/io/ggml_mixture.hpp>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 4 << 10;

void run(std::span<const std::byte> input) {
  const std::string_view text{reinterpret_cast<const char*>(input.data()), input.size()};
  std::vector<io::type_rule> rules;
  try {
    rules = io::parse_rules(text, "recipe");
  } catch (const error& e) {
    require(e.code() == errc::bad_value || e.code() == errc::unsupported_format, e.what());
    return;
  }
  const io::type_plan plan(ggml_type::q8_0, std::move(rules));
  std::string long_name(100, 'a');
  std::vector<io::gguf_tensor> tensors;
  for (const std::string_view name : {std::string_view{"blk.10.attn_v.weight"}, std::string_view{long_name}})
    tensors.push_back({.name = name, .n_dims = 2, .dims = {64, 2, 1, 1}, .elements = 128, .bytes = 512});
  long_name += ".weight";
  tensors.back().name = long_name;
  require(plan.choose({}, tensors).size() == 2, "one choice for each tensor");
}

void make_seeds(const add_seed& add) {
  add("rules.txt",
      std::as_bytes(std::span{std::string_view{"# all but the values\nattn_v\\.weight$ = F16\n"
                                               "blk\\.(0|1[0-9]?)\\..* = Q5_K\r\n\n[ab]{2,3}+? = Q2_K # x"}}));
  add("empty.txt", {});
}

}  // namespace nibble::fuzz
