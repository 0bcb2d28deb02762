// SPDX-License-Identifier: MIT
// Eigen: float. It has threads only with OpenMP: N is cut by hand into one part for each thread, the best cut for small M.

#include "peers.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_EIGEN
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>
#endif

namespace nibble::bench {

#if NIBBLE_BENCH_HAS_EIGEN
namespace {

using floats = aligned_vector<float>;

void run(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  auto& weights = input_cache::get<copies<floats>>(text("eigen_f32/", name_of(s)), [&] {
    const std::vector<float> w = peer_weights(s);
    return copies<floats>(floats(w.begin(), w.end()), w.size() * sizeof(float));
  });
  weights.want_cold(cold);
  const auto N = static_cast<Eigen::Index>(s.N), K = static_cast<Eigen::Index>(s.K), m = static_cast<Eigen::Index>(M);
  const Eigen::Index parts = static_cast<Eigen::Index>(threads);
  const context ctx = pool_of(threads).context();
  const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, float_peak(threads)};
  run_peer(state, cost, float_tolerance, [&](const float* x, float* y) {
    const Eigen::Map<const matrix> W(weights.next().data(), N, K);
    core::for_each_item(ctx, threads, [&](std::size_t item, std::size_t) {
      const Eigen::Index part = static_cast<Eigen::Index>(item), begin = N * part / parts, end = N * (part + 1) / parts;
      if (m == 1) {
        Eigen::Map<Eigen::VectorXf> Y(y, N);
        Y.segment(begin, end - begin).noalias() =
            W.middleRows(begin, end - begin) * Eigen::Map<const Eigen::VectorXf>(x, K);
      } else {
        Eigen::Map<matrix> Y(y, m, N);
        Y.middleCols(begin, end - begin).noalias() =
            Eigen::Map<const matrix>(x, m, K) * W.middleRows(begin, end - begin).transpose();
      }
    });
  });
  state.SetLabel(Eigen::SimdInstructionSetsInUse());
}

}  // namespace

std::vector<peer> eigen_peers() {
  return {{"eigen_f32", text(EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION), "", run}};
}
#else
std::vector<peer> eigen_peers() { return {{"eigen_f32", "", "Eigen3 was not found when this program was built", {}}}; }
#endif

}  // namespace nibble::bench
