// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/gemm/gemm.hpp>

#include "support/matrices.hpp"

namespace {

using namespace nibble;

constexpr format_desc grouped4{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
constexpr format_desc grouped3a{code_rule::asymmetric, 3, granularity_kind::grouped, scale_storage::f32, 64};
constexpr format_desc grouped5o{code_rule::asymmetric_offset, 5, granularity_kind::grouped, scale_storage::f32, 32};
constexpr format_desc channel8{code_rule::symmetric, 8, granularity_kind::per_channel, scale_storage::f32, 0};
constexpr format_desc mid2{code_rule::mid_rise, 2, granularity_kind::grouped, scale_storage::f16, 128};

constexpr gemm_options integer{.computation = computation::integer};

packed_matrix weights(const format_desc& f, std::size_t N, std::size_t K, unsigned seed) {
  return pack_matrix(test::random_qmatrix(f, N, K, seed).view());
}

std::vector<float> one_by_one(const gemm_task& t, const gemm_options& options) {
  std::vector<float> y(t.X.rows * t.W.matrix.N);
  gemm_options o = options;
  o.bias = t.bias;
  const auto x = make_span2d(static_cast<const float*>(t.X.data), t.X.rows, t.X.cols, t.X.stride);
  multiply(x, t.W, make_span2d(y.data(), t.X.rows, t.W.matrix.N), o);
  return y;
}

template <class T>
std::vector<T> rounded(const std::vector<float>& v) {
  std::vector<T> r(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) r[i] = round_to<T>(v[i]);
  return r;
}
template <class T>
std::vector<float> widened(const std::vector<T>& v) {
  std::vector<float> r(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) r[i] = to_float(v[i]);
  return r;
}

template <class F>
void check_error(errc code, const std::string& text, F&& f) {
  try {
    f();
    FAIL("no error; expected: ", text);
  } catch (const error& e) {
    CHECK(e.code() == code);
    CHECK_MESSAGE(std::string(e.what()).find(text) != std::string::npos, e.what());
  }
}

}  // namespace

TEST_CASE("batch: every task gets the bits that it gets alone, with shared and own activations, also without rows") {
  constexpr std::size_t K = 160;
  const packed_matrix all[] = {weights(grouped4, 33, K, 1), weights(grouped3a, 16, K, 2), weights(channel8, 50, K, 3),
                               weights(mid2, 7, K, 4), weights(grouped5o, 40, K, 5)};
  const auto bias = test::normal_values(50, 9);
  thread_pool pool(3);
  // Rows of each task's X; neighbours with the same number share one X.
  for (const auto& rows :
       {std::vector<std::size_t>{5, 5, 5, 5, 5}, {1, 1, 1, 1, 1}, {0, 3, 0, 40, 1}, {0, 0, 0, 0, 0}}) {
    for (const gemm_options& o : {gemm_options{}, integer}) {
      std::vector<std::vector<float>> x, y;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (i == 0 || rows[i] != rows[i - 1])
          x.push_back(test::normal_values(rows[i] * K, 20 + static_cast<unsigned>(i)));
        else x.push_back({});
        y.emplace_back(rows[i] * all[i].N(), -1.0f);
      }
      std::vector<gemm_task> tasks;
      const float* last = nullptr;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (!x[i].empty()) last = x[i].data();
        tasks.push_back({input_of(make_span2d(last, rows[i], K)), all[i].view(),
                         output_of(make_span2d(y[i].data(), rows[i], all[i].N())), i % 2 == 0 ? bias.data() : nullptr});
      }
      multiply(tasks, pool, o);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        CAPTURE(i);
        CAPTURE(rows[i]);
        CHECK(test::same_bits(y[i], one_by_one(tasks[i], o)));
      }
    }
  }
}

TEST_CASE("batch: an empty batch does nothing") { multiply(std::span<const gemm_task>(), gemm_options{}, context{}); }

TEST_CASE("batch: canonical rows and panels together") {
  const any_qmatrix rows = test::random_qmatrix(grouped4, 20, 64, 1);
  const packed_matrix panels = weights(channel8, 9, 64, 2);
  const auto x = test::normal_values(3 * 64, 3);
  std::vector<float> a(3 * 20), b(3 * 9);
  const gemm_task tasks[] = {
      {input_of(make_span2d(x.data(), 3, 64)),
       {layout_id::row_major, rows.view()},
       output_of(make_span2d(a.data(), 3, 20)),
       nullptr},
      {input_of(make_span2d(x.data(), 3, 64)), panels.view(), output_of(make_span2d(b.data(), 3, 9)), nullptr}};
  thread_pool pool(2);
  multiply(tasks, pool, integer);
  CHECK(test::same_bits(a, one_by_one(tasks[0], integer)));
  CHECK(test::same_bits(b, one_by_one(tasks[1], integer)));
}

