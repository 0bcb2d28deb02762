// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;

template <class T>
void fill(const test::guarded<T>& to, const std::vector<float>& from) {
  std::copy(from.begin(), from.end(), to.begin());
}

}  // namespace

TEST_CASE("rotate_pairs: native equals scalar bit for bit on ragged halves") {
  using native = kernels::rotate_pairs<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t half : test::ragged_sizes(32)) {
    CAPTURE(half);
    const test::guarded<float> head(2 * half), c(half), s(half);
    std::vector<float> want = test::gaussian(2 * half, 1);
    fill(head, want);
    fill(c, test::gaussian(half, 2));
    fill(s, test::gaussian(half, 3));
    native::run(head.data(), half, c.data(), s.data());
    kernels::rotate_pairs<isa::scalar>::run(want.data(), half, c.data(), s.data());
    CHECK(std::equal(want.begin(), want.end(), head.begin()));
  }
}

TEST_CASE("load_cached: native equals scalar bit for bit on ragged lengths") {
  using native = kernels::load_cached<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t n : test::ragged_sizes(32)) {
    CAPTURE(n);
    const test::guarded<std::uint8_t> codes(n);
    const test::guarded<half> halves(n);
    const auto x = test::gaussian(n, 1);
    for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(i * 37), halves[i] = to_half(x[i]);
    const test::guarded<float> got(n);
    std::vector<float> want(n);
    for (const int bias : {0, 128}) {
      native::bytes(codes.data(), n, bias, 0.3f, -1.7f, got.data());
      kernels::load_cached<isa::scalar>::bytes(codes.data(), n, bias, 0.3f, -1.7f, want.data());
      CHECK(std::equal(want.begin(), want.end(), got.begin()));
    }
    native::halves(halves.data(), n, got.data());
    kernels::load_cached<isa::scalar>::halves(halves.data(), n, want.data());
    CHECK(std::equal(want.begin(), want.end(), got.begin()));
  }
}

TEST_CASE("store_cached: native equals scalar bit for bit on ragged lengths") {
  using native = kernels::store_cached<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t n : test::ragged_sizes(32)) {
    CAPTURE(n);
    const test::guarded<float> x(n);
    const test::guarded<half> halves(n);
    const test::guarded<std::uint8_t> codes(n);
    std::vector<half> want_halves(n);
    std::vector<std::uint8_t> want_codes(n);
    // Beyond both ends of the codes, and quotients half way between two of them.
    auto from = test::gaussian(n, 1, 60.0f);
    for (std::size_t i = 0; i < n; i += 3) from[i] = std::floor(from[i]) + 0.25f;
    fill(x, from);
    native::bytes(x.data(), n, 0.5f, 3.0f, codes.data());
    kernels::store_cached<isa::scalar>::bytes(x.data(), n, 0.5f, 3.0f, want_codes.data());
    CHECK(std::equal(want_codes.begin(), want_codes.end(), codes.begin()));
    // Ties, subnormal halves, what overflows, infinities and NaN.
    for (std::size_t i = 0; i < n; ++i) {
      const float all[] = {from[i],
                           1.0f + 0x1p-11f,
                           1.0f + 0x3p-11f,
                           from[i] * 0x1p-20f,
                           0x1p-25f,
                           65520.0f,
                           std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::quiet_NaN()};
      x[i] = all[i % 8];
    }
    native::halves(x.data(), n, halves.data());
    kernels::store_cached<isa::scalar>::halves(x.data(), n, want_halves.data());
    CHECK(std::equal(want_halves.begin(), want_halves.end(), halves.begin()));
  }
}

