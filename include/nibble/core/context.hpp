// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The caller's threads and memory. The library starts no thread and keeps no global state; the pools that are asked for by
/// name count forks (process_mark.hpp), and nibble::dispatch keeps a pointer to its choice.

#include <atomic>
#include <cstddef>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {

/// How a call may run. `parallel_for(user, slots, body, arg)` must call body(arg, s) once for every s in [0, slots), on
/// any threads, in any order, even one after the other, and return when all calls have returned. It must not throw.
/// nullptr: serial.
/// `slots` never exceeds `concurrency`. The scratch memory (64-byte aligned) belongs to the call while it runs. Two
/// contexts may be used at once from two threads; they share nothing.
struct context {
  void* user = nullptr;
  void (*parallel_for)(void* user, std::size_t slots, void (*body)(void* arg, std::size_t slot), void* arg) = nullptr;
  std::size_t concurrency = 1;
  std::byte* scratch = nullptr;
  std::size_t scratch_bytes = 0;
};

inline namespace NIBBLE_ABI {
namespace core {

/// Runs f(item, slot) for item in [0, items). Each slot takes the next item from a shared counter until none is left, so
/// a slow core never holds the others up; slot < slots_of(ctx, items), which lets f use a scratch area per slot.
inline std::size_t slots_of(const context& ctx, std::size_t items) noexcept {
  if (ctx.parallel_for == nullptr || ctx.concurrency <= 1 || items <= 1) return 1;
  return items < ctx.concurrency ? items : ctx.concurrency;
}

template <class F>
void for_each_item(const context& ctx, std::size_t items, F&& f) {
  const std::size_t slots = slots_of(ctx, items);
  if (slots == 1) {
    for (std::size_t i = 0; i < items; ++i) f(i, std::size_t{0});
    return;
  }
  struct shared_state {
    std::remove_reference_t<F>* f;
    std::atomic<std::size_t> next;
    std::size_t items;
  } state{&f, 0, items};
  ctx.parallel_for(
      ctx.user, slots,
      [](void* arg, std::size_t slot) {
        auto& s = *static_cast<shared_state*>(arg);
        for (std::size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.items;) (*s.f)(i, slot);
      },
      &state);
}

}  // namespace core
}  // namespace NIBBLE_ABI
}  // namespace nibble
