// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Tensors that are written piece by piece, so that no file has to be in memory.

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/atomic_file.hpp>
#include <nibble/io/checksum.hpp>
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

/// One tensor of a file that is written.
struct tensor_part {
  std::string_view name;
  std::size_t bytes;
  const tensor_fill* fill;
};

/// Throws bad_shape when the part's fill writes less than its bytes or more.
inline void write_tensor(atomic_file& file, std::string_view who, const tensor_part& part) {
  tensor_sink sink{file, who, part.name, part.bytes};
  (*part.fill)(sink);
  if (sink.left() != 0)
    core::fail(errc::bad_shape, who, ": tensor '", printable(part.name), "' has ", part.bytes, " bytes; it was given ",
               part.bytes - sink.left());
}

/// Writes header and tensors, each filled up with zeros to a multiple of `alignment`, a power of two.
inline void write_parts(atomic_file& file, std::string_view who, std::string_view header, std::size_t alignment,
                        std::span<const tensor_part> parts, const resumption* how) {
  const auto pad = [&] {
    static constexpr std::byte zeros[256] = {};
    std::size_t left = static_cast<std::size_t>(-file.written() & (alignment - 1));
    for (; left > sizeof zeros; left -= sizeof zeros) file.write(zeros);
    file.write(std::span{zeros}.first(left));
  };
  const std::vector<std::string> finished = file.finished();  // the header's, then the tensors'
  if (finished.empty()) {
    file.write(header);
    pad();
    file.finish_step("");
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i + 1 < finished.size()) {
      if (how->restored) how->restored(parts[i].name, finished[i + 1]);
      continue;
    }
    write_tensor(file, who, parts[i]);
    pad();
    file.finish_step(how != nullptr && how->note ? how->note(parts[i].name) : std::string{});
  }
  file.commit();
}

/// Writes a whole file, with a journal where `how` is not null. What fails for another reason than the system's would fail
/// again: then nothing is left to be taken up.
inline void write_tensor_file(std::string who, const std::string& path, std::string_view header, std::size_t alignment,
                              std::span<const tensor_part> parts, const resumption* how) {
  if (how == nullptr) {
    atomic_file file{who, path};
    return write_parts(file, who, header, alignment, parts, how);
  }
  resumption own = *how;  // names, types, extents and metadata are part of what the bytes follow from
  own.fingerprint += core::message(" header ", header.size(), " ", checksum(std::as_bytes(std::span{header}), 0));
  atomic_file file{who, path, own};
#if defined(__cpp_exceptions)
  try {
    write_parts(file, who, header, alignment, parts, &own);
  } catch (const error& e) {
    if (e.code() != errc::io_failed) file.discard();
    throw;
  }
#else
  write_parts(file, who, header, alignment, parts, &own);
#endif
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
