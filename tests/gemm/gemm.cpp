// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/tensor/quantize.hpp>

#include "support/matrices.hpp"

namespace {

using namespace nibble;

template <class B>
std::vector<float> run(span2d<const float> x, const packed_view& w, const gemm_options& options = {},
                       std::vector<float> y = {}, thread_pool* pool = nullptr) {
  y.resize(x.rows * w.matrix.N);
  aligned_vector<std::byte> scratch(B::scratch_bytes(w, x.rows, options, pool == nullptr ? 1 : pool->size()));
  context ctx = pool == nullptr ? context{} : pool->context();
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  gemm::multiply<B>(x, w, make_span2d(y.data(), x.rows, w.matrix.N), options, ctx);
  return y;
}

constexpr computation computations[] = {computation::weight_only, computation::integer};

bool computable(const format_desc& f, computation c) {
  return c == computation::weight_only || f.rule != code_rule::codebook;
}

/// sum |x| |w| for each output: what a relative error bound scales with. Offsets and zero points count on their own,
/// because the kernels add their share separately.
std::vector<double> magnitudes(span2d<const float> x, const packed_view& w) {
  std::vector<double> out(x.rows * w.matrix.N);
  packed_view plain = w;
  for (std::size_t m = 0; m < x.rows; ++m)
    for (std::size_t n = 0; n < w.matrix.N; ++n) {
      double sum = 0.0;
      for (std::size_t k = 0; k < x.cols; ++k) {
        const double scale =
            std::abs(quant::scale_at(plain.matrix, quant::group_of(plain.matrix.format, plain.matrix.K, n, k)));
        const double zero =
            std::abs(quant::zero_at(plain.matrix, quant::group_of(plain.matrix.format, plain.matrix.K, n, k)));
        const double range = plain.matrix.format.rule == code_rule::codebook ? 1.0 : (1 << plain.matrix.format.bits);
        const double offset = plain.matrix.format.rule == code_rule::asymmetric_offset ? zero : 0.0;
        sum += std::abs(x.data[m * x.stride + k]) * (scale * range + offset);
      }
      out[m * w.matrix.N + n] = sum;
    }
  return out;
}

packed_view as_rows(const any_qmatrix& m) { return {layout_id::row_major, m.view()}; }

struct shape {
  std::size_t M, N, K;
};
constexpr shape shapes[] = {{1, 1, 1},   {1, 17, 32},  {2, 16, 33},  {3, 15, 31}, {5, 33, 100},
                            {7, 40, 64}, {13, 16, 96}, {1, 48, 257}, {4, 5, 200}, {11, 71, 160}};

}  // namespace

TEST_CASE("gemm: simd equals scalar bit for bit, every format and ragged shapes") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits)) {
      for (const shape& s : shapes) {
        const std::size_t M = s.M, N = s.N, K = s.K;
        if (can_pack(f, K, layout_id::panel16) != errc::ok) continue;
        const any_qmatrix w = test::random_qmatrix(f, N, K, static_cast<unsigned>(bits * 100 + static_cast<int>(N)));
        const packed_matrix p = pack_matrix(w.view());
        REQUIRE(p.layout() == layout_id::panel16);
        const auto x = test::normal_values(M * K, 7);
        for (const computation c : computations) {
          if (!computable(f, c)) continue;
          const gemm_options o{.computation = c};
          CAPTURE(test::describe(f));
          CAPTURE(M);
          CAPTURE(N);
          CAPTURE(K);
          CHECK(test::same_bits(run<gemm::simd>(make_span2d(x.data(), M, K), p.view(), o),
                                run<gemm::scalar>(make_span2d(x.data(), M, K), p.view(), o)));
        }
      }
    }
  }
}

