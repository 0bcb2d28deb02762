// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The tensors of a checkpoint that one safetensors file holds, or several with an index beside them:
///
///   model.safetensors.index.json   {"metadata": {"total_size": bytes}, "weight_map": {name: file, ...}}
///
/// Source: the sharded checkpoints of Hugging Face transformers.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/tensor_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

namespace detail {

/// What an index says, its rules checked: names are unique, files are plain names, so that none lies outside the folder.
struct shard_index {
  std::map<std::string, std::string> file_of;  // tensor name -> file name
  std::optional<std::uint64_t> total_size;
};

inline shard_index parse_index(std::string_view text, const std::string& place) {
  const auto refuse = [&](const auto&... pieces) {
    core::fail(errc::bad_file, "safetensors_set: ", place, ": ", pieces...);
  };
  const nlohmann::json root = parse_json_object(text, core::message("safetensors_set: ", place));
  shard_index index;
  const nlohmann::json* const map = find_member(root, "weight_map");
  if (map == nullptr || !map->is_object()) refuse("rule: 'weight_map' is an object");
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      refuse("tensor '", printable(name), "' is mapped to ", printable(file.dump()), "; rule: a file name");
    std::string shard = file.get<std::string>();
    const std::string_view plain = shard;
    if (plain.empty() || plain == "." || plain == ".." ||
        plain.find_first_of(std::string_view{"/\\\0", 3}) != plain.npos)
      refuse("tensor '", printable(name), "' is mapped to '", printable(shard),
             "'; rule: the name of a file of this folder, without '/'");
    index.file_of.emplace(name, std::move(shard));
  }
  const nlohmann::json* const metadata = find_member(root, "metadata");
  if (metadata == nullptr) return index;
  if (!metadata->is_object()) refuse("rule: 'metadata' is an object");
  if (const nlohmann::json* const size = find_member(*metadata, "total_size")) {
    // Some writers have it as a float.
    const bool whole = size->is_number_float() && size->get<double>() >= 0.0 && size->get<double>() < 0x1p63 &&
                       std::floor(size->get<double>()) == size->get<double>();
    if (!size->is_number_unsigned() && !whole)
      refuse("total_size is ", printable(size->dump()), "; rule: a number of bytes");
    index.total_size = whole ? static_cast<std::uint64_t>(size->get<double>()) : size->get<std::uint64_t>();
  }
  return index;
}

inline bool ends_with(std::string_view s, std::string_view end) noexcept {
  return s.size() >= end.size() && s.substr(s.size() - end.size()) == end;
}

}  // namespace detail

/// The tensors of one file or of all shards that an index names, with the interface of safetensors_reader. All headers are
/// checked by the constructor; values are read when asked for.
class safetensors_set {
 public:
  /// `path`: a safetensors file; an index (a name that ends in ".json"); or a folder with model.safetensors, else
  /// model.safetensors.index.json, else one other safetensors file. Throws io_failed for what cannot be read, bad_file
  /// with the rule for what the index or a shard breaks: a shard that is missing, a tensor that its shard does not have,
  /// one that two shards have, one that the index does not know.
  explicit safetensors_set(const std::string& path) : place_("'" + path + "'") {
    std::error_code unused;
    const std::string found = std::filesystem::is_directory(path, unused) ? find_in(path) : path;
    folder_ = std::filesystem::path(found).parent_path().string();
    if (detail::ends_with(found, ".json")) open_index(found);
    else add(found, found, nullptr);
  }

  /// All tensors, shard by shard, in the order of their data. `begin` and `end` count from the start of the shard's data.
  const std::vector<tensor_info>& tensors() const noexcept { return tensors_; }
  const std::vector<safetensors_reader>& shards() const noexcept { return shards_; }
  /// Their files.
  const std::vector<std::string>& paths() const noexcept { return paths_; }
  /// The folder of the files, "" for the current one.
  const std::string& folder() const noexcept { return folder_; }
  const std::string& place() const noexcept { return place_; }
  /// What the index says of the bytes of all tensors together. Writers count tied weights in different ways: not checked.
  std::optional<std::uint64_t> total_size() const noexcept { return total_size_; }

  bool contains(std::string_view name) const noexcept { return by_name_.find(name) != by_name_.end(); }
  /// The tensor of this name, or null.
  const tensor_info* find(std::string_view name) const noexcept {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : &tensors_[it->second];
  }
  /// Throws bad_file when there is none.
  const tensor_info& at(std::string_view name) const {
    const tensor_info* const t = find(name);
    if (t == nullptr) core::fail(errc::bad_file, "safetensors_set: ", place_, " has no tensor '", printable(name), "'");
    return *t;
  }
  /// The file that holds tensor t.
  const safetensors_reader& shard_of(const tensor_info& t) const {
    static_cast<void>(at(t.name));
    return shards_[shard_of_[by_name_.find(t.name)->second]];
  }

