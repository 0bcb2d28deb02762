// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One linear layer in any number format, float included.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/nn/panel_product.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// How a layer stores its weights and computes. With neither `weights` nor `make` it is float and the rest means nothing.
struct linear_format {
  std::optional<qtype> weights;
  nibble::computation computation = nibble::computation::weight_only;
  quantize_options quantize = {};
  /// Instead of `weights`: the quantized form of W[N, K], for formats outside the list and for calibrated codes.
  std::function<any_qmatrix(span2d<const float> W)> make = {};
};

/// Y[M, N] = X[M, K] * transpose(W[N, K]) + bias. Owns its weights in the layout of the backend's kernels; the float
/// matrix it was made from is not kept.
template <gemm::backend Backend>
class linear {
 public:
  /// An empty layer, 0 x 0.
  linear() = default;

  /// Quantizes and packs W, threads from ctx. `name` appears in errors. Throws bad_shape when bias is neither empty nor
  /// N long, unsupported_format when the backend cannot compute with the format (integer computation with a codebook).
  linear(std::string_view name, span2d<const float> W, std::span<const float> bias, const linear_format& format,
         const context& ctx)
      : N_(W.rows), K_(W.cols), bias_(bias.begin(), bias.end()) {
    if (N_ == 0 || K_ == 0) core::fail(errc::bad_shape, "linear ", name, ": the weights are ", N_, " x ", K_);
    if (!bias.empty() && bias.size() != N_)
      core::fail(errc::bad_shape, "linear ", name, ": a bias of ", bias.size(), " values for ", N_, " outputs");
    if (!format.weights && !format.make) {
      pack_float(W, ctx);
      return;
    }
    const any_qmatrix quantized = format.make ? format.make(W) : quantize(*format.weights, W, format.quantize, ctx);
    if (quantized.N() != N_ || quantized.K() != K_)
      core::fail(errc::bad_shape, "linear ", name, ": `make` returned ", quantized.N(), " x ", quantized.K(),
                 " for weights ", N_, " x ", K_);
    options_.computation = format.computation;
    packed_ = pack_matrix(quantized.view(), ctx);
    // Flat blocks that cross rows have no panels: there the plain kernels of the scalar backend serve every backend.
    plain_ = Backend::can_multiply(packed_->view(), options_) == errc::unsupported_layout;
    if (const errc answer = plain_ ? gemm::scalar::can_multiply(packed_->view(), options_)
                                   : Backend::can_multiply(packed_->view(), options_);
        answer != errc::ok)
      core::fail(answer, "linear ", name, ": backend ", Backend::name, " cannot compute with ",
                 format.make ? "the format made" : quant::name_of(*format.weights),
                 format.computation == computation::integer    ? ", integer computation"
                 : format.computation == computation::bfloat16 ? ", bfloat16 computation"
                                                               : ", weight-only computation");
  }

  std::size_t N() const noexcept { return N_; }
  std::size_t K() const noexcept { return K_; }
  bool is_float() const noexcept { return !packed_; }
  /// The quantized weights, nullptr when float.
  const packed_matrix* weights() const noexcept { return packed_ ? &*packed_ : nullptr; }
  /// Bytes of the weights as they are held, bias apart.
  byte_ledger ledger() const noexcept {
    if (packed_) return packed_->ledger();
    byte_ledger l;
    l.payload = N_ * K_ * sizeof(float);
    l.padding = panels_.size() * sizeof(float) - l.payload;
    return l;
  }
  std::size_t scratch_bytes(std::size_t M, std::size_t concurrency) const noexcept {
    if (!packed_) return 0;
    return plain_ ? gemm::scalar::scratch_bytes(packed_->view(), M, options_, concurrency)
                  : Backend::scratch_bytes(packed_->view(), M, options_, concurrency);
  }

  /// Allocates nothing; needs scratch_bytes() of ctx.scratch. Rows of X have a stride of at least padded_columns(K) and
  /// zeros in [K, padded_columns(K)). Throws what gemm throws on shapes and scratch memory.
  void multiply(span2d<const float> X, span2d<float> Y, const context& ctx) const {
    if (packed_) {
      gemm_options options = options_;
      options.bias = bias_.empty() ? nullptr : bias_.data();
      if (plain_) gemm::multiply<gemm::scalar>(X, packed_->view(), Y, options, ctx);
      else gemm::multiply<Backend>(X, packed_->view(), Y, options, ctx);
      return;
    }
    if (X.cols != K_ || Y.cols != N_ || X.rows != Y.rows)
      core::fail(errc::bad_shape, "linear: X is ", X.rows, " x ", X.cols, ", Y ", Y.rows, " x ", Y.cols, ", W ", N_,
                 " x ", K_);
    if (X.rows > 1 && (X.stride < padded_columns(K_) || Y.stride < N_))
      core::fail(errc::bad_shape, "linear: row strides of X ", X.stride, " and Y ", Y.stride, "; at least ",
                 padded_columns(K_), " and ", N_);
    const std::size_t panels = ceil_div(N_, panel_columns);
    core::for_each_item(ctx, panels * ceil_div(X.rows, row_block), [&](std::size_t item, std::size_t) {
      float_item(X, Y, item % panels, item / panels * row_block);
    });
  }

 private:
  static constexpr std::size_t row_block = 64;  // rows of X that share a panel while it is in cache

  void pack_float(span2d<const float> W, const context& ctx) {
    const std::size_t panels = ceil_div(N_, panel_columns);
    panels_.assign(panels * K_ * panel_columns, 0.0f);
    core::for_each_item(ctx, panels, [&](std::size_t p, std::size_t) {
      float* const panel = panels_.data() + p * K_ * panel_columns;
      for (std::size_t c = 0; c < panel_columns && p * panel_columns + c < N_; ++c) {
        const float* const w = row(W, p * panel_columns + c);
        for (std::size_t k = 0; k < K_; ++k) panel[k * panel_columns + c] = w[k];
      }
    });
  }
  void float_item(span2d<const float> X, span2d<float> Y, std::size_t panel, std::size_t first) const noexcept {
    const std::size_t rows = std::min(row_block, X.rows - first), n0 = panel * panel_columns;
    const std::size_t columns = std::min(panel_columns, N_ - n0);
    alignas(plane_alignment) float acc[row_block * panel_columns];
    std::fill_n(acc, rows * panel_columns, 0.0f);
    panel_product<typename Backend::isa_type>(row(X, first), X.stride, rows, K_, panels_.data() + n0 * K_, acc);
    for (std::size_t m = 0; m < rows; ++m) {
      float* const y = row(Y, first + m) + n0;
      for (std::size_t c = 0; c < columns; ++c)
        y[c] = bias_.empty() ? acc[m * panel_columns + c] : acc[m * panel_columns + c] + bias_[n0 + c];
    }
  }

  std::size_t N_ = 0, K_ = 0;
  aligned_vector<float> bias_;
  aligned_vector<float> panels_;         // float weights [panel][K][16], zero beyond N
  std::optional<packed_matrix> packed_;  // quantized weights
  gemm_options options_;
  bool plain_ = false;
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
