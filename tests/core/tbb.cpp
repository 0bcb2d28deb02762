// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include <nibble/core/tbb.hpp>

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

TEST_CASE("tbb: every slot runs once, fewer or more than the arena holds") {
  tbb_pool pool(3);
  CHECK(pool.size() == 3);
  for (const std::size_t slots : {0u, 1u, 2u, 3u, 50u})
    CHECK(count_runs(pool.context(), slots) == std::vector<int>(slots, 1));
  CHECK(tbb_pool().size() >= 1);
}

TEST_CASE("tbb: an arena of one works on the caller") {
  tbb_pool pool(1);
  const std::thread::id here = std::this_thread::get_id();
  const context ctx = pool.context();
  struct state {
    std::thread::id here;
    std::atomic<int> elsewhere{0};
  } s{here, {}};
  ctx.parallel_for(
      ctx.user, 4,
      [](void* arg, std::size_t) {
        auto& mine = *static_cast<state*>(arg);
        mine.elsewhere += std::this_thread::get_id() != mine.here;
      },
      &s);
  CHECK(s.elsewhere == 0);
}

TEST_CASE("tbb: a body that enters again does all of its slots") {
  tbb_pool pool(2);
  const context ctx = pool.context();
  std::atomic<int> inner{0};
  core::for_each_item(ctx, 8, [&](std::size_t, std::size_t) {
    core::for_each_item(ctx, 5, [&](std::size_t, std::size_t) { ++inner; });
  });
  CHECK(inner == 40);
}

TEST_CASE("tbb: two threads of the program share one pool, or have two") {
  tbb_pool shared(2);
  std::atomic<int> items{0};
  const auto caller = [&] {
    tbb_pool own(2);
    for (int i = 0; i < 50; ++i)
      for (tbb_pool* const pool : {&shared, &own})
        pool->with_scratch(
            64, [&](const context& c) { core::for_each_item(c, 10, [&](std::size_t, std::size_t) { ++items; }); });
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(items == 2000);
}

TEST_CASE("tbb: after fork the child works serially, and the pool's destructor returns") {
  auto pool = std::make_unique<tbb_pool>(2);
  CHECK(count_runs(pool->context(), 2) == std::vector<int>(2, 1));
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);  // a hang ends with SIGALRM
    const bool right = count_runs(pool->context(), 5) == std::vector<int>(5, 1);
    pool.reset();
    std::_Exit(right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(count_runs(pool->context(), 2) == std::vector<int>(2, 1));
}
