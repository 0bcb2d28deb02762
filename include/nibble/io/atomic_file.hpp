// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A new file that takes the place of an old one at once, or not at all.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

#if !__has_include(<unistd.h>)
#error "nibble/io/atomic_file.hpp needs POSIX (unistd.h)"
#endif
#include <unistd.h>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Writes a file beside `path` and renames it over `path` in commit(), so that a reader sees the old file or the whole new
/// one. Without commit() the destructor removes what was written. All functions throw io_failed with the path and the
/// system's reason.
class atomic_file {
 public:
  /// `who` begins each message: the name of the writer.
  atomic_file(std::string who, std::string path)
      : who_(std::move(who)),
        path_(std::move(path)),
        temporary_(core::message(path_, ".", ::getpid(), ".tmp")),
        file_(std::fopen(temporary_.c_str(), "wbx")) {
    if (file_ == nullptr) refuse("create");
  }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;
  ~atomic_file() { discard(); }

  void write(std::span<const std::byte> bytes) {
    if (!bytes.empty() && std::fwrite(bytes.data(), bytes.size(), 1, file_) != 1) refuse("write");
    written_ += bytes.size();
  }
  void write(std::string_view text) { write(std::as_bytes(std::span{text})); }

  /// Bytes written so far.
  std::uint64_t written() const noexcept { return written_; }

  /// Everything reaches the disk, then the file takes its name. Nothing can be written after it.
  void commit() {
    if (std::fflush(file_) != 0 || ::fsync(::fileno(file_)) != 0) refuse("write");
    const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
    if (!closed || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int reason = errno;
      std::remove(temporary_.c_str());
      core::fail(errc::io_failed, who_, ": cannot rename '", temporary_, "' to '", path_, "': ", std::strerror(reason));
    }
  }

 private:
  void discard() noexcept {
    if (file_ == nullptr) return;
    std::fclose(std::exchange(file_, nullptr));
    std::remove(temporary_.c_str());
  }
  [[noreturn]] void refuse(const char* what) {
    const int reason = errno;
    discard();
    core::fail(errc::io_failed, who_, ": cannot ", what, " '", temporary_, "': ", std::strerror(reason));
  }

  std::string who_, path_, temporary_;
  std::FILE* file_;
  std::uint64_t written_ = 0;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