  /// As those of safetensors_reader.
  std::span<const std::byte> bytes(const tensor_info& t) const { return shard_of(t).bytes(t); }
  tensor_view view(const tensor_info& t) const { return shard_of(t).view(t); }
  static bool is_float(const tensor_info& t) noexcept { return safetensors_reader::is_float(t); }
  void read_f32(const tensor_info& t, std::size_t first, std::span<float> out) const {
    shard_of(t).read_f32(t, first, out);
  }
  aligned_vector<float> read_f32(const tensor_info& t) const { return shard_of(t).read_f32(t); }
  aligned_vector<float> read_f32(std::string_view name) const { return read_f32(at(name)); }
  rounding_report read_f32_rounded(const tensor_info& t, std::size_t first, std::span<float> out) const {
    return shard_of(t).read_f32_rounded(t, first, out);
  }
  void release(const tensor_info& t) const { shard_of(t).release(t); }
  void release(const tensor_info& t, std::span<const std::byte> part) const { shard_of(t).release(part); }

 private:
  std::string find_in(const std::string& folder) const {
    const std::filesystem::path in(folder);
    std::error_code unused;
    for (const char* const name : {"model.safetensors", "model.safetensors.index.json"})
      if (std::filesystem::exists(in / name, unused)) return (in / name).string();
    std::vector<std::string> found;
    std::error_code failed;
    for (std::filesystem::directory_iterator it(in, failed), end; !failed && it != end; it.increment(failed))
      if (const std::string name = it->path().string(); detail::ends_with(name, ".safetensors")) found.push_back(name);
    if (failed) core::fail(errc::io_failed, "safetensors_set: ", place_, ": ", failed.message());
    if (found.size() != 1)
      core::fail(errc::bad_file, "safetensors_set: ", place_,
                 " holds neither model.safetensors nor model.safetensors.index.json, and ", found.size(),
                 " other safetensors files; rule: one, or name the file");
    return found.front();
  }

  void open_index(const std::string& path) {
    const mapped_file file{path};
    const auto bytes = file.bytes();
    const detail::shard_index index =
        detail::parse_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "'" + path + "'");
    total_size_ = index.total_size;
    std::map<std::string, std::size_t> shards;  // file name -> number of tensors
    for (const auto& [name, shard] : index.file_of) ++shards[shard];
    for (const auto& entry : shards) {
      const std::string shard = (std::filesystem::path(folder_) / entry.first).string();
      std::error_code unused;
      if (!std::filesystem::exists(shard, unused))
        core::fail(errc::bad_file, "safetensors_set: ", place_, ": shard '", printable(entry.first), "', which has ",
                   entry.second, " tensors of the index, is missing");
      add(shard, entry.first, &index);
    }
    for (const auto& [name, shard] : index.file_of)
      if (!contains(name))
        core::fail(errc::bad_file, "safetensors_set: ", place_, ": tensor '", printable(name),
                   "' is not in its shard '", printable(shard), "'");
  }

  /// `name`: of the file, as an index has it.
  void add(const std::string& path, std::string_view name, const detail::shard_index* index) {
    safetensors_reader shard{path};
    for (const tensor_info& t : shard.tensors()) {
      if (const auto known = by_name_.find(t.name); known != by_name_.end())
        core::fail(errc::bad_file, "safetensors_set: tensor '", printable(t.name), "' is in ",
                   shards_[shard_of_[known->second]].place(), " and in ", shard.place());
      if (index != nullptr) {
        const auto it = index->file_of.find(t.name);
        if (it == index->file_of.end())
          core::fail(errc::bad_file, "safetensors_set: ", place_, " does not list tensor '", printable(t.name), "' of ",
                     shard.place());
        if (std::string_view{it->second} != name)
          core::fail(errc::bad_file, "safetensors_set: ", place_, ": tensor '", printable(t.name), "' is in ",
                     shard.place(), ", the index says '", printable(it->second), "'");
      }
      by_name_.emplace(t.name, tensors_.size());
      tensors_.push_back(t);
      shard_of_.push_back(shards_.size());
    }
    shards_.push_back(std::move(shard));
    paths_.push_back(path);
  }

  std::string place_, folder_;
  std::vector<safetensors_reader> shards_;
  std::vector<std::string> paths_;
  std::vector<tensor_info> tensors_;
  std::vector<std::size_t> shard_of_;  // of each tensor
  std::map<std::string, std::size_t, std::less<>> by_name_;
  std::optional<std::uint64_t> total_size_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
