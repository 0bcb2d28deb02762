// SPDX-License-Identifier: MIT
#include "support/eigen.hpp"

#include <doctest/doctest.h>

#include <vector>

#include <nibble/eigen/map.hpp>

namespace {

using namespace nibble;
using test::column_major;
using test::row_major;

bool refused(auto&& m) {
  return test::raises(errc::unsupported_layout, "row-major", [&] { eigen::as_span(m); });
}

}  // namespace

TEST_CASE("eigen/map: row-major memory becomes a span in place, whatever its outer stride") {
  row_major m = test::normal_matrix(6, 10, 1);
  const span2d<float> whole = eigen::as_span(m);
  CHECK(whole.data == m.data());
  CHECK(whole.rows == 6);
  CHECK(whole.cols == 10);
  CHECK(whole.stride == 10);

  auto block = m.block(1, 2, 3, 4);
  const span2d<float> part = eigen::as_span(block);
  CHECK(part.data == &m(1, 2));
  CHECK(part.rows == 3);
  CHECK(part.cols == 4);
  CHECK(part.stride == 10);

  const Eigen::Map<const row_major, 0, Eigen::OuterStride<>> map(m.data() + 3, 2, 5, Eigen::OuterStride<>(20));
  CHECK(eigen::as_span(map).data == m.data() + 3);
  CHECK(eigen::as_span(map).stride == 20);
}

TEST_CASE("eigen/map: the transpose of column-major memory is row-major memory") {
  column_major m(7, 3);
  const span2d<const float> s = eigen::as_span(m.transpose());
  CHECK(s.data == m.data());
  CHECK(s.rows == 3);
  CHECK(s.cols == 7);
  CHECK(s.stride == 7);
}

TEST_CASE("eigen/map: what counts is the strides at run time, not the type") {
  CHECK(eigen::as_span(column_major(1, 9)).cols == 9);
  CHECK(eigen::as_span(column_major(9, 1)).rows == 9);
  std::vector<float> memory(100);
  using any_stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  CHECK(eigen::as_span(Eigen::Map<row_major, 0, any_stride>(memory.data(), 3, 5, any_stride(8, 1))).stride == 8);
  CHECK(refused(Eigen::Map<row_major, 0, any_stride>(memory.data(), 3, 5, any_stride(20, 2))));
  CHECK(eigen::as_span(Eigen::Map<column_major, 0, any_stride>(memory.data(), 3, 5, any_stride(1, 8))).stride == 8);
}

TEST_CASE("eigen/map: vectors become one row or one column") {
  Eigen::VectorXf column(4);
  Eigen::RowVectorXf row(4);
  CHECK(eigen::as_span(column).rows == 4);
  CHECK(eigen::as_span(column).stride == 1);
  CHECK(eigen::as_span(column.transpose()).cols == 4);
  CHECK(eigen::as_span(row).cols == 4);
  row_major m(4, 5);
  CHECK(eigen::as_span(m.col(2)).stride == 5);
  CHECK(refused(m.col(2).transpose()));
}

TEST_CASE("eigen/map: other memory and expressions are refused") {
  const row_major m = test::normal_matrix(3, 5, 1);
  CHECK(refused(column_major(m)));
  CHECK(refused(m + m));
  const Eigen::Map<const row_major, 0, Eigen::OuterStride<>> repeated(m.data(), 3, 5, Eigen::OuterStride<>(0));
  CHECK(refused(repeated));
}

TEST_CASE("eigen/map: readable rows copy exactly what as_span refuses") {
  const row_major m = test::normal_matrix(3, 5, 1);
  const column_major c = m;
  const eigen::readable_rows in_place(m), from_columns(c), from_expression(m + m);
  CHECK_FALSE(in_place.copied());
  CHECK(in_place.span().data == m.data());
  CHECK(from_columns.copied());
  CHECK(from_expression.copied());
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::size_t k = 0; k < 5; ++k) {
      const float x = m(static_cast<Eigen::Index>(r), static_cast<Eigen::Index>(k));
      CHECK(row(from_columns.span(), r)[k] == x);
      CHECK(row(from_expression.span(), r)[k] == x + x);
    }
  }
}

TEST_CASE("eigen/map: a matrix without elements is no error") {
  CHECK(eigen::as_span(row_major(0, 5)).rows == 0);
  CHECK(eigen::readable_rows(column_major(0, 5)).span().cols == 5);
}
