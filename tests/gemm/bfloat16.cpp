// SPDX-License-Identifier: MIT
//
// computation::bfloat16: its stated error, its rounding, and what holds on every instruction set.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/testing/law.hpp>

#include "support/matrices.hpp"

namespace {

using namespace nibble;

constexpr gemm_options bf16{.computation = computation::bfloat16};
constexpr float inf = std::numeric_limits<float>::infinity(), most = 0x1.fep127f;

template <class B>
std::vector<float> run(span2d<const float> x, const packed_view& w, const gemm_options& o = bf16,
                       thread_pool* pool = nullptr) {
  std::vector<float> y(x.rows * w.matrix.N);
  aligned_vector<std::byte> scratch(B::scratch_bytes(w, x.rows, o, pool == nullptr ? 1 : pool->size()));
  context ctx = pool == nullptr ? context{} : pool->context();
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  gemm::multiply<B>(x, w, make_span2d(y.data(), x.rows, w.matrix.N), o, ctx);
  return y;
}

packed_view as_rows(const any_qmatrix& m) { return {layout_id::row_major, m.view()}; }

struct shape {
  std::size_t M, N, K;
};
/// Below, at and above tiles of 16 columns, 16 and 32 rows, and steps of 32 k; the last one is more than a block of k.
constexpr shape shapes[] = {{1, 1, 1},    {1, 17, 32},  {2, 16, 33},  {3, 15, 31}, {5, 33, 100},
                            {16, 32, 64}, {17, 40, 95}, {33, 18, 96}, {37, 3, 36}, {4, 34, 1100}};

/// The greatest share of `bound` that any element of y uses up; above 1 it is broken.
template <class Bound>
double share_of(const any_qmatrix& w, const std::vector<float>& x, std::size_t M, const std::vector<float>& y,
                Bound&& bound) {
  const testing::law_weights law(w.view());
  double worst = 0.0;
  for (std::size_t m = 0; m < M; ++m) {
    const testing::law_token token{std::span<const float>(x.data() + m * w.K(), w.K())};
    for (std::size_t n = 0; n < w.N(); ++n) {
      const testing::bounded_element e = bound(law, token, n);
      const double error = std::abs(static_cast<double>(y[m * w.N() + n]) - e.exact);
      worst = std::max(worst, error <= e.bound ? error / e.bound : 2.0);
    }
  }
  return worst;
}
testing::bounded_element rounded_operands(const testing::law_weights& w, const testing::law_token& x, std::size_t n) {
  return testing::bfloat16_element(w, x, n, bf16, 0.0f);
}

/// One column with the code 1 everywhere, unsigned, scale `scale`: its value is the scale.
any_qmatrix constant(std::size_t K, float scale, float offset = 0.0f) {
  any_qmatrix w({code_rule::asymmetric_offset, 8, granularity_kind::per_channel, scale_storage::f32, 0}, 1, K);
  std::fill(w.codes().begin(), w.codes().end(), std::byte{1});
  std::memcpy(w.scale_plane().data(), &scale, sizeof scale);
  std::memcpy(w.zero_plane().data(), &offset, sizeof offset);
  return w;
}

}  // namespace

TEST_CASE("bfloat16: products of rounded operands, added in float: every format, rows and panels, ragged shapes") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits, {8, 32})) {
      const shape& first = shapes[static_cast<std::size_t>(bits) % std::size(shapes)];
      for (const shape& s : {first, bits % 2 == 0 ? shapes[4] : shapes[7]}) {
        const any_qmatrix w = test::random_qmatrix(f, s.N, s.K, static_cast<unsigned>(bits) + 20);
        const auto x = test::normal_values(s.M * s.K, 5);
        const auto X = make_span2d(x.data(), s.M, s.K);
        CAPTURE(test::describe(f));
        CAPTURE(s.M);
        CAPTURE(s.K);
        const auto rows = run<gemm::scalar>(X, as_rows(w));
        CHECK(share_of(w, x, s.M, rows, rounded_operands) <= 1.0);
        if (can_pack(f, s.K, layout_id::panel16) != errc::ok) continue;
        const packed_matrix p = pack_matrix(w.view(), layout_id::panel16);
        CHECK(test::same_bits(rows, run<gemm::scalar>(X, p.view())));
        const auto y = run<gemm::simd>(X, p.view());
        CHECK(share_of(w, x, s.M, y, rounded_operands) <= 1.0);
        // Elsewhere than on tiles the same chain of additions; without FMA a product may round where it is subnormal.
        if (!std::is_same_v<kernels::gemm_panel<isa::native>::isa_type, isa::amx_bf16>) CHECK(test::same_bits(rows, y));
      }
    }
  }
}