TEST_CASE("gemm: subnormal scales count in full in the integer path") {
  // Mid-rise counts in half steps; half of an odd multiple of 2^-149 is no float. All sums below are exact: the activations
  // are their own codes (the greatest is 127), so the token's scale is 1.
  for (const float scale : {0x1p-149f, 0x3p-149f, 0x7fffffp-149f})
    for (const std::size_t M : {std::size_t{1}, std::size_t{5}})
      for (const std::size_t K : {std::size_t{64}, std::size_t{100}, kernels::exact_k + 64})
        for (const granularity_kind kind : {granularity_kind::per_channel, granularity_kind::grouped}) {
          const format_desc f{code_rule::mid_rise, 4, kind, scale_storage::f32,
                              kind == granularity_kind::grouped ? 32u : 0u};
          any_qmatrix w = test::full_qmatrix(f, 17, K, scale);
          const packed_matrix p = pack_matrix(w.view());
          std::vector<float> x(M * K, 1.0f);
          for (std::size_t m = 0; m < M; ++m) x[m * K] = 127.0f;
          // Codes 15 are 7.5 steps. 127 + K - 1 of them; one rounding for each group at most, of exact multiples of 2^-149.
          const double want = static_cast<double>(scale) * 7.5 * static_cast<double>(K + 126);
          const gemm_options o{.computation = computation::integer};
          const auto rows = run<gemm::scalar>(make_span2d<const float>(x.data(), M, K), as_rows(w), o);
          const auto panels = run<gemm::scalar>(make_span2d<const float>(x.data(), M, K), p.view(), o);
          CAPTURE(scale);
          CAPTURE(M);
          CAPTURE(K);
          CHECK(std::abs(static_cast<double>(rows[0]) - want) <=
                want * 1e-5 + 0x1p-149 * static_cast<double>(K / 32 + 1));
          CHECK(test::same_bits(rows, panels));
          CHECK(test::same_bits(rows, run<gemm::simd>(make_span2d<const float>(x.data(), M, K), p.view(), o)));
        }
}

TEST_CASE("gemm: canonical rows and panels give the same bits on the scalar backend") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits, {8, 64})) {
      for (const shape& s : shapes) {
        const std::size_t M = s.M, N = s.N, K = s.K;
        if (can_pack(f, K, layout_id::panel16) != errc::ok) continue;
        const any_qmatrix w = test::random_qmatrix(f, N, K, 3);
        const packed_matrix p = pack_matrix(w.view());
        const auto x = test::normal_values(M * K, 8);
        for (const computation c : computations) {
          if (!computable(f, c)) continue;
          const gemm_options o{.computation = c};
          CAPTURE(test::describe(f));
          CAPTURE(K);
          CHECK(test::same_bits(run<gemm::scalar>(make_span2d(x.data(), M, K), as_rows(w), o),
                                run<gemm::scalar>(make_span2d(x.data(), M, K), p.view(), o)));
        }
      }
    }
  }
}

TEST_CASE("gemm: every format agrees with the double reference") {
  // Both paths round once for each product or group and once for each addition. With u = 2^-24, K products and at most K
  // groups, first-order analysis bounds the error by (2 K + 8) u * sum |x| |w|, where |w| counts scale * 2^bits and the
  // offset apart because the kernels sum them apart (Higham 2002, section 3.1).
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits, {8, 32})) {
      for (const shape& s : shapes) {
        const std::size_t M = s.M, N = s.N, K = s.K;
        const any_qmatrix w = test::random_qmatrix(f, N, K, 11);
        const packed_matrix p = pack_matrix(w.view());
        const auto x = test::normal_values(M * K, 12);
        const auto bound = magnitudes(make_span2d(x.data(), M, K), as_rows(w));
        for (const computation c : computations) {
          if (!computable(f, c)) continue;
          const gemm_options o{.computation = c};
          const auto want = run<gemm::reference>(make_span2d(x.data(), M, K), as_rows(w), o);
          const auto got = p.layout() == layout_id::panel16
                               ? run<gemm::simd>(make_span2d(x.data(), M, K), p.view(), o)
                               : run<gemm::scalar>(make_span2d(x.data(), M, K), p.view(), o);
          double worst = 0.0;
          for (std::size_t i = 0; i < want.size(); ++i)
            worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]) / (bound[i] + 1e-30));
          CAPTURE(test::describe(f));
          CAPTURE(K);
          CHECK(worst <= (2.0 * static_cast<double>(K) + 8.0) * 0x1p-24);
        }
      }
    }
  }
}

