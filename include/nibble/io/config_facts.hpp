// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What config.json says of a model, for mixtures: layers, heads and experts under the names of Hugging Face's transformers.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/ggml_mixture.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/quantization_config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Layers, heads and experts that a configuration may have: far above all models, far below what overflows.
inline constexpr std::int64_t max_config_count = 1'000'000;

/// The facts in a configuration, or in its `text_config` where the layers are counted there; `place` names it in messages. The
/// architecture is the one that GGUF files of the model name for Mistral and Mixtral, "llama", else `model_type`. As many key
/// heads as heads where none are said, no experts where none are said. Throws bad_file for members of wrong types or out of
/// range, and where the number of layers or heads is missing.
inline model_facts parse_model_facts(const nlohmann::json& object, const std::string& place) {
  const nlohmann::json* model = &object;
  std::string inside = place;
  if (detail::find_member(object, "num_hidden_layers") == nullptr)
    if (const nlohmann::json* const text = detail::find_member(object, "text_config")) {
      inside += ", text_config";
      if (!text->is_object()) core::fail(errc::bad_file, inside, ": no object");
      model = text;
    }
  const detail::config_reader r{*model, inside};
  const auto count = [&](std::string_view key) {
    return static_cast<std::size_t>(r.integer(key, 0, max_config_count).value_or(0));
  };
  const auto needed = [&](std::string_view key) {
    const auto number = r.integer(key, 1, max_config_count);
    if (!number) core::fail(errc::bad_file, inside, ": there is no '", key, "', which a mixture asks for");
    return static_cast<std::size_t>(*number);
  };
  model_facts facts;
  facts.architecture = r.text("model_type");
  if (std::string_view{facts.architecture} == "mistral" || std::string_view{facts.architecture} == "mixtral")
    facts.architecture = "llama";
  facts.layers = needed("num_hidden_layers");
  facts.heads = needed("num_attention_heads");
  facts.kv_heads = count("num_key_value_heads");
  if (facts.kv_heads == 0) facts.kv_heads = facts.heads;
  for (const std::string_view key : {"num_local_experts", "num_experts", "n_routed_experts"})
    if (facts.experts == 0) facts.experts = count(key);
  return facts;
}

/// The facts of config.json in a folder; nothing when there is no such file. Throws as parse_model_facts does, bad_file for
/// text that is no JSON object, io_failed for what cannot be read.
inline std::optional<model_facts> find_model_facts(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "config.json").string();
  std::error_code unused;
  if (!std::filesystem::exists(path, unused)) return std::nullopt;
  const mapped_file file{path};
  const std::string place = core::message("model_facts: '", path, "'");
  return parse_model_facts(
      detail::parse_json_object({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, place),
      place);
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
