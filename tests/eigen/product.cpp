// SPDX-License-Identifier: MIT
#include "support/eigen.hpp"

#include <doctest/doctest.h>

#include <vector>

#include <nibble/eigen.hpp>

namespace {

using namespace nibble;
using test::column_major;
using test::row_major;

/// N is no multiple of 16 and K none of 32 or the group.
constexpr Eigen::Index N = 37, K = 75;

eigen::weights some_weights(unsigned seed = 1) {
  return eigen::quantize<quant::w4_g32>(test::normal_matrix(N, K, seed));
}

/// X * transpose(W) by the core library.
row_major product_of(const row_major& X, const eigen::weights& W, computation c = computation::weight_only) {
  row_major Y(X.rows(), W.rows());
  multiply(eigen::as_span(X), W.packed(), eigen::as_span(Y), {.computation = c});
  return Y;
}

template <class A, class B>
concept multiplies = requires(const A& a, const B& b) {
  a* b;
};

}  // namespace

TEST_CASE_TEMPLATE("eigen/product: X * transpose(W) is nibble::multiply bit for bit, X of either storage order", X,
                   row_major, column_major) {
  const eigen::weights W = some_weights();
  for (const Eigen::Index M : {1, 2, 5}) {
    const row_major rows = test::normal_matrix(M, K, 2);
    const X x = rows;
    for (const computation c : {computation::weight_only, computation::integer}) {
      const row_major want = product_of(rows, W, c);
      row_major y;
      column_major y_columns;
      y = x * W.with(c).transpose();
      y_columns = x * W.with(c).transpose();
      CHECK(y == want);
      CHECK(y_columns == want);
    }
  }
}

TEST_CASE_TEMPLATE("eigen/product: W * X has tokens as columns", X, row_major, column_major) {
  const eigen::weights W = some_weights();
  const row_major tokens = test::normal_matrix(3, K, 2);
  const X x = tokens.transpose();
  const row_major want = product_of(tokens, W).transpose();
  const row_major y = W * x;
  const column_major y_columns = W.with(computation::weight_only) * x;
  CHECK(y == want);
  CHECK(y_columns == want);
}

TEST_CASE("eigen/product: vectors go in and come out") {
  const eigen::weights W = some_weights();
  const row_major token = test::normal_matrix(1, K, 2);
  const Eigen::VectorXf x = token.transpose();
  const Eigen::RowVectorXf x_row = token;
  const row_major want = product_of(token, W);
  const Eigen::VectorXf y = W * x;
  const Eigen::RowVectorXf y_row = x_row * W.transpose();
  const Eigen::VectorXf y_turned = x.transpose() * W.transpose();
  CHECK(y == want.transpose());
  CHECK(y_row == want);
  CHECK(y_turned == want.transpose());
}

TEST_CASE("eigen/product: memory with one token each after the other is used in place") {
  const eigen::weights W = some_weights();
  const row_major x = test::normal_matrix(9, 2 * K, 2);
  const column_major x_columns = test::normal_matrix<column_major>(K, 4, 3);
  const Eigen::VectorXf v = x_columns.col(0);
  row_major y(4, 3 * N), sum = row_major::Zero(4, N);
  column_major y_columns(N, 4);
  Eigen::VectorXf u(N);
  thread_pool pool(2);
  const auto Wp = W.with(pool);
  const test::no_eigen_allocation guard;
  CHECK_NOTHROW(y.middleCols(N, N) = x.block(2, 5, 4, K) * Wp.transpose());
  CHECK_NOTHROW(y.leftCols(N).noalias() = x.block(2, 5, 4, K) * Wp.transpose());
  CHECK_NOTHROW(sum += x.block(2, 5, 4, K) * Wp.transpose());
  CHECK_NOTHROW(sum.noalias() += x.block(2, 5, 4, K) * Wp.transpose());
  CHECK_NOTHROW(y_columns.noalias() = Wp * x_columns);
  CHECK_NOTHROW(y_columns.col(2) = Wp * v);
  CHECK_NOTHROW(u = Wp * v);
  CHECK_THROWS_AS(u = Wp * (2.0f * v), test::eigen_assertion);
}

TEST_CASE("eigen/product: outer strides are honoured and the gaps stay untouched") {
  const eigen::weights W = some_weights();
  const row_major x = test::normal_matrix(3, K, 2), want = product_of(x, W);
  std::vector<float> memory(3 * 100, 7.0f);
  Eigen::Map<row_major, 0, Eigen::OuterStride<>> y(memory.data(), 3, N, Eigen::OuterStride<>(100));
  y = x * W.transpose();
  CHECK(row_major(y) == want);
  for (std::size_t i = 0; i < memory.size(); ++i)
    if (static_cast<Eigen::Index>(i % 100) >= N) CHECK(memory[i] == 7.0f);
  std::vector<float> sparse(3 * 200, 7.0f);  // inner stride 2: through a temporary
  using any_stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  Eigen::Map<row_major, 0, any_stride> z(sparse.data(), 3, N, any_stride(200, 2));
  z = x * W.transpose();
  CHECK(row_major(z) == want);
  for (std::size_t i = 1; i < sparse.size(); i += 2) CHECK(sparse[i] == 7.0f);
}