TEST_CASE("bfloat16: every shape") {
  const format_desc f{code_rule::asymmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  for (const shape& s : shapes) {
    const any_qmatrix w = test::random_qmatrix(f, s.N, s.K, 9);
    const auto x = test::normal_values(s.M * s.K, 6);
    CAPTURE(s.M);
    CAPTURE(s.N);
    CAPTURE(s.K);
    const packed_matrix p = pack_matrix(w.view());
    CHECK(share_of(w, x, s.M, run<gemm::simd>(make_span2d(x.data(), s.M, s.K), p.view()), rounded_operands) <= 1.0);
  }
}

TEST_CASE("bfloat16: the stated error holds against the exact product with the decoded weights, and is used") {
  double worst = 0.0;
  for (const code_rule rule : {code_rule::symmetric, code_rule::asymmetric_offset, code_rule::codebook})
    for (const shape& s : {shape{3, 40, 1}, shape{3, 40, 7}, shape{2, 20, 500}}) {
      const format_desc f{rule, 6, granularity_kind::grouped, scale_storage::f32, 32};
      const any_qmatrix w = test::random_qmatrix(f, s.N, s.K, 4);
      const auto x = test::normal_values(s.M * s.K, 3);
      const packed_matrix p = pack_matrix(w.view());
      const double share = share_of(
          w, x, s.M, run<gemm::simd>(make_span2d(x.data(), s.M, s.K), p.view()),
          [&](const testing::law_weights& law, const testing::law_token& token, std::size_t n) {
            testing::bounded_element e = testing::exact_element(law, token, n, bf16, 0.0f, 0x1p-7 + 0x1p-15, 0x1p-24);
            // Its sum of |x| |w| counts offsets apart; the stated error does not.
            double magnitude = 0.0;
            for (std::size_t k = 0; k < w.K(); ++k)
              magnitude += std::abs(static_cast<double>(token.x[k]) * gemm::reference::weight(as_rows(w), n, k));
            e.bound = (0x1p-7 + 0x1p-15 + (2.0 * static_cast<double>(w.K()) + 8.0) * 0x1p-24) * magnitude;
            return e;
          });
      CAPTURE(static_cast<int>(rule));
      CAPTURE(s.K);
      CHECK(share <= 1.0);
      worst = std::max(worst, share);
    }
  CHECK(worst > 0.5);
}

TEST_CASE("bfloat16: the reference rounds its operands") {
  for (const format_desc& f : test::all_formats(5, {8})) {
    const any_qmatrix w = test::random_qmatrix(f, 9, 40, 5);
    const auto x = test::normal_values(3 * 40, 6);
    CAPTURE(test::describe(f));
    const auto y = run<gemm::reference>(make_span2d(x.data(), 3, 40), as_rows(w));
    CHECK(share_of(w, x, 3, y, rounded_operands) <= 1.0);
    CHECK_FALSE(test::same_bits(y, run<gemm::reference>(make_span2d(x.data(), 3, 40), as_rows(w), {})));
  }
}

TEST_CASE("bfloat16: bits depend neither on the number of threads, nor on the split of M, nor on the batch") {
  thread_pool pool(3);
  for (const format_desc& f :
       {format_desc{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32},
        format_desc{code_rule::asymmetric_offset, 3, granularity_kind::per_channel, scale_storage::f32, 0},
        format_desc{code_rule::codebook, 5, granularity_kind::grouped, scale_storage::double_quant, 64}}) {
    const std::size_t M = gemm::mc + 13, N = 51, K = 550;
    const packed_matrix p = pack_matrix(test::random_qmatrix(f, N, K, 2).view());
    const auto x = test::normal_values(M * K, 3);
    const auto whole = run<gemm::simd>(make_span2d(x.data(), M, K), p.view());
    CHECK(test::same_bits(whole, run<gemm::simd>(make_span2d(x.data(), M, K), p.view(), bf16, &pool)));
    std::vector<float> split;
    for (std::size_t m = 0; m < M;) {
      const std::size_t rows = std::min(M - m, 1 + m % 37);
      const auto part = run<gemm::simd>(make_span2d(x.data() + m * K, rows, K), p.view());
      split.insert(split.end(), part.begin(), part.end());
      m += rows;
    }
    CHECK(test::same_bits(whole, split));

    std::vector<float> a(2 * N), b(3 * N);
    const gemm_task tasks[] = {
        {input_of(make_span2d(x.data(), 2, K)), p.view(), output_of(make_span2d(a.data(), 2, N)), nullptr},
        {input_of(make_span2d(x.data() + 2 * K, 3, K)), p.view(), output_of(make_span2d(b.data(), 3, N)), nullptr}};
    multiply(tasks, pool, bf16);
    CHECK(test::same_bits(a, std::span(whole).first(2 * N)));
    CHECK(test::same_bits(b, std::span(whole).subspan(2 * N, 3 * N)));
  }
}

TEST_CASE_TEMPLATE("bfloat16: half and bfloat16 activations are the floats that they stand for", T, half, bfloat16) {
  thread_pool pool(2);
  for (const std::size_t K : {std::size_t{64}, std::size_t{77}}) {
    const std::size_t M = 19, N = 21;
    const packed_matrix p = pack_matrix(
        test::random_qmatrix({code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32}, N, K, 1)
            .view());
    std::vector<T> x(M * K);
    std::vector<float> wide(M * K), y(M * N);
    const auto values = test::normal_values(M * K, 2);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = round_to<T>(values[i]), wide[i] = to_float(x[i]);
    multiply_as(make_span2d(x.data(), M, K), p.view(), make_span2d(y.data(), M, N), pool, bf16);
    CHECK(test::same_bits(y, run<gemm::simd>(make_span2d(wide.data(), M, K), p.view())));
  }
}

TEST_CASE("bfloat16: a non-finite activation makes its own row NaN and touches no other") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 20, 70, 2).view());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), inf, -inf})
    for (const std::size_t M : {std::size_t{3}, std::size_t{21}}) {
      auto x = test::normal_values(M * 70, 4);
      const auto clean = run<gemm::simd>(make_span2d(x.data(), M, 70), p.view());
      x[70 + 69] = bad;
      const auto y = run<gemm::simd>(make_span2d(x.data(), M, 70), p.view());
      for (std::size_t i = 0; i < M * 20; ++i) {
        if (i / 20 == 1) CHECK(std::isnan(y[i]));
        else CHECK(y[i] == clean[i]);
      }
    }
}