TEST_CASE_TEMPLATE("batch: half and bfloat16 activations are the floats that they stand for, results are rounded once",
                   T, half, bfloat16) {
  for (const std::size_t K : {std::size_t{64}, std::size_t{77}}) {
    for (const std::size_t M : {std::size_t{1}, std::size_t{6}, std::size_t{19}}) {
      const packed_matrix W = weights(grouped4, 21, K, 1);
      const std::vector<T> x = rounded<T>(test::normal_values(M * K, 2));
      const std::vector<float> wide = widened(x);
      for (const gemm_options& o : {gemm_options{}, integer}) {
        CAPTURE(K);
        CAPTURE(M);
        std::vector<float> want(M * 21);
        multiply(make_span2d(wide.data(), M, K), W.view(), make_span2d(want.data(), M, 21), o);
        thread_pool pool(2);
        std::vector<float> y(M * 21);
        multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, 21), pool, o);
        CHECK(test::same_bits(y, want));
        std::vector<T> small(M * 21);
        multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(small.data(), M, 21), pool, o);
        CHECK(small == rounded<T>(want));
        gemm_options add = o;  // Y_new = rounded(Y + 2 * rounded Y), from the float before it is rounded
        add.beta = 2.0f;
        std::vector<T> sum = small;
        multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(sum.data(), M, 21), pool, add);
        std::vector<T> expected(M * 21);
        for (std::size_t i = 0; i < want.size(); ++i)
          expected[i] = round_to<T>(fused_multiply_add(2.0f, to_float(small[i]), want[i]));
        CHECK(sum == expected);
      }
    }
  }
}

TEST_CASE("batch: a fixed scale gives codes that clamp, s8 codes in and out") {
  constexpr std::size_t M = 5, N = 18, K = 96;
  const packed_matrix W = weights(channel8, N, K, 1);
  auto x = test::normal_values(M * K, 2);
  x[3] = 1e6f;
  x[7] = -1e6f;
  constexpr float scale = 0.03125f;
  std::vector<std::int8_t> codes(M * K);
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::int8_t>(std::nearbyint(std::fmin(std::fmax(x[i] / scale, -127.0f), 127.0f)));
  gemm_options o = integer;
  o.activations = activation_scales::fixed;
  o.x_scale = scale;
  thread_pool pool(2);
  std::vector<float> from_floats(M * N), from_codes(M * N);
  multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(from_floats.data(), M, N), pool, o);
  multiply_as(make_span2d(codes.data(), M, K), W.view(), make_span2d(from_codes.data(), M, N), pool, o);
  CHECK(test::same_bits(from_floats, from_codes));
  const quantized_view w = W.view().matrix;
  for (std::size_t m = 0; m < M; ++m)
    for (std::size_t n = 0; n < N; ++n) {
      std::int64_t sum = 0;
      for (std::size_t k = 0; k < K; ++k)
        sum += std::int64_t{codes[m * K + k]} *
               (static_cast<int>(pack::get_panel16(w.codes + n / 16 * pack::panel16::panel_bytes(K, 8), 8, n % 16, k)) -
                128);
      const float s = static_cast<const float*>(w.scales)[n];  // panels of 16 columns, one group
      CHECK(from_codes[m * N + n] == fused_multiply_add(static_cast<float>(sum), s, 0.0f) * scale);
    }

  constexpr float y_scale = 0.25f;
  std::vector<std::int8_t> y(M * N);
  multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), pool, o, gemm::no_epilogue{},
              y_scale);
  for (std::size_t i = 0; i < y.size(); ++i)
    CHECK(int{y[i]} ==
          static_cast<int>(std::nearbyint(std::fmin(std::fmax(from_codes[i] / y_scale, -127.0f), 127.0f))));
}

