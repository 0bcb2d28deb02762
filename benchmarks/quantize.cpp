// SPDX-License-Identifier: MIT
// Floats to codes and back.

#include <nibble/isa/tags.hpp>
#include <nibble/tensor/quantize.hpp>

#include "bench.hpp"
#include "support/matrices.hpp"

namespace nibble::bench {
namespace {

constexpr shape square = shapes[0];

std::string name(const std::string& what, qtype type, shape s, std::size_t threads) {
  return text(what, "/", quant::name_of(type), "/", name_of(s), "/threads:", threads);
}

}  // namespace

/// GBps counts float input.
void run_quantize(benchmark::State& state, qtype type, bool search, shape s, std::size_t threads) {
  const auto& w =
      input_cache::get<std::vector<float>>(text("floats/", name_of(s)), [&] { return values(s.N * s.K, 1); });
  quantize_options options;
  if (search) options.fit.method = fitter::mse_search;
  const context ctx = pool_of(threads).context();
  const double seconds = time_loop(state, [&] {
    any_qmatrix q = quantize(type, make_span2d(w.data(), s.N, s.K), options, ctx);
    const std::byte* codes = q.codes().data();
    keep(codes);
  });
  state.counters["GBps"] = static_cast<double>(w.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

/// GBps counts float output.
void run_dequantize(benchmark::State& state, qtype type, shape s, std::size_t threads) {
  const std::string key = text("canonical/", quant::name_of(type), "/", name_of(s));
  const auto& q = input_cache::get<any_qmatrix>(
      key, [&] { return test::random_qmatrix(quant::info_of(type).format, s.N, s.K, 1); });
  std::vector<float> out(s.N * s.K);
  const context ctx = pool_of(threads).context();
  const double seconds = time_loop(state, [&] { dequantize(q.view(), make_span2d(out.data(), s.N, s.K), ctx); });
  state.counters["GBps"] = static_cast<double>(out.size() * sizeof(float)) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

void register_quantize() {
  for (const bool search : {false, true}) {
    for (const qtype type : formats) {
      for (const std::size_t threads : thread_counts()) {
        add(name(search ? "quantize_mse_search" : "quantize", type, square, threads),
            [=](benchmark::State& state) { run_quantize(state, type, search, square, threads); });
      }
    }
  }
  for (const qtype type : formats) {
    for (const std::size_t threads : thread_counts()) {
      add(name("dequantize", type, square, threads),
          [=](benchmark::State& state) { run_dequantize(state, type, square, threads); });
    }
  }
}

}  // namespace nibble::bench
