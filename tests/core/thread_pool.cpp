// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include <nibble/core/thread_pool.hpp>

using namespace nibble;

namespace {

/// How often each of `slots` bodies ran.
std::vector<int> count_runs(const context& ctx, std::size_t slots) {
  std::vector<std::atomic<int>> runs(slots);
  ctx.parallel_for(
      ctx.user, slots, [](void* arg, std::size_t s) { ++(*static_cast<std::vector<std::atomic<int>>*>(arg))[s]; },
      &runs);
  return {runs.begin(), runs.end()};
}

#if defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#elif defined(__has_feature)
constexpr bool thread_sanitizer = __has_feature(thread_sanitizer);
#else
constexpr bool thread_sanitizer = false;
#endif

/// The status of a child that returns f() from main; a hang ends it with SIGALRM after 20 seconds.
template <class F>
int status_of_child(F&& f) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);
    std::_Exit(f());
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

/// True when `slots` bodies ran once each, all on this thread. Allocates nothing: another thread may have held the
/// allocator's lock when this process was forked.
template <std::size_t slots>
bool runs_serially(const context& ctx) {
  struct state {
    std::thread::id here = std::this_thread::get_id();
    int runs[slots] = {};
    bool elsewhere = false;
  } s;
  ctx.parallel_for(
      ctx.user, slots,
      [](void* arg, std::size_t slot) {
        auto& mine = *static_cast<state*>(arg);
        ++mine.runs[slot];
        if (std::this_thread::get_id() != mine.here) mine.elsewhere = true;
      },
      &s);
  bool once = !s.elsewhere;
  for (const int runs : s.runs) once = once && runs == 1;
  return once;
}

}  // namespace

TEST_CASE("thread_pool: runs every slot once, fewer or more than there are threads") {
  thread_pool pool(3);
  for (const std::size_t slots : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{50}})
    CHECK(count_runs(pool.context(), slots) == std::vector<int>(slots, 1));
}

TEST_CASE("thread_pool: many calls in a row lose no slot") {
  thread_pool pool(4);
  bool all = true;
  for (int i = 0; i < 2000; ++i) all = all && count_runs(pool.context(), 4) == std::vector<int>(4, 1);
  CHECK(all);
}

TEST_CASE("thread_pool: nested use works and does not deadlock") {
  thread_pool pool(3);
  std::atomic<int> inner{0};
  const context ctx = pool.context();
  core::for_each_item(ctx, 8, [&](std::size_t, std::size_t) {
    core::for_each_item(ctx, 5, [&](std::size_t, std::size_t) { ++inner; });
  });
  CHECK(inner == 40);
}

TEST_CASE("thread_pool: two threads share one pool") {
  thread_pool pool(2);
  std::atomic<int> items{0};
  const auto caller = [&] {
    for (int i = 0; i < 200; ++i) core::for_each_item(pool.context(), 10, [&](std::size_t, std::size_t) { ++items; });
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(items == 4000);
}

TEST_CASE("thread_pool: scratch memory is never given to two calls at once") {
  thread_pool pool(1);
  pool.with_scratch(100, [&](const context& a) {
    CHECK(a.scratch_bytes >= 100);
    pool.with_scratch(50, [&](const context& b) { CHECK(a.scratch != b.scratch); });
  });
}

TEST_CASE("thread_pool: without threads of its own everything runs on the caller") {
  thread_pool pool(0);
  CHECK(pool.size() == 1);
  CHECK(count_runs(pool.context(), 3) == std::vector<int>(3, 1));
}

TEST_CASE("thread_pool: after fork the child works serially, and its destructor returns") {
  auto pool = std::make_unique<thread_pool>(4);
  CHECK(count_runs(pool->context(), 4) == std::vector<int>(4, 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // workers asleep: their condition variable has waiters
  CHECK(status_of_child([&] {
          if (!runs_serially<9>(pool->context())) return 1;
          if (pool->with_scratch(100, [](const context& c) { return c.scratch_bytes; }) < 100) return 2;
          if (pool->size() != 4) return 3;
          pool.reset();
          return 0;
        }) == 0);
  CHECK(count_runs(pool->context(), 4) == std::vector<int>(4, 1));
}

TEST_CASE("thread_pool: a fork in the middle of another thread's calls neither hangs nor crashes the child") {
  thread_pool pool(3);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    const context ctx = pool.context();
    const auto nothing = [](void*, std::size_t) {};
    while (!stop) ctx.parallel_for(ctx.user, 3, nothing, nullptr);
  });
  int failed = 0;
  for (int i = 0; i < 20; ++i)
    failed += status_of_child([&] {
                const bool serial = runs_serially<5>(pool.context());
                pool.~thread_pool();  // _Exit runs no other destructor
                return serial ? 0 : 1;
              }) != 0;
  stop = true;
  other.join();
  CHECK(failed == 0);
}

TEST_CASE("thread_pool: a pool made in a forked child has threads") {
  if (thread_sanitizer) return;  // refuses new threads after a fork with threads
  thread_pool pool(3);
  CHECK(status_of_child([&] {
          thread_pool own(2);
          // Both slots wait for each other: one thread alone would not get through.
          std::atomic<int> inside{0};
          const context ctx = own.context();
          ctx.parallel_for(
              ctx.user, 2,
              [](void* arg, std::size_t) {
                auto& n = *static_cast<std::atomic<int>*>(arg);
                ++n;
                while (n < 2) std::this_thread::yield();
              },
              &inside);
          return inside == 2 && runs_serially<4>(pool.context()) ? 0 : 1;
        }) == 0);
}

TEST_CASE("thread_pool: two callers with pools of their own run at the same time") {
  // Each caller's first slot waits until the other caller is inside its own call: with a lock between them, forever.
  std::atomic<int> inside{0};
  std::atomic<int> met{0};
  const auto caller = [&] {
    thread_pool pool(2);
    core::for_each_item(pool.context(), 2, [&](std::size_t item, std::size_t) {
      if (item != 0) return;
      ++inside;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (inside < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
      met += inside == 2;
    });
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(met == 2);
}
