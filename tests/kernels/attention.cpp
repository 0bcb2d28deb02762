// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
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
