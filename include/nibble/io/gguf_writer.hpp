// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Writer of GGUF files, version 3. Source: the GGUF specification, and what ggml asks of a file beyond it: tensors in the
/// order of their infos without a gap, padding after the last one.

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/atomic_file.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/tensor_sink.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Writes one file: set() the metadata, add() the tensors, then save(). Memory holds the metadata and the tensors' names;
/// the tensors' bytes are the caller's, or are made while the file is written, piece by piece.
///
/// llama.cpp wants the key general.architecture, which is the caller's to set. general.quantization_version = 2 is added
/// where a tensor is quantized and the caller did not set it, general.alignment where the alignment is not 32.
class gguf_writer {
 public:
  /// Every tensor begins at a multiple of `alignment` in the data section. Throws bad_value unless it is a power of two of
  /// at least 8, which is what the specification and ggml both take.
  explicit gguf_writer(std::size_t alignment = gguf_default_alignment) : alignment_(alignment) {
    if (alignment < 8 || alignment > (std::size_t{1} << 31) || !std::has_single_bit(alignment))
      core::fail(errc::bad_value, "gguf_writer: alignment ", alignment, "; a power of two from 8 to 2^31");
    if (alignment != gguf_default_alignment) {
      std::string bytes = typed(gguf_type::u32);
      append_number(bytes, static_cast<std::uint32_t>(alignment));
      insert(std::string{alignment_key}, std::move(bytes));
    }
  }

