// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Whether this is still the process that made an object: a forked child has none of its threads.

#include <atomic>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace core {

/// Notices that the process was forked since the mark was made. Costs a load, because every call of a pool asks; getpid()
/// takes a tenth of a microsecond and more. In return there is a counter for the whole process, which a handler of
/// pthread_atfork advances in each child; children made around the C library (clone, _Fork) are not noticed.
class process_mark {
 public:
#if defined(__unix__) || defined(__APPLE__)
  /// Throws out_of_memory when the system has no room for the handler.
  process_mark() {
    static const int refused = pthread_atfork(nullptr, nullptr, [] { forks_.fetch_add(1, std::memory_order_relaxed); });
    if (refused != 0) fail(errc::out_of_memory, "process_mark: pthread_atfork failed with error ", refused);
  }
  bool forked() const noexcept { return forks_.load(std::memory_order_relaxed) != seen_; }

 private:
  static inline std::atomic<unsigned> forks_ = 0;
  unsigned seen_ = forks_.load(std::memory_order_relaxed);
#else
  bool forked() const noexcept { return false; }
#endif
};

}  // namespace core
}  // namespace NIBBLE_ABI
}  // namespace nibble