TEST_CASE("gemm: the reference reads panels as it reads rows") {
  for (const format_desc& f : test::all_formats(5, {8})) {
    const any_qmatrix w = test::random_qmatrix(f, 19, 40, 5);
    const packed_matrix p = pack_matrix(w.view());
    const auto x = test::normal_values(3 * 40, 6);
    CAPTURE(test::describe(f));
    CHECK(test::same_bits(run<gemm::reference>(make_span2d(x.data(), 3, 40), as_rows(w)),
                          run<gemm::reference>(make_span2d(x.data(), 3, 40), p.view())));
  }
}

TEST_CASE("gemm: integer sums longer than the exact block are combined in 64 bits") {
  // All codes and activations at their extremes: over K = 70001 the sum of products is 255 * 127 * K = 2.27e9 > 2^31.
  const format_desc f{code_rule::asymmetric, 8, granularity_kind::per_channel, scale_storage::f32, 0};
  for (const std::size_t K : {kernels::exact_k, kernels::exact_k + 1, std::size_t{70001}}) {
    const any_qmatrix w = test::full_qmatrix(f, 3, K, 1.0f);
    const std::vector<float> x(2 * K, 127.0f);
    const packed_matrix p = pack_matrix(w.view());
    const gemm_options o{.computation = computation::integer};
    const float want = static_cast<float>(255ll * 127 * static_cast<long long>(K));
    CAPTURE(K);
    for (const float y : run<gemm::simd>(make_span2d(x.data(), 2, K), p.view(), o)) CHECK(y == want);
    for (const float y : run<gemm::simd>(make_span2d(x.data(), 1, K), p.view(), o)) CHECK(y == want);
    for (const float y : run<gemm::scalar>(make_span2d(x.data(), 2, K), as_rows(w), o)) CHECK(y == want);
  }
}

TEST_CASE("gemm: saturating pairs and alternating signs stay exact") {
  for (int bits = 2; bits <= 8; ++bits) {
    const format_desc f{code_rule::asymmetric, static_cast<std::uint8_t>(bits), granularity_kind::grouped,
                        scale_storage::f32, 32};
    const any_qmatrix w = test::full_qmatrix(f, 16, 96, 1.0f);
    std::vector<float> same(96, -127.0f), alternating(96);
    for (std::size_t k = 0; k < 96; ++k) alternating[k] = k % 2 == 0 ? 127.0f : -127.0f;
    const packed_matrix p = pack_matrix(w.view());
    const gemm_options o{.computation = computation::integer};
    const float code = static_cast<float>((1 << bits) - 1);
    CAPTURE(bits);
    for (const float y : run<gemm::simd>(make_span2d(same.data(), 1, 96), p.view(), o))
      CHECK(y == -127.0f * 96.0f * code);
    for (const float y : run<gemm::simd>(make_span2d(alternating.data(), 1, 96), p.view(), o)) CHECK(y == 0.0f);
  }
}

