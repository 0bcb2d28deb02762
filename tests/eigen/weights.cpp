// SPDX-License-Identifier: MIT
#include "support/eigen.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <type_traits>

#include <nibble/eigen/weights.hpp>

namespace {

using namespace nibble;
using test::column_major;
using test::row_major;

bool same(const eigen::weights& a, const any_qmatrix& b) {
  const any_qmatrix canonical = a.packed().unpack();
  return std::ranges::equal(canonical.codes(), b.codes()) &&
         std::ranges::equal(canonical.scale_plane(), b.scale_plane()) &&
         std::ranges::equal(canonical.zero_plane(), b.zero_plane());
}

template <class W>
concept has_transpose = requires(W w) {
  { std::forward<W>(w).transpose() } -> std::same_as<eigen::transposed_weights>;
};

}  // namespace

TEST_CASE("eigen/weights: every storage order, map, block and expression gives the codes of the row-major matrix") {
  const row_major W = test::normal_matrix(19, 70, 1);
  const any_qmatrix want = quantize<quant::w4a_g128>(eigen::as_span(W)).erased();
  CHECK(same(eigen::quantize<quant::w4a_g128>(W), want));
  CHECK(same(eigen::quantize<quant::w4a_g128>(column_major(W)), want));
  CHECK(same(eigen::quantize<quant::w4a_g128>(0.5f * W + 0.5f * W), want));
  row_major wide = test::normal_matrix(25, 90, 2);
  wide.block(3, 7, 19, 70) = W;
  CHECK(same(eigen::quantize<quant::w4a_g128>(wide.block(3, 7, 19, 70)), want));
  const Eigen::Map<const row_major, 0, Eigen::OuterStride<>> map(&wide(3, 7), 19, 70, Eigen::OuterStride<>(90));
  CHECK(same(eigen::quantize<quant::w4a_g128>(map), want));
}

TEST_CASE("eigen/weights: row-major maps are quantized without a copy") {
  const row_major wide = test::normal_matrix(25, 90, 2);
  const test::no_eigen_allocation guard;
  CHECK_NOTHROW(eigen::quantize<quant::w4_g32>(wide.block(3, 7, 19, 70)));
  CHECK_THROWS_AS(eigen::quantize<quant::w4_g32>(wide.transpose()), test::eigen_assertion);
}

TEST_CASE("eigen/weights: a format may be chosen at run time") {
  const column_major W = test::normal_matrix<column_major>(8, 64, 3);
  CHECK(same(eigen::quantize(qtype::nf4_g64, W), eigen::quantize<quant::nf4_g64>(W).packed().unpack()));
}

TEST_CASE("eigen/weights: options reach the quantizer and errors name the place in a column-major matrix") {
  column_major W = test::normal_matrix<column_major>(8, 64, 3);
  W(6, 41) = std::numeric_limits<float>::infinity();
  CHECK(test::raises(errc::bad_value, "W(6, 41)", [&] { eigen::quantize<quant::w4_g32>(W); }));
  CHECK_NOTHROW(eigen::quantize<quant::w4_g32>(W, {.fit = {}, .non_finite = non_finite::zero}));
  CHECK(test::raises(errc::bad_shape, "", [&] { eigen::quantize<quant::w4_g32>(column_major(0, 64)); }));
}

TEST_CASE("eigen/weights: dequantize gives the values of the canonical form") {
  const row_major W = test::normal_matrix(19, 70, 4);
  const auto q = quantize<quant::w3o_g128>(eigen::as_span(W));
  row_major want(19, 70);
  dequantize(q.view(), eigen::as_span(want));
  const eigen::weights packed(q.view());
  CHECK(packed.rows() == 19);
  CHECK(packed.cols() == 70);
  CHECK(packed.dequantize() == want);
}

TEST_CASE("eigen/weights: factors refer to weights that have a name") {
  static_assert(has_transpose<const eigen::weights&>);
  static_assert(!has_transpose<eigen::weights>);
  static_assert(std::is_convertible_v<const eigen::weights&, eigen::weights_view>);
  static_assert(!std::is_convertible_v<eigen::weights, eigen::weights_view>);
}