TEST_CASE("batch: scales for each token and group follow the law, every rule") {
  constexpr std::size_t N = 19;
  for (const format_desc& f : {grouped4, grouped3a, grouped5o, mid2}) {
    for (const std::size_t K : {std::size_t{256}, std::size_t{200}}) {
      for (const std::size_t M : {std::size_t{1}, std::size_t{7}, std::size_t{18}}) {
        CAPTURE(test::describe(f));
        CAPTURE(K);
        CAPTURE(M);
        const any_qmatrix q = test::random_qmatrix(f, N, K, 1);
        const packed_matrix W = pack_matrix(q.view());
        const auto x = test::normal_values(M * K, 2);
        gemm_options o = integer;
        o.activations = activation_scales::per_token_and_group;
        std::vector<float> y(M * N), scalar(M * N);
        multiply(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), o);
        aligned_vector<std::byte> scratch(gemm::scalar::scratch_bytes(W.view(), M, o, 1));
        context ctx;
        ctx.scratch = scratch.data();
        ctx.scratch_bytes = scratch.size();
        gemm::multiply<gemm::scalar>(make_span2d(x.data(), M, K), W.view(), make_span2d(scalar.data(), M, N), o, ctx);
        CHECK(test::same_bits(y, scalar));

        const std::size_t group = f.group_size, groups = ceil_div(K, group);
        for (std::size_t m = 0; m < M; ++m)
          for (std::size_t n = 0; n < N; ++n) {
            float acc = 0.0f;
            for (std::size_t g = 0; g < groups; ++g) {
              const std::size_t from = g * group, to = std::min(K, from + group);
              float largest = 0.0f;
              for (std::size_t k = from; k < to; ++k) largest = std::fmax(largest, std::fabs(x[m * K + k]));
              const float token = largest / 127.0f;
              const int shift = f.rule == code_rule::mid_rise ? 1 : 0;
              const float zero = f.rule == code_rule::asymmetric          ? quant::zero_at(q.view(), n * groups + g)
                                 : f.rule == code_rule::asymmetric_offset ? 0.0f
                                                                          : static_cast<float>(1 << (f.bits - 1));
              const int z = shift == 0 ? static_cast<int>(zero) : 2 * static_cast<int>(zero) - 1;
              std::int32_t sum = 0, x_sum = 0;
              for (std::size_t k = from; k < to; ++k) {
                const auto a = static_cast<std::int32_t>(std::nearbyint(x[m * K + k] / token));
                const unsigned u = pack::get(q.view().codes + n * q.view().row_stride_bytes, k, f.bits);
                sum += a * static_cast<std::int32_t>(u);
                x_sum += a;
              }
              const float level = static_cast<float>((sum << shift) - z * x_sum) * (shift == 0 ? 1.0f : 0.5f) * token;
              acc = fused_multiply_add(level, quant::scale_at(q.view(), n * groups + g), acc);
              if (f.rule == code_rule::asymmetric_offset)
                acc = fused_multiply_add(static_cast<float>(x_sum) * token, quant::zero_at(q.view(), n * groups + g),
                                         acc);
            }
            CHECK(y[m * N + n] == acc);
          }
      }
    }
  }
}

TEST_CASE("batch: a row that is not finite is NaN, and no other, whatever the scales; s8 results mark it with -128") {
  constexpr std::size_t M = 4, N = 17, K = 96;
  const packed_matrix W = weights(grouped4, N, K, 1);
  auto x = test::normal_values(M * K, 2);
  x[K + 70] = std::numeric_limits<float>::quiet_NaN();
  x[3 * K] = -std::numeric_limits<float>::infinity();
  for (const auto scales :
       {activation_scales::per_token, activation_scales::per_token_and_group, activation_scales::fixed}) {
    gemm_options o = integer;
    o.activations = scales;
    o.x_scale = 0.5f;
    std::vector<float> y(M * N);
    multiply(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), o);
    thread_pool pool(1);
    std::vector<std::int8_t> codes(M * N);
    multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(codes.data(), M, N), pool, o, gemm::no_epilogue{},
                1.0f);
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t n = 0; n < N; ++n) {
        CAPTURE(m);
        CAPTURE(static_cast<int>(scales));
        CHECK(std::isnan(y[m * N + n]) == (m % 2 == 1));
        CHECK((codes[m * N + n] == -128) == (m % 2 == 1));
      }
  }
}

TEST_CASE("batch: an epilogue sees each element once, with scales and bias, before beta and rounding") {
  for (const std::size_t M : {std::size_t{1}, std::size_t{3}, std::size_t{300}}) {
    constexpr std::size_t N = 37, K = 64;
    const packed_matrix W = weights(grouped4, N, K, 1);
    const auto x = test::normal_values(M * K, 2), bias = test::normal_values(N, 3);
    for (gemm_options o : {gemm_options{}, integer}) {
      o.bias = bias.data();
      std::vector<float> plain(M * N);
      multiply(make_span2d(x.data(), M, K), W.view(), make_span2d(plain.data(), M, N), o);
      std::vector<float> y(M * N, 0.5f), seen(M * N);
      std::vector<std::atomic<int>> times(M * N);
      o.beta = 2.0f;
      thread_pool pool(3);
      multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), pool, o,
                  [&](const gemm::output_row& at, float* v) noexcept {
                    for (std::size_t i = 0; i < at.count; ++i) {
                      seen[at.m * N + at.n0 + i] = v[i];
                      ++times[at.m * N + at.n0 + i];
                      v[i] = 3.0f;
                    }
                  });
      CAPTURE(M);
      CHECK(test::same_bits(seen, plain));
      CHECK(std::all_of(times.begin(), times.end(), [](const auto& t) { return t == 1; }));
      CHECK(std::all_of(y.begin(), y.end(), [](float v) { return v == 4.0f; }));
    }
  }
}

