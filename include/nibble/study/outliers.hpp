// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The outlier experiment of report R3: a linear layer whose input has a few channels a hundred times larger than the rest,
/// under seven ways of using 8-bit integers.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/nn/linear.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/study/error_metrics.hpp>
#include <nibble/study/gaussian.hpp>
#include <nibble/study/verdict.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// A dense float matrix [rows, cols].
struct dense_matrix {
  std::size_t rows = 0, cols = 0;
  aligned_vector<float> values;

  dense_matrix(std::size_t r, std::size_t c) : rows(r), cols(c), values(r * c) {}
  float& at(std::size_t r, std::size_t c) noexcept { return values[r * cols + c]; }
  float at(std::size_t r, std::size_t c) const noexcept { return values[r * cols + c]; }
  span2d<const float> view() const noexcept { return make_span2d(values.data(), rows, cols); }
};

/// X[M, K] * transpose(W[N, K]) in float. K a multiple of 32.
inline dense_matrix product(const dense_matrix& X, const dense_matrix& W, const context& ctx) {
  const nn::linear<gemm::simd> layer("product", W.view(), {}, {}, ctx);
  dense_matrix Y(X.rows, W.rows);
  layer.multiply(X.view(), make_span2d(Y.values.data(), Y.rows, Y.cols), ctx);
  return Y;
}

/// The matrix after a round trip through a format.
inline dense_matrix rounded(const dense_matrix& a, qtype type, const context& ctx) {
  dense_matrix b(a.rows, a.cols);
  dequantize(quantize(type, a.view(), {}, ctx).view(), make_span2d(b.values.data(), b.rows, b.cols), ctx);
  return b;
}

/// Hadamard matrix of order 2 (q + 1), rows scaled to length 1: the Sylvester doubling of Paley's first construction, q a
/// prime that leaves 3 modulo 4.
inline dense_matrix paley_hadamard(std::size_t q) {
  std::vector<int> residue(q, -1);  // quadratic character
  residue[0] = 0;
  for (std::size_t x = 1; x < q; ++x) residue[x * x % q] = 1;
  const std::size_t n = q + 1;
  const auto core = [&](std::size_t i, std::size_t j) {  // I + S, S skew
    if (i == j) return 1;
    if (i == 0) return 1;
    if (j == 0) return -1;
    return residue[(j + q - i) % q];
  };
  dense_matrix h(2 * n, 2 * n);
  const float unit = static_cast<float>(1.0 / std::sqrt(2.0 * static_cast<double>(n)));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      const float v = core(i, j) > 0 ? unit : -unit;
      h.at(i, j) = h.at(i, j + n) = h.at(i + n, j) = v;
      h.at(i + n, j + n) = -v;
    }
  return h;
}

/// Extents of the experiment; those of the report by default. channels = 2 (q + 1) for a prime q that leaves 3 modulo 4.
struct outlier_experiment {
  std::size_t tokens = 512, outputs = 1024, q = 1999, outliers = 4;
  float factor = 100.0f;
  std::uint64_t seed = 3;
  std::size_t channels() const noexcept { return 2 * (q + 1); }
};

/// Relative output errors by scheme, in the order of outlier_schemes; second: against the energy without the outliers.
inline constexpr std::array<const char*, 7> outlier_schemes{"W8A8 per tensor / per tensor",
                                                            "W8A8 per token / per channel",
                                                            "SmoothQuant 0.5, per tensor / per tensor",
                                                            "SmoothQuant 0.5, per token / channel",
                                                            "random Hadamard, per token / channel",
                                                            "weight-only INT8 per channel",
                                                            "LLM.int8, threshold 6"};

