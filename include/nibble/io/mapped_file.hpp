// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A file mapped into memory, read-only.

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

#if !__has_include(<sys/mman.h>)
#error "nibble/io/mapped_file.hpp needs POSIX mmap (sys/mman.h)"
#endif
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// The bytes of one regular file, mapped read-only and private for the lifetime of the object. Pages are read when they
/// are touched and may be dropped by the system at any time, so a mapping costs address space, not memory. A file that
/// another process shortens while it is mapped raises SIGBUS on access, as for every mapping: replace model files by
/// renaming a complete new file over them (safetensors_writer does).
class mapped_file {
 public:
  /// Throws io_failed, with the path and the system's reason, when the file cannot be opened or mapped or is not a
  /// regular file. An empty file is an empty span.
  explicit mapped_file(std::string path) : path_(std::move(path)) {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block
    if (fd < 0) refuse("open");
    struct ::stat info {};
    if (::fstat(fd, &info) != 0) refuse("fstat", fd);
    if (!S_ISREG(info.st_mode)) {
      ::close(fd);
      core::fail(errc::io_failed, "mapped_file: '", path_, "' is not a regular file");
    }
    size_ = static_cast<std::size_t>(info.st_size);
    if (size_ != 0) {  // mmap refuses length 0
      void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
      if (address == MAP_FAILED) refuse("mmap", fd);
      data_ = static_cast<const std::byte*>(address);
    }
    ::close(fd);  // the mapping keeps the file
  }
  mapped_file(mapped_file&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~mapped_file() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::string& path() const noexcept { return path_; }

  /// Tells the system that `part` (inside bytes()) is not needed for now: its pages leave this process and are read
  /// again when touched. Keeps the resident size of a pass over a large file at its largest part.
  void release(std::span<const std::byte> part) const noexcept {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));  // whole pages inside `part` only
    const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(part.data()) + part.size()) / page * page;
    if (!part.empty() && begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }

 private:
  [[noreturn]] void refuse(const char* call, int fd = -1) const {
    const int reason = errno;
    if (fd >= 0) ::close(fd);
    core::fail(errc::io_failed, "mapped_file: ", call, " of '", path_, "': ", std::strerror(reason));
  }

  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
