// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One tensor as a name, a dtype, a shape and bytes: what readers of checkpoints take and writers give, whatever file the
/// bytes are in.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/file_text.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// A tensor that lies elsewhere: row-major, little-endian, not necessarily aligned.
struct tensor_view {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
};

/// A tensor with bytes of its own.
struct tensor_bytes {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::size_t> shape;
  std::vector<std::byte> bytes;
};

inline tensor_view view_of(const tensor_bytes& t) { return {t.name, t.type, t.shape, t.bytes}; }

namespace detail {

/// Throws bad_file unless the tensor has this dtype and shape and the bytes that they take.
inline void check_tensor(std::string_view who, const tensor_view& t, dtype type, std::span<const std::size_t> want) {
  if (t.type != type)
    core::fail(errc::bad_file, who, ": tensor '", printable(t.name), "' is ", name_of(t.type),
               "; rule: ", name_of(type));
  bool same = t.shape.size() == want.size();
  for (std::size_t i = 0; same && i < want.size(); ++i) same = t.shape[i] == want[i];
  if (!same)
    core::fail(errc::bad_file, who, ": tensor '", printable(t.name), "' has the shape ", shape_text(t.shape),
               "; rule: ", shape_text(want));
  std::size_t elements = 1, bits = 0;
  bool fits = true;
  for (const std::size_t extent : want) fits = fits && checked_multiply(elements, extent, elements);
  fits = fits && checked_multiply(elements, bits_of(type), bits);
  if (!fits || t.bytes.size() != bits / 8)
    core::fail(errc::bad_file, who, ": tensor '", printable(t.name), "' of ", name_of(type), " ", shape_text(want),
               " has ", t.bytes.size(), " bytes");
}

inline void check_tensor(std::string_view who, const tensor_view& t, dtype type,
                         std::initializer_list<std::size_t> want) {
  check_tensor(who, t, type, std::span<const std::size_t>{want.begin(), want.size()});
}

/// Extent i of a tensor that must have `rank` extents, none of them 0. Throws bad_file.
inline std::size_t extent_of(std::string_view who, const tensor_view& t, std::size_t rank, std::size_t i) {
  bool good = t.shape.size() == rank;
  for (const std::size_t extent : t.shape) good = good && extent != 0;
  if (!good)
    core::fail(errc::bad_file, who, ": tensor '", printable(t.name), "' has the shape ", shape_text(t.shape),
               "; rule: ", rank, " extents of at least 1");
  return t.shape[i];
}

inline std::uint32_t word_at(std::span<const std::byte> bytes, std::size_t i) noexcept {
  return load_element<std::uint32_t>(bytes.data() + 4 * i);
}
inline void put_word(std::span<std::byte> bytes, std::size_t i, std::uint32_t word) noexcept {
  std::memcpy(bytes.data() + 4 * i, &word, sizeof word);
}

inline tensor_bytes make_tensor(std::string name, dtype type, std::vector<std::size_t> shape) {
  std::size_t elements = 1;
  for (const std::size_t extent : shape) elements *= extent;
  return {std::move(name), type, std::move(shape), std::vector<std::byte>(elements * bits_of(type) / 8)};
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