TEST_CASE("gemm: bits depend neither on the number of threads nor on the split of M") {
  thread_pool pool(3);
  for (const format_desc& f :
       {format_desc{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32},
        format_desc{code_rule::asymmetric_offset, 3, granularity_kind::per_channel, scale_storage::f32, 0},
        format_desc{code_rule::codebook, 4, granularity_kind::grouped, scale_storage::double_quant, 64}}) {
    const std::size_t M = gemm::mc + 13, N = 83, K = 700;
    const packed_matrix p = pack_matrix(test::random_qmatrix(f, N, K, 2).view());
    const auto x = test::normal_values(M * K, 3);
    for (const computation c : computations) {
      const gemm_options o{.computation = c, .image = table_image::two_planes};
      const auto whole = run<gemm::simd>(make_span2d(x.data(), M, K), p.view(), o);
      CHECK(test::same_bits(whole, run<gemm::simd>(make_span2d(x.data(), M, K), p.view(), o, {}, &pool)));
      std::vector<float> split;
      for (std::size_t m = 0; m < M;) {
        const std::size_t rows = std::min(M - m, 1 + m % 9);
        const auto part = run<gemm::simd>(make_span2d(x.data() + m * K, rows, K), p.view(), o);
        split.insert(split.end(), part.begin(), part.end());
        m += rows;
      }
      CHECK(test::same_bits(whole, split));
    }
  }
}

TEST_CASE("gemm: a non-finite activation makes its own row NaN and touches no other") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 20, 64, 2).view());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const computation c : computations) {
      auto x = test::normal_values(3 * 64, 4);
      const auto clean = run<gemm::simd>(make_span2d(x.data(), 3, 64), p.view(), {.computation = c});
      x[64 + 63] = bad;
      const auto y = run<gemm::simd>(make_span2d(x.data(), 3, 64), p.view(), {.computation = c});
      for (std::size_t n = 0; n < 20; ++n) {
        CHECK(y[n] == clean[n]);
        CHECK(std::isnan(y[20 + n]));
        CHECK(y[40 + n] == clean[40 + n]);
      }
    }
  }
}

TEST_CASE("gemm: activations at the ends of the float range give the reference's result") {
  const format_desc f{code_rule::symmetric, 8, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix w = test::random_qmatrix(f, 4, 36, 9, 0x1p-20f);
  const packed_matrix p = pack_matrix(w.view());
  for (const float size : {0.0f, 0x1p-149f, 0x1p-130f, 1.0f, std::numeric_limits<float>::max()}) {
    std::vector<float> x(36);
    for (std::size_t k = 0; k < 36; ++k) x[k] = k % 3 == 0 ? size : -size / 2;
    const gemm_options o{.computation = computation::integer};
    const auto want = run<gemm::reference>(make_span2d(x.data(), 1, 36), as_rows(w), o);
    const auto got = run<gemm::simd>(make_span2d(x.data(), 1, 36), p.view(), o);
    for (std::size_t n = 0; n < 4; ++n) CHECK(got[n] == doctest::Approx(want[n]).epsilon(1e-5));
  }
}

TEST_CASE("gemm: bias is added once and beta scales the old Y") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f32, 32};
  const any_qmatrix w = test::random_qmatrix(f, 21, 64, 2);
  const packed_matrix p = pack_matrix(w.view());
  const auto x = test::normal_values(2 * 64, 4), bias = test::normal_values(21, 5), old = test::normal_values(42, 6);
  for (const computation c : computations) {
    const auto plain = run<gemm::simd>(make_span2d(x.data(), 2, 64), p.view(), {.computation = c});
    const auto both = run<gemm::simd>(make_span2d(x.data(), 2, 64), p.view(),
                                      {.computation = c, .bias = bias.data(), .beta = -0.5f}, old);
    for (std::size_t i = 0; i < 42; ++i)
      CHECK(both[i] == doctest::Approx(plain[i] + bias[i % 21] - 0.5f * old[i]).epsilon(1e-5));
    const auto rows = run<gemm::scalar>(make_span2d(x.data(), 2, 64), as_rows(w),
                                        {.computation = c, .bias = bias.data(), .beta = -0.5f}, old);
    CHECK(test::same_bits(both, rows));
  }
}

