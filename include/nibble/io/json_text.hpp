// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Small JSON files of checkpoints (configurations, indexes, quantization states) as values, nothing trusted.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/file_text.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {
namespace detail {

/// Brackets in brackets that a configuration may have; real ones have about six.
inline constexpr std::size_t max_json_depth = 64;

/// Bytes of such a file: an element of two bytes becomes a value of tens of bytes in memory, so that a hostile file would ask
/// for 30 times its size. An index takes about a hundred bytes for each tensor of the model.
inline constexpr std::size_t max_json_bytes = std::size_t{64} << 20;

/// Builds a value from the parser's events. Unlike the parser's own builder it refuses a key that occurs twice and a depth
/// beyond max_json_depth, with the reason in `problem`.
class json_builder {
 public:
  nlohmann::json root;
  std::string problem;

  bool null() { return add(nullptr); }
  bool boolean(bool v) { return add(v); }
  bool number_integer(std::int64_t v) { return add(v); }
  bool number_unsigned(std::uint64_t v) { return add(v); }
  bool number_float(double v, const std::string&) { return add(v); }
  bool string(std::string& v) { return add(std::move(v)); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(nlohmann::json::object()); }
  bool start_array(std::size_t) { return open(nlohmann::json::array()); }
  bool key(std::string& v) {
    if (open_.back()->contains(v)) {
      problem = core::message("the key '", printable(v), "' occurs twice in one object; rule: keys are unique");
      return false;
    }
    key_ = std::move(v);
    return true;
  }
  bool end_object() { return open_.pop_back(), true; }
  bool end_array() { return open_.pop_back(), true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& reason) {
    problem = core::message("not JSON at byte ", position, ": ", printable(reason.what()));
    return false;
  }

 private:
  bool add(nlohmann::json v) { return place(std::move(v)), true; }
  bool open(nlohmann::json v) {
    if (open_.size() == max_json_depth) {
      problem = core::message("more than ", max_json_depth, " brackets inside each other");
      return false;
    }
    open_.push_back(place(std::move(v)));
    return true;
  }
  nlohmann::json* place(nlohmann::json v) {
    if (open_.empty()) return &(root = std::move(v));
    nlohmann::json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(v));
    parent.push_back(std::move(v));
    return &parent.back();
  }

  std::vector<nlohmann::json*> open_;  // of each only the last element grows, so the pointers stay good
  std::string key_;
};

/// The object that `text` is. Throws bad_file with `place` and the rule.
inline nlohmann::json parse_json_object(std::string_view text, std::string_view place) {
  const auto refuse = [&](const auto&... pieces) { core::fail(errc::bad_file, place, ": ", pieces...); };
  if (text.size() > max_json_bytes) refuse("the JSON text has ", text.size(), " bytes; rule: at most ", max_json_bytes);
  // The lexer takes a NUL byte for the end of its input, so one would hide what stands behind it.
  if (const std::size_t nul = text.find('\0'); nul != text.npos) refuse("NUL byte at byte ", nul);
  json_builder builder;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) refuse(builder.problem);
  if (!builder.root.is_object()) refuse("rule: one JSON object");
  return std::move(builder.root);
}

/// Member `key` of an object, or null.
inline const nlohmann::json* find_member(const nlohmann::json& object, std::string_view key) {
  const auto it = object.find(std::string{key});
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
