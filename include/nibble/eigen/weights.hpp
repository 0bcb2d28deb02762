// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Quantized weights as a factor of Eigen products.

#include <cstddef>
#include <utility>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/core/thread_pool.hpp>
#include <nibble/eigen/map.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/qmatrix.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace eigen {

class transposed_weights;

/// Weights W[N, K] and how to multiply with them. Refers to the weights and to the pool; cheap to copy.
class weights_view {
 public:
  explicit weights_view(const packed_view& W) noexcept : W_(W) {}

  /// Products with this computation; without it, weight_only.
  weights_view with(nibble::computation c) const noexcept {
    weights_view w = *this;
    w.computation_ = c;
    return w;
  }
  /// Products on a pool, which also keeps the scratch memory from call to call.
  weights_view with(thread_pool& pool) const noexcept {
    weights_view w = *this;
    w.pool_ = &pool;
    return w;
  }
  /// Products on the caller's own threads and scratch memory, of gemm_scratch_bytes(): then nothing is allocated where
  /// the layouts of the Eigen matrices need no copy.
  weights_view with(const context& ctx) const noexcept {
    weights_view w = *this;
    w.ctx_ = ctx;
    w.pool_ = nullptr;
    w.own_context_ = true;
    return w;
  }

  Eigen::Index rows() const noexcept { return static_cast<Eigen::Index>(W_.matrix.N); }
  Eigen::Index cols() const noexcept { return static_cast<Eigen::Index>(W_.matrix.K); }
  transposed_weights transpose() const noexcept;

  /// Y[M, N] = X[M, K] * transpose(W) + beta * Y: nibble::multiply with the settings of this view.
  void multiply(span2d<const float> X, span2d<float> Y, float beta = 0.0f) const {
    const gemm_options options{.computation = computation_, .bias = nullptr, .beta = beta};
    if (own_context_) return nibble::multiply(X, W_, Y, options, ctx_);
    if (pool_ != nullptr) return nibble::multiply(X, W_, Y, *pool_, options);
    nibble::multiply(X, W_, Y, options);
  }

 private:
  packed_view W_;
  nibble::computation computation_ = nibble::computation::weight_only;
  thread_pool* pool_ = nullptr;
  context ctx_;
  bool own_context_ = false;
};

/// transpose(W)[K, N], the right factor of X * transpose(W).
class transposed_weights {
 public:
  explicit transposed_weights(const weights_view& W) noexcept : W_(W) {}
  const weights_view& transpose() const noexcept { return W_; }
  Eigen::Index rows() const noexcept { return W_.cols(); }
  Eigen::Index cols() const noexcept { return W_.rows(); }

 private:
  weights_view W_;
};

inline transposed_weights weights_view::transpose() const noexcept { return transposed_weights(*this); }

/// Owns quantized weights W[N, K] in the layout that multiplies fastest.
class weights {
 public:
  explicit weights(packed_matrix W) noexcept : packed_(std::move(W)) {}
  /// Packs a canonical matrix, for example one read from a file.
  explicit weights(const quantized_view& W, const context& ctx = {}) : packed_(pack_matrix(W, ctx)) {}

  Eigen::Index rows() const noexcept { return static_cast<Eigen::Index>(packed_.N()); }
  Eigen::Index cols() const noexcept { return static_cast<Eigen::Index>(packed_.K()); }
  const packed_matrix& packed() const noexcept { return packed_; }

  /// The weights as values again, W[N, K].
  row_matrix dequantize(const context& ctx = {}) const {
    const any_qmatrix canonical = packed_.unpack(ctx);
    row_matrix out(rows(), cols());
    nibble::dequantize(canonical.view(), as_span(out), ctx);
    return out;
  }

  // What follows refers to the weights, so they must have a name.
  operator weights_view() const& noexcept { return weights_view(packed_.view()); }
  operator weights_view() const&& = delete;
  /// A computation, a pool or a context for the products: W.with(pool).with(nibble::computation::integer).
  template <class Setting>
  weights_view with(Setting&& setting) const& noexcept {
    return weights_view(*this).with(std::forward<Setting>(setting));
  }
  template <class Setting>
  void with(Setting&&) const&& = delete;
  transposed_weights transpose() const& noexcept { return weights_view(*this).transpose(); }
  void transpose() const&& = delete;

 private:
  packed_matrix packed_;
};

/// Quantizes W[N, K], any dense expression of floats, to a format known at compile time, and packs it. Row-major memory
/// is read in place. Column-major memory and expressions are first copied as a whole, 4 N K bytes that are given back
/// before this returns: groups run along rows, and errors must name the row and column of all of W. Throws as
/// nibble::quantize does.
template <quant::matrix_format Policy, class D>
weights quantize(const Eigen::DenseBase<D>& W, const quantize_options& options = {}, const context& ctx = {}) {
  const readable_rows rows(W);
  return weights(nibble::quantize<Policy>(rows.span(), options, ctx).view(), ctx);
}

/// The same for a format known at run time.
template <class D>
weights quantize(qtype type, const Eigen::DenseBase<D>& W, const quantize_options& options = {},
                 const context& ctx = {}) {
  const readable_rows rows(W);
  return weights(nibble::quantize(type, rows.span(), options, ctx).view(), ctx);
}

}  // namespace eigen
}  // namespace NIBBLE_ABI
}  // namespace nibble
