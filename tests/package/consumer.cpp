// SPDX-License-Identifier: MIT
//
// A user of the library: quantizes to 4 bits, multiplies, and compares with the float product.

#include <nibble/nibble.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr std::size_t M = 3, N = 40, K = 256;
  std::vector<float> w(N * K), x(M * K), y(M * N);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::sin(0.37f * static_cast<float>(i));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::cos(0.11f * static_cast<float>(i));

  const auto W = nibble::quantize<nibble::quant::w4_g128>(nibble::make_span2d<const float>(w.data(), N, K));
  const auto packed = nibble::pack_matrix(W.view());
  nibble::multiply(nibble::make_span2d<const float>(x.data(), M, K), packed, nibble::make_span2d(y.data(), M, N));

  double error = 0.0, norm = 0.0;
  for (std::size_t m = 0; m < M; ++m) {
    for (std::size_t n = 0; n < N; ++n) {
      double exact = 0.0;
      for (std::size_t k = 0; k < K; ++k) exact += double{x[m * K + k]} * double{w[n * K + k]};
      error += std::pow(exact - double{y[m * N + n]}, 2);
      norm += exact * exact;
    }
  }
  const double relative = std::sqrt(error / norm);
  std::printf("nibble %d.%d.%d, %s, xsimd %d: relative error of a 4-bit product %.4f\n", NIBBLE_VERSION_MAJOR,
              NIBBLE_VERSION_MINOR, NIBBLE_VERSION_PATCH, NIBBLE_ABI_NAME, NIBBLE_HAS_XSIMD, relative);
  return relative < 0.2 ? 0 : 1;
}