TEST_CASE("gemm: with beta 0 the old Y is not read") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 5, 32, 2).view());
  const auto x = test::normal_values(32, 4);
  for (const float y : run<gemm::simd>(make_span2d(x.data(), 1, 32), p.view(), {},
                                       std::vector<float>(5, std::numeric_limits<float>::quiet_NaN())))
    CHECK(std::isfinite(y));
}

TEST_CASE("gemm: row strides of X and Y are honoured and the gaps stay untouched") {
  const format_desc f{code_rule::symmetric, 5, granularity_kind::grouped, scale_storage::f32, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 18, 64, 2).view());
  const auto x = test::normal_values(4 * 100, 4);
  std::vector<float> dense(4 * 64), y(4 * 30, 7.0f);
  for (std::size_t m = 0; m < 4; ++m)
    for (std::size_t k = 0; k < 64; ++k) dense[m * 64 + k] = x[m * 100 + k];
  for (const computation c : computations) {
    const auto want = run<gemm::simd>(make_span2d(dense.data(), 4, 64), p.view(), {.computation = c});
    multiply(make_span2d(x.data(), 4, 64, 100), p, make_span2d(y.data(), 4, 18, 30), {.computation = c});
    for (std::size_t m = 0; m < 4; ++m)
      for (std::size_t n = 0; n < 30; ++n) CHECK(y[m * 30 + n] == (n < 18 ? want[m * 18 + n] : 7.0f));
  }
}

TEST_CASE("gemm: M = 0 does nothing") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 5, 32, 2).view());
  CHECK_NOTHROW(multiply(make_span2d<const float>(nullptr, 0, 32), p, make_span2d<float>(nullptr, 0, 5)));
}

TEST_CASE("gemm: broken arguments are named") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 5, 32, 2).view());
  std::vector<float> x(64), y(64);
  const auto raises = [&](errc code, auto&& call) {
    try {
      call();
    } catch (const error& e) {
      CAPTURE(std::string(e.what()));
      return e.code() == code;
    }
    return false;
  };
  CHECK(raises(errc::bad_shape,
               [&] { multiply(make_span2d<const float>(x.data(), 1, 31), p, make_span2d(y.data(), 1, 5)); }));
  CHECK(raises(errc::bad_shape,
               [&] { multiply(make_span2d<const float>(x.data(), 1, 32), p, make_span2d(y.data(), 1, 6)); }));
  CHECK(raises(errc::bad_shape,
               [&] { multiply(make_span2d<const float>(x.data(), 2, 32), p, make_span2d(y.data(), 1, 5)); }));
  CHECK(raises(errc::bad_shape,
               [&] { multiply(make_span2d<const float>(x.data(), 2, 32, 16), p, make_span2d(y.data(), 2, 5)); }));
  CHECK(raises(errc::aliasing,
               [&] { multiply(make_span2d<const float>(x.data(), 1, 32), p, make_span2d(x.data() + 31, 1, 5)); }));
  CHECK(raises(errc::scratch_too_small, [&] {
    multiply(make_span2d<const float>(x.data(), 1, 32), p.view(), make_span2d(y.data(), 1, 5), {}, context{});
  }));
  const packed_matrix codebook = pack_matrix(
      test::random_qmatrix({code_rule::codebook, 4, granularity_kind::per_channel, scale_storage::f32, 0}, 5, 32, 2)
          .view());
  CHECK(raises(errc::unsupported_format, [&] {
    multiply(make_span2d<const float>(x.data(), 1, 32), codebook, make_span2d(y.data(), 1, 5),
             {.computation = computation::integer});
  }));
}

