// SPDX-License-Identifier: MIT
// The same products in float by Eigen and OpenBLAS, in the same process on the same number of threads.

#include <nibble/core/aligned_vector.hpp>

#include "bench.hpp"
#include "roofs.hpp"

#if NIBBLE_BENCH_HAS_EIGEN
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>
#endif

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
namespace {

using float_matrix = aligned_vector<float>;  // W[N, K], row-major

[[maybe_unused]] copies<float_matrix>& float_weights(shape s) {
  return input_cache::get<copies<float_matrix>>(text("f32/", name_of(s)), [&] {
    const std::vector<float> w = values(s.N * s.K, 1, 0.02f);
    return copies<float_matrix>(float_matrix(w.begin(), w.end()), w.size() * sizeof(float));
  });
}

/// multiply(W, X, Y) timed and reported.
template <class Multiply>
void run(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold, Multiply&& multiply) {
  auto& W = float_weights(s);
  W.want_cold(cold);
  const std::vector<float> x = values(M * s.K, 2);
  std::vector<float> y(M * s.N);
  const double seconds = time_loop(state, [&] { multiply(W.next().data(), x.data(), y.data()); });
  report(state, {s.N, s.K, M, threads, W.bytes(), cold, float_peak(threads)}, seconds);
}

void register_peer(const std::string& peer,
                   void (*run_peer)(benchmark::State&, shape, std::size_t M, std::size_t threads, bool cold)) {
  for (const shape s : shapes)
    for (const bool cold : {false, true})
      for (const std::size_t M : batches)
        for (const std::size_t threads : thread_counts())
          add(gemm_name(peer, s, M, threads, cold),
              [=](benchmark::State& state) { run_peer(state, s, M, threads, cold); });
}

}  // namespace

#if NIBBLE_BENCH_HAS_EIGEN
/// Eigen has threads only with OpenMP: N is cut by hand into one part for each thread, the best cut for small M.
void run_eigen(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto N = static_cast<Eigen::Index>(s.N), K = static_cast<Eigen::Index>(s.K), m = static_cast<Eigen::Index>(M);
  const Eigen::Index parts = static_cast<Eigen::Index>(threads);
  const context ctx = pool_of(threads).context();
  run(state, s, M, threads, cold, [&](const float* w, const float* x, float* y) {
    const Eigen::Map<const matrix> W(w, N, K);
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

bool has_eigen() { return true; }

std::string eigen_version() { return text(EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION); }
#else
bool has_eigen() { return false; }
std::string eigen_version() { return "absent: Eigen3 was not found when this program was built"; }
void run_eigen(benchmark::State& state, shape, std::size_t, std::size_t, bool) { state.SkipWithError("no Eigen"); }
#endif

#if NIBBLE_BENCH_HAS_BLAS
bool has_openblas() { return openblas_set_num_threads != nullptr; }

std::string openblas_version() {
  if (!has_openblas()) return "absent: the BLAS that was found is not OpenBLAS";
  return openblas_get_config != nullptr ? openblas_get_config() : "of unknown version";
}

void run_openblas(benchmark::State& state, shape s, std::size_t M, std::size_t threads, bool cold) {
  const int N = static_cast<int>(s.N), K = static_cast<int>(s.K), m = static_cast<int>(M), one = 1;
  const float alpha = 1.0f, beta = 0.0f;
  openblas_set_num_threads(static_cast<int>(threads));
  // Column-major words for row-major memory: transpose(Y)[N, M] = W * transpose(X).
  run(state, s, M, threads, cold, [&](const float* w, const float* x, float* y) {
    if (m == 1) sgemv_("T", &K, &N, &alpha, w, &K, x, &one, &beta, y, &one);
    else sgemm_("T", "N", &N, &m, &K, &alpha, w, &K, x, &K, &beta, y, &N);
  });
  if (openblas_get_corename != nullptr) state.SetLabel(openblas_get_corename());
}
#else
bool has_openblas() { return false; }
std::string openblas_version() { return "absent: no BLAS was found when this program was built"; }
void run_openblas(benchmark::State& state, shape, std::size_t, std::size_t, bool) { state.SkipWithError("no BLAS"); }
#endif

void register_peers() {
  if (has_eigen()) register_peer("eigen_f32", run_eigen);
  if (has_openblas()) register_peer("openblas_f32", run_openblas);
}

}  // namespace nibble::bench
