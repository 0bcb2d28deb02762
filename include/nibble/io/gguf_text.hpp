// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// GGUF metadata as pairs of strings, which is all that other containers keep, and back without loss.
///
/// A string is itself; a number, bool or array is its JSON. The pair "gguf.types" tells them apart: JSON, key to type, such as
/// {"llama.block_count": "u32", "tokenizer.ggml.scores": "[f32]"}; a key that it lacks is a string. Numbers that are not finite
/// are "nan", "inf" and "-inf" in quotes (of a NaN its payload is lost). An array in an array is {"<element type>": [...]}.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/json_text.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// The pair that holds the types.
inline constexpr std::string_view gguf_types_key = "gguf.types";

namespace detail {

/// The key that says how a file's data are aligned: of that file, not of what it describes.
inline constexpr std::string_view gguf_alignment_key = "general.alignment";

inline nlohmann::json json_of(const gguf_value& value) {
  switch (value.type()) {
    case gguf_type::string: return *value.as<std::string_view>();
    case gguf_type::boolean: return *value.as<bool>();
    case gguf_type::f32:
    case gguf_type::f64: {
      const double v = value.as<double>().value_or(0.0);
      if (std::isfinite(v)) return v;
      return std::isnan(v) ? "nan" : (v > 0.0 ? "inf" : "-inf");
    }
    case gguf_type::array: {
      nlohmann::json list = nlohmann::json::array();
      value.for_each([&](const gguf_value& e) {
        if (e.type() == gguf_type::array) list.push_back({{std::string{name_of(e.element_type())}, json_of(e)}});
        else list.push_back(json_of(e));
      });
      return list;
    }
    default:
      if (const auto u = value.as<std::uint64_t>()) return *u;
      return *value.as<std::int64_t>();
  }
}

/// The bytes of values as they lie in a file, from JSON that nobody vouches for.
class gguf_bytes {
 public:
  explicit gguf_bytes(std::string_view key) noexcept : key_(key) {}
  std::string bytes;

  gguf_type type_named(std::string_view name) const {
    for (std::uint32_t id = 0; id < gguf_type_count; ++id)
      if (name_of(static_cast<gguf_type>(id)) == name) return static_cast<gguf_type>(id);
    refuse("has the type '", printable(name), "', which GGUF does not have");
  }

  /// The text as JSON; discarded where it is none.
  nlohmann::json parsed(const std::string& text) const {
    if (text.size() > max_json_bytes) refuse("has ", text.size(), " bytes of JSON; rule: at most ", max_json_bytes);
    return nlohmann::json::parse(text, nullptr, false);
  }

  void append(gguf_type type, const nlohmann::json& j) {
    switch (type) {
      case gguf_type::u8: return integer<std::uint8_t>(j);
      case gguf_type::i8: return integer<std::int8_t>(j);
      case gguf_type::u16: return integer<std::uint16_t>(j);
      case gguf_type::i16: return integer<std::int16_t>(j);
      case gguf_type::u32: return integer<std::uint32_t>(j);
      case gguf_type::i32: return integer<std::int32_t>(j);
      case gguf_type::u64: return integer<std::uint64_t>(j);
      case gguf_type::i64: return integer<std::int64_t>(j);
      case gguf_type::f32: {
        const double v = real(j);
        if (std::isfinite(v) && std::abs(v) > static_cast<double>(std::numeric_limits<float>::max()))
          refuse("holds ", v, ", beyond the floats");
        return number(static_cast<float>(v));
      }
      case gguf_type::f64: return number(real(j));
      case gguf_type::boolean:
        if (!j.is_boolean()) refuse("holds something else than true or false");
        return number(static_cast<std::uint8_t>(j.get<bool>() ? 1 : 0));
      case gguf_type::string:
        if (!j.is_string()) refuse("holds something else than a string");
        number(static_cast<std::uint64_t>(j.get_ref<const std::string&>().size()));
        bytes += j.get_ref<const std::string&>();
        return;
      case gguf_type::array: refuse("is an array without the type of its elements");
    }
  }

