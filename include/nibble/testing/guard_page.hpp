// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Memory between two forbidden pages, and a watch that notes who touches them and lets the program go on.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>

#if defined(__unix__) || defined(__APPLE__)
#define NIBBLE_TESTING_PAGES 1
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#else
#define NIBBLE_TESTING_PAGES 0
#include <cstdlib>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// Which of its two forbidden pages a buffer touches; the other side has a rest of a page filled with canary bytes.
enum class placement : unsigned char {
  at_end,    ///< the byte past the last one is forbidden
  at_begin,  ///< the byte before the first one is forbidden
};

/// `size` bytes between forbidden pages. All of them, and what is left of their pages, begin as 0xa5. Where pages cannot be
/// protected, 4096 canary bytes stand on either side: writes past the ends are seen by `intact`, reads are not.
class guarded_bytes {
 public:
  static constexpr std::byte canary{0xa5};

  /// `alignment`: a power of two up to 4096 that data() is a multiple of. Above 1 up to alignment - 1 canary bytes lie
  /// between the end and the forbidden page.
  explicit guarded_bytes(std::size_t size, placement where = placement::at_end, std::size_t alignment = 1)
      : size_(size) {
#if NIBBLE_TESTING_PAGES
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    inner_ = round_up(size == 0 ? 1 : size, page_);
    void* base = mmap(nullptr, inner_ + front() + behind(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return;
    base_ = static_cast<std::byte*>(base);
    mprotect(base_ + front(), inner_, PROT_READ | PROT_WRITE);
#else
    page_ = 4096;
    inner_ = round_up(size == 0 ? 1 : size, page_) + 2 * page_;
    base_ = static_cast<std::byte*>(std::malloc(inner_ + page_));
    if (base_ == nullptr) return;
#endif
    std::memset(usable(), static_cast<int>(canary), inner_);
    std::byte* const first = usable() + (NIBBLE_TESTING_PAGES ? 0 : page_);
    const std::size_t room = NIBBLE_TESTING_PAGES ? inner_ : inner_ - 2 * page_;
    data_ = first + (where == placement::at_end ? room - round_up(size, alignment) : 0);
#if !NIBBLE_TESTING_PAGES
    data_ += (alignment - reinterpret_cast<std::uintptr_t>(data_) % alignment) % alignment;
#endif
  }
  guarded_bytes(const guarded_bytes&) = delete;
  guarded_bytes& operator=(const guarded_bytes&) = delete;
  ~guarded_bytes() {
#if NIBBLE_TESTING_PAGES
    if (base_ != nullptr) munmap(base_, inner_ + front() + behind());
#else
    std::free(base_);
#endif
  }

  /// nullptr when there was no memory.
  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

  /// True while the canary bytes around data are as they were.
  bool intact() const noexcept {
    for (const std::byte* p = usable(); p != usable() + inner_; ++p) {
      if (p == data_) p += size_;
      if (p == usable() + inner_) break;
      if (*p != canary) return false;
    }
    return true;
  }

#if NIBBLE_TESTING_PAGES
  /// Where `address` lies in the forbidden pages: bytes before data() as a negative number, bytes past its end as a number
  /// from 0 on; nothing when it lies elsewhere.
  std::optional<std::ptrdiff_t> offset_of(const void* address) const noexcept {
    const auto a = reinterpret_cast<std::uintptr_t>(address), b = reinterpret_cast<std::uintptr_t>(base_);
    if (a < b || a >= b + front() + inner_ + behind()) return {};
    const auto d = reinterpret_cast<std::uintptr_t>(data_);
    if (a < b + front()) return -static_cast<std::ptrdiff_t>(d - a);
    if (a >= b + front() + inner_) return static_cast<std::ptrdiff_t>(a - (d + size_));
    return {};
  }
  /// Lets the forbidden pages be touched from now on: for a signal handler.
  void open() const noexcept {
    mprotect(base_, front(), PROT_READ | PROT_WRITE);
    mprotect(base_ + front() + inner_, behind(), PROT_READ | PROT_WRITE);
  }
  /// After open(): true when a byte of the formerly forbidden pages is no longer 0.
  bool was_written() const noexcept {
    const auto any = [](const std::byte* p, std::size_t n) {
      for (std::size_t i = 0; i < n; ++i)
        if (p[i] != std::byte{0}) return true;
      return false;
    };
    return any(base_, front()) || any(base_ + front() + inner_, behind());
  }
#endif

 private:
#if NIBBLE_TESTING_PAGES
  // A kernel that runs far past an end, by a tile of 16 columns of 4 KiB rows, still stops inside.
  std::size_t front() const noexcept { return 4 * page_; }
  std::size_t behind() const noexcept { return 16 * page_; }
  std::byte* usable() const noexcept { return base_ + front(); }
#else
  std::byte* usable() const noexcept { return base_; }
#endif

  std::size_t size_ = 0, page_ = 0, inner_ = 0;
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
};

/// The same for `size` elements of a type.
template <class T>
class guarded {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit guarded(std::size_t size, placement where = placement::at_end, std::size_t alignment = 1)
      : bytes_(size * sizeof(T), where, alignment) {}

  T* data() const noexcept { return reinterpret_cast<T*>(bytes_.data()); }
  std::size_t size() const noexcept { return bytes_.size() / sizeof(T); }
  T* begin() const noexcept { return data(); }
  T* end() const noexcept { return data() + size(); }
  T& operator[](std::size_t i) const noexcept { return data()[i]; }
  const guarded_bytes& bytes() const noexcept { return bytes_; }

 private:
  guarded_bytes bytes_;
};

/// While it lives, a fault on a forbidden page of a watched buffer, on any thread, is noted, the page is opened and the
/// faulting instruction runs again: the code under test returns, and `take` says what it did. Every other fault goes to
/// the handler that was there before. One watch lives at a time; a second one waits.
class fault_watch {
 public:
  struct touch {
    const char* name = nullptr;  ///< of the buffer
    std::ptrdiff_t offset = 0;   ///< first byte touched: negative in front of the buffer, from 0 on past its end
    bool written = false;
  };

#if NIBBLE_TESTING_PAGES
  fault_watch() : alone_(only_one()) {
    current().store(this);
    struct sigaction act = {};
    act.sa_sigaction = &on_fault;
    act.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&act.sa_mask);
    sigaction(SIGSEGV, &act, &before_[0]);
    sigaction(SIGBUS, &act, &before_[1]);
  }
  ~fault_watch() {
    sigaction(SIGSEGV, &before_[0], nullptr);
    sigaction(SIGBUS, &before_[1], nullptr);
    current().store(nullptr);
  }
#else
  fault_watch() = default;
  ~fault_watch() = default;
#endif
  fault_watch(const fault_watch&) = delete;
  fault_watch& operator=(const fault_watch&) = delete;

  /// `name` and `buffer` must live until `clear`. At most `capacity` buffers.
  void add(const guarded_bytes& buffer, const char* name) noexcept {
    if (count_ < capacity) watched_[count_++] = {&buffer, name};
  }
  void clear() noexcept {
    count_ = 0;
    fault_.store(nullptr);
  }
  /// The first touch since the last clear().
  std::optional<touch> take() const noexcept {
#if NIBBLE_TESTING_PAGES
    if (const void* const address = fault_.load(); address != nullptr)
      for (std::size_t i = 0; i < count_; ++i)
        if (const auto offset = watched_[i].buffer->offset_of(address))
          return touch{watched_[i].name, *offset, watched_[i].buffer->was_written()};
#endif
    return {};
  }

  static constexpr std::size_t capacity = 16;

 private:
#if NIBBLE_TESTING_PAGES
  static std::mutex& only_one() {
    static std::mutex m;
    return m;
  }
  static std::atomic<fault_watch*>& current() noexcept {
    static std::atomic<fault_watch*> watch{nullptr};
    return watch;
  }
  static void on_fault(int signal, siginfo_t* info, void* machine) {
    fault_watch* const watch = current().load();
    if (watch == nullptr) return;
    for (std::size_t i = 0; i < watch->count_; ++i) {
      if (!watch->watched_[i].buffer->offset_of(info->si_addr)) continue;
      void* none = nullptr;
      watch->fault_.compare_exchange_strong(none, info->si_addr);
      watch->watched_[i].buffer->open();
      return;
    }
    // Not ours.
    const struct sigaction& before = watch->before_[signal == SIGBUS ? 1 : 0];
    if ((before.sa_flags & SA_SIGINFO) != 0) before.sa_sigaction(signal, info, machine);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) before.sa_handler(signal);
    else sigaction(signal, &before, nullptr);  // takes effect when the instruction runs again
  }

  std::unique_lock<std::mutex> alone_;
  struct sigaction before_[2] = {};
#endif
  struct watched {
    const guarded_bytes* buffer;
    const char* name;
  };
  watched watched_[capacity] = {};
  std::size_t count_ = 0;
  std::atomic<void*> fault_{nullptr};
};

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