TEST_CASE("gemm: a codebook's image errs by no more than it states") {
  // Activations that are whole numbers with absmax 127 are their own codes: what is left is the image's error.
  const std::size_t K = 192, N = 33;
  std::vector<float> x(K);
  for (std::size_t k = 0; k < K; ++k) x[k] = static_cast<float>(static_cast<int>(k * 37 % 255) - 127);
  double magnitude = 0.0;
  for (const float v : x) magnitude += std::abs(v);
  for (const qtype type : {qtype::nf4_g64, qtype::fp4_g64}) {
    const auto values = test::normal_values(N * K, 3);
    const packed_matrix p = pack_matrix(quantize(type, make_span2d(values.data(), N, K)).view());
    const packed_view w = p.view();
    for (const auto& [image, share] :
         {std::pair{table_image::one_plane, 1.0 / 254.0}, std::pair{table_image::two_planes, 1.0 / 16254.0}}) {
      const auto y =
          run<gemm::simd>(make_span2d(x.data(), 1, K), w, {.computation = computation::integer, .image = image});
      double worst = 0.0;
      for (std::size_t n = 0; n < N; ++n) {
        double exact = 0.0, scale = 0.0;
        for (std::size_t k = 0; k < K; ++k) {
          exact += static_cast<double>(x[k]) * gemm::reference::weight(w, n, k);
          scale = std::max(scale, std::abs(gemm::reference::weight(w, n, k)));  // absmax is a value of both tables
        }
        const double bound = magnitude * scale * (share + 0x1p-20);
        CHECK(std::abs(y[n] - exact) <= bound);
        worst = std::max(worst, std::abs(y[n] - exact) / bound);
      }
      CHECK(worst > 0.0);
    }
  }
}

TEST_CASE("gemm: damaged views are refused before anything is read") {
  const any_qmatrix w =
      test::random_qmatrix({code_rule::asymmetric, 4, granularity_kind::grouped, scale_storage::f16, 32}, 5, 64, 2);
  std::vector<float> x(64), y(5);
  const auto code_of = [&](const packed_view& v) {
    try {
      multiply(make_span2d(x.data(), 1, v.matrix.K), v, make_span2d(y.data(), 1, 5));
    } catch (const error& e) {
      return e.code();
    }
    return errc::ok;
  };
  const auto with = [&](layout_id layout, auto&& damage) {
    packed_view v{layout, w.view()};
    damage(v.matrix);
    return v;
  };
  using view = quantized_view;
  CHECK(code_of(with(layout_id::row_major, [](view&) {})) == errc::ok);
  CHECK(code_of(with(layout_id::row_major, [](view& v) { v.K = 0; })) == errc::bad_shape);
  CHECK(code_of(with(layout_id::panel16, [](view& v) { v.K = 0; })) == errc::bad_shape);
  CHECK(code_of(with(layout_id::row_major, [](view& v) { v.row_stride_bytes = 31; })) == errc::bad_shape);
  CHECK(code_of(with(layout_id::row_major, [](view& v) { v.codes = nullptr; })) == errc::bad_value);
  CHECK(code_of(with(layout_id::row_major, [](view& v) { v.scales = nullptr; })) == errc::bad_value);
  CHECK(code_of(with(layout_id::row_major, [](view& v) { v.zeros = nullptr; })) == errc::bad_value);
  CHECK(code_of(with(layout_id::panel16, [](view& v) { v.format.bits = 77; })) == errc::unsupported_format);
  CHECK(code_of(with(layout_id::panel16, [](view& v) { v.format.group_size = 6; })) == errc::unsupported_format);
  CHECK(code_of(with(layout_id::panel16, [](view& v) { v.format.group_size = 1u << 20; })) == errc::unsupported_layout);
  CHECK(code_of(with(layout_id::panel16, [](view& v) {
          v.format.granularity = granularity_kind::flat, v.format.group_size = 40;
        })) == errc::unsupported_layout);
}

TEST_CASE("gemm: an unlimited concurrency asks for memory that suffices") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 64, 64, 2).view());
  const std::size_t all = gemm_scratch_bytes(p.view(), 2000, {.computation = computation::integer}, ~std::size_t{0});
  CHECK(all >= gemm_scratch_bytes(p.view(), 2000, {.computation = computation::integer}, 4 * 8));
  CHECK(all == gemm_scratch_bytes(p.view(), 2000, {.computation = computation::integer}, 1000));
  CHECK(gemm_scratch_bytes(p.view(), ~std::size_t{0} / 2, {}, 1) == ~std::size_t{0});
}

