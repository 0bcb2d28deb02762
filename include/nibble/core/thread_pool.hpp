// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A small persistent pool of threads for callers who have none of their own.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>

#if defined(__linux__)
#include <sched.h>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {

/// CPUs that this thread may run on: the affinity mask where the system has one, else the number of CPUs.
inline std::size_t available_concurrency() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return static_cast<std::size_t>(count);
  }
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : count;
}

/// `threads` workers in all, the calling thread being one of them. Between calls the others look out for work some tens of
/// microseconds long, giving way to whoever wants the core, and then sleep. One call runs at a
/// time: a second thread that enters meanwhile, or a body that enters again, does its work serially on its own thread,
/// so nested use cannot deadlock. The pool also keeps scratch memory, which grows and never shrinks.
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
  ~thread_pool() { stop(); }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  std::size_t size() const noexcept { return workers_.size() + 1; }

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
    const std::unique_lock lock(scratch_mutex_, std::try_to_lock);
    aligned_vector<std::byte> own;
    aligned_vector<std::byte>& scratch = lock.owns_lock() ? scratch_ : own;
    if (scratch.size() < scratch_bytes) {
      scratch.clear();  // not copied over
      scratch.resize(scratch_bytes);
    }
    nibble::context c = context();
    c.scratch = scratch.data();
    c.scratch_bytes = scratch.size();
    return std::forward<F>(f)(c);
  }

 private:
  static void run(void* self, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    static_cast<thread_pool*>(self)->run(slots, body, arg);
  }

  void run(std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    {
      std::unique_lock lock(mutex_);
      if (busy_ || slots <= 1) {
        lock.unlock();
        for (std::size_t s = 0; s < slots; ++s) body(arg, s);
        return;
      }
      busy_ = true;
      body_ = body;
      arg_ = arg;
      slots_ = slots;
      step_ = size();
      pending_.store((slots < size() ? slots : size()) - 1, std::memory_order_relaxed);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::size_t s = 0; s < slots; s += size()) body(arg, s);
    const auto all_done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
    look_out(all_done);
    std::unique_lock lock(mutex_);
    done_.wait(lock, all_done);
    busy_ = false;
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
    workers_.reserve(threads == 0 ? 0 : threads - 1);
    for (std::size_t slot = 1; slot < threads; ++slot) workers_.emplace_back([this, slot] { work(slot); });
  }
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stop_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& t : workers_) t.join();
    workers_.clear();
  }

  void work(std::size_t slot) {
    std::uint64_t seen = 0;
    const auto called = [&] {
      return stop_.load(std::memory_order_acquire) || generation_.load(std::memory_order_acquire) != seen;
    };
    for (;;) {
      look_out(called);
      std::unique_lock lock(mutex_);
      wake_.wait(lock, called);
      if (stop_.load(std::memory_order_relaxed)) return;
      seen = generation_.load(std::memory_order_relaxed);
      if (slot >= slots_) continue;
      const auto body = body_;
      void* const arg = arg_;
      const std::size_t slots = slots_, step = step_;
      lock.unlock();
      for (std::size_t s = slot; s < slots; s += step) body(arg, s);
      lock.lock();
      if (pending_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  aligned_vector<std::byte> scratch_;
  std::mutex mutex_, scratch_mutex_;
  std::condition_variable wake_, done_;
  void (*body_)(void*, std::size_t) = nullptr;
  void* arg_ = nullptr;
  std::size_t slots_ = 0, step_ = 1;
  bool busy_ = false;
  // Written under the mutex; read without it by those who look out.
  std::atomic<std::size_t> pending_ = 0;
  std::atomic<std::uint64_t> generation_ = 0;
  std::atomic<bool> stop_ = false;
};

}  // namespace NIBBLE_ABI
}  // namespace nibble
