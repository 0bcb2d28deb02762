// SPDX-License-Identifier: MIT
// gemmlowp: unsigned bytes with a zero point, on threads of its own. It has no packed form to keep: weights are brought
// into its order inside each call.

#include "peers.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_GEMMLOWP
#if defined(__AVX2__)
#define GEMMLOWP_ENABLE_AVX2  // its AVX2 kernels are off by default
#endif
#include <public/gemmlowp.h>
#endif

namespace nibble::bench {

#if NIBBLE_BENCH_HAS_GEMMLOWP
namespace {

#if defined(GEMMLOWP_AVX2)
constexpr const char* isa_name = "avx2";
#elif defined(GEMMLOWP_SSE4)
constexpr const char* isa_name = "sse4";
#elif defined(GEMMLOWP_NEON)
constexpr const char* isa_name = "neon";
#else
constexpr const char* isa_name = "reference";
#endif

using bytes = aligned_vector<std::uint8_t>;

void run(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  struct weights {
    copies<bytes> codes;
    std::vector<float> scales;
  };
  auto& W = input_cache::get<weights>(text("gemmlowp_u8/", name_of(s)), [&] {
    s8_matrix q = s8_weights(s, true);
    bytes codes(q.codes.size());
    for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(q.codes[i] + 128);
    return weights{copies<bytes>(std::move(codes), s.N * s.K), std::move(q.scales)};
  });
  W.codes.want_cold(cold);

  const int N = static_cast<int>(s.N), K = static_cast<int>(s.K), m = static_cast<int>(M);
  gemmlowp::GemmContext own;
  own.set_max_num_threads(static_cast<int>(threads));
  const context ctx = pool_of(threads).context();
  bytes tokens(M * s.K);
  std::vector<float> token_scales(M);
  std::vector<std::int32_t> sums(M * s.N);
  const gemmlowp::MatrixMap<const std::uint8_t, gemmlowp::MapOrder::ColMajor> X(tokens.data(), K, m);
  gemmlowp::MatrixMap<std::int32_t, gemmlowp::MapOrder::ColMajor> Y(sums.data(), N, m);
  const product_cost cost{s.N, s.K, M, threads, W.codes.bytes() + s.N * sizeof(float), cold, byte_peak(8, threads)};
  run_peer(state, cost, s8_channel_tolerance, [&](const float* x, float* y) {
    core::for_each_item(ctx, M, [&](std::size_t i, std::size_t) {
      std::uint8_t* row = tokens.data() + i * s.K;
      quantize_tokens({}, 1, s.K, x + i * s.K, reinterpret_cast<std::int8_t*>(row), &token_scales[i]);
      for (std::size_t k = 0; k < s.K; ++k) row[k] ^= 0x80;  // 128 more
    });
    const gemmlowp::MatrixMap<const std::uint8_t, gemmlowp::MapOrder::RowMajor> w(W.codes.next().data(), N, K);
    gemmlowp::GemmWithOutputPipeline<std::uint8_t, std::int32_t, gemmlowp::DefaultL8R8BitDepthParams>(
        &own, w, X, &Y, -128, -128, std::tuple<>{});
    core::for_each_item(ctx, M, [&](std::size_t i, std::size_t) {
      for (std::size_t n = 0; n < s.N; ++n)
        y[i * s.N + n] = static_cast<float>(sums[i * s.N + n]) * (W.scales[n] * token_scales[i]);
    });
  });
  state.SetLabel(isa_name);
}

}  // namespace

std::vector<peer> gemmlowp_peers() {
  return {{"gemmlowp_u8_channel/integer", text("of unknown version, ", isa_name), "", run}};
}
#else
std::vector<peer> gemmlowp_peers() {
  return {{"gemmlowp_u8_channel/integer", "", "gemmlowp was not found when this program was built", {}}};
}
#endif

}  // namespace nibble::bench
