// SPDX-License-Identifier: MIT
#include "peers.hpp"

#include <algorithm>
#include <cmath>

#include <nibble/kernels/kernels.hpp>

namespace nibble::bench {

const std::vector<peer>& all_peers() {
  static const std::vector<peer> all = [] {
    std::vector<peer> peers;
    for (const auto& list : {eigen_peers(), openblas_peers(), onednn_peers(), gemmlowp_peers(), xnnpack_peers()})
      peers.insert(peers.end(), list.begin(), list.end());
    return peers;
  }();
  return all;
}

std::vector<float> peer_weights(shape s) { return values(s.N * s.K, 1, 0.02f); }

s8_matrix s8_weights(shape s, bool per_channel) {
  const std::vector<float> w = peer_weights(s);
  const std::size_t rows = per_channel ? 1 : s.N;  // that share a scale
  s8_matrix q{aligned_vector<std::int8_t>(w.size()), std::vector<float>(s.N)};
  for (std::size_t n = 0; n < s.N; n += rows) {
    const float* first = w.data() + n * s.K;
    float absmax = 0.0f;
    for (std::size_t i = 0; i < rows * s.K; ++i) absmax = std::max(absmax, std::abs(first[i]));
    const float scale = absmax / 127.0f;
    for (std::size_t i = 0; i < rows * s.K; ++i)
      q.codes[n * s.K + i] = static_cast<std::int8_t>(std::lrint(first[i] / scale));
    std::fill_n(q.scales.begin() + static_cast<std::ptrdiff_t>(n), rows, scale);
  }
  return q;
}

void quantize_tokens(const context& ctx, std::size_t M, std::size_t K, const float* x, std::int8_t* codes,
                     float* scales) {
  core::for_each_item(ctx, M, [&](std::size_t m, std::size_t) {
    scales[m] = kernels::quantize_row<isa::native>::run(x + m * K, K, codes + m * K, K);
  });
}

double relative_error(shape s, std::size_t M, const float* x, const float* y) {
  const std::vector<float> w = peer_weights(s);
  double error = 0.0, size = 0.0;
  for (const std::size_t m : {std::size_t{0}, M / 2, M - 1}) {
    for (std::size_t n = 0; n < s.N; n += n + 1 < s.N ? std::min<std::size_t>(61, s.N - 1 - n) : 1) {  // the last, too
      double sum = 0.0;
      for (std::size_t k = 0; k < s.K; ++k)
        sum += static_cast<double>(x[m * s.K + k]) * static_cast<double>(w[n * s.K + k]);
      const double distance = static_cast<double>(y[m * s.N + n]) - sum;
      error += distance * distance;
      size += sum * sum;
    }
  }
  return std::sqrt(error / size);
}

void register_peers() {
  for (const peer& p : all_peers()) {
    if (!p.absent.empty()) continue;
    for (const shape s : shapes)
      for (const bool cold : {false, true})
        for (const std::size_t M : batches)
          for (const std::size_t threads : thread_counts())
            add(gemm_name(p.name, s, M, threads, cold),
                [=, run = p.run](benchmark::State& state) { run(state, s, M, threads, cold); });
  }
}

}  // namespace nibble::bench
