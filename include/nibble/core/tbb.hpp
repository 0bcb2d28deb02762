// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// oneTBB's threads as a pool. Asked for by name; needs oneTBB (CMake: TBB::tbb).

#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <cstddef>
#include <memory>
#include <utility>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/process_mark.hpp>
#include <nibble/core/scratch.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// Runs products in a task arena of its own, on the threads that oneTBB shares among all arenas; owns scratch memory. Any
/// number of threads may call, tasks of other arenas included: they join the arena while there is room, else they wait
/// for their tasks to be done by those inside. A body that enters again, or a thread inside the arena, nests. While a
/// caller waits for its product it works on that product alone, never on another task.
///
/// After fork() a pool made before works serially in the child, where oneTBB 2021.8 waits for threads that are gone.
class tbb_pool {
 public:
  /// At most `threads` threads at once, the caller among them; 0: oneTBB's default for an arena.
  explicit tbb_pool(std::size_t threads = 0)
      : arena_(
            std::make_unique<tbb::task_arena>(threads == 0 ? tbb::task_arena::automatic : static_cast<int>(threads))) {}
  /// In a forked child the arena is left as it is: to end it takes locks that a thread of the parent may have held.
  ~tbb_pool() {
    if (maker_.forked()) static_cast<void>(arena_.release());
  }
  tbb_pool(const tbb_pool&) = delete;
  tbb_pool& operator=(const tbb_pool&) = delete;

  std::size_t size() const { return static_cast<std::size_t>(arena_->max_concurrency()); }

  /// A context over this arena without scratch memory.
  nibble::context context() {
    nibble::context c;
    c.user = this;
    c.parallel_for = &run;
    c.concurrency = size();
    return c;
  }

  /// Calls f(context) with at least `scratch_bytes` of scratch memory: this object's own, or, while another call of
  /// with_scratch holds that, memory allocated for this call.
  template <class F>
  decltype(auto) with_scratch(std::size_t scratch_bytes, F&& f) {
    return scratch_.lend(context(), scratch_bytes, std::forward<F>(f));
  }

 private:
  static void run(void* self, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    tbb_pool& pool = *static_cast<tbb_pool*>(self);
    if (pool.maker_.forked()) {
      for (std::size_t s = 0; s < slots; ++s) body(arg, s);
      return;
    }
    pool.arena_->execute([&] {
      tbb::this_task_arena::isolate([&] {
        tbb::parallel_for(
            std::size_t{0}, slots, [&](std::size_t s) { body(arg, s); }, tbb::simple_partitioner{});
      });
    });
  }

  std::unique_ptr<tbb::task_arena> arena_;
  core::process_mark maker_;
  core::scratch_keeper scratch_;
};

}  // namespace NIBBLE_ABI
}  // namespace nibble
