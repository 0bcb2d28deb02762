// SPDX-License-Identifier: MIT
// OpenBLAS: float, on threads of its own.

#include "peers.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_BLAS
extern "C" {
// The BLAS of Fortran; a header for it is not always installed.
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k, const float* alpha,
            const float* a, const int* lda, const float* b, const int* ldb, const float* beta, float* c,
            const int* ldc);
void sgemv_(const char* trans, const int* m, const int* n, const float* alpha, const float* a, const int* lda,
            const float* x, const int* incx, const float* beta, float* y, const int* incy);
// OpenBLAS only: null when another BLAS is linked.
__attribute__((weak)) void openblas_set_num_threads(int threads);
__attribute__((weak)) char* openblas_get_config();
__attribute__((weak)) char* openblas_get_corename();
}
#endif

namespace nibble::bench {

#if NIBBLE_BENCH_HAS_BLAS
namespace {

using floats = aligned_vector<float>;

void run(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  auto& weights = input_cache::get<copies<floats>>(text("openblas_f32/", name_of(s)), [&] {
    const std::vector<float> w = peer_weights(s);
    return copies<floats>(floats(w.begin(), w.end()), w.size() * sizeof(float));
  });
  weights.want_cold(cold);
  const int N = static_cast<int>(s.N), K = static_cast<int>(s.K), m = static_cast<int>(M), one = 1;
  const float alpha = 1.0f, beta = 0.0f;
  openblas_set_num_threads(static_cast<int>(threads));
  const product_cost cost{s.N, s.K, M, threads, weights.bytes(), cold, float_peak(threads)};
  // Column-major words for row-major memory: transpose(Y)[N, M] = W * transpose(X).
  run_peer(state, cost, float_tolerance, [&](const float* x, float* y) {
    const float* w = weights.next().data();
    if (m == 1) sgemv_("T", &K, &N, &alpha, w, &K, x, &one, &beta, y, &one);
    else sgemm_("T", "N", &N, &m, &K, &alpha, w, &K, x, &K, &beta, y, &N);
  });
  if (openblas_get_corename != nullptr) state.SetLabel(openblas_get_corename());
}

}  // namespace

std::vector<peer> openblas_peers() {
  if (openblas_set_num_threads == nullptr) return {{"openblas_f32", "", "the BLAS that was found is not OpenBLAS", {}}};
  return {{"openblas_f32", openblas_get_config != nullptr ? openblas_get_config() : "of unknown version", "", run}};
}
#else
std::vector<peer> openblas_peers() {
  return {{"openblas_f32", "", "no BLAS was found when this program was built", {}}};
}
#endif

}  // namespace nibble::bench
