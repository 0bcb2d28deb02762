// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A small persistent pool of threads for callers who have none of their own.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <nibble/core/concurrency.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/process_mark.hpp>
#include <nibble/core/scratch.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// `threads` workers in all, the calling thread being one of them. Between calls the others look out for work some tens of
/// microseconds long, giving way to whoever wants the core, and then sleep. Their affinity is what they inherit.
///
/// Nested use: one call runs at a time; a second thread that enters meanwhile, or a body that enters again, does its work
/// serially on its own thread, so nothing can deadlock.
///
/// After fork() the child has no workers: there the pool does all work serially on the calling thread, `size()` and the
/// scratch sizes that follow from it stay as they were, and the destructor leaves behind what it cannot join (some hundred
/// bytes). A pool made in the child has threads again. A child forked inside a body must not return from that body.
///
/// The pool also keeps scratch memory, which grows and never shrinks.
class thread_pool {
 public:
  /// Throws out_of_memory when the system refuses to start a thread.
  explicit thread_pool(std::size_t threads = available_concurrency()) {
#if defined(__cpp_exceptions)
    try {
      start(threads);
    } catch (const std::exception& e) {
      const std::size_t started = size();
      stop();
      core::fail(errc::out_of_memory, "thread_pool: only ", started, " of ", threads,
                 " threads could be started: ", e.what());
    }
#else
    start(threads);
#endif
  }
  ~thread_pool() {
    // In a forked child the workers' stacks may serve new threads already, and destroying a condition variable waits for
    // sleepers that are gone: neither may be touched.
    if (maker_.forked()) (void)crew_.release();
    else stop();
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  std::size_t size() const noexcept { return crew_->workers.size() + 1; }

  /// A context over this pool without scratch memory.
  nibble::context context() noexcept {
    nibble::context c;
    c.user = this;
    c.parallel_for = &run;
    c.concurrency = size();
    return c;
  }

  /// Calls f(context) with at least `scratch_bytes` of scratch memory: the pool's own, or, while another call of
  /// with_scratch holds that, memory allocated for this call. Any number of threads may call.
  template <class F>
  decltype(auto) with_scratch(std::size_t scratch_bytes, F&& f) {
    return scratch_.lend(context(), scratch_bytes, std::forward<F>(f));
  }

 private:
  /// The threads and all that they touch; in a forked child nothing of it is.
  struct crew {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake, done;
    void (*body)(void*, std::size_t) = nullptr;
    void* arg = nullptr;
    std::size_t slots = 0, step = 1;
    bool busy = false;
    // Written under the mutex; read without it by those who look out.
    std::atomic<std::size_t> pending = 0;
    std::atomic<std::uint64_t> generation = 0;
    std::atomic<bool> stop = false;
  };

  static void run(void* self, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    static_cast<thread_pool*>(self)->run(slots, body, arg);
  }

  void run(std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    if (slots <= 1 || size() == 1 || maker_.forked() || !try_share(slots, body, arg)) {
      for (std::size_t s = 0; s < slots; ++s) body(arg, s);
      return;
    }
    for (std::size_t s = 0; s < slots; s += size()) body(arg, s);
    crew& c = *crew_;
    const auto all_done = [&] { return c.pending.load(std::memory_order_acquire) == 0; };
    look_out(all_done);
    std::unique_lock lock(c.mutex);
    c.done.wait(lock, all_done);
    c.busy = false;
  }

  /// Hands all slots but those of the calling thread to the workers; false when they are busy.
  bool try_share(std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    crew& c = *crew_;
    {
      const std::lock_guard lock(c.mutex);
      if (c.busy) return false;
      c.busy = true;
      c.body = body;
      c.arg = arg;
      c.slots = slots;
      c.step = size();
      c.pending.store((slots < size() ? slots : size()) - 1, std::memory_order_relaxed);
      c.generation.fetch_add(1, std::memory_order_release);
    }
    c.wake.notify_all();
    return true;
  }

  /// Until condition() holds, or for a while: waking a sleeping thread takes longer than many a product.
  template <class Condition>
  static void look_out(Condition&& condition) noexcept {
    for (int i = 0; i < 1024 && !condition(); ++i) {
      if (i % 64 == 63) std::this_thread::yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  void start(std::size_t threads) {
    crew& c = *crew_;
    c.workers.reserve(threads == 0 ? 0 : threads - 1);
    for (std::size_t slot = 1; slot < threads; ++slot) c.workers.emplace_back([&c, slot] { work(c, slot); });
  }
  void stop() noexcept {
    crew& c = *crew_;
    {
      const std::lock_guard lock(c.mutex);
      c.stop.store(true, std::memory_order_release);
    }
    c.wake.notify_all();
    for (std::thread& t : c.workers) t.join();
    c.workers.clear();
  }

  static void work(crew& c, std::size_t slot) {
    std::uint64_t seen = 0;
    const auto called = [&] {
      return c.stop.load(std::memory_order_acquire) || c.generation.load(std::memory_order_acquire) != seen;
    };
    for (;;) {
      look_out(called);
      std::unique_lock lock(c.mutex);
      c.wake.wait(lock, called);
      if (c.stop.load(std::memory_order_relaxed)) return;
      seen = c.generation.load(std::memory_order_relaxed);
      if (slot >= c.slots) continue;
      const auto body = c.body;
      void* const arg = c.arg;
      const std::size_t slots = c.slots, step = c.step;
      lock.unlock();
      for (std::size_t s = slot; s < slots; s += step) body(arg, s);
      lock.lock();
      if (c.pending.fetch_sub(1, std::memory_order_release) == 1) c.done.notify_one();
    }
  }

  std::unique_ptr<crew> crew_ = std::make_unique<crew>();
  core::process_mark maker_;
  core::scratch_keeper scratch_;
};

}  // namespace NIBBLE_ABI
}  // namespace nibble
