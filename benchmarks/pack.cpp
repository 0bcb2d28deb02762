// SPDX-License-Identifier: MIT
// Canonical rows to panels and back.

#include <algorithm>

#include <nibble/isa/tags.hpp>
#include <nibble/tensor/packed_matrix.hpp>

#include "bench.hpp"
#include "support/matrices.hpp"

namespace nibble::bench {
namespace {

constexpr shape square = shapes[0];

const any_qmatrix& canonical(qtype type, shape s) {
  const std::string key = text("canonical/", quant::name_of(type), "/", name_of(s));
  return input_cache::get<any_qmatrix>(key,
                                       [&] { return test::random_qmatrix(quant::info_of(type).format, s.N, s.K, 1); });
}

void finish(benchmark::State& state, std::size_t bytes, double seconds) {
  state.counters["GBps"] = static_cast<double>(bytes) / seconds * 1e-9;
  state.SetLabel(std::string(isa::native::name));
}

}  // namespace

/// GBps counts stored bytes of the packed form.
void run_pack(benchmark::State& state, qtype type, shape s, std::size_t threads) {
  const any_qmatrix& q = canonical(type, s);
  const context ctx = pool_of(threads).context();
  std::size_t bytes = 0;
  const double seconds = time_loop(state, [&] {
    const packed_matrix p = pack_matrix(q.view(), layout_id::panel16, ctx);
    bytes = total_bytes(p.ledger());
  });
  finish(state, bytes, seconds);
}

/// Into memory that was written to before: without the faults of fresh pages, which belong to the system. Codes only.
void run_pack_again(benchmark::State& state, qtype type, shape s, std::size_t threads) {
  const any_qmatrix& q = canonical(type, s);
  const context ctx = pool_of(threads).context();
  const int bits = quant::info_of(type).format.bits;
  const std::size_t row_bytes = q.view().row_stride_bytes, panel_bytes = pack::panel16::panel_bytes(s.K, bits);
  aligned_vector<std::byte> panels(pack::panel16::panels(s.N) * panel_bytes);
  const double seconds = time_loop(state, [&] {
    core::for_each_item(ctx, pack::panel16::panels(s.N), [&](std::size_t p, std::size_t) {
      const std::size_t n = p * pack::panel16::nr, columns = std::min(s.N - n, pack::panel16::nr);
      nibble::detail::panels<isa::native>::pack(q.view().codes + n * row_bytes, row_bytes, columns, s.K, bits,
                                                panels.data() + p * panel_bytes);
    });
    const std::byte* codes = panels.data();
    keep(codes);
  });
  finish(state, panels.size(), seconds);
}

void run_unpack(benchmark::State& state, qtype type, shape s, std::size_t threads) {
  const std::string key = text("panels/", quant::name_of(type), "/", name_of(s));
  const auto& p = input_cache::get<packed_matrix>(key, [&] {
    return pack_matrix(test::random_qmatrix(quant::info_of(type).format, s.N, s.K, 1).view(), layout_id::panel16);
  });
  const context ctx = pool_of(threads).context();
  const double seconds = time_loop(state, [&] {
    any_qmatrix q = p.unpack(ctx);
    const std::byte* codes = q.codes().data();
    keep(codes);
  });
  finish(state, total_bytes(p.ledger()), seconds);
}

void register_pack() {
  for (const qtype type : formats) {
    for (const std::size_t threads : thread_counts()) {
      const std::string rest = text("/", quant::name_of(type), "/", name_of(square), "/threads:", threads);
      add("pack" + rest, [=](benchmark::State& state) { run_pack(state, type, square, threads); });
      add("pack_again" + rest, [=](benchmark::State& state) { run_pack_again(state, type, square, threads); });
      add("unpack" + rest, [=](benchmark::State& state) { run_unpack(state, type, square, threads); });
    }
  }
}

}  // namespace nibble::bench