TEST_CASE("score_keys: native equals scalar bit for bit in every form, for ragged rows, pairs and queries") {
  using native = kernels::score_keys<isa::native>;
  using scalar = kernels::score_keys<isa::scalar>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t K : {1u, 2u, 5u, 16u, 33u, 64u}) {
    for (const std::size_t pairs : {std::size_t{0}, K / 4, K / 2}) {
      for (const std::size_t M : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 13u}) {
        CAPTURE(K);
        CAPTURE(pairs);
        CAPTURE(M);
        const std::size_t query_stride = K + 3, score_stride = 19;
        const test::guarded<float> floats(16 * K), angles(32 * pairs), queries((M - 1) * query_stride + K);
        const test::guarded<float> scales(16), zeros(16), got((M - 1) * score_stride + 16);
        const test::guarded<half> halves(16 * K);
        const test::guarded<std::uint8_t> codes(16 * K);
        std::vector<float> work(16 * K), want((M - 1) * score_stride + 16);
        const auto x = test::gaussian(16 * K, 1);
        fill(floats, x);
        fill(angles, test::gaussian(32 * pairs, 2));
        fill(queries, test::gaussian((M - 1) * query_stride + K, 3));
        fill(scales, test::gaussian(16, 4));
        fill(zeros, test::gaussian(16, 5));
        for (std::size_t i = 0; i < 16 * K; ++i) {
          halves[i] = to_half(x[i]);
          codes[i] = static_cast<std::uint8_t>(i * 37);
        }
        // Scores are set, whatever is there; what lies between their rows stays.
        std::fill(want.begin(), want.end(), 7.0f);
        std::fill(got.begin(), got.end(), 7.0f);
        kernels::score_call c;
        c.K = K;
        c.pairs = pairs;
        c.angles = angles.data();
        c.queries = queries.data();
        c.query_stride = query_stride;
        c.M = M;
        c.score_stride = score_stride;
        c.work = work.data();
        const auto same = [&](const auto& run_native, const auto& run_scalar) {
          c.scores = got.data();
          run_native();
          c.scores = want.data();
          run_scalar();
          return std::equal(want.begin(), want.end(), got.begin());
        };
        CHECK(same([&] { native::floats(c, floats.data()); }, [&] { scalar::floats(c, floats.data()); }));
        c.ahead = halves.data();
        CHECK(same([&] { native::halves(c, halves.data()); }, [&] { scalar::halves(c, halves.data()); }));
        for (const int bias : {0, 128})
          CHECK(same([&] { native::bytes(c, codes.data(), bias, 0.3f, -1.7f); },
                     [&] { scalar::bytes(c, codes.data(), bias, 0.3f, -1.7f); }));
        CHECK(same([&] { native::columns(c, codes.data(), scales.data(), zeros.data()); },
                   [&] { scalar::columns(c, codes.data(), scales.data(), zeros.data()); }));
      }
    }
  }
}

TEST_CASE(
    "score_keys: a key is rotated as rotate_pairs does, and its score is one chain, pair by pair, then the rest") {
  constexpr std::size_t K = 7, pairs = 2;
  const auto keys = test::gaussian(16 * K, 1), angles = test::gaussian(32 * pairs, 2), query = test::gaussian(K, 3);
  std::vector<float> work(16 * K), scores(16);
  kernels::score_call c;
  c.K = K;
  c.pairs = pairs;
  c.angles = angles.data();
  c.queries = query.data();
  c.M = 1;
  c.scores = scores.data();
  c.work = work.data();
  kernels::score_keys<isa::native>::floats(c, keys.data());
  for (std::size_t j = 0; j < 16; ++j) {
    std::vector<float> key(K), cosines(pairs), sines(pairs);
    for (std::size_t d = 0; d < K; ++d) key[d] = keys[d * 16 + j];
    for (std::size_t i = 0; i < pairs; ++i) cosines[i] = angles[i * 32 + j], sines[i] = angles[i * 32 + 16 + j];
    kernels::rotate_pairs<isa::native>::run(key.data(), pairs, cosines.data(), sines.data());
    float score = 0.0f;
    for (const std::size_t d : {0u, 2u, 1u, 3u, 4u, 5u, 6u}) score = multiply_add(query[d], key[d], score);
    CHECK(scores[j] == score);
  }
}

