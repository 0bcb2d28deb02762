// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include <nibble/core/openmp.hpp>

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

/// Two slots that wait for each other, a second at most: true when two threads were inside at once.
bool two_meet(const context& ctx) {
  struct state {
    std::atomic<int> inside{0}, met{0};
  } s;
  ctx.parallel_for(
      ctx.user, 2,
      [](void* arg, std::size_t) {
        auto& mine = *static_cast<state*>(arg);
        ++mine.inside;
        const double begin = omp_get_wtime();
        while (mine.inside < 2 && omp_get_wtime() - begin < 1.0) std::this_thread::yield();
        mine.met += mine.inside == 2;
      },
      &s);
  return s.met == 2;
}

}  // namespace

TEST_CASE("openmp: every slot runs once, on a team of threads") {
  openmp_pool pool(3);
  CHECK(pool.size() == 3);
  for (const std::size_t slots : {1u, 2u, 3u, 7u})
    CHECK(count_runs(pool.context(), slots) == std::vector<int>(slots, 1));
  CHECK(two_meet(openmp_pool(2).context()));
}

TEST_CASE("openmp: without a number, the team is what OpenMP says") {
  CHECK(openmp_pool().size() == static_cast<std::size_t>(omp_get_max_threads()));
}

TEST_CASE("openmp: inside a parallel region each caller works alone, or with a nested team where levels allow") {
  for (const int levels : {1, 2}) {
    CAPTURE(levels);
    omp_set_max_active_levels(levels);
    std::atomic<int> right{0}, met{0};
#pragma omp parallel num_threads(2)
    {
      openmp_pool pool(2);
      if (count_runs(pool.context(), 5) == std::vector<int>(5, 1)) ++right;
      if (two_meet(pool.context())) ++met;
    }
    CHECK(right == 2);
    CHECK(met == (levels == 1 ? 0 : 2));
  }
  omp_set_max_active_levels(1);
}

TEST_CASE("openmp: a body that enters again does all of its slots") {
  openmp_pool pool(2);
  const context ctx = pool.context();
  std::atomic<int> inner{0};
  core::for_each_item(ctx, 8, [&](std::size_t, std::size_t) {
    core::for_each_item(ctx, 5, [&](std::size_t, std::size_t) { ++inner; });
  });
  CHECK(inner == 40);
}

TEST_CASE("openmp: two threads of the program share one pool") {
  openmp_pool pool(2);
  std::atomic<int> items{0};
  const auto caller = [&] {
    for (int i = 0; i < 50; ++i)
      pool.with_scratch(
          64, [&](const context& c) { core::for_each_item(c, 10, [&](std::size_t, std::size_t) { ++items; }); });
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(items == 1000);
}

TEST_CASE("openmp: after fork the child works serially, and the pool's destructor returns") {
  auto pool = std::make_unique<openmp_pool>(2);
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
