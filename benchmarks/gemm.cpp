// SPDX-License-Identifier: MIT
// Products by format, computation, shape, batch, threads, and the place of the weights.

#include <nibble/gemm/gemm.hpp>

#include "bench.hpp"
#include "roofs.hpp"
#include "support/matrices.hpp"

namespace nibble::bench {
namespace {

copies<packed_matrix>& weights(qtype type, shape s) {
  return input_cache::get<copies<packed_matrix>>(text("copies/", quant::name_of(type), "/", name_of(s)), [&] {
    packed_matrix packed = pack_matrix(test::random_qmatrix(quant::info_of(type).format, s.N, s.K, 1).view());
    const std::size_t bytes = total_bytes(packed.ledger());
    return copies<packed_matrix>(std::move(packed), bytes);
  });
}

}  // namespace

std::string gemm_name(const std::string& what, shape s, std::size_t M, std::size_t threads, bool cold) {
  return text("gemm/", what, "/", name_of(s), "/M:", M, "/threads:", threads, cold ? "/cold" : "/warm");
}

void run_gemm(benchmark::State& state, qtype type, bool integer, shape s, std::size_t M, std::size_t threads,
              bool cold) {
  auto& W = weights(type, s);
  W.want_cold(cold);
  const std::vector<float> x = values(M * s.K, 2);
  std::vector<float> y(M * s.N);
  const auto X = make_span2d(x.data(), M, s.K);
  const auto Y = make_span2d(y.data(), M, s.N);
  const gemm_options options{.computation = integer ? computation::integer : computation::weight_only};
  thread_pool& pool = pool_of(threads);
  const double seconds = time_loop(state, [&] { multiply(X, W.next(), Y, pool, options); });
  const double peak = integer ? byte_peak(quant::info_of(type).format.bits, threads) : float_peak(threads);
  report(state, {s.N, s.K, M, threads, W.bytes(), cold, peak}, seconds);
  state.SetLabel(
      gemm::with_default_backend(W.front().layout(), []<class B>(B) { return std::string(B::isa_type::name); }));
}

void register_gemm() {
  for (const qtype type : formats) {
    const quant::qtype_info& info = quant::info_of(type);
    for (const shape s : shapes) {
      for (const bool cold : {false, true}) {
        for (const bool integer : {false, true}) {
          if (integer && info.format.rule == code_rule::codebook) continue;  // no exact integer sums
          for (const std::size_t M : batches) {
            for (const std::size_t threads : thread_counts()) {
              const std::string what = text(info.name, integer ? "/integer" : "/weight_only");
              add(gemm_name(what, s, M, threads, cold),
                  [=](benchmark::State& state) { run_gemm(state, type, integer, s, M, threads, cold); });
            }
          }
        }
      }
    }
  }
}

}  // namespace nibble::bench