TEST_CASE_TEMPLATE("weigh_rows: native equals scalar bit for bit for ragged columns, rows and counts", Code, float,
                   half, std::uint8_t) {
  using native = kernels::weigh_rows<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t columns : {16u, 32u, 80u}) {
    for (const std::size_t count : {0u, 1u, 2u, 31u, 32u}) {
      for (const std::size_t M : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 11u, 12u, 13u, 25u}) {
        CAPTURE(columns);
        CAPTURE(count);
        CAPTURE(M);
        const std::size_t x_stride = count + 3, sum_stride = columns + 2;
        const auto size = [](std::size_t rows, std::size_t stride, std::size_t last) {
          return rows == 0 ? 0 : (rows - 1) * stride + last;
        };
        // A block of 32 rows; the rows are taken from it in another order.
        const test::guarded<Code> block(32 * columns);
        const auto from = test::gaussian(32 * columns, 2);
        for (std::size_t i = 0; i < 32 * columns; ++i) {
          if constexpr (std::is_same_v<Code, float>) block[i] = from[i];
          else if constexpr (std::is_same_v<Code, half>) block[i] = to_half(from[i]);
          else block[i] = static_cast<std::uint8_t>(i * 37);
        }
        std::vector<const Code*> rows(count);
        for (std::size_t j = 0; j < count; ++j) rows[j] = block.data() + (j * 7 + 3) % 32 * 16;
        const test::guarded<float> x(size(M, x_stride, count)), sums(size(M, sum_stride, columns));
        fill(x, test::gaussian(size(M, x_stride, count), 1));
        std::vector<float> want = test::gaussian(size(M, sum_stride, columns), 3);
        fill(sums, want);
        native::run(x.data(), x_stride, M, rows.data(), count, columns, sums.data(), sum_stride);
        kernels::weigh_rows<isa::scalar>::run(x.data(), x_stride, M, rows.data(), count, columns, want.data(),
                                              sum_stride);
        CHECK(std::equal(want.begin(), want.end(), sums.begin()));
      }
    }
  }
}

TEST_CASE("weigh_rows: each sum is one chain of multiply_add in ascending order, then one addition") {
  // In any other order the 1 would be lost beside 2^25, or kept where it has to be lost.
  const float x[] = {0x1p25f, 1.0f, -0x1p25f, 1.0f};
  const std::vector<float> block(32 * 16, 1.0f);
  const float* const rows[] = {block.data(), block.data() + 16, block.data() + 32, block.data() + 48};
  std::vector<float> sums(16, 0x1p-20f);
  kernels::weigh_rows<isa::native>::run(x, 4, 1, rows, 4, 16, sums.data(), 16);
  CHECK(sums == std::vector<float>(16, 1.0f + 0x1p-20f));
}

TEST_CASE("scale_weights: native equals scalar bit for bit and touches n weights and lanes") {
  using native = kernels::scale_weights<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (std::size_t n = 0; n <= 32; ++n) {
    CAPTURE(n);
    const test::guarded<float> w(n), scales(n), zeros(n), lanes(n);
    std::vector<float> want_w = test::gaussian(n, 1), want_lanes = test::gaussian(n, 2);
    fill(w, want_w);
    fill(lanes, want_lanes);
    fill(scales, test::gaussian(n, 3));
    fill(zeros, test::gaussian(n, 4));
    native::run(w.data(), n, scales.data(), zeros.data(), lanes.data());
    kernels::scale_weights<isa::scalar>::run(want_w.data(), n, scales.data(), zeros.data(), want_lanes.data());
    CHECK(std::equal(want_w.begin(), want_w.end(), w.begin()));
    CHECK(std::equal(want_lanes.begin(), want_lanes.end(), lanes.begin()));
  }
}
