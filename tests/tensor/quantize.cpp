// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/quantize.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <ctime>
#include <limits>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "golden/bnb_golden.inc"
#include "support/random.hpp"

using namespace nibble;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

span2d<const float> matrix(const std::vector<float>& w, std::size_t N, std::size_t K) {
  return make_span2d<const float>(w.data(), N, K);
}

std::vector<float> dequantized(const quantized_view& v, const context& ctx = {}) {
  std::vector<float> y(v.N * v.K);
  dequantize(v, make_span2d(y.data(), v.N, v.K), ctx);
  return y;
}

bool same_planes(const any_qmatrix& a, const any_qmatrix& b) {
  return std::ranges::equal(a.codes(), b.codes()) && std::ranges::equal(a.scale_plane(), b.scale_plane()) &&
         std::ranges::equal(a.zero_plane(), b.zero_plane()) && std::ranges::equal(a.block_scales(), b.block_scales()) &&
         std::ranges::equal(a.super_scales(), b.super_scales(), [](float x, float y) {
           return std::bit_cast<std::uint32_t>(x) == std::bit_cast<std::uint32_t>(y);
         });
}

/// A context that runs its slots on threads of its own.
context threads(std::size_t count) {
  context ctx;
  ctx.concurrency = count;
  ctx.parallel_for = [](void*, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    std::vector<std::thread> pool;
    for (std::size_t s = 1; s < slots; ++s) pool.emplace_back(body, arg, s);
    body(arg, 0);
    for (std::thread& t : pool) t.join();
  };
  return ctx;
}

/// Every affine rule and width with every granularity, half scales.
std::vector<format_desc> affine_formats(std::uint32_t group) {
  std::vector<format_desc> out;
  for (int bits = 2; bits <= 8; ++bits)
    for (int rule = 0; rule < static_cast<int>(code_rule::codebook); ++rule)
      for (const granularity_kind kind : {granularity_kind::per_tensor, granularity_kind::per_channel,
                                          granularity_kind::grouped, granularity_kind::flat})
        out.push_back({static_cast<code_rule>(rule), static_cast<std::uint8_t>(bits), kind, scale_storage::f16,
                       kind == granularity_kind::grouped || kind == granularity_kind::flat ? group : 0});
  return out;
}

quant::value_range range_of(const float* x, std::size_t n) {
  quant::range_scan scan;
  scan.add(x, n);
  return scan.range();
}

errc raised(const format_desc& f, span2d<const float> W, const quantize_options& options,
            std::string* message = nullptr, const context& ctx = {}) {
  try {
    quantize(f, W, options, ctx);
  } catch (const error& e) {
    if (message != nullptr) *message = e.what();
    return e.code();
  }
  return errc::ok;
}

}  // namespace

// For the bound see tests/quant/affine.cpp: half the local step and two ulps of the greatest magnitude involved.
TEST_CASE("quantize: all rules, widths and granularities on every ragged K stay within half a step") {
  constexpr std::uint32_t G = 16;
  for (const format_desc& f : affine_formats(G)) {
    CAPTURE(int{f.bits});
    CAPTURE(static_cast<int>(f.rule));
    CAPTURE(static_cast<int>(f.granularity));
    for (std::size_t K = 1; K <= 2 * G + 1; ++K) {
      CAPTURE(K);
      const std::size_t N = 1 + K % 3;
      const auto w = K % 2 == 0 ? test::gaussian(N * K, K) : test::adversarial(N * K, K);
      const any_qmatrix q = quantize(f, matrix(w, N, K));
      const auto y = dequantized(q.view());
      for (std::size_t i = 0; i < N * K; ++i) {
        const std::size_t n = i / K, k = i % K;
        REQUIRE(decode_at(q.view(), n, k) == y[i]);
        const quant::group_params p = quant::params_at(q.view(), quant::group_of(f, K, n, k));
        const double offset = f.rule == code_rule::asymmetric_offset ? static_cast<double>(p.zero) : 0.0;
        const double size =
            std::max({std::fabs(static_cast<double>(w[i])), std::fabs(static_cast<double>(y[i])), std::fabs(offset)});
        const double step = p.scale == 0.0f ? 255.0 * 0x1p-24 : static_cast<double>(p.scale);
        CAPTURE(w[i]);
        CAPTURE(y[i]);
        REQUIRE(std::fabs(static_cast<double>(w[i]) - static_cast<double>(y[i])) <=
                0.5 * step + size * 0x1p-22 + 0x1p-148);
      }
    }
  }
}

