// SPDX-License-Identifier: MIT
// The linear layers of a transformer block in four calls: query, key and value as one batch that quantizes its input once;
// the gated feed-forward with SiLU, gate and residual inside the products; bfloat16 in, bfloat16 or float out.

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/nibble.hpp>

using nibble::bfloat16, nibble::gemm_task, nibble::input_of, nibble::make_span2d, nibble::output_of;

namespace {

constexpr std::size_t M = 6, d = 512, d_kv = 128, d_ff = 1376;  // tokens, width, keys and values, feed-forward

nibble::packed_matrix weights(std::size_t N, std::size_t K, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(K)));
  std::vector<float> w(N * K);
  for (float& v : w) v = normal(rng);
  return nibble::pack_matrix(nibble::quantize<nibble::quant::w4_g32>(make_span2d(w.data(), N, K)).view());
}

/// |a - b| / |b|.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, length = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    length += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / length);
}

}  // namespace

int main() {
  const nibble::packed_matrix Wq = weights(d, d, 1), Wk = weights(d_kv, d, 2), Wv = weights(d_kv, d, 3);
  const nibble::packed_matrix Wgate = weights(d_ff, d, 4), Wup = weights(d_ff, d, 5), Wdown = weights(d, d_ff, 6);
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<bfloat16> x(M * d);
  for (bfloat16& v : x) v = nibble::to_bfloat16(normal(rng));
  const auto X = make_span2d(x.data(), M, d);

  nibble::thread_pool pool;
  const nibble::gemm_options integer{.computation = nibble::computation::integer};

  // Three products, one call. The tasks share X: it is quantized once.
  std::vector<float> q(M * d), k(M * d_kv), v(M * d_kv);
  const gemm_task qkv[] = {
      {input_of(X), Wq.view(), output_of(make_span2d(q.data(), M, d)), nullptr},
      {input_of(X), Wk.view(), output_of(make_span2d(k.data(), M, d_kv)), nullptr},
      {input_of(X), Wv.view(), output_of(make_span2d(v.data(), M, d_kv)), nullptr},
  };
  nibble::multiply(qkv, pool, integer);

  // h = silu(X Wgate) * (X Wup); y = x + h Wdown. Nothing passes over h or y a second time.
  std::vector<float> gate(M * d_ff), y(M * d);
  std::vector<bfloat16> h(M * d_ff);
  const auto Gate = make_span2d(gate.data(), M, d_ff);
  const auto H = make_span2d(h.data(), M, d_ff);
  nibble::multiply_as(X, Wgate.view(), Gate, pool, integer, nibble::gemm::silu{});
  nibble::multiply_as(X, Wup.view(), H, pool, integer, nibble::gemm::multiply_matrix{Gate});
  nibble::multiply_as(H, Wdown.view(), make_span2d(y.data(), M, d), pool, integer,
                      // An epilogue of one's own: the residual, which is bfloat16 here.
                      [&](const nibble::gemm::output_row& at, float* values) noexcept {
                        for (std::size_t i = 0; i < at.count; ++i)
                          values[i] += nibble::to_float(x[at.m * d + at.n0 + i]);
                      });

  // The same, step by step, in float.
  std::vector<float> wide(M * d), a(M * d_ff), b(M * d_ff), want(M * d), q_want(M * d);
  for (std::size_t i = 0; i < x.size(); ++i) wide[i] = nibble::to_float(x[i]);
  const auto W = make_span2d(wide.data(), M, d);
  nibble::multiply(W, Wq, make_span2d(q_want.data(), M, d), pool);
  nibble::multiply(W, Wgate, make_span2d(a.data(), M, d_ff), pool);
  nibble::multiply(W, Wup, make_span2d(b.data(), M, d_ff), pool);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = a[i] / (1.0f + std::exp(-a[i])) * b[i];
  nibble::multiply(make_span2d(a.data(), M, d_ff), Wdown, make_span2d(want.data(), M, d), pool);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] += wide[i];

  std::printf("query: distance to the float product %.4f\nblock: distance to the step by step result %.4f\n",
              distance(q, q_want), distance(y, want));
  // Activations of 8 bits per token are off by about a hundredth; bfloat16 adds a thousandth.
  return distance(q, q_want) < 0.02 && distance(y, want) < 0.02 ? 0 : 1;
}
