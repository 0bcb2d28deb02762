// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Scratch memory that lives from call to call, for pools of threads.

#include <atomic>
#include <cstddef>
#include <utility>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace core {

/// Lends its memory, which grows and never shrinks, to one call at a time; a call that finds it lent, on this thread or
/// another, gets memory allocated for it alone. Nobody waits.
class scratch_keeper {
 public:
  /// Calls f(c) with at least `bytes` of scratch memory in c. Throws what the allocation throws.
  template <class F>
  decltype(auto) lend(context c, std::size_t bytes, F&& f) {
    const claim mine(lent_);
    aligned_vector<std::byte> own;
    aligned_vector<std::byte>& scratch = mine.got ? scratch_ : own;
    if (scratch.size() < bytes) {
      scratch.clear();  // not copied over
      scratch.resize(bytes);
    }
    c.scratch = scratch.data();
    c.scratch_bytes = scratch.size();
    return std::forward<F>(f)(std::as_const(c));
  }

 private:
  struct claim {
    explicit claim(std::atomic<bool>& flag) noexcept
        : lent(flag), got(!flag.exchange(true, std::memory_order_acquire)) {}
    ~claim() {
      if (got) lent.store(false, std::memory_order_release);
    }
    claim(const claim&) = delete;
    claim& operator=(const claim&) = delete;
    std::atomic<bool>& lent;
    const bool got;
  };

  std::atomic<bool> lent_ = false;
  aligned_vector<std::byte> scratch_;
};

}  // namespace core
}  // namespace NIBBLE_ABI
}  // namespace nibble
