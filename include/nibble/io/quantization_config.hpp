// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a checkpoint's configuration says of its quantization: `quantization_config` of config.json, or the files that
/// AutoGPTQ (quantize_config.json) and AutoAWQ (quant_config.json) write beside it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/mapped_file.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Width and groups of some layers' weights.
struct weight_scheme {
  int bits = 0;
  std::size_t group_size = 0;  ///< 0: whole rows, or the matrix
  friend bool operator==(const weight_scheme&, const weight_scheme&) = default;
};

/// Members that are not in the file are empty, or 0 bits.
struct quantization_config {
  std::string place;                      ///< the file, as messages call it
  std::string method;                     ///< quant_method: "gptq", "awq", "compressed-tensors", "bitsandbytes"
  int bits = 0;                           ///< bits, w_bit, num_bits
  std::optional<std::size_t> group_size;  ///< group_size, q_group_size; 0 for -1 and for none (whole rows)
  std::string checkpoint_format;          ///< GPTQ: "gptq", "gptq_v2", ...
  std::string version;                    ///< AWQ: "gemm", "gemv", in small letters; compressed-tensors: "0.17.0"
  std::string format;                     ///< compressed-tensors: "pack-quantized", ...
  std::optional<bool> desc_act, sym;      ///< GPTQ: act-order; zero points in the middle
  bool by_layer = false;                  ///< GPTQ with "dynamic": layers may have other bits and groups than said here
  std::vector<weight_scheme> schemes;     ///< compressed-tensors: the different ones of config_groups
};

namespace detail {

inline std::string small_letters(std::string s) {
  for (char& c : s)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return s;
}

/// Members of one object, with the checks that a hostile file asks for.
struct config_reader {
  const nlohmann::json& object;
  const std::string& place;

  std::string text(std::string_view key) const {
    const nlohmann::json* const m = find_member(object, key);
    if (m == nullptr) return {};
    if (!m->is_string()) core::fail(errc::bad_file, place, ": '", key, "' is no string");
    return m->get<std::string>();
  }
  std::optional<bool> flag(std::string_view key) const {
    const nlohmann::json* const m = find_member(object, key);
    if (m == nullptr) return std::nullopt;
    if (!m->is_boolean()) core::fail(errc::bad_file, place, ": '", key, "' is neither true nor false");
    return m->get<bool>();
  }
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t least, std::int64_t most) const {
    const nlohmann::json* const m = find_member(object, key);
    if (m == nullptr) return std::nullopt;
    const bool fits = m->is_number_integer() && (!m->is_number_unsigned() || m->get<std::uint64_t>() <= 0x7fffffffu);
    if (!fits || m->get<std::int64_t>() < least || m->get<std::int64_t>() > most)
      core::fail(errc::bad_file, place, ": '", key, "' is ", printable(m->dump()), "; rule: ", least, " to ", most);
    return m->get<std::int64_t>();
  }
  int bits(std::string_view key) const { return static_cast<int>(integer(key, 1, 64).value_or(0)); }
  /// A group size; -1 is one group for the row.
  std::optional<std::size_t> group_size(std::string_view key) const {
    const auto v = integer(key, -1, 0x7fffffff);
    if (!v) return std::nullopt;
    return static_cast<std::size_t>(*v < 0 ? 0 : *v);
  }
};

/// The weights of each of compressed-tensors' config_groups. Which layers they are of is said in patterns; shapes say it too.
inline void read_config_groups(const nlohmann::json& groups, quantization_config& c) {
  if (!groups.is_object()) core::fail(errc::bad_file, c.place, ": 'config_groups' is no object");
  for (const auto& [name, group] : groups.items()) {
    const nlohmann::json* const weights = group.is_object() ? find_member(group, "weights") : nullptr;
    if (weights == nullptr || !weights->is_object())
      core::fail(errc::bad_file, c.place, ": config_groups '", printable(name), "' has no object 'weights'");
    const config_reader r{*weights, c.place};
    const weight_scheme scheme{r.bits("num_bits"), r.group_size("group_size").value_or(0)};
    if (std::find(c.schemes.begin(), c.schemes.end(), scheme) == c.schemes.end()) c.schemes.push_back(scheme);
  }
}

}  // namespace detail

/// The configuration in an object of JSON; `place` names it in messages. Throws bad_file for members of wrong types.
inline quantization_config parse_quantization_config(const nlohmann::json& object, std::string place) {
  quantization_config c;
  c.place = std::move(place);
  if (!object.is_object()) core::fail(errc::bad_file, c.place, ": the configuration is no object");
  const detail::config_reader r{object, c.place};
  c.method = detail::small_letters(r.text("quant_method"));
  c.bits = r.bits("bits");
  if (c.bits == 0) c.bits = r.bits("w_bit");
  c.group_size = r.group_size("group_size");
  if (!c.group_size) c.group_size = r.group_size("q_group_size");
  c.checkpoint_format = detail::small_letters(r.text("checkpoint_format"));
  c.format = detail::small_letters(r.text("format"));
  c.desc_act = r.flag("desc_act");
  c.sym = r.flag("sym");
  if (detail::find_member(object, "dynamic") != nullptr) c.by_layer = true;
  if (r.flag("is_marlin_format").value_or(false)) c.checkpoint_format = "marlin";
  // A number in files of other methods, whose version is of no interest here.
  if (const nlohmann::json* const v = detail::find_member(object, "version"); v != nullptr && v->is_string())
    c.version = detail::small_letters(v->get<std::string>());
  if (c.method.empty()) {  // AutoAWQ's and AutoGPTQ's own files do not name the method
    if (detail::find_member(object, "w_bit") != nullptr) c.method = "awq";
    else if (detail::find_member(object, "desc_act") != nullptr) c.method = "gptq";
  }
  if (const nlohmann::json* const groups = detail::find_member(object, "config_groups"))
    detail::read_config_groups(*groups, c);
  return c;
}

/// The configuration that a folder holds: that of config.json, else of quantize_config.json, else of quant_config.json;
/// nothing when there is none. Throws bad_file for text that breaks a rule, io_failed for what cannot be read.
inline std::optional<quantization_config> find_quantization_config(const std::string& folder) {
  for (const char* const name : {"config.json", "quantize_config.json", "quant_config.json"}) {
    const std::string path = (std::filesystem::path(folder) / name).string();
    std::error_code unused;
    if (!std::filesystem::exists(path, unused)) continue;
    const mapped_file file{path};
    std::string place = core::message("quantization_config: '", path, "'");
    const nlohmann::json root =
        detail::parse_json_object({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, place);
    if (std::string_view{name} != "config.json") return parse_quantization_config(root, std::move(place));
    for (const char* const key : {"quantization_config", "compression_config"})
      if (const nlohmann::json* const m = detail::find_member(root, key))
        return parse_quantization_config(*m, std::move(place));
  }
  return std::nullopt;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
