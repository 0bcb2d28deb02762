// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <thread>

#include <nibble/testing/guard_page.hpp>

namespace {

using namespace nibble;
using testing::guarded;
using testing::placement;

template <class T>
void read(const T* p) {
  (void)*static_cast<const volatile T*>(p);
}

#if NIBBLE_TESTING_PAGES
const testing::guarded_bytes* opened_by_handler = nullptr;
void open_page(int, siginfo_t*, void*) { opened_by_handler->open(); }
#endif

}  // namespace

TEST_CASE("guard_page: data is as long and as aligned as asked, at either end") {
  for (const std::size_t size : {0u, 1u, 63u, 4096u, 4097u})
    for (const placement where : {placement::at_end, placement::at_begin})
      for (const std::size_t alignment : {1u, 64u}) {
        const guarded<std::uint8_t> g(size, where, alignment);
        REQUIRE(g.data() != nullptr);
        CHECK(g.size() == size);
        CHECK(reinterpret_cast<std::uintptr_t>(g.data()) % alignment == 0);
        for (std::uint8_t& byte : g) byte = 1;
        CHECK(g.bytes().intact());
      }
}

TEST_CASE("guard_page: a write into the rest of the page is seen") {
  const guarded<std::uint8_t> at_end(10), at_begin(10, placement::at_begin);
  at_end.data()[-1] = 0;
  at_begin.data()[10] = 0;
  CHECK_FALSE(at_end.bytes().intact());
  CHECK_FALSE(at_begin.bytes().intact());
}

#if NIBBLE_TESTING_PAGES
TEST_CASE("guard_page: a touch of a forbidden page is noted with its place, and the program goes on") {
  testing::fault_watch watch;
  for (const std::size_t size : {1u, 100u, 5000u}) {
    const guarded<std::uint8_t> g(size), front(size, placement::at_begin);
    watch.clear();
    watch.add(g.bytes(), "a");
    watch.add(front.bytes(), "b");
    CHECK_FALSE(watch.take());
    read(g.data() + size + 7);
    REQUIRE(watch.take());
    CHECK(watch.take()->offset == 7);
    CHECK(watch.take()->name == std::string("a"));
    CHECK_FALSE(watch.take()->written);

    watch.clear();
    watch.add(front.bytes(), "b");
    static_cast<volatile std::uint8_t*>(front.data())[-3] = 1;
    REQUIRE(watch.take());
    CHECK(watch.take()->offset == -3);
    CHECK(watch.take()->written);
    watch.clear();
  }
}

TEST_CASE("guard_page: a touch on another thread is noted") {
  const guarded<float> g(5);
  testing::fault_watch watch;
  watch.add(g.bytes(), "floats");
  std::thread([&] { read(g.data() + 5); }).join();
  REQUIRE(watch.take());
  CHECK(watch.take()->offset == 0);
}

TEST_CASE("guard_page: other faults go to the handler of before, which is there again afterwards") {
  struct sigaction act = {}, before = {}, now = {};
  act.sa_sigaction = &open_page;
  act.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &act, &before);
  const guarded<std::uint8_t> watched(8), other(8);
  opened_by_handler = &other.bytes();
  {
    testing::fault_watch watch;
    watch.add(watched.bytes(), "watched");
    read(other.data() + 8);
    CHECK_FALSE(watch.take());
    read(watched.data() + 8);  // the watch still stands
    CHECK(watch.take());
  }
  sigaction(SIGSEGV, &before, &now);
  const bool restored = now.sa_sigaction == &open_page;
  CHECK(restored);
}
#endif
