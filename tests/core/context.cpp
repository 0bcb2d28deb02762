// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include <nibble/core/context.hpp>

namespace {

using body_type = void (*)(void* arg, std::size_t slot);

/// One thread for each slot, as a caller with threads of its own might do.
void on_threads(void* user, std::size_t slots, body_type body, void* arg) {
  if (user != nullptr) *static_cast<std::size_t*>(user) = slots;
  std::vector<std::thread> threads;
  for (std::size_t s = 0; s < slots; ++s) threads.emplace_back(body, arg, s);
  for (std::thread& t : threads) t.join();
}

/// The other end of what the contract allows: the slots one after the other, last one first.
void backwards(void*, std::size_t slots, body_type body, void* arg) {
  while (slots > 0) body(arg, --slots);
}

nibble::context context_with(std::size_t concurrency, decltype(&on_threads) parallel_for, void* user = nullptr) {
  nibble::context ctx;
  ctx.user = user;
  ctx.parallel_for = parallel_for;
  ctx.concurrency = concurrency;
  return ctx;
}

}  // namespace

TEST_CASE("context: every item runs exactly once, whatever the threads do") {
  for (const auto parallel_for : {&on_threads, &backwards}) {
    for (const std::size_t concurrency : {1u, 2u, 3u, 8u}) {
      for (const std::size_t items : {0u, 1u, 2u, 7u, 1000u}) {
        CAPTURE(concurrency);
        CAPTURE(items);
        const nibble::context ctx = context_with(concurrency, parallel_for);
        const auto runs = std::make_unique<std::atomic<int>[]>(items + 1);
        nibble::core::for_each_item(ctx, items, [&](std::size_t i, std::size_t) { ++runs[i]; });
        int wrong = 0;
        for (std::size_t i = 0; i < items; ++i) wrong += runs[i] != 1;
        CHECK(wrong == 0);
        CHECK(runs[items] == 0);
      }
    }
  }
}

TEST_CASE("context: a slot is below slots_of, and two items with the same slot never run at once") {
  const nibble::context ctx = context_with(4, &on_threads);
  constexpr std::size_t items = 400;
  const std::size_t slots = nibble::core::slots_of(ctx, items);
  REQUIRE(slots == 4);
  std::vector<std::atomic<int>> busy(slots);
  std::atomic<int> wrong = 0;
  nibble::core::for_each_item(ctx, items, [&](std::size_t, std::size_t slot) {
    if (slot >= slots) {
      ++wrong;
      return;
    }
    if (busy[slot].fetch_add(1) != 0) ++wrong;
    std::this_thread::yield();
    busy[slot].fetch_sub(1);
  });
  CHECK(wrong == 0);
}

TEST_CASE("context: no more slots than items or than the caller's concurrency") {
  std::size_t slots = 0;
  nibble::context ctx = context_with(8, &on_threads, &slots);
  nibble::core::for_each_item(ctx, 3, [](std::size_t, std::size_t) {});
  CHECK(slots == 3);
  nibble::core::for_each_item(ctx, 100, [](std::size_t, std::size_t) {});
  CHECK(slots == 8);

  CHECK(nibble::core::slots_of(ctx, 0) == 1);
  CHECK(nibble::core::slots_of(ctx, 1) == 1);
  ctx.concurrency = 1;
  CHECK(nibble::core::slots_of(ctx, 100) == 1);
  ctx.concurrency = 0;
  CHECK(nibble::core::slots_of(ctx, 100) == 1);
  CHECK(nibble::core::slots_of(nibble::context{}, 100) == 1);
}

TEST_CASE("context: without parallel_for the items run in order on the calling thread") {
  std::vector<std::size_t> order;
  bool same_thread = true;
  const std::thread::id here = std::this_thread::get_id();
  nibble::core::for_each_item(nibble::context{}, 5, [&](std::size_t i, std::size_t slot) {
    order.push_back(i);
    same_thread = same_thread && slot == 0 && std::this_thread::get_id() == here;
  });
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3, 4});
  CHECK(same_thread);
}
