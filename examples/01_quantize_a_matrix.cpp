// SPDX-License-Identifier: MIT
// Quantize a matrix to 4 bits per weight and multiply with it.

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <nibble/nibble.hpp>

int main() {
  // A layer with N outputs and K inputs, and M tokens to run through it.
  const std::size_t M = 4, N = 512, K = 2048;
  std::vector<float> w(N * K), x(M * K), y(M * N);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (float& v : w) v = 0.02f * normal(rng);
  for (float& v : x) v = normal(rng);

  // Y[M, N] = X[M, K] * transpose(W[N, K]), W in 4 bits with one half-precision scale for each 128 weights of a row.
  const auto X = nibble::make_span2d(x.data(), M, K);
  const auto W = nibble::make_span2d(w.data(), N, K);
  const auto Q = nibble::quantize<nibble::quant::w4_g128>(W);
  const auto P = nibble::pack_matrix(Q.view());
  nibble::multiply(X, P, nibble::make_span2d(y.data(), M, N));

  // What it cost and what it saved.
  double signal = 0.0, noise = 0.0;
  for (std::size_t m = 0; m < M; ++m) {
    for (std::size_t n = 0; n < N; ++n) {
      double exact = 0.0;
      for (std::size_t k = 0; k < K; ++k) exact += double{x[m * K + k]} * double{w[n * K + k]};
      signal += exact * exact;
      noise += (y[m * N + n] - exact) * (y[m * N + n] - exact);
    }
  }
  const double bits = nibble::bits_per_weight(Q.ledger(), N, K), error = std::sqrt(noise / signal);
  std::printf("%zu x %zu weights: %zu bytes as floats, %zu quantized, %.3f bits per weight\n", N, K,
              w.size() * sizeof(float), nibble::total_bytes(Q.ledger()), bits);
  std::printf("relative error of the product: %.4f\n", error);

  // For Gaussian weights theory says 0.118 (the greatest of 128 normals squared, 8.13, over 12 * 7^2, and the root).
  return bits == 4.125 && error > 0.11 && error < 0.13 ? 0 : 1;
}