TEST_CASE("gemm: X and Y may lie side by side in the rows of one buffer") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 20, 32, 2).view());
  auto buffer = test::normal_values(3 * 64, 4);
  CHECK_NOTHROW(multiply(make_span2d(buffer.data(), 3, 32, 64), p, make_span2d(buffer.data() + 32, 3, 20, 64)));
  CHECK_NOTHROW(multiply(make_span2d(buffer.data() + 20, 3, 32, 64), p, make_span2d(buffer.data(), 3, 20, 64)));
  CHECK_THROWS_AS(multiply(make_span2d(buffer.data(), 3, 32, 64), p, make_span2d(buffer.data() + 31, 3, 20, 64)),
                  error);
  CHECK_THROWS_AS(multiply(make_span2d(buffer.data() + 50, 2, 32, 64), p, make_span2d(buffer.data() + 64, 2, 20, 64)),
                  error);
}

TEST_CASE("gemm: two threads on one pool get the results of one") {
  thread_pool pool(2);
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 256, 512, 2).view());
  const auto x = test::normal_values(8 * 512, 3);
  std::vector<float> want(8 * 256);
  multiply(make_span2d(x.data(), 8, 512), p, make_span2d(want.data(), 8, 256), pool);
  std::atomic<int> wrong{0};
  const auto caller = [&] {
    std::vector<float> y(8 * 256);
    for (int i = 0; i < 100; ++i) {
      multiply(make_span2d(x.data(), 8, 512), p, make_span2d(y.data(), 8, 256), pool);
      if (!test::same_bits(y, want)) ++wrong;
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  CHECK(wrong == 0);
}

TEST_CASE("gemm: a matrix in another backend's layout is repacked when asked, with the same product, or refused") {
  const any_qmatrix w =
      test::random_qmatrix({code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32}, 21, 77, 3);
  const packed_matrix rows = pack_matrix(w.view(), layout_id::row_major);
  CHECK(gemm::repack_for<gemm::scalar>(rows).layout() == layout_id::row_major);
  if (std::is_same_v<gemm::simd::isa_type, isa::scalar>) return;
  CHECK(gemm::simd::can_multiply(rows.view(), {}) == errc::unsupported_layout);
  const packed_matrix panels = gemm::repack_for<gemm::simd>(rows);
  CHECK(panels.layout() == layout_id::panel16);
  const std::vector<float> x = test::normal_values(2 * 77, 4);
  std::vector<float> a(2 * 21), b(2 * 21);
  const gemm_options integer{.computation = computation::integer};
  multiply(make_span2d(x.data(), 2, 77), rows, make_span2d(a.data(), 2, 21), integer);
  multiply(make_span2d(x.data(), 2, 77), panels, make_span2d(b.data(), 2, 21), integer);
  CHECK(test::same_bits(std::span<const float>(a), std::span<const float>(b)));

  const any_qmatrix crossing =
      test::random_qmatrix({code_rule::symmetric, 4, granularity_kind::flat, scale_storage::f16, 64}, 21, 77, 3);
  CHECK_THROWS_WITH_AS(gemm::repack_for<gemm::simd>(pack_matrix(crossing.view())), doctest::Contains("in no layout"),
                       error);
}

TEST_CASE("gemm: simd refuses canonical rows instead of guessing") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix w = test::random_qmatrix(f, 5, 32, 2);
  if (!std::is_same_v<gemm::simd::isa_type, isa::scalar>)
    CHECK(gemm::simd::can_multiply(as_rows(w), {}) == errc::unsupported_layout);
  CHECK(gemm::scalar::can_multiply(as_rows(w), {}) == errc::ok);
}