TEST_CASE("batch: relu, a residual in place and a gate in a chain") {
  constexpr std::size_t M = 6, N = 20, K = 32;
  const packed_matrix W = weights(grouped4, N, K, 1);
  const auto x = test::normal_values(M * K, 2), gate = test::normal_values(M * N, 3),
             old = test::normal_values(M * N, 4);
  std::vector<float> plain(M * N), y = old;
  multiply(make_span2d(x.data(), M, K), W.view(), make_span2d(plain.data(), M, N));
  thread_pool pool(2);
  const auto Y = make_span2d(y.data(), M, N);
  multiply_as(make_span2d(x.data(), M, K), W.view(), Y, pool, {},
              gemm::chain{gemm::relu{}, gemm::multiply_matrix{make_span2d(gate.data(), M, N)}, gemm::add_matrix{Y}});
  for (std::size_t i = 0; i < y.size(); ++i)
    CHECK(y[i] == rounded_product(plain[i] < 0.0f ? 0.0f : plain[i], gate[i]) + old[i]);
}

TEST_CASE("batch: SiLU and GELU as epilogues are the functions of the finished values") {
  constexpr std::size_t M = 3, N = 37, K = 64;
  const packed_matrix W = weights(grouped4, N, K, 1);
  const auto x = test::normal_values(M * K, 2), up = test::normal_values(M * N, 3);
  std::vector<float> plain(M * N), y(M * N);
  multiply(make_span2d(x.data(), M, K), W.view(), make_span2d(plain.data(), M, N));
  thread_pool pool(2);
  std::vector<float> want = plain;
  kernels::activation<isa::native>::gelu_tanh(want.data(), want.size());
  multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), pool, {}, gemm::gelu_tanh{});
  CHECK(test::same_bits(y, want));
  want = plain;
  kernels::activation<isa::native>::silu(want.data(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) want[i] *= up[i];
  multiply_as(make_span2d(x.data(), M, K), W.view(), make_span2d(y.data(), M, N), pool, {},
              gemm::chain{gemm::silu{}, gemm::multiply_matrix{make_span2d(up.data(), M, N)}});
  CHECK(test::same_bits(y, want));
}

TEST_CASE("batch: what is wrong is said with the task's number") {
  const packed_matrix W = weights(grouped4, 16, 64, 1), P = weights(channel8, 16, 64, 1);
  std::vector<float> x(2 * 64, 1.0f), y(2 * 16), z(2 * 16);
  const auto task = [&](const packed_matrix& w, std::vector<float>& out) {
    return gemm_task{input_of(make_span2d(x.data(), 2, 64)), w.view(), output_of(make_span2d(out.data(), 2, 16)),
                     nullptr};
  };
  thread_pool pool(1);
  std::vector<gemm_task> tasks{task(W, y), task(W, z)};
  const auto run = [&](const gemm_options& o = {}) { multiply(tasks, pool, o); };
  tasks[1].X.cols = 63;
  check_error(errc::bad_shape, "task 1: X has 63 columns, W[N, K] has K = 64", run);
  tasks[1] = task(W, y);
  check_error(errc::aliasing, "task 0: Y overlaps Y of task 1", run);
  tasks[1] = task(W, z);
  tasks[1].Y.data = x.data();
  check_error(errc::aliasing, "Y overlaps X", run);
  tasks[1] = task(P, z);
  gemm_options o = integer;
  o.activations = activation_scales::per_token_and_group;
  check_error(errc::unsupported_format, "task 1: backend", [&] { run(o); });
  o.activations = activation_scales::fixed;
  check_error(errc::bad_value, "finite x_scale above 0, not 0", [&] { run(o); });
  o.x_scale = std::numeric_limits<float>::infinity();
  check_error(errc::bad_value, "not inf", [&] { run(o); });
  check_error(errc::unsupported_format, "a fixed activation scale",
              [&] { run({.activations = activation_scales::fixed, .x_scale = 1.0f}); });
  tasks[1] = task(P, z);
  std::vector<std::int8_t> codes(2 * 64);
  codes[64 + 5] = -128;
  tasks[1].X = input_of(make_span2d<const std::int8_t>(codes.data(), 2, 64));
  check_error(errc::bad_value, "X of s8 codes needs", [&] { run(integer); });
  o.x_scale = 1.0f;
  check_error(errc::bad_value, "X[1, 5] is -128", [&] { run(o); });
  tasks[1] = task(P, z);
  tasks[1].Y = output_of(make_span2d(codes.data(), 2, 16));
  check_error(errc::bad_value, "Y of s8 codes needs a finite scale above 0, not 0", run);
  tasks[1] = task(P, z);
  const float bias[16] = {};
  check_error(errc::bad_value, "each task of a batch has its own bias", [&] { run({.bias = bias}); });
}