  /// A number or bool under a key: its type in the file is the one that T has here. All forms throw bad_value for a key that
  /// occurs twice, is empty, longer than 65535 bytes or not UTF-8, and for general.alignment, which the constructor takes.
  template <class T>
    requires std::is_arithmetic_v<T>
  void set(std::string key, T value) {
    std::string bytes = typed(type_of<T>());
    append_number(bytes, value);
    insert_own(std::move(key), std::move(bytes));
  }
  void set(std::string key, std::string_view value) {
    std::string bytes = typed(gguf_type::string);
    append_string(bytes, value);
    insert_own(std::move(key), std::move(bytes));
  }
  void set(std::string key, const char* value) { set(std::move(key), std::string_view{value}); }
  /// A value of another file as it is.
  void set(std::string key, const gguf_value& value) {
    std::string bytes = typed(value.type());
    bytes.append(reinterpret_cast<const char*>(value.bytes().data()), value.bytes().size());
    insert_own(std::move(key), std::move(bytes));
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void set_array(std::string key, std::span<const T> values) {
    std::string bytes = typed_array(type_of<T>(), values.size());
    for (const T v : values) append_number(bytes, v);
    insert_own(std::move(key), std::move(bytes));
  }
  void set_array(std::string key, std::span<const std::string> values) {
    std::string bytes = typed_array(gguf_type::string, values.size());
    for (const std::string& v : values) append_string(bytes, v);
    insert_own(std::move(key), std::move(bytes));
  }

  /// A tensor whose bytes (blocks of `type`, dims[0] elements along memory) live until save() returns. Throws bad_shape when
  /// `bytes` is not what type and dims take, when a row is not whole blocks, or there are more than four dims; bad_value
  /// for a name that occurs twice, is empty, longer than 63 bytes (ggml's limit) or not UTF-8.
  void add(std::string name, ggml_type type, std::vector<std::size_t> dims, std::span<const std::byte> bytes) {
    if (const std::size_t need = bytes_of(name, type, dims); need != bytes.size())
      core::fail(errc::bad_shape, "gguf_writer: tensor '", printable(name), "' of ", quant::name_of(type),
                 " and extents ", shape_text(dims), " has ", need, " bytes; it was given ", bytes.size());
    add(std::move(name), type, std::move(dims), [bytes](tensor_sink& sink) { sink.write(bytes); });
  }
  /// A tensor whose bytes `fill` writes when save() comes to it: exactly as many as type and dims take, else bad_shape.
  void add(std::string name, ggml_type type, std::vector<std::size_t> dims, tensor_fill fill) {
    const std::size_t bytes = bytes_of(name, type, dims);
    if (!names_.insert(name).second)
      core::fail(errc::bad_value, "gguf_writer: the tensor '", printable(name), "' occurs twice");
    tensors_.push_back({std::move(name), type, std::move(dims), bytes, std::move(fill)});
  }

  /// Bytes of the file that save() writes.
  std::size_t file_bytes() const {
    std::size_t bytes = round_up(header().size(), alignment_);
    for (const tensor& t : tensors_) bytes += round_up(t.bytes, alignment_);
    return bytes;
  }

  /// Writes a new file beside `path` and renames it over `path`, so that a reader sees the old file or the whole new one.
  /// Throws io_failed with the system's reason, and what the fill functions throw; then `path` is as it was.
  /// With `how` tensors that are whole outlive the process, and one of the same fingerprint and header takes them over.
  void save(const std::string& path, const resumption& how) const { save(path, &how); }
  void save(const std::string& path) const { save(path, nullptr); }

 private:
  void save(const std::string& path, const resumption* how) const {
    std::vector<detail::tensor_part> parts;
    for (const tensor& t : tensors_) parts.push_back({t.name, t.bytes, &t.fill});
    detail::write_tensor_file("gguf_writer", path, header(), alignment_, parts, how);
  }

  static constexpr std::string_view alignment_key = "general.alignment";
  static constexpr std::string_view quantization_key = "general.quantization_version";

  struct tensor {
    std::string name;
    ggml_type type;
    std::vector<std::size_t> dims;
    std::size_t bytes;
    tensor_fill fill;
  };

  template <class T>
  static constexpr gguf_type type_of() noexcept {
    if constexpr (std::same_as<T, bool>) return gguf_type::boolean;
    else if constexpr (std::floating_point<T>) return sizeof(T) == 4 ? gguf_type::f32 : gguf_type::f64;
    else if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? gguf_type::i8 : gguf_type::u8;
    else if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? gguf_type::i16 : gguf_type::u16;
    else if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? gguf_type::i32 : gguf_type::u32;
    else return std::is_signed_v<T> ? gguf_type::i64 : gguf_type::u64;
  }

  template <class T>
  static void append_number(std::string& out, T value) {
    static_assert(sizeof(T) <= 8, "gguf_writer: numbers of at most 64 bits");
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void append_string(std::string& out, std::string_view s) {
    if (const std::size_t bad = detail::find_ill_formed_utf8(s); bad != s.size())
      core::fail(errc::bad_value, "gguf_writer: the string '", printable(s), "' is not UTF-8 at its byte ", bad);
    append_number(out, static_cast<std::uint64_t>(s.size()));
    out += s;
  }

  static std::string typed(gguf_type type) {
    std::string bytes;
    append_number(bytes, static_cast<std::uint32_t>(type));
    return bytes;
  }
  static std::string typed_array(gguf_type element, std::size_t n) {
    std::string bytes = typed(gguf_type::array);
    append_number(bytes, static_cast<std::uint32_t>(element));
    append_number(bytes, static_cast<std::uint64_t>(n));
    return bytes;
  }
  void insert_own(std::string key, std::string bytes) {
    if (key == alignment_key)
      core::fail(errc::bad_value, "gguf_writer: the key general.alignment is the constructor's to set");
    insert(std::move(key), std::move(bytes));
  }
  void insert(std::string key, std::string bytes) {
    if (key.empty() || key.size() > 65535)
      core::fail(errc::bad_value, "gguf_writer: a key of ", key.size(), " bytes; 1 to 65535");
    if (const std::size_t bad = detail::find_ill_formed_utf8(key); bad != key.size())
      core::fail(errc::bad_value, "gguf_writer: the key '", printable(key), "' is not UTF-8 at its byte ", bad);
    if (!keys_.insert(key).second)
      core::fail(errc::bad_value, "gguf_writer: the key '", printable(key), "' occurs twice");
    metadata_.emplace_back(std::move(key), std::move(bytes));
  }

  /// Everything before the data but its padding.
  std::string header() const {
    std::string header = "GGUF";
    append_number(header, std::uint32_t{3});
    append_number(header, static_cast<std::uint64_t>(tensors_.size()));
    bool quantized = false;
    for (const tensor& t : tensors_) quantized |= quant::info_of(t.type).quantized;
    const bool say_version = quantized && keys_.find(quantization_key) == keys_.end();
    append_number(header, static_cast<std::uint64_t>(metadata_.size()) + (say_version ? 1 : 0));
    if (say_version) {
      append_string(header, quantization_key);
      append_number(header, static_cast<std::uint32_t>(gguf_type::u32));
      append_number(header, std::uint32_t{2});
    }
    for (const auto& [key, value] : metadata_) {
      append_string(header, key);
      header += value;
    }
    std::uint64_t offset = 0;
    for (const tensor& t : tensors_) {
      append_string(header, t.name);
      append_number(header, static_cast<std::uint32_t>(t.dims.size()));
      for (const std::size_t extent : t.dims) append_number(header, std::uint64_t{extent});
      append_number(header, static_cast<std::uint32_t>(t.type));
      append_number(header, offset);
      offset += round_up(t.bytes, alignment_);
    }
    return header;
  }

  /// What a tensor takes in a file, all that add() refuses refused.
  static std::size_t bytes_of(std::string_view name, ggml_type type, std::span<const std::size_t> dims) {
    if (name.empty() || name.size() > 63)
      core::fail(errc::bad_value, "gguf_writer: a tensor name of ", name.size(), " bytes; 1 to 63");
    if (const std::size_t bad = detail::find_ill_formed_utf8(name); bad != name.size())
      core::fail(errc::bad_value, "gguf_writer: the tensor name '", printable(name), "' is not UTF-8 at its byte ",
                 bad);
    const quant::ggml_type_info& info = quant::info_of(type);
    if (dims.empty() || dims.size() > 4)
      core::fail(errc::bad_shape, "gguf_writer: tensor '", printable(name), "' has ", dims.size(), " extents; 1 to 4");
    if (dims[0] % info.block_elements != 0)
      core::fail(errc::bad_shape, "gguf_writer: tensor '", printable(name), "' has rows of ", dims[0], " elements; ",
                 info.name, " has blocks of ", info.block_elements);
    std::size_t bytes = dims[0] / info.block_elements;
    bool fits = detail::checked_multiply(bytes, info.block_bytes, bytes);
    for (std::size_t d = 1; d < dims.size(); ++d) fits = fits && detail::checked_multiply(bytes, dims[d], bytes);
    if (!fits)
      core::fail(errc::bad_shape, "gguf_writer: tensor '", printable(name), "': the product of ", shape_text(dims),
                 " overflows 64 bits");
    return bytes;
  }

  std::size_t alignment_;
  std::vector<std::pair<std::string, std::string>>
      metadata_;  ///< keys, and values with their types as they lie in a file
  std::vector<tensor> tensors_;
  std::set<std::string, std::less<>> keys_, names_;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