TEST_CASE("bfloat16: ties go to even, and what is beyond the greatest number becomes that") {
  struct {
    float x, want;
  } const cases[] = {{1.0f, 1.0f},
                     {0x1.01p0f, 1.0f},
                     {0x1.03p0f, 0x1.04p0f},
                     {-0x1.01p0f, -1.0f},
                     {0x1.010002p0f, 0x1.02p0f},
                     {most, most},
                     {0x1.fefffep127f, most},
                     {0x1.ffp127f, most},
                     {0x1.fffffep127f, most},
                     {-0x1.fffffep127f, -most}};
  for (const auto& c : cases) {
    CAPTURE(c.x);
    const any_qmatrix one = constant(1, 1.0f), same = constant(1, c.x), sum = constant(1, c.x / 2, c.x / 2);
    for (const std::size_t M : {std::size_t{1}, std::size_t{20}}) {
      std::vector<float> x(M, c.x), ones(M, 1.0f);
      const auto X = make_span2d<const float>(x.data(), M, 1), Ones = make_span2d<const float>(ones.data(), M, 1);
      CHECK(run<gemm::simd>(X, pack_matrix(one.view()).view()).back() == c.want);
      CHECK(run<gemm::simd>(Ones, pack_matrix(same.view()).view()).back() == c.want);
      CHECK(run<gemm::simd>(Ones, pack_matrix(sum.view()).view()).back() == c.want);
      CHECK(run<gemm::scalar>(X, as_rows(one)).back() == c.want);
      CHECK(run<gemm::scalar>(Ones, as_rows(same)).back() == c.want);
      CHECK(run<gemm::reference>(X, as_rows(one)).back() == c.want);
      CHECK(run<gemm::reference>(Ones, as_rows(same)).back() == c.want);
    }
  }
}

