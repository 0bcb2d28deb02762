// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
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