TEST_CASE("quantize: rows of several tiles have the codes and values of their groups one by one") {
  for (const std::uint32_t G : {4u, 8u, 12u, 16u, 24u, 32u, 104u, 1024u, 2056u}) {
    for (const format_desc& f : affine_formats(G)) {
      if (f.bits % 3 != 0 || (f.granularity == granularity_kind::flat && G % 8 != 0)) continue;
      CAPTURE(G);
      CAPTURE(int{f.bits});
      CAPTURE(static_cast<int>(f.rule));
      CAPTURE(static_cast<int>(f.granularity));
      const std::size_t N = 2, K = 4301;
      const auto w = test::gaussian(N * K, G);
      const any_qmatrix q = quantize(f, matrix(w, N, K));
      const auto y = dequantized(q.view());
      const quant::group_codec codec{f, {}};
      std::size_t wrong = 0;
      for (std::size_t g = 0; g < q.scale_count(); ++g) {
        const quant::group_extent e = quant::extent_of(f, N, K, g);
        const std::size_t first = e.n * K + e.k;
        const auto fitted = quant::fit_group(codec, quant::contiguous_source{w.data() + first, e.count},
                                             range_of(w.data() + first, e.count), {});
        const quant::group_params p = quant::params_at(q.view(), g);
        wrong += p.scale == fitted.scale && p.zero == fitted.zero ? 0 : 1;
        for (std::size_t i = first; i < first + e.count; ++i) {
          std::uint8_t code = 0;
          float value = 0.0f;
          quant::encode_group(codec, p, &w[i], 1, &code);
          quant::decode_group(codec, p, &code, 1, &value);
          const bool flat = f.granularity == granularity_kind::flat;
          const std::byte* const row = q.view().codes + i / K * q.row_stride_bytes();
          wrong += pack::get(row, flat ? i : i % K, f.bits) == code && y[i] == value ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("quantize: quantizing the result again changes nothing") {
  for (const qtype type : {qtype::w8_channel, qtype::w4_g32, qtype::w3m_channel, qtype::w2f_channel}) {
    const auto w = test::gaussian(7 * 75, 3);
    const any_qmatrix q = quantize(type, matrix(w, 7, 75));
    const auto y = dequantized(q.view());
    CHECK(same_planes(q, quantize(type, matrix(y, 7, 75))) == (type != qtype::w3m_channel));
    // A mid-rise grid ends half a step inside the range it was fitted to, so there the second scale is smaller.
  }
}

TEST_CASE("quantize: compile-time and run-time calls give the same planes, and each code is the policy's") {
  const auto w = test::gaussian(5 * 203, 11);
  const auto W = matrix(w, 5, 203);
  const auto check = [&]<class P>(qtype type) {
    CAPTURE(quant::name_of(type));
    const qmatrix<P> typed = quantize<P>(W);
    const any_qmatrix erased = quantize(type, W);
    CHECK(same_planes(typed, erased));
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t n = i / 203, k = i % 203;
      const quant::group_params p = quant::params_at(typed.view(), quant::group_of(P::format(), 203, n, k));
      const bool flat = P::granularity::kind == granularity_kind::flat;
      const unsigned code = pack::get(typed.view().codes + n * typed.view().row_stride_bytes, flat ? i : k, P::bits);
      REQUIRE(static_cast<int>(code) == P::encode(w[i], p));
      REQUIRE(decode_at(typed.view(), n, k) == P::decode(static_cast<int>(code), p));
    }
  };
  check.operator()<quant::w4_g128>(qtype::w4_g128);
  check.operator()<quant::w2_tensor>(qtype::w2_tensor);
  check.operator()<quant::w5m_channel>(qtype::w5m_channel);
  check.operator()<quant::w3a_g128>(qtype::w3a_g128);
  check.operator()<quant::w7o_g128>(qtype::w7o_g128);
  check.operator()<quant::w4_g64_dq>(qtype::w4_g64_dq);  // against the scale as rebuilt
  check.operator()<quant::lloyd3_channel>(qtype::lloyd3_channel);
  check.operator()<quant::nf4_flat64>(qtype::nf4_flat64);
  check.operator()<quant::fp4_g64>(qtype::fp4_g64);
}

TEST_CASE("quantize: the bits do not depend on the number of threads or on the row stride") {
  const std::size_t N = 33, K = 203, stride = 220;
  const auto dense = test::gaussian(N * K, 21);
  std::vector<float> strided(N * stride, not_a_number);  // what lies between the rows must not be read
  for (std::size_t n = 0; n < N; ++n) std::copy_n(dense.data() + n * K, K, strided.data() + n * stride);
  for (const fitter method : {fitter::min_max, fitter::mse_search, fitter::least_squares, fitter::percentile})
    for (const qtype type : {qtype::w4_g32, qtype::w8_tensor, qtype::w3a_channel, qtype::nf4_flat64_dq,
                             qtype::lloyd4_channel, qtype::fp4_flat64, qtype::w5o_g128}) {
      CAPTURE(quant::name_of(type));
      const quantize_options options{.fit = {.method = method, .percentile = 0.99}};
      const any_qmatrix serial = quantize(type, matrix(dense, N, K), options);
      for (const std::size_t count : {2u, 5u, 64u})
        CHECK(same_planes(serial, quantize(type, matrix(dense, N, K), options, threads(count))));
      CHECK(same_planes(serial, quantize(type, make_span2d<const float>(strided.data(), N, K, stride), options)));
      CHECK(dequantized(serial.view()) == dequantized(serial.view(), threads(3)));
    }
}

// This file is compiled for every instruction set, by every compiler and at every optimization level: equal hashes prove
// that none of them changes a bit. The input is made with exact arithmetic only, so that no libm takes part.
TEST_CASE("quantize: codes, parameters and values hash to the same number everywhere") {
  test::generator g(77);
  const std::size_t N = 6, K = 331;
  std::vector<float> w(N * K);
  for (float& v : w) v = static_cast<float>(g.unit() + g.unit() + g.unit() + g.unit() - 2.0);
  const auto hash = [&](fitter method, bool super_blocks) {
    std::uint64_t h = 0xcbf29ce484222325u;  // FNV-1a
    const auto add = [&](const void* data, std::size_t bytes) {
      for (std::size_t i = 0; i < bytes; ++i) h = (h ^ static_cast<const std::uint8_t*>(data)[i]) * 0x100000001b3u;
    };
    for (std::size_t i = 0; i < quant::qtype_count; ++i) {
      if ((quant::info_of(static_cast<qtype>(i)).format.scale == scale_storage::super_block) != super_blocks) continue;
      const any_qmatrix q =
          quantize(static_cast<qtype>(i), matrix(w, N, K), {.fit = {.method = method, .percentile = 0.99}});
      add(q.codes().data(), q.codes().size());
      add(q.scale_plane().data(), q.scale_plane().size());
      add(q.zero_plane().data(), q.zero_plane().size());
      add(q.super_scales().data(), q.super_scales().size_bytes());
      add(q.block_scales().data(), q.block_scales().size_bytes());
      const auto y = dequantized(q.view());
      add(y.data(), y.size() * sizeof(float));
    }
    return h;
  };
  CHECK(hash(fitter::min_max, false) == 0x4adcef3cf5a351a1u);
  CHECK(hash(fitter::percentile, false) == 0xb02410abbd58aba0u);
  CHECK(hash(fitter::mse_search, false) == 0x518259693b643026u);
  CHECK(hash(fitter::least_squares, false) == 0x725c9ef60003dca6u);
  CHECK(hash(fitter::min_max, true) == 0x619ca71ebf32b0d8u);
  CHECK(hash(fitter::percentile, true) == 0x619ca71ebf32b0d8u);
  CHECK(hash(fitter::mse_search, true) == 0x65d65e5aff59787du);
  CHECK(hash(fitter::least_squares, true) == 0xd855745550bce48cu);
}

TEST_CASE("quantize: NF4 and FP4 in flat blocks equal the independent implementation, bit for bit") {
  constexpr std::size_t N = 7, K = 203;
  std::vector<float> w(N * K);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::bit_cast<float>(golden_x[i]);
  const auto check = [&](qtype type, const auto& absmax, const auto& codes, const auto& values) {
    const any_qmatrix q = quantize(type, matrix(w, N, K));
    const auto y = dequantized(q.view());
    for (std::size_t i = 0; i < w.size(); ++i) {
      REQUIRE(pack::get(q.codes().data(), i, 4) == codes[i]);
      REQUIRE(y[i] == std::bit_cast<float>(values[i]));
    }
    for (std::size_t g = 0; g < q.scale_count(); ++g)
      CHECK(std::bit_cast<std::uint32_t>(quant::scale_at(q.view(), g)) == absmax[g]);
  };
  check(qtype::nf4_flat64, golden_nf4_absmax, golden_nf4_codes, golden_nf4_values);
  check(qtype::fp4_flat64, golden_fp4_absmax, golden_fp4_codes, golden_fp4_values);
  // With double quantization the codes are still those of the exact scales.
  const any_qmatrix dq = quantize(qtype::nf4_flat64_dq, matrix(w, N, K));
  for (std::size_t i = 0; i < w.size(); ++i) REQUIRE(pack::get(dq.codes().data(), i, 4) == golden_nf4_codes[i]);
}

TEST_CASE("quantize: double-quantized scales are those of quantize_scales over all groups") {
  const std::size_t N = 40, K = 640;  // 400 groups: two blocks of scales
  const auto w = test::gaussian(N * K, 31);
  const any_qmatrix plain =
      quantize({code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f32, 64}, matrix(w, N, K));
  const any_qmatrix twice = quantize(qtype::w4_g64_dq, matrix(w, N, K));
  std::vector<std::uint8_t> codes(400);
  std::vector<float> super(3);
  quant::quantize_scales(static_cast<const float*>(plain.view().scales), 400, codes.data(), super.data());
  CHECK(std::ranges::equal(super, twice.super_scales()));
  for (std::size_t g = 0; g < 400; ++g) {
    CHECK(static_cast<const std::uint8_t*>(twice.view().scales)[g] == codes[g]);
    CHECK(quant::scale_at(twice.view(), g) == quant::double_quant_scale(codes[g], super[g / 256], super[2]));
  }
}

TEST_CASE("quantize: degenerate groups have scale 0 and decode to zeros") {
  std::vector<float> w(3 * 40, 0.0f);
  for (std::size_t k = 0; k < 40; ++k) w[40 + k] = (k % 2 == 0 ? 1.0f : -1.0f) * 1e-12f;  // half scales underflow
  for (std::size_t k = 0; k < 40; ++k) w[80 + k] = 1.0f;
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const auto type = static_cast<qtype>(i);
    if (quant::info_of(type).format.scale != scale_storage::f16) continue;
    CAPTURE(quant::name_of(type));
    for (const fitter method : {fitter::min_max, fitter::mse_search, fitter::least_squares}) {
      const any_qmatrix q = quantize(type, matrix(w, 3, 40), {.fit = {.method = method}});
      const auto y = dequantized(q.view());
      for (std::size_t at = 0; at < 40; ++at) CHECK(y[at] == 0.0f);
      // An offset of -1e-12 itself rounds down to the least half below it.
      for (std::size_t at = 40; at < 80; ++at) CHECK(std::fabs(y[at]) <= 0x1p-24f);
    }
  }
}

// A double-quantized scale is rebuilt near the fitted one, which for an all-zero group would be a small number other than 0:
// on a grid without a zero level, zeros would not come back.
TEST_CASE("quantize: all-zero groups decode to zeros when scales are double-quantized, whatever the grid") {
  const std::size_t N = 20, K = 640;  // groups of 32 and more: up to 400 of them, in two blocks of scales
  for (const std::size_t zero_row : {std::size_t{0}, std::size_t{19}, N})
    for (const float magnitude : {0.0f, 1e-44f}) {
      auto w = test::gaussian(N * K, 31);
      if (zero_row < N) std::fill_n(w.data() + zero_row * K, K, magnitude);
      std::fill_n(w.data() + 5 * K + 64, 64, -magnitude);
      const auto check = [&](const format_desc& f, const codebook_desc& book) {
        CAPTURE(int{f.bits});
        CAPTURE(static_cast<int>(f.rule));
        CAPTURE(static_cast<int>(f.granularity));
        for (const fitter method : {fitter::min_max, fitter::mse_search, fitter::least_squares}) {
          const auto y = dequantized(quantize(f, book, matrix(w, N, K), {.fit = {.method = method}}).view());
          const auto zeros = [&](std::size_t first, std::size_t count) {
            for (std::size_t i = first; i < first + count; ++i)
              if (!(std::fabs(y[i]) <= magnitude)) return false;
            return true;
          };
          if (zero_row < N) CHECK(zeros(zero_row * K, K));
          if (f.granularity != granularity_kind::per_channel) CHECK(zeros(5 * K + 64, 64));
          double e = 0.0, s = 0.0;  // and the others keep their precision
          for (std::size_t i = 0; i < w.size(); ++i) {
            e += std::pow(static_cast<double>(w[i]) - static_cast<double>(y[i]), 2);
            s += std::pow(static_cast<double>(w[i]), 2);
          }
          CHECK(e < s * (f.bits == 2 ? 0.35 : f.bits == 4 ? 0.03 : 0.0004));
        }
      };
      for (const auto& [kind, group] : {std::pair{granularity_kind::per_channel, 0u},
                                        {granularity_kind::grouped, 64u},
                                        {granularity_kind::flat, 32u}}) {
        const auto format = [&, kind = kind, group = group](code_rule rule, int bits) {
          return format_desc{rule, static_cast<std::uint8_t>(bits), kind, scale_storage::double_quant, group};
        };
        for (int rule = 0; rule < static_cast<int>(code_rule::codebook); ++rule)
          for (const int bits : {4, 8})
            if (rule != static_cast<int>(code_rule::symmetric_full))
              check(format(static_cast<code_rule>(rule), bits), {});
        check(format(code_rule::codebook, 2), quant::lloyd_max_table<2>::desc());
        check(format(code_rule::codebook, 4), quant::lloyd_max_table<4>::desc());
        if (magnitude != 0.0f) continue;
        check(format(code_rule::codebook, 4), quant::nf4_table::desc());
        check(format(code_rule::codebook, 4), quant::fp4_table::desc());
      }
    }
}

// The copies of bitsandbytes keep its bits, and with them this: codes are those of the fitted scale, values those of the
// rebuilt one. Zeros are zeros; a group far smaller than its neighbours is only as small as its rebuilt scale.
TEST_CASE("quantize: NF4 and FP4 with double-quantized scales are off by the error of the scale at most") {
  const std::size_t N = 4, K = 640;
  auto w = test::gaussian(N * K, 31);
  for (std::size_t i = 0; i < 64; ++i) w[i] *= 1e-20f;
  std::fill_n(w.data() + 128, 64, 0.0f);
  for (const qtype type : {qtype::nf4_flat64_dq, qtype::fp4_flat64_dq}) {
    const qtype plain = type == qtype::nf4_flat64_dq ? qtype::nf4_flat64 : qtype::fp4_flat64;
    const any_qmatrix twice = quantize(type, matrix(w, N, K)), once = quantize(plain, matrix(w, N, K));
    CHECK(std::ranges::equal(twice.codes(), once.codes()));
    const auto y = dequantized(twice.view()), fitted = dequantized(once.view());
    const double reach = static_cast<double>(twice.super_scales().front());
    for (std::size_t i = 0; i < w.size(); ++i)
      REQUIRE(std::fabs(static_cast<double>(y[i]) - static_cast<double>(fitted[i])) <= 0.00705 * reach);
    for (std::size_t i = 128; i < 192; ++i) REQUIRE(y[i] == 0.0f);
    CHECK(*std::max_element(y.begin(), y.begin() + 64) > 1e-5f);
  }
}

TEST_CASE("quantize: the whole range of float, asymmetric_offset") {
  // Up to a width of the greatest float the grid holds the range, beyond it the error says so.
  for (const float reach : {1.7e38f, 3e38f, std::numeric_limits<float>::max()}) {
    std::vector<float> w(2 * 64, 1.0f);
    for (std::size_t k = 0; k < 64; ++k) w[64 + k] = reach * (static_cast<float>(k) / 31.5f - 1.0f);
    CAPTURE(reach);
    for (const int bits : {2, 4, 8}) {
      const format_desc f{code_rule::asymmetric_offset, static_cast<std::uint8_t>(bits), granularity_kind::per_channel,
                          scale_storage::f32, 0};
      if (reach > 1.70141e38f) {
        for (const fitter method : {fitter::min_max, fitter::least_squares}) {
          std::string message;
          CHECK(raised(f, matrix(w, 2, 64), {.fit = {.method = method}}, &message) == errc::scale_overflow);
          CAPTURE(message);
          CHECK(message.find("W(1, ") != std::string::npos);
          CHECK(message.find("float") != std::string::npos);
          CHECK(message.find("range") != std::string::npos);
        }
      } else {
        for (const fitter method : {fitter::min_max, fitter::least_squares, fitter::mse_search}) {
          const any_qmatrix q = quantize(f, matrix(w, 2, 64), {.fit = {.method = method}});
          const double step = static_cast<double>(quant::scale_at(q.view(), 1));
          const auto y = dequantized(q.view());
          double worst = 0.0;
          for (std::size_t i = 64; i < 128; ++i)
            worst = std::max(worst, std::fabs(static_cast<double>(w[i]) - static_cast<double>(y[i])));
          // Clips of the range give up its ends.
          CHECK(worst <= (method == fitter::min_max ? 0.5 : bits == 2 ? 1.0 : 2.0) * step * (1.0 + 1e-6));
        }
      }
      // A clipped range may fit where the whole one does not; what lies beyond it takes the outermost codes.
      if (reach > 1.70141e38f) {
        const any_qmatrix q = quantize(f, matrix(w, 2, 64), {.fit = {.method = fitter::mse_search}});
        const auto y = dequantized(q.view());
        for (std::size_t k = 1; k < 64; ++k) {
          CHECK(is_finite(y[64 + k]));
          CHECK(y[64 + k] >= y[64 + k - 1]);
        }
        CHECK(decode_at(q.view(), 1, 0) < 0.0f);
        CHECK(decode_at(q.view(), 1, 63) > 0.0f);
      }
    }
    // Rules that hold 0 spread over the whole range in any case.
    CHECK(raised(quant::w8a_channel::format(), matrix(w, 2, 64), {}) == errc::ok);
    CHECK(raised(quant::w8_channel::format(), matrix(w, 2, 64), {}) == errc::ok);
  }
}

TEST_CASE("quantize: NaN and infinities are errors that name row, column and value") {
  for (const float bad : {not_a_number, inf, -inf})
    for (const format_desc& f : affine_formats(16)) {
      if (f.bits != 4) continue;
      auto w = test::gaussian(5 * 37, 2);
      w[3 * 37 + 21] = bad;
      w[4 * 37 + 1] = bad;
      for (const context& ctx : {context{}, threads(4)}) {
        std::string message;
        CHECK(raised(f, matrix(w, 5, 37), {}, &message, ctx) == errc::bad_value);
        CAPTURE(message);
        CHECK(message.find("W(3, 21)") != std::string::npos);
        CHECK(message.find(bad != bad ? "nan" : bad > 0 ? "inf" : "-inf") != std::string::npos);
      }
    }
}

TEST_CASE("quantize: non-finite values can be zeroed or saturated instead") {
  for (const format_desc& f : affine_formats(16)) {
    if (f.bits != 4 && f.bits != 3) continue;
    auto w = test::gaussian(5 * 37, 2);
    auto zeroed = w, saturated = w;
    const std::size_t places[] = {0, 40, 41, 100, 184};
    const float values[] = {not_a_number, inf, -inf, not_a_number, inf};
    for (std::size_t i = 0; i < 5; ++i) {
      w[places[i]] = values[i];
      zeroed[places[i]] = 0.0f;
    }
    // By definition: NaN is 0, an infinity the greatest finite magnitude of its group.
    for (std::size_t i = 0; i < 5; ++i) {
      float limit = 0.0f;
      const std::size_t g = quant::group_of(f, 37, places[i] / 37, places[i] % 37);
      for (std::size_t at = 0; at < w.size(); ++at)
        if (quant::group_of(f, 37, at / 37, at % 37) == g && is_finite(w[at]))
          limit = std::fmax(limit, std::fabs(w[at]));
      saturated[places[i]] = values[i] != values[i] ? 0.0f : values[i] > 0 ? limit : -limit;
    }
    CAPTURE(static_cast<int>(f.rule));
    CAPTURE(static_cast<int>(f.granularity));
    for (const fitter method : {fitter::min_max, fitter::mse_search}) {
      const fit_options fit{.method = method};
      CHECK(same_planes(quantize(f, matrix(w, 5, 37), {.fit = fit, .non_finite = non_finite::zero}),
                        quantize(f, matrix(zeroed, 5, 37), {.fit = fit})));
      CHECK(same_planes(quantize(f, matrix(w, 5, 37), {.fit = fit, .non_finite = non_finite::saturate}),
                        quantize(f, matrix(saturated, 5, 37), {.fit = fit})));
    }
  }
}

TEST_CASE("quantize: the limits of saturation are looked for once, not for every tile of a group") {
  const auto seconds = [](const format_desc& f, span2d<const float> W, non_finite policy) {
    const std::clock_t begin = std::clock();  // of the processor: other programs have theirs
    const any_qmatrix q = quantize(f, W, {.non_finite = policy});
    return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  };
  const auto ratio = [&](granularity_kind kind, std::uint32_t group, std::size_t N, std::size_t K) {
    const format_desc f{code_rule::symmetric, 4, kind, scale_storage::f32, group};
    auto w = std::vector<float>(N * K, 0.5f);
    w[N * K / 2] = inf;
    double with = 1e9, without = 1e9;
    for (int i = 0; i < 5; ++i) {  // in turn, so that a slow moment meets both
      with = std::min(with, seconds(f, matrix(w, N, K), non_finite::saturate));
      without = std::min(without, seconds(f, matrix(w, N, K), non_finite::zero));
    }
    return with / without;
  };
  // A scan for every row or tile would take hundreds of times as long.
  CHECK(ratio(granularity_kind::per_tensor, 0, 8192, 8) < 20.0);
  CHECK(ratio(granularity_kind::per_channel, 0, 1, 1 << 21) < 20.0);
  CHECK(ratio(granularity_kind::grouped, 1 << 20, 1, 1 << 21) < 20.0);
}

TEST_CASE("quantize: a scale that overflows its storage type is an error that names the value") {
  auto w = test::gaussian(4 * 64, 5);
  w[2 * 64 + 9] = -3e7f;
  std::string message;
  CHECK(raised(quant::w8_g32::format(), matrix(w, 4, 64), {}, &message) == errc::scale_overflow);
  CAPTURE(message);
  CHECK(message.find("W(2, 9) = -30000000") != std::string::npos);
  CHECK(message.find("half") != std::string::npos);
  CHECK(raised(quant::w8_channel::format(), matrix(w, 4, 64), {}) == errc::ok);
  // No policy for non-finite values hides it.
  CHECK(raised(quant::w8_g32::format(), matrix(w, 4, 64), {.non_finite = non_finite::saturate}) ==
        errc::scale_overflow);
  // The range of one group exceeds the greatest float.
  w[2 * 64 + 10] = std::numeric_limits<float>::max();
  w[2 * 64 + 11] = -std::numeric_limits<float>::max();
  CHECK(raised(quant::w8o_channel::format(), matrix(w, 4, 64), {}) == errc::scale_overflow);
  CHECK(raised(quant::w8a_channel::format(), matrix(w, 4, 64), {}) == errc::ok);
}

TEST_CASE("quantize: a user's table is sorted for encoding, copied, and found in the view") {
  const auto w = test::gaussian(6 * 50, 7);
  std::vector<float> table{0.5f, -1.0f, 1.0f, -0.25f};
  const format_desc f{code_rule::codebook, 2, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix q = quantize(f, matrix(w, 6, 50), {.fit = {.method = fitter::mse_search}, .table = table.data()});
  using user = quant::codebook<quant::user_table<2>, quant::per_channel>;
  const qmatrix<user> typed =
      quantize<user>(matrix(w, 6, 50), {.fit = {.method = fitter::mse_search}, .table = table.data()});
  CHECK(same_planes(q, typed));
  table.assign(4, 0.0f);
  for (std::size_t n = 0; n < 6; ++n)
    for (std::size_t k = 0; k < 50; ++k) {
      const double scale = static_cast<double>(quant::scale_at(q.view(), n)), x = static_cast<double>(w[n * 50 + k]);
      double least = 1e9;
      for (const double t : {0.5, -1.0, 1.0, -0.25}) least = std::min(least, std::fabs(x - scale * t));
      CHECK(std::fabs(x - static_cast<double>(decode_at(q.view(), n, k))) <= least + 1e-6);
    }
  CHECK(q.ledger().container == 16);
  CHECK(raised(f, matrix(w, 6, 50), {}) == errc::bad_value);
}

TEST_CASE("quantize: the least possible shapes and very short tails") {
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const auto type = static_cast<qtype>(i);
    CAPTURE(quant::name_of(type));
    for (const std::size_t K : {1u, 7u, 129u}) {
      const auto w = test::gaussian(K, i);
      const any_qmatrix q = quantize(type, matrix(w, 1, K));
      const auto y = dequantized(q.view());
      double e = 0.0, s = 0.0;
      for (std::size_t k = 0; k < K; ++k) {
        e += std::pow(static_cast<double>(w[k]) - static_cast<double>(y[k]), 2);
        s += std::pow(static_cast<double>(w[k]), 2);
      }
      CHECK(e < s);
    }
  }
}

TEST_CASE("quantize: bad arguments are refused") {
  const std::vector<float> w(12, 1.0f);
  const format_desc f = quant::w4_channel::format();
  CHECK(raised(f, matrix(w, 0, 4), {}) == errc::bad_shape);
  CHECK(raised(f, make_span2d<const float>(w.data(), 3, 4, 3), {}) == errc::bad_shape);
  CHECK(raised(f, make_span2d<const float>(nullptr, 3, 4), {}) == errc::bad_value);
  CHECK(raised(f, matrix(w, 3, 4), {.fit = {.method = fitter::percentile, .percentile = 1.5}}) == errc::bad_value);
  CHECK(raised(f, matrix(w, 3, 4),
               {.fit = {.method = fitter::percentile, .percentile = static_cast<double>(not_a_number)}}) ==
        errc::bad_value);
  CHECK(raised(f, matrix(w, 3, 4), {.fit = {.method = fitter::mse_search, .clips = 1}}) == errc::bad_value);
  CHECK_THROWS_AS(quantize(static_cast<qtype>(60000), matrix(w, 3, 4)), error);
  CHECK_THROWS_AS(quantize(quant::nf4_channel::format(), quant::lloyd_max_table<3>::desc(), matrix(w, 3, 4)), error);
  const any_qmatrix q = quantize(f, matrix(w, 3, 4));
  std::vector<float> y(12);
  CHECK_THROWS_AS(dequantize(q.view(), make_span2d(y.data(), 4, 3)), error);
  CHECK_THROWS_AS(dequantize(q.view(), make_span2d<float>(nullptr, 3, 4)), error);
  // Views over memory of the caller's are checked as far as they can be.
  const auto refused = [&](auto change) {
    quantized_view v = q.view();
    change(v);
    CHECK_THROWS_AS(dequantize(v, make_span2d(y.data(), 3, 4)), error);
  };
  refused([](quantized_view& v) { v.codes = nullptr; });
  refused([](quantized_view& v) { v.scales = nullptr; });
  refused([](quantized_view& v) { v.row_stride_bytes = 1; });
  refused([](quantized_view& v) { v.format.rule = code_rule::asymmetric; });
  refused([](quantized_view& v) { v.format.rule = code_rule::codebook; });
  refused([](quantized_view& v) { v.format.scale = scale_storage::double_quant; });
}

TEST_CASE("quantize: an element or rows outside the matrix are refused") {
  const auto w = test::gaussian(4 * 40, 3);
  for (const qtype type : {qtype::w4_channel, qtype::nf4_flat64}) {
    const any_qmatrix q = quantize(type, matrix(w, 4, 40));
    const auto refused = [&](errc code, std::string_view says, auto f) {
      try {
        f(q.view());
        FAIL("accepted");
      } catch (const error& e) {
        CAPTURE(e.what());
        CHECK(e.code() == code);
        CHECK(std::string_view(e.what()).find(says) != std::string_view::npos);
      }
    };
    refused(errc::bad_shape, "(4, 7)", [](const quantized_view& v) { decode_at(v, 4, 7); });
    refused(errc::bad_shape, "4 x 40", [](const quantized_view& v) { decode_at(v, 3, 40); });
    refused(errc::bad_value, "codes", [](quantized_view v) { decode_at((v.codes = nullptr, v), 0, 0); });
    refused(errc::bad_shape, "N = 0", [](const quantized_view&) { decode_at({}, 0, 0); });
    std::vector<float> y(5 * 40);
    const auto rows = [&](std::size_t first, span2d<float> out) {
      return [first, out](const quantized_view& v) { dequantize_rows(v, first, out); };
    };
    const std::size_t far = std::numeric_limits<std::size_t>::max() - 1;
    refused(errc::bad_shape, "[2, 5)", rows(2, make_span2d(y.data(), 3, 40)));
    refused(errc::bad_shape, "4 rows", rows(far, make_span2d(y.data(), 3, 40)));
    refused(errc::bad_shape, "39", rows(0, make_span2d(y.data(), 3, 39)));
    refused(errc::bad_shape, "stride", rows(0, make_span2d(y.data(), 3, 40, 39)));
    refused(errc::bad_value, "no data", rows(0, make_span2d<float>(nullptr, 3, 40)));
    refused(errc::bad_value, "scales", [&](quantized_view v) {
      v.scales = nullptr;
      dequantize_rows(v, 0, make_span2d(y.data(), 3, 40));
    });
    dequantize_rows(q.view(), 4, make_span2d(y.data(), 0, 40));  // no rows: nothing to do
    dequantize_rows(q.view(), 1, make_span2d(y.data(), 3, 40));
    CHECK(y[2 * 40 + 39] == decode_at(q.view(), 3, 39));
  }
}

TEST_CASE("quantize: rows of a view can be dequantized alone, into a strided output") {
  const auto w = test::gaussian(9 * 67, 17);
  for (const qtype type : {qtype::w3_g32, qtype::nf4_flat64, qtype::w8_tensor, qtype::w6o_channel}) {
    const any_qmatrix q = quantize(type, matrix(w, 9, 67));
    const auto all = dequantized(q.view());
    std::vector<float> part(3 * 70, 5.0f);
    dequantize_rows(q.view(), 4, make_span2d(part.data(), 3, 67, 70));
    for (std::size_t n = 0; n < 3; ++n) {
      for (std::size_t k = 0; k < 67; ++k) CHECK(part[n * 70 + k] == all[(n + 4) * 67 + k]);
      for (std::size_t k = 67; k < 70; ++k) CHECK(part[n * 70 + k] == 5.0f);
    }
  }
}
