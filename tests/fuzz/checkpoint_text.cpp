// SPDX-License-Identifier: MIT
// The JSON beside the weights of a checkpoint: the index of shards, quantization_config, the quant_state of bitsandbytes. The
// first byte says which.
#include <nibble/io/bitsandbytes.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/quantization_config.hpp>
#include <nibble/io/safetensors_set.hpp>

#include <string_view>

#include "target.hpp"

namespace nibble::fuzz {

const std::size_t max_input_bytes = 16 << 10;

void run(std::span<const std::byte> input) {
  if (input.empty()) return;
  const std::string_view text{reinterpret_cast<const char*>(input.data()) + 1, input.size() - 1};
  // An element of JSON takes 2 bytes of text and 16 of memory in a vector that grows by doubling, a pair of an object more.
  const memory_limit limit(40 * input.size() + (32 << 10));
  try {
    switch (std::to_integer<char>(input[0])) {
      case 'i': static_cast<void>(io::detail::parse_index(text, "index")); return;
      case 's': static_cast<void>(io::parse_quant_state(text, "quant_state")); return;
      default:
        static_cast<void>(io::parse_quantization_config(io::detail::parse_json_object(text, "config"), "config"));
    }
  } catch (const error& e) {  // what other tools may write and nibble does not read
    if (e.code() != errc::unsupported_format) throw;
  }
}

void make_seeds(const add_seed& add) {
  const auto text = [&](std::string_view name, std::string_view s) { add(name, std::as_bytes(std::span{s})); };
  text("index", R"(i{"metadata":{"total_size":16},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  text("state", R"(s{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[32,64],"nested_blocksize":256,)"
                R"("nested_dtype":"float32","nested_offset":0.5})");
  text(
      "gptq",
      R"(c{"quant_method":"gptq","bits":4,"group_size":128,"desc_act":true,"sym":false,"checkpoint_format":"gptq_v2"})");
  text("awq", R"(c{"quant_method":"awq","bits":4,"group_size":128,"version":"gemm","zero_point":true})");
  text("packed",
       R"(c{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"targets":)"
       R"(["Linear"],"weights":{"num_bits":4,"group_size":32,"symmetric":true,"type":"int"}}}})");
}

}  // namespace nibble::fuzz
