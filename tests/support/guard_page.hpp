// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Memory whose first byte past the end cannot be touched: a read or write beyond stops the test program at once.

#include <cstddef>
#include <cstring>
#include <type_traits>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#else
#include <cstdlib>
#endif

namespace nibble::test {

/// `size` elements that end where a forbidden page begins, after a forbidden page in front. Filled with 0xa5 bytes. Where
/// pages cannot be protected it is plain memory, and the test only checks results.
template <class T>
class guarded {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit guarded(std::size_t size) : size_(size) {
    const std::size_t bytes = size * sizeof(T);
#if defined(__unix__) || defined(__APPLE__)
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inner = (bytes + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* base = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return;
    base_ = static_cast<std::byte*>(base);
    if (inner != 0) mprotect(base_ + page, inner, PROT_READ | PROT_WRITE);
    std::memset(base_ + page, 0xa5, inner);
    data_ = reinterpret_cast<T*>(base_ + page + inner - bytes);
#else
    mapped_ = bytes;
    base_ = static_cast<std::byte*>(std::malloc(bytes + 1));
    std::memset(base_, 0xa5, bytes);
    data_ = reinterpret_cast<T*>(base_);
#endif
  }
  guarded(const guarded&) = delete;
  guarded& operator=(const guarded&) = delete;
  ~guarded() {
#if defined(__unix__) || defined(__APPLE__)
    if (base_ != nullptr) munmap(base_, mapped_);
#else
    std::free(base_);
#endif
  }

  T* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }
  T* begin() const noexcept { return data_; }
  T* end() const noexcept { return data_ + size_; }
  T& operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;
  std::byte* base_ = nullptr;
  T* data_ = nullptr;
};

}  // namespace nibble::test
