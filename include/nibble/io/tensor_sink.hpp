// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Tensors that are written piece by piece, so that no file has to be in memory.

#include <cstddef>
#include <functional>
#include <span>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/atomic_file.hpp>
#include <nibble/io/file_text.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Takes the bytes of one tensor while a file is written, in pieces of any size.
class tensor_sink {
 public:
  /// `who` begins messages: the name of the writer.
  tensor_sink(atomic_file& file, std::string_view who, std::string_view name, std::size_t bytes) noexcept
      : file_(file), who_(who), name_(name), bytes_(bytes), left_(bytes) {}

  /// Bytes that the tensor still lacks.
  std::size_t left() const noexcept { return left_; }
  /// Throws bad_shape when the tensor gets more bytes than it has, io_failed with the system's reason.
  void write(std::span<const std::byte> piece) {
    if (piece.size() > left_)
      core::fail(errc::bad_shape, who_, ": tensor '", printable(name_), "' has ", bytes_, " bytes; it was given ",
                 bytes_ - left_ + piece.size());
    file_.write(piece);
    left_ -= piece.size();
  }

 private:
  atomic_file& file_;
  std::string_view who_, name_;
  std::size_t bytes_, left_;
};

/// Called by a writer's save() to write the bytes of one tensor, all of them.
using tensor_fill = std::function<void(tensor_sink&)>;

namespace detail {

/// Throws bad_shape when `fill` writes less than `bytes` or more.
inline void write_tensor(atomic_file& file, std::string_view who, std::string_view name, std::size_t bytes,
                         const tensor_fill& fill) {
  tensor_sink sink{file, who, name, bytes};
  fill(sink);
  if (sink.left() != 0)
    core::fail(errc::bad_shape, who, ": tensor '", printable(name), "' has ", bytes, " bytes; it was given ",
               bytes - sink.left());
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