inline std::array<std::pair<double, double>, 7> run_outliers(const outlier_experiment& e, const context& ctx) {
  const std::size_t K = e.channels();
  dense_matrix X(e.tokens, K), W(e.outputs, K);
  normal_source normals(e.seed);
  normals.fill(X.values);
  for (float& w : W.values) w = static_cast<float>(0.02 * normals.next());
  dense_matrix plain = X;  // without the outlier channels
  for (std::size_t c = 0; c < e.outliers; ++c) {
    const std::size_t k = (c + 1) * K / (e.outliers + 1);
    for (std::size_t m = 0; m < X.rows; ++m) {
      X.at(m, k) *= e.factor;
      plain.at(m, k) = 0.0f;
    }
  }
  const dense_matrix Y = product(X, W, ctx);
  double plain_energy = 0.0;
  for (const float y : product(plain, W, ctx).values)
    plain_energy = std::fma(static_cast<double>(y), static_cast<double>(y), plain_energy);
  const auto errors = [&](const dense_matrix& A, const dense_matrix& B, const dense_matrix* added = nullptr) {
    dense_matrix out = product(A, B, ctx);
    if (added != nullptr)
      for (std::size_t i = 0; i < out.values.size(); ++i) out.values[i] += added->values[i];
    error_sums sums;
    sums.add(Y.values, out.values);
    return std::pair{relative_output_error(sums), std::sqrt(sums.ee / plain_energy)};
  };
  const qtype tensor = qtype::w8_tensor, row = qtype::w8_channel;
  std::array<std::pair<double, double>, 7> result;
  result[0] = errors(rounded(X, tensor, ctx), rounded(W, tensor, ctx));
  result[1] = errors(rounded(X, row, ctx), rounded(W, row, ctx));
  {  // SmoothQuant: channel k of X is divided, of W multiplied, by sqrt(max |X_k| / max |W_k|)
    dense_matrix Xs = X, Ws = W;
    for (std::size_t k = 0; k < K; ++k) {
      float x = 0.0f, w = 0.0f;
      for (std::size_t m = 0; m < X.rows; ++m) x = std::max(x, std::fabs(X.at(m, k)));
      for (std::size_t n = 0; n < W.rows; ++n) w = std::max(w, std::fabs(W.at(n, k)));
      const float s = std::sqrt(x / w);
      for (std::size_t m = 0; m < X.rows; ++m) Xs.at(m, k) /= s;
      for (std::size_t n = 0; n < W.rows; ++n) Ws.at(n, k) *= s;
    }
    result[2] = errors(rounded(Xs, tensor, ctx), rounded(Ws, tensor, ctx));
    result[3] = errors(rounded(Xs, row, ctx), rounded(Ws, row, ctx));
  }
  {  // A Hadamard matrix with random column signs turns both operands; the product stays
    dense_matrix H = paley_hadamard(e.q);
    for (std::size_t k = 0; k < K; ++k)
      if (normals.uniform() < 0.5)
        for (std::size_t i = 0; i < K; ++i) H.at(i, k) = -H.at(i, k);
    result[4] = errors(rounded(product(X, H, ctx), row, ctx), rounded(product(W, H, ctx), row, ctx));
  }
  const dense_matrix W8 = rounded(W, row, ctx);
  result[5] = errors(X, W8);
  {  // LLM.int8(): channels with a value of 6 or more keep float activations and weights, the rest is W8A8
    dense_matrix rest = X, kept = X;
    for (std::size_t k = 0; k < K; ++k) {
      bool outlier = false;
      for (std::size_t m = 0; m < X.rows; ++m) outlier = outlier || std::fabs(X.at(m, k)) >= 6.0f;
      for (std::size_t m = 0; m < X.rows; ++m) (outlier ? rest : kept).at(m, k) = 0.0f;
    }
    const dense_matrix exact = product(kept, W, ctx);
    result[6] = errors(rounded(rest, row, ctx), W8, &exact);
  }
  return result;
}

/// The report's figures against ours, one row a scheme.
inline std::vector<finding> outlier_findings(const context& ctx) {
  constexpr std::array<std::pair<double, double>, 7> reported{
      {{.234, .78}, {.108, .36}, {.036, .121}, {.0159, .053}, {.0102, .034}, {.0087, .029}, {.0037, .012}}};
  const auto ours = run_outliers({}, ctx);
  std::vector<finding> rows;
  for (std::size_t i = 0; i < ours.size(); ++i)
    rows.push_back(
        {.name = std::string("R3 outliers: ") + outlier_schemes[i],
         .reported = reported[i].first,
         .ours = ours[i].first,
         .tolerance = 0.1 * reported[i].first,
         .decimals = 4,
         .basis =
             "relative output error; 512 tokens, 4000 channels (4 of them x100), 1024 outputs; tolerance 10 % for another draw",
         .explanation = "beyond what another draw of the inputs explains",
         .details = {{"error_over_plain_energy", ours[i].second}, {"reported_over_plain_energy", reported[i].second}}});
  return rows;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
