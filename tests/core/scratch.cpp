// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include <nibble/core/scratch.hpp>

using namespace nibble;

TEST_CASE("scratch: memory is kept from call to call and grows") {
  core::scratch_keeper keeper;
  const std::byte* first = nullptr;
  keeper.lend({}, 1000, [&](const context& c) {
    CHECK(c.scratch_bytes >= 1000);
    CHECK(reinterpret_cast<std::uintptr_t>(c.scratch) % 64 == 0);
    first = c.scratch;
  });
  keeper.lend({}, 10, [&](const context& c) {
    CHECK(c.scratch == first);
    CHECK(c.scratch_bytes >= 1000);
  });
  keeper.lend({}, 5000, [&](const context& c) { CHECK(c.scratch_bytes >= 5000); });
}

TEST_CASE("scratch: a call inside a call, or on another thread meanwhile, gets other memory") {
  core::scratch_keeper keeper;
  keeper.lend({}, 100, [&](const context& a) {
    keeper.lend({}, 50, [&](const context& b) { CHECK(a.scratch != b.scratch); });
    std::thread([&] { keeper.lend({}, 50, [&](const context& b) { CHECK(a.scratch != b.scratch); }); }).join();
  });
}

TEST_CASE("scratch: an exception gives the memory back") {
  core::scratch_keeper keeper;
  const std::byte* first = nullptr;
  CHECK_THROWS_AS(keeper.lend({}, 64,
                              [&](const context& c) {
                                first = c.scratch;
                                throw std::runtime_error("stop");
                              }),
                  std::runtime_error);
  keeper.lend({}, 64, [&](const context& c) { CHECK(c.scratch == first); });
}

TEST_CASE("scratch: the context's threads and the function's result pass through") {
  core::scratch_keeper keeper;
  context ctx;
  ctx.concurrency = 7;
  CHECK(keeper.lend(ctx, 1, [](const context& c) { return c.concurrency; }) == 7);
}