TEST_CASE("bfloat16: a weight whose value leaves the range of float is the greatest number, not infinity or NaN") {
  any_qmatrix w({code_rule::symmetric, 8, granularity_kind::grouped, scale_storage::f32, 32}, 3, 70);
  for (std::size_t i = 0; i < w.codes().size(); ++i) w.codes()[i] = std::byte{255};  // 127 steps
  const float scale = 1e38f;
  for (std::size_t i = 0; i < w.scale_count(); ++i) std::memcpy(&w.scale_plane()[i * 4], &scale, 4);
  std::vector<float> x(2 * 70, 0.0f);
  x[5] = 0.5f, x[70 + 33] = -0x1p-100f;
  for (const auto& y : {run<gemm::simd>(make_span2d<const float>(x.data(), 2, 70), pack_matrix(w.view()).view()),
                        run<gemm::scalar>(make_span2d<const float>(x.data(), 2, 70), as_rows(w))})
    for (std::size_t n = 0; n < 3; ++n) {
      CHECK(y[n] == 0.5f * most);
      CHECK(y[3 + n] == -0x1p-100f * most);
    }
}

TEST_CASE("bfloat16: numbers below 2^-126 are at most 2^-126 away from what they stand for") {
  for (const float size : {0x1p-149f, 0x1p-134f, 0x1.8p-127f, 0x1p-126f}) {
    const std::size_t K = 40;
    const any_qmatrix w = constant(K, size);
    const std::vector<float> x(3 * K, size);
    CAPTURE(size);
    CHECK(share_of(w, x, 3, run<gemm::simd>(make_span2d(x.data(), 3, K), pack_matrix(w.view()).view()),
                   rounded_operands) <= 1.0);
  }
}

TEST_CASE("bfloat16: bias, beta and a NaN scale mean what they mean elsewhere") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  any_qmatrix w = test::random_qmatrix(f, 21, 64, 2);
  const auto x = test::normal_values(2 * 64, 4), bias = test::normal_values(21, 5), old = test::normal_values(42, 6);
  const auto plain = run<gemm::simd>(make_span2d(x.data(), 2, 64), pack_matrix(w.view()).view());
  std::vector<float> y = old;
  gemm_options o = bf16;
  o.bias = bias.data();
  o.beta = -0.5f;
  multiply(make_span2d(x.data(), 2, 64), pack_matrix(w.view()), make_span2d(y.data(), 2, 21), o);
  for (std::size_t i = 0; i < 42; ++i) CHECK(y[i] == fused_multiply_add(-0.5f, old[i], plain[i] + bias[i % 21]));

  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(w.scale_plane().data(), &nan, sizeof nan);
  const auto damaged = run<gemm::simd>(make_span2d(x.data(), 2, 64), pack_matrix(w.view()).view());
  for (std::size_t i = 0; i < 42; ++i) {
    if (i % 21 == 0) CHECK(std::isnan(damaged[i]));
    else CHECK(damaged[i] == plain[i]);
  }
}

TEST_CASE("bfloat16: refused with scales of activations, and the refusal names it") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f32, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 5, 64, 2).view());
  const auto x = test::normal_values(64, 4);
  std::vector<float> y(5);
  gemm_options o = bf16;
  o.activations = activation_scales::per_token_and_group;
  CHECK_THROWS_WITH_AS(multiply(make_span2d(x.data(), 1, 64), p, make_span2d(y.data(), 1, 5), o),
                       doctest::Contains("bfloat16 computation, activation scales for each group"), error);
}
