// SPDX-License-Identifier: MIT
//
// How an engine puts its own kernels under the conformance kit; include/nibble/testing/README.md explains this file. The
// engine here is as small as one can be: 4-bit weights with one scale a row, integer computation.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <nibble/testing/conformance.hpp>

namespace my_engine {

/// The engine's own form of the weights: one code a byte, zero point taken off.
struct weights {
  std::size_t N, K;
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};

weights import_rows(const std::uint8_t* nibbles, std::size_t row_bytes, const float* scales, std::size_t N,
                    std::size_t K) {
  weights w{N, K, std::vector<std::int8_t>(N * K), std::vector<float>(scales, scales + N)};
  for (std::size_t n = 0; n < N; ++n)
    for (std::size_t k = 0; k < K; ++k)
      w.codes[n * K + k] = static_cast<std::int8_t>((nibbles[n * row_bytes + k / 2] >> (k % 2 * 4) & 15) - 8);
  return w;
}

float quantize(const float* x, std::size_t K, std::int8_t* codes) {
  float largest = 0.0f, nan = 0.0f;
  for (std::size_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(x[k])), nan += x[k] - x[k];
  const float scale = std::isnan(nan) ? nan : largest / 127.0f;
  for (std::size_t k = 0; k < K; ++k)
    codes[k] = scale > 0.0f ? static_cast<std::int8_t>(std::nearbyint(std::clamp(x[k] / scale, -127.0f, 127.0f)))
                            : std::int8_t{0};
  return scale;
}

float dot(const weights& w, std::size_t n, const std::int8_t* x, float token_scale) {
  std::int32_t sum = 0;
  for (std::size_t k = 0; k < w.K; ++k) sum += std::int32_t{w.codes[n * w.K + k]} * x[k];
  return std::fma(static_cast<float>(sum), w.scales[n], 0.0f) * token_scale;  // from +0: 0 times -s is +0, not -0
}

}  // namespace my_engine

TEST_CASE("own_engine: the products of an engine with a single format conform") {
  nibble::testing::conformance_options options;
  options.weight_only = false;    // this engine has the integer computation only,
  options.bias_and_beta = false;  // no epilogue,
  options.formats = {{nibble::code_rule::symmetric, 4, nibble::granularity_kind::per_channel,
                      nibble::scale_storage::f32, 0}};  // and one format

  const nibble::testing::report report = nibble::testing::check_multiply(
      [](nibble::span2d<const float> X, const nibble::packed_view& W, nibble::span2d<float> Y,
         const nibble::gemm_options&) {
        const nibble::quantized_view& q = W.matrix;
        const my_engine::weights w =
            my_engine::import_rows(reinterpret_cast<const std::uint8_t*>(q.codes), q.row_stride_bytes,
                                   static_cast<const float*>(q.scales), q.N, q.K);
        std::vector<std::int8_t> codes(w.K);
        for (std::size_t m = 0; m < X.rows; ++m) {
          const float scale = my_engine::quantize(X.data + m * X.stride, w.K, codes.data());
          for (std::size_t n = 0; n < w.N; ++n) Y.data[m * Y.stride + n] = my_engine::dot(w, n, codes.data(), scale);
        }
        return nibble::errc::ok;
      },
      options);
  INFO(report.text());  // what failed, with values and a likely cause
  CHECK(report.passed());
}

TEST_CASE("own_engine: its activation quantization conforms") {
  const nibble::testing::report report =
      nibble::testing::check_quantize_row([](const float* x, std::size_t K, std::int8_t* codes, std::size_t padded) {
        std::memset(codes + K, 0, padded - K);
        return my_engine::quantize(x, K, codes);
      });
  INFO(report.text());
  CHECK(report.passed());
}