  void append_array(gguf_type element, const nlohmann::json& j, int depth = 0) {
    if (depth == gguf_max_depth) refuse("has arrays more than ", gguf_max_depth, " deep");
    if (!j.is_array()) refuse("holds something else than an array");
    number(static_cast<std::uint32_t>(element));
    number(static_cast<std::uint64_t>(j.size()));
    for (const nlohmann::json& e : j) {
      if (element != gguf_type::array) {
        append(element, e);
        continue;
      }
      if (!e.is_object() || e.size() != 1) refuse("has an inner array without one type of its elements");
      append_array(type_named(e.begin().key()), e.begin().value(), depth + 1);
    }
  }

  template <class... Pieces>
  [[noreturn]] void refuse(const Pieces&... pieces) const {
    core::fail(errc::bad_file, "gguf_text: key '", printable(key_), "' ", pieces...);
  }

 private:
  template <class T>
  void number(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class T>
  void integer(const nlohmann::json& j) {
    const bool fits = j.is_number_unsigned() ? std::in_range<T>(j.get<std::uint64_t>())
                                             : j.is_number_integer() && std::in_range<T>(j.get<std::int64_t>());
    if (!fits) refuse("holds something else than an integer that fits ", sizeof(T), " bytes");
    number(static_cast<T>(j.is_number_unsigned() ? static_cast<T>(j.get<std::uint64_t>())
                                                 : static_cast<T>(j.get<std::int64_t>())));
  }
  double real(const nlohmann::json& j) const {
    if (j.is_number()) return j.get<double>();
    const std::string text = j.is_string() ? j.get<std::string>() : std::string{};
    if (text.compare("nan") == 0) return std::numeric_limits<double>::quiet_NaN();
    if (text.compare("inf") == 0) return std::numeric_limits<double>::infinity();
    if (text.compare("-inf") == 0) return -std::numeric_limits<double>::infinity();
    refuse("holds something else than a number");
  }

  std::string_view key_;
};

}  // namespace detail

/// The metadata of a GGUF file as pairs of strings, all but general.alignment. Throws bad_value when the file itself has a key
/// "gguf.types".
inline std::map<std::string, std::string> gguf_strings(std::span<const gguf_entry> metadata) {
  std::map<std::string, std::string> strings;
  nlohmann::json types = nlohmann::json::object();
  for (const gguf_entry& entry : metadata) {
    const std::string key{entry.key};
    if (entry.key == gguf_types_key)
      core::fail(errc::bad_value, "gguf_text: the key '", gguf_types_key, "' of the file is in the way of the types");
    if (entry.key == detail::gguf_alignment_key) continue;
    if (entry.value.type() == gguf_type::string) {
      strings[key] = *entry.value.as<std::string_view>();
      continue;
    }
    strings[key] = detail::json_of(entry.value).dump();
    const bool array = entry.value.type() == gguf_type::array;
    types[key] =
        array ? core::message("[", name_of(entry.value.element_type()), "]") : std::string{name_of(entry.value.type())};
  }
  if (!types.empty()) strings[std::string{gguf_types_key}] = types.dump();
  return strings;
}

/// Sets such pairs in a writer, each with its type. Throws bad_file, with the key, for a value that is not what its type says,
/// and what gguf_writer::set throws.
inline void set_gguf_strings(gguf_writer& out, const std::map<std::string, std::string>& strings) {
  nlohmann::json types = nlohmann::json::object();
  if (const auto it = strings.find(std::string{gguf_types_key}); it != strings.end()) {
    types = detail::gguf_bytes(it->first).parsed(it->second);
    if (!types.is_object()) detail::gguf_bytes(it->first).refuse("is not JSON from keys to types");
  }
  for (const auto& [key, text] : strings) {
    if (key.compare(gguf_types_key) == 0) continue;
    detail::gguf_bytes value(key);
    const auto type = types.find(key);
    if (type == types.end()) {
      out.set(key, std::string_view{text});
      continue;
    }
    if (!type->is_string()) value.refuse("has a type that is not text");
    const std::string_view name = type->get_ref<const std::string&>();
    const nlohmann::json j = value.parsed(text);
    if (j.is_discarded()) value.refuse("of type ", printable(name), " is not JSON");
    const bool array = name.size() > 2 && name.front() == '[' && name.back() == ']';
    const gguf_type kind = array ? gguf_type::array : value.type_named(name);
    if (array) value.append_array(value.type_named(name.substr(1, name.size() - 2)), j);
    else value.append(kind, j);
    out.set(key, gguf_value{kind, std::as_bytes(std::span{value.bytes})});
  }
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
