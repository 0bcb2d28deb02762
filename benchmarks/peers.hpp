// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Other libraries that multiply the same matrices in this process. Each has one source file, peer_<library>.cpp, which
/// says in one line why it is absent when CMake did not find it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/context.hpp>

#include "bench.hpp"

namespace nibble::bench {

/// One format of one library.
struct peer {
  std::string name;     ///< "openblas_f32", "onednn_s8_channel/integer": what stands between "gemm/" and the shape
  std::string version;  ///< of the library, with what else it tells of itself
  std::string absent;   ///< why it cannot run here; empty when it can
  void (*run)(benchmark::State&, shape, std::size_t M, std::size_t threads, bool cold);
};

// One for each source file; a library that was not found names its peers all the same, as absent.
std::vector<peer> eigen_peers();
std::vector<peer> openblas_peers();
std::vector<peer> onednn_peers();
std::vector<peer> gemmlowp_peers();
std::vector<peer> xnnpack_peers();

/// All of them, present or absent.
const std::vector<peer>& all_peers();

/// W[N, K] that every peer multiplies with, or quantizes first: seeded, row-major.
std::vector<float> peer_weights(shape s);

/// Symmetric codes of peer_weights, -127..127, code = round(w / scale): one scale for each row, or one for all rows.
struct s8_matrix {
  aligned_vector<std::int8_t> codes;  // [N, K]
  std::vector<float> scales;          // [N]
};
s8_matrix s8_weights(shape s, bool per_channel);

/// Symmetric codes of the tokens, by nibble's own kernel: X[M, K] to codes[M, K] and scales[M].
void quantize_tokens(const context& ctx, std::size_t M, std::size_t K, const float* x, std::int8_t* codes,
                     float* scales);

/// Root mean square distance of some of the results Y[M, N] from the product of peer_weights and X[M, K] in double, over
/// the root mean square of that product.
double relative_error(shape s, std::size_t M, const float* x, const float* y);

/// Calls multiply(x, y), x[M, K] and y[M, N], once and compares the results with the product of the floats: beyond
/// `tolerance` (see relative_error) the call is an error, not a time. Then times and reports.
template <class Multiply>
void run_peer(benchmark::State& state, const product_cost& cost, double tolerance, Multiply&& multiply) {
  const std::vector<float> x = values(cost.M * cost.K + 4, 2);  // XNNPACK reads 16 bytes past the end
  std::vector<float> y(cost.M * cost.N);
  if (state.max_iterations == 1) {
    multiply(x.data(), y.data());
    const double error = relative_error({cost.N, cost.K}, cost.M, x.data(), y.data());
    if (!(error <= tolerance)) {
      state.SkipWithError(text("wrong product: relative error ", error, ", at most ", tolerance, " allowed").c_str());
      return;
    }
  }
  const double seconds = time_loop(state, [&] { multiply(x.data(), y.data()); });
  report(state, cost, seconds);
}

// How far a right product may be from that of the floats: nearly twice what exact sums have on these shapes, 1e-6 for
// floats in another order, 0.0126 with 8-bit codes of both operands, 0.016 with one scale for a matrix and 8-bit results.
inline constexpr double float_tolerance = 1e-5, bfloat16_tolerance = 1e-2, s8_channel_tolerance = 0.02,
                        s8_tensor_tolerance = 0.03;

}  // namespace nibble::bench
