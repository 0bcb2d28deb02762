// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
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

TEST_CASE("panel_of_rows: native gives the columns that scalar gives, and reads nothing past the rows") {
  using native = kernels::panel_of_rows<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t K : test::ragged_sizes(16)) {
    CAPTURE(K);
    const test::guarded<float> rows(16 * K), got(16 * K);
    fill(rows, test::gaussian(16 * K, 1));
    std::vector<float> want(16 * K);
    native::run(rows.data(), K, K, got.data());
    kernels::panel_of_rows<isa::scalar>::run(rows.data(), K, K, want.data());
    CHECK(std::equal(want.begin(), want.end(), got.begin()));
  }
}

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

TEST_CASE("load_cached: rotating on the way gives what rotating afterwards gives, bit for bit") {
  using native = kernels::load_cached<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t half_dims : test::ragged_sizes(32)) {
    for (const std::size_t rest : {std::size_t{0}, std::size_t{3}, std::size_t{64}}) {
      const std::size_t n = 2 * half_dims + rest;
      CAPTURE(half_dims);
      CAPTURE(rest);
      const test::guarded<float> floats(n), c(half_dims), s(half_dims), got(n);
      const test::guarded<half> halves(n);
      const test::guarded<std::uint8_t> codes(n);
      const auto x = test::gaussian(n, 1);
      fill(floats, x);
      fill(c, test::gaussian(half_dims, 2));
      fill(s, test::gaussian(half_dims, 3));
      for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(i * 37), halves[i] = to_half(x[i]);
      const kernels::rotation turn{half_dims, c.data(), s.data()};
      std::vector<float> want(n);
      const auto same = [&] {
        kernels::rotate_pairs<isa::scalar>::run(want.data(), half_dims, c.data(), s.data());
        return std::equal(want.begin(), want.end(), got.begin());
      };
      native::floats(floats.data(), n, got.data(), turn);
      want = x;
      CHECK(same());
      native::halves(halves.data(), n, got.data(), turn);
      kernels::load_cached<isa::scalar>::halves(halves.data(), n, want.data());
      CHECK(same());
      native::bytes(codes.data(), n, 128, 0.3f, -1.7f, got.data(), turn);
      kernels::load_cached<isa::scalar>::bytes(codes.data(), n, 128, 0.3f, -1.7f, want.data());
      CHECK(same());
    }
  }
}

TEST_CASE("load_cached: a panel's columns have scales of their own, native as scalar, bit for bit") {
  using native = kernels::load_cached<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t rows : {0u, 1u, 5u, 64u}) {
    for (const std::size_t pairs : {std::size_t{0}, rows / 2}) {
      CAPTURE(rows);
      CAPTURE(pairs);
      const std::size_t n = 16 * rows;
      const test::guarded<std::uint8_t> codes(n);
      const test::guarded<float> scales(16), zeros(16), c(16 * pairs), s(16 * pairs), got(n);
      for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(i * 37);
      fill(scales, test::gaussian(16, 1));
      fill(zeros, test::gaussian(16, 2));
      fill(c, test::gaussian(16 * pairs, 3));
      fill(s, test::gaussian(16 * pairs, 4));
      const kernels::rotation turn{16 * pairs, c.data(), s.data()};
      std::vector<float> want(n);
      native::columns(codes.data(), n, scales.data(), zeros.data(), got.data(), turn);
      kernels::load_cached<isa::scalar>::columns(codes.data(), n, scales.data(), zeros.data(), want.data(), turn);
      CHECK(std::equal(want.begin(), want.end(), got.begin()));
    }
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

TEST_CASE("weigh_rows: native equals scalar bit for bit for ragged columns, rows and counts, and reads nothing else") {
  using native = kernels::weigh_rows<isa::native>;
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t columns : {1u, 15u, 16u, 17u, 64u, 79u}) {
    for (const std::size_t count : {0u, 1u, 2u, 31u, 32u}) {
      for (const std::size_t M : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 11u, 12u, 13u, 25u}) {
        CAPTURE(columns);
        CAPTURE(count);
        CAPTURE(M);
        const std::size_t x_stride = count + 3, row_stride = columns + 5, sum_stride = columns + 2;
        const auto size = [](std::size_t rows, std::size_t stride, std::size_t last) {
          return rows == 0 ? 0 : (rows - 1) * stride + last;
        };
        const test::guarded<float> x(size(M, x_stride, count)), rows(size(count, row_stride, columns));
        const test::guarded<float> sums(size(M, sum_stride, columns));
        fill(x, test::gaussian(size(M, x_stride, count), 1));
        fill(rows, test::gaussian(size(count, row_stride, columns), 2));
        std::vector<float> want = test::gaussian(size(M, sum_stride, columns), 3);
        fill(sums, want);
        native::run(x.data(), x_stride, M, rows.data(), row_stride, count, columns, sums.data(), sum_stride,
                    {rows.data(), 64});
        kernels::weigh_rows<isa::scalar>::run(x.data(), x_stride, M, rows.data(), row_stride, count, columns,
                                              want.data(), sum_stride);
        CHECK(std::equal(want.begin(), want.end(), sums.begin()));
      }
    }
  }
}

TEST_CASE("weigh_rows: each sum is one chain of multiply_add in ascending order, then one addition") {
  // In any other order the 1 would be lost beside 2^25, or kept where it has to be lost.
  const float x[] = {0x1p25f, 1.0f, -0x1p25f, 1.0f};
  const std::vector<float> rows(4 * 16, 1.0f);
  std::vector<float> sums(16, 0x1p-20f);
  kernels::weigh_rows<isa::native>::run(x, 4, 1, rows.data(), 16, 4, 16, sums.data(), 16);
  CHECK(sums == std::vector<float>(16, 1.0f + 0x1p-20f));
}
