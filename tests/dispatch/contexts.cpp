// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/dispatch/dispatch.hpp>

#include "dispatch/compare.hpp"

using namespace nibble;

namespace {

struct product {
  explicit product(unsigned seed)
      : q(test::random_qmatrix({.bits = 4}, 70, 96, seed)),
        w(pack_matrix(q.view())),
        x(test::normal_values(960, seed)) {}
  span2d<const float> X() const { return make_span2d(x.data(), 10, 96); }
  any_qmatrix q;
  packed_matrix w;
  std::vector<float> x, y = std::vector<float>(700);
  span2d<float> Y() { return make_span2d(y.data(), 10, 70); }
};

}  // namespace

TEST_CASE("contexts: two callers with two contexts are inside their products at the same time") {
  // Each caller's parallel_for waits until the other caller has come to its own: with a lock between them, in vain.
  struct meeting {
    std::atomic<int> inside{0}, met{0};
  } both;
  const auto parallel_for = [](void* user, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    auto& m = *static_cast<meeting*>(user);
    thread_local bool waited = false;
    if (!waited) {
      waited = true;
      ++m.inside;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (m.inside < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
      m.met += m.inside == 2;
    }
    for (std::size_t s = 0; s < slots; ++s) body(arg, s);
  };
  std::atomic<int> right{0};
  const auto caller = [&](unsigned seed) {
    product p(seed);
    const gemm_options options{.computation = computation::integer};
    context ctx;
    ctx.user = &both;
    ctx.parallel_for = parallel_for;
    ctx.concurrency = 2;
    aligned_vector<std::byte> scratch(dispatch::gemm_scratch_bytes(p.w.view(), 10, options, 2));
    ctx.scratch = scratch.data();
    ctx.scratch_bytes = scratch.size();
    dispatch::multiply(p.X(), p.w.view(), p.Y(), options, ctx);
    right += test::same_bits(p.y, test::scalar_product(p.X(), p.w.view(), options));
  };
  std::thread first(caller, 1), second(caller, 2);
  first.join();
  second.join();
  CHECK(both.met == 2);
  CHECK(right == 2);
}

TEST_CASE("contexts: two callers with pools of their own, or one pool between them, get the right bits every time") {
  thread_pool shared(2);
  std::atomic<int> wrong{0};
  const auto caller = [&](unsigned seed) {
    product p(seed);
    thread_pool own(2);
    for (const computation c : {computation::integer, computation::weight_only}) {
      const gemm_options options{.computation = c};
      dispatch::multiply(p.X(), p.w, p.Y(), options);
      const std::vector<float> expected = p.y;
      for (int i = 0; i < 100; ++i) {
        p.y.assign(p.y.size(), 0.0f);
        dispatch::multiply(p.X(), p.w, p.Y(), i % 2 == 0 ? own : shared, options);
        wrong += !test::same_bits(p.y, expected);
      }
    }
  };
  std::thread first(caller, 1), second(caller, 2);
  first.join();
  second.join();
  CHECK(wrong == 0);
}
