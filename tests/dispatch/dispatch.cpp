// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/dispatch/dispatch.hpp>

#include "dispatch/compare.hpp"

using namespace nibble;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
constexpr bool sanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool sanitized = false;
#endif

/// Nanoseconds of this thread's processor time for one call, the least of many batches.
template <class F>
double nanoseconds(F&& f) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
  };
  double least = std::numeric_limits<double>::infinity();
  for (int batch = 0; batch < 50; ++batch) {
    const double begin = now();
    for (int i = 0; i < 5000; ++i) f();
    least = std::min(least, (now() - begin) / 5000);
  }
  return least;
}

errc code_of(auto&& f) {
  try {
    f();
  } catch (const error& e) {
    return e.code();
  }
  return errc::ok;
}

struct product {
  any_qmatrix q = test::random_qmatrix({.bits = 4}, 33, 100, 1);
  packed_matrix w = pack_matrix(q.view());
  std::vector<float> x = test::normal_values(4 * 100, 2), y = std::vector<float>(4 * 33);
  span2d<const float> X() const { return make_span2d(x.data(), 4, 100); }
  span2d<float> Y() { return make_span2d(y.data(), 4, 33); }
};

}  // namespace

TEST_CASE("dispatch: the best tier of this CPU serves, and the baseline is always available") {
  const std::vector<std::string_view> tiers = dispatch::available();
  REQUIRE(!tiers.empty());
  CHECK(dispatch::active() == tiers.back());
  CHECK(tiers.front() == dispatch::detail::tiers(true).front());
}

TEST_CASE("dispatch: canonical rows and formats without a panel form are multiplied as well") {
  const format_desc flat{code_rule::symmetric, 4, granularity_kind::flat, scale_storage::f32, 32};
  const any_qmatrix q = test::random_qmatrix(flat, 7, 100, 3);  // 100 is no multiple of 32: blocks cross rows
  const std::vector<float> x = test::normal_values(300, 4);
  for (const computation c : {computation::integer, computation::weight_only}) {
    const gemm_options options{.computation = c};
    std::vector<float> y(21);
    const packed_view rows{layout_id::row_major, q.view()};
    dispatch::multiply(make_span2d(x.data(), 3, 100), rows, make_span2d(y.data(), 3, 7), options);
    if (c == computation::integer)
      CHECK(test::same_bits(y, test::scalar_product(make_span2d(x.data(), 3, 100), rows, options)));
    else CHECK(y[20] == doctest::Approx(test::scalar_product(make_span2d(x.data(), 3, 100), rows, options)[20]));
  }
}

TEST_CASE("dispatch: a pool, a context and the calling thread alone give the same bits") {
  product p;
  thread_pool pool(3);
  for (const computation c : {computation::integer, computation::weight_only}) {
    const gemm_options options{.computation = c};
    dispatch::multiply(p.X(), p.w, p.Y(), options);
    const std::vector<float> alone = p.y;
    std::fill(p.y.begin(), p.y.end(), 0.0f);
    dispatch::multiply(p.X(), p.w, p.Y(), pool, options);
    CHECK(test::same_bits(p.y, alone));
    aligned_vector<std::byte> scratch(dispatch::gemm_scratch_bytes(p.w.view(), 4, options, 2));
    context ctx = pool.context();
    ctx.concurrency = 2;
    ctx.scratch = scratch.data();
    ctx.scratch_bytes = scratch.size();
    std::fill(p.y.begin(), p.y.end(), 0.0f);
    dispatch::multiply(p.X(), p.w.view(), p.Y(), options, ctx);
    CHECK(test::same_bits(p.y, alone));
  }
}

TEST_CASE("dispatch: arguments are checked as everywhere") {
  product p;
  const context none;
  CHECK(code_of([&] { dispatch::multiply(p.X(), p.w.view(), p.Y(), {}, none); }) == errc::scratch_too_small);
  CHECK(code_of([&] { dispatch::multiply(make_span2d<const float>(p.x.data(), 4, 99), p.w, p.Y()); }) ==
        errc::bad_shape);
  packed_view empty;
  CHECK(code_of([&] { dispatch::gemm_scratch_bytes(empty, 1); }) == errc::bad_shape);
  const any_qmatrix table = test::random_qmatrix({code_rule::codebook, 4}, 33, 100, 1);
  CHECK(code_of([&] {
          dispatch::multiply(p.X(), pack_matrix(table.view()), p.Y(), {.computation = computation::integer});
        }) == errc::unsupported_format);
}

