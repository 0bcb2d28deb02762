// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// X * transpose(W) and W * X as Eigen expressions.

#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/eigen/map.hpp>
#include <nibble/eigen/weights.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace eigen {

/// Where the tokens are: rows of X in X * transpose(W), columns of X in W * X.
enum class tokens { rows, columns };

template <class X, tokens Tokens>
class product;

}  // namespace eigen
}  // namespace NIBBLE_ABI
}  // namespace nibble

// What Eigen asks of an expression. The types of the library stand in the arguments, so these names are as unique to a
// unit's flags as theirs.
namespace Eigen::internal {

template <class X, nibble::eigen::tokens Tokens>
struct traits<nibble::eigen::product<X, Tokens>> {
  static constexpr bool token_rows = Tokens == nibble::eigen::tokens::rows;
  using Result =
      std::conditional_t<token_rows,
                         Matrix<float, X::RowsAtCompileTime, Dynamic, RowMajor, X::MaxRowsAtCompileTime, Dynamic>,
                         Matrix<float, Dynamic, X::ColsAtCompileTime, ColMajor, Dynamic, X::MaxColsAtCompileTime>>;
  using XprKind = MatrixXpr;
  using StorageKind = Dense;
  using StorageIndex = typename traits<Result>::StorageIndex;
  using Scalar = float;
  enum {
    RowsAtCompileTime = traits<Result>::RowsAtCompileTime,
    ColsAtCompileTime = traits<Result>::ColsAtCompileTime,
    MaxRowsAtCompileTime = traits<Result>::MaxRowsAtCompileTime,
    MaxColsAtCompileTime = traits<Result>::MaxColsAtCompileTime,
    Flags = token_rows ? RowMajorBit : 0
  };
};

/// Inside a larger expression the product is computed once, into a matrix of its own.
template <class X, nibble::eigen::tokens Tokens>
struct evaluator<nibble::eigen::product<X, Tokens>>
    : evaluator<typename traits<nibble::eigen::product<X, Tokens>>::Result> {
  using Xpr = nibble::eigen::product<X, Tokens>;
  using Result = typename traits<Xpr>::Result;
  using Base = evaluator<Result>;
  enum { Flags = Base::Flags | EvalBeforeNestingBit };

  explicit evaluator(const Xpr& xpr) : result_(xpr.rows(), xpr.cols()) {
    xpr.assign_to(result_, 0.0f);
    ::new (static_cast<Base*>(this)) Base(result_);  // Eigen's way to point a base at a member made after it
  }

 private:
  Result result_;
};

template <class Y, class X, nibble::eigen::tokens Tokens>
struct Assignment<Y, nibble::eigen::product<X, Tokens>, assign_op<float, float>, Dense2Dense> {
  static void run(Y& y, const nibble::eigen::product<X, Tokens>& p, const assign_op<float, float>&) {
    p.assign_to(y, 0.0f);
  }
};
template <class Y, class X, nibble::eigen::tokens Tokens>
struct Assignment<Y, nibble::eigen::product<X, Tokens>, add_assign_op<float, float>, Dense2Dense> {
  static void run(Y& y, const nibble::eigen::product<X, Tokens>& p, const add_assign_op<float, float>&) {
    p.assign_to(y, 1.0f);
  }
};

}  // namespace Eigen::internal

namespace nibble {
inline namespace NIBBLE_ABI {
namespace eigen {

/// A product that is computed when it is assigned: straight from X's and into Y's memory where both have rows one token
/// each with inner stride 1, else through row-major copies. `Y = p` and `Y += p` are safe when Y is X or part of it (a
/// temporary is made then, and only then), so they cost the same as with noalias().
template <class X, tokens Tokens>
class product : public Eigen::MatrixBase<product<X, Tokens>> {
 public:
  using Nested = typename Eigen::internal::ref_selector<product>::type;

  /// Throws bad_shape when X and W do not fit.
  product(const X& x, const weights_view& W) : x_(x), W_(W) {
    detail::require_float<X>();
    if (length(x) != W.cols())
      core::fail(errc::bad_shape, "eigen: X is ", x.rows(), " x ", x.cols(), " with tokens of ", length(x),
                 " values, W[N, K] is ", W.rows(), " x ", W.cols());
  }

  Eigen::Index rows() const noexcept { return Tokens == tokens::rows ? x_.rows() : W_.rows(); }
  Eigen::Index cols() const noexcept { return Tokens == tokens::rows ? W_.rows() : x_.cols(); }

  /// y = product + beta * y; with beta 0, y takes the shape of the product. Throws bad_shape when y cannot.
  template <class Y>
  void assign_to(Y& y, float beta) const {
    if constexpr (Tokens == tokens::rows) {
      assign_rows(x_, y, beta);
    } else {
      auto y_rows = y.transpose();
      assign_rows(x_.transpose(), y_rows, beta);
    }
  }

 private:
  static Eigen::Index length(const X& x) noexcept { return Tokens == tokens::rows ? x.cols() : x.rows(); }

  template <class TokenRows, class Y>
  void assign_rows(const TokenRows& token_rows, Y& y, float beta) const {
    const readable_rows x(token_rows);
    const Eigen::Index M = token_rows.rows(), N = W_.rows();
    if (x.copied() || !detail::may_overlap(x.span(), y)) {
      fit(y, M, N, beta);
      if (const auto rows = detail::in_place<float>(y)) return W_.multiply(x.span(), *rows, beta);
    }
    row_matrix result(M, N);
    W_.multiply(x.span(), as_span(result));
    fit(y, M, N, beta);
    if (beta == 0.0f) y = result;
    else y += result;
  }

  template <class Y>
  static void fit(Y& y, Eigen::Index M, Eigen::Index N, float beta) {
    const bool same = y.rows() == M && y.cols() == N;
    if (!same && (beta != 0.0f || !detail::fit_shape(y, M, N)))
      core::fail(errc::bad_shape, "eigen: the product of ", M, " tokens and ", N, " outputs does not fit into ",
                 Tokens == tokens::rows ? y.rows() : y.cols(), " x ", Tokens == tokens::rows ? y.cols() : y.rows());
  }

  typename Eigen::internal::ref_selector<X>::type x_;  // matrices by reference, expressions by value
  weights_view W_;
};

/// Y[M, N] = X[M, K] * transpose(W[N, K]): tokens are rows. Without copies for row-major X and Y.
template <class X>
product<X, tokens::rows> operator*(const Eigen::MatrixBase<X>& x, const transposed_weights& Wt) {
  return {x.derived(), Wt.transpose()};
}
/// Y[N, M] = W[N, K] * X[K, M]: tokens are columns. Without copies for column-major X and Y, Eigen's default, and for
/// vectors.
template <class X>
product<X, tokens::columns> operator*(const weights_view& W, const Eigen::MatrixBase<X>& x) {
  return {x.derived(), W};
}

// Products along N would need the weights in another layout.
template <class X>
void operator*(const Eigen::MatrixBase<X>&, const weights_view&) = delete;
template <class X>
void operator*(const transposed_weights&, const Eigen::MatrixBase<X>&) = delete;

}  // namespace eigen
}  // namespace NIBBLE_ABI
}  // namespace nibble
