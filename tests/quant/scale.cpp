// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/scale.hpp>

#include <cmath>
#include <limits>

#include "support/random.hpp"

using namespace nibble;

namespace {
constexpr scale_storage storages[] = {scale_storage::f32, scale_storage::f16, scale_storage::bf16};
}

TEST_CASE("scale: the neighbours of every positive half are the next halves") {
  for (std::uint16_t bits = 1; bits < 0x7bff; ++bits) {
    const float x = to_float(half{bits});
    REQUIRE(quant::stored_neighbour(scale_storage::f16, x, true) ==
            to_float(half{static_cast<std::uint16_t>(bits + 1)}));
    REQUIRE(quant::stored_neighbour(scale_storage::f16, x, false) ==
            to_float(half{static_cast<std::uint16_t>(bits - 1)}));
  }
  CHECK(quant::stored_neighbour(scale_storage::f32, 1.0f, true) == std::nextafter(1.0f, 2.0f));
  CHECK(quant::stored_neighbour(scale_storage::bf16, 1.0f, false) == 1.0f - 0x1p-8f);
}

TEST_CASE("scale: as_stored is the nearest stored value, ties to even") {
  test::generator g(1);
  for (int i = 0; i < 20000; ++i) {
    const float x = static_cast<float>(std::exp(30.0 * (g.unit() - 0.7)));
    for (const scale_storage s : storages) {
      const float r = quant::as_stored(s, x);
      REQUIRE(quant::as_stored(s, r) == r);
      if (r == 0.0f || !is_finite(r)) continue;
      const double error = std::fabs(static_cast<double>(r) - static_cast<double>(x));
      for (const bool up : {false, true})
        REQUIRE(error <= std::fabs(static_cast<double>(quant::stored_neighbour(s, r, up)) - static_cast<double>(x)));
    }
  }
  CHECK(quant::as_stored(scale_storage::f16, 65520.0f) == std::numeric_limits<float>::infinity());
  CHECK(quant::as_stored(scale_storage::f16, 0x1p-25f) == 0.0f);
}

TEST_CASE("scale: stored_at_most is the greatest stored value not above x") {
  test::generator g(2);
  for (int i = 0; i < 20000; ++i) {
    const double magnitude = std::exp(40.0 * (g.unit() - 0.8));
    const float x = static_cast<float>(g.next() & 1 ? magnitude : -magnitude);
    for (const scale_storage s : storages) {
      const float r = quant::stored_at_most(s, x);
      REQUIRE(r <= x);
      if (!is_finite(r)) continue;
      REQUIRE(quant::as_stored(s, r) == r);
      // The next stored value above r is above x.
      const float above = r == 0.0f  ? s == scale_storage::f16    ? 0x1p-24f
                                       : s == scale_storage::bf16 ? 0x1p-133f
                                                                  : 0x1p-149f
                          : r > 0.0f ? quant::stored_neighbour(s, r, true)
                                     : -quant::stored_neighbour(s, -r, false);
      REQUIRE(above > x);
    }
  }
  CHECK(quant::stored_at_most(scale_storage::f16, -1e6f) == -std::numeric_limits<float>::infinity());
  CHECK(quant::stored_at_most(scale_storage::f16, 1e6f) == 65504.0f);
}