TEST_CASE("dispatch: a batch with an epilogue of this unit, half activations and results, equals the scalar backend") {
  const any_qmatrix a = test::random_qmatrix({.bits = 4}, 33, 100, 1),
                    b = test::random_qmatrix({.bits = 8}, 18, 100, 2);
  const packed_matrix A = pack_matrix(a.view()), B = pack_matrix(b.view());
  const std::vector<float> values = test::normal_values(500, 3), residual = test::normal_values(5 * 33, 4);
  std::vector<half> x(500);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = to_half(values[i]);
  const gemm_options options{.computation = computation::integer};
  thread_pool pool(2);
  const auto run = [&](auto&& multiply, std::vector<float>& ya, std::vector<half>& yb) {
    ya.assign(5 * 33, 0.0f);
    yb.assign(5 * 18, half{});
    const auto X = input_of(make_span2d<const half>(x.data(), 5, 100));
    const gemm_task tasks[] = {{X, A.view(), output_of(make_span2d(ya.data(), 5, 33)), nullptr},
                               {X, B.view(), output_of(make_span2d(yb.data(), 5, 18)), values.data()}};
    // Only the first task has a residual: the epilogue is told which one it serves.
    const auto each = [&](const gemm::output_row& at, float* v) noexcept {
      if (at.task == 0) gemm::add_matrix{make_span2d<const float>(residual.data(), 5, 33)}(at, v);
      else gemm::relu{}(at, v);
    };
    multiply(std::span<const gemm_task>(tasks), each);
  };
  std::vector<float> ya, expected_a;
  std::vector<half> yb, expected_b;
  run([&](std::span<const gemm_task> t, const auto& each) { dispatch::multiply(t, pool, options, each); }, ya, yb);
  run(
      [&](std::span<const gemm_task> t, const auto& each) {
        aligned_vector<std::byte> scratch(gemm::scalar::scratch_bytes(t, options, 1));
        context ctx;
        ctx.scratch = scratch.data();
        ctx.scratch_bytes = scratch.size();
        gemm::multiply<gemm::scalar>(t, options, ctx, each);
      },
      expected_a, expected_b);
  CHECK(test::same_bits(ya, expected_a));
  CHECK(std::equal(yb.begin(), yb.end(), expected_b.begin(), [](half p, half q) { return p.bits == q.bits; }));
  const auto no_epilogue = [&](std::span<const gemm_task> t, const auto&) { dispatch::multiply(t, pool, options); };
  run(no_epilogue, ya, yb);
  CHECK_FALSE(test::same_bits(ya, expected_a));
}

TEST_CASE("dispatch: multiply_as writes s8 codes") {
  product p;
  thread_pool pool(2);
  const gemm_options options{.computation = computation::integer};
  std::vector<std::int8_t> codes(4 * 33);
  dispatch::multiply(p.X(), p.w, p.Y(), options);
  dispatch::multiply_as(p.X(), p.w.view(), make_span2d(codes.data(), 4, 33), pool, options, gemm::no_epilogue{}, 0.25f);
  bool right = true;
  for (std::size_t i = 0; i < codes.size(); ++i)
    right = right && codes[i] == round_half_even(std::clamp(p.y[i] / 0.25f, -127.0f, 127.0f));
  CHECK(right);
}

TEST_CASE("dispatch: the chosen tier is a backend for templates on one") {
  product p;
  const packed_matrix rows = pack_matrix(p.q.view(), layout_id::row_major);
  CHECK(gemm::repack_for<dispatch::backend>(rows).layout() == layout_id::row_major);  // it multiplies every layout
  dispatch::multiply(p.X(), rows, p.Y(), {.computation = computation::integer});
  CHECK(test::same_bits(p.y, test::scalar_product(p.X(), rows.view(), {.computation = computation::integer})));
}

TEST_CASE("dispatch: costs less than 50 ns a call") {
  // What dispatch::multiply does beyond nibble::multiply: it looks for the table four times and makes three calls through
  // it. The table's shortest function stands in for all three.
  bool runs = true;
  const double added = nanoseconds([&] {
    dispatch::detail::table();
    for (int i = 0; i < 3; ++i) runs = runs && dispatch_chosen()->runs_here();
  });
  CHECK(runs);
  // No rows: the whole way of a call, its checks included, without a product at the end.
  product p;
  aligned_vector<std::byte> scratch(dispatch::gemm_scratch_bytes(p.w.view(), 1));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  const packed_view w = p.w.view();
  const double whole = nanoseconds([&] {
    dispatch::multiply({p.x.data(), 0, 100, 100}, w, {p.y.data(), 0, 33, 33}, {}, ctx);
  });
  MESSAGE("dispatch adds " << added << " ns to a call; a whole call without rows takes " << whole << " ns");
  if (!sanitized) CHECK(added < 50.0);
}