TEST_CASE("eigen/product: += and -= accumulate, in place and through a temporary") {
  const eigen::weights W = some_weights();
  const row_major x = test::normal_matrix(3, K, 2), p = product_of(x, W), old = test::normal_matrix(3, N, 3);
  row_major y = old;
  column_major y_columns = old;
  y += x * W.transpose();
  y_columns.noalias() += x * W.transpose();
  CHECK(y.isApprox(old + p, 1e-6f));
  CHECK(y_columns.isApprox(old + p, 1e-6f));
  y -= x * W.transpose();
  CHECK(y.isApprox(old, 1e-5f));
}

TEST_CASE("eigen/product: a product is a part of larger expressions") {
  const eigen::weights W = some_weights(), V = some_weights(9);
  const row_major x = test::normal_matrix(3, K, 2), p = product_of(x, W), q = product_of(x, V);
  const Eigen::RowVectorXf bias = test::normal_matrix(1, N, 4);
  const row_major with_bias = (x * W.transpose()).rowwise() + bias;
  const row_major gated = (x * W.transpose()).cwiseMax(0.0f).cwiseProduct(x * V.transpose());
  const row_major twice = (x + x) * W.transpose();
  CHECK(with_bias == p.rowwise() + bias);
  CHECK(gated == p.cwiseMax(0.0f).cwiseProduct(q));
  CHECK(twice == product_of(x + x, W));
  CHECK(((x * W.transpose()) * Eigen::MatrixXf::Identity(N, 2)).isApprox(p.leftCols(2)));
}

TEST_CASE("eigen/product: Y may be X, with or without the same shape, and overlap it") {
  const eigen::weights W = some_weights();
  row_major x = test::normal_matrix(3, K, 2);
  const row_major want = product_of(x, W);
  row_major grows = x;
  grows = grows * W.transpose();
  CHECK(grows == want);
  row_major both(3, K + N);
  both.leftCols(K) = x;
  both.middleCols(K - 10, N) = both.leftCols(K) * W.transpose();
  CHECK(row_major(both.middleCols(K - 10, N)) == want);

  const eigen::weights square = eigen::quantize<quant::w8_channel>(test::normal_matrix(K, K, 5));
  const row_major turned = product_of(x, square);
  x.noalias() = x * square.transpose();
  CHECK(x == turned);
}

TEST_CASE("eigen/product: sizes that do not fit raise bad_shape") {
  const eigen::weights W = some_weights();
  const row_major x = test::normal_matrix(3, K, 2);
  row_major y(3, N);
  CHECK(test::raises(errc::bad_shape, "3 x 74", [&] { y = x.leftCols(K - 1) * W.transpose(); }));
  CHECK(test::raises(errc::bad_shape, "75 x 3", [&] { y = x.transpose() * W.transpose(); }));
  CHECK(test::raises(errc::bad_shape, "3 x 75", [&] { y = W * x; }));
  CHECK(test::raises(errc::bad_shape, "3 x 36", [&] { y.leftCols(N - 1) = x * W.transpose(); }));
  row_major wide(3, N + 1);
  CHECK(test::raises(errc::bad_shape, "3 x 38", [&] { wide += x * W.transpose(); }));
  Eigen::Matrix<float, 2, Eigen::Dynamic, Eigen::RowMajor> two_rows;
  CHECK(test::raises(errc::bad_shape, "3 tokens", [&] { two_rows = x * W.transpose(); }));
  Eigen::Matrix<float, Eigen::Dynamic, 4> four_columns;
  CHECK(test::raises(errc::bad_shape, "37 outputs", [&] { four_columns = W * x.transpose(); }));
}

TEST_CASE("eigen/product: destinations without elements, and of fixed size") {
  const eigen::weights W = some_weights();
  row_major y = test::normal_matrix(2, 2, 1);
  y = row_major(0, K) * W.transpose();
  CHECK(y.rows() == 0);
  CHECK(y.cols() == N);
  const row_major x = test::normal_matrix(2, K, 2);
  Eigen::Matrix<float, N, 2> fixed = W * x.transpose();
  CHECK(row_major(fixed.transpose()) == product_of(x, W));
}

TEST_CASE("eigen/product: a pool and a context serve the products") {
  const eigen::weights W = some_weights();
  const row_major x = test::normal_matrix(5, K, 2), want = product_of(x, W, computation::integer);
  thread_pool pool(3);
  const row_major y = x * W.with(pool).with(computation::integer).transpose();
  CHECK(y == want);

  struct counter {
    int calls = 0;
  } counted;
  context ctx;
  ctx.user = &counted;
  ctx.concurrency = 2;
  ctx.parallel_for = [](void* user, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
    ++static_cast<counter*>(user)->calls;
    for (std::size_t s = 0; s < slots; ++s) body(arg, s);
  };
  row_major z(5, N);
  CHECK(test::raises(errc::scratch_too_small, "", [&] { z = x * W.with(ctx).with(computation::integer).transpose(); }));
  aligned_vector<std::byte> scratch(gemm_scratch_bytes(W.packed().view(), 5, {.computation = computation::integer}, 2));
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  z = x * W.with(ctx).with(computation::integer).transpose();
  CHECK(z == want);
  CHECK(counted.calls > 0);
}

TEST_CASE("eigen/product: products along N do not compile") {
  static_assert(multiplies<row_major, eigen::transposed_weights>);
  static_assert(multiplies<eigen::weights, row_major>);
  static_assert(!multiplies<row_major, eigen::weights>);
  static_assert(!multiplies<eigen::transposed_weights, row_major>);
}
