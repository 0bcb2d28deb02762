// SPDX-License-Identifier: MIT
// The roofs by themselves, for whoever draws them or divides a time from elsewhere by them.

#include "bench.hpp"
#include "roofs.hpp"

namespace nibble::bench {
namespace {

/// An entry that shows a rate per second, in 10^9, and runs nothing but what measures it.
void show(const std::string& name, const char* counter, double (*rate)(std::size_t what, std::size_t threads),
          std::size_t what, std::size_t threads) {
  add(name, [=](benchmark::State& state) {
    const double value = rate(what, threads);
    for (auto _ : state) {}
    state.counters[counter] = value * 1e-9;
  });
}

}  // namespace

void register_roofs() {
  for (const std::size_t threads : thread_counts()) {
    const std::string tail = text("/threads:", threads);
    for (std::size_t kib = 256; kib <= 131072; kib *= 2)
      show(
          text("roof/read/KiB:", kib, tail), "GBps", [](std::size_t k, std::size_t t) { return read_roof(k << 10, t); },
          kib, threads);
    show(
        text("roof/read/memory", tail), "GBps", [](std::size_t, std::size_t t) { return dram_roof(t); }, 0, threads);
    show(
        text("roof/peak/float", tail), "GOPs", [](std::size_t, std::size_t t) { return float_peak(t); }, 0, threads);
    show(
        text("roof/peak/bfloat16", tail), "GOPs", [](std::size_t, std::size_t t) { return bfloat16_peak(t); }, 0,
        threads);
    for (const std::size_t bits : {std::size_t{5}, std::size_t{8}})
      show(
          text("roof/peak/bytes/bits:", bits, tail), "GOPs",
          [](std::size_t b, std::size_t t) { return byte_peak(static_cast<int>(b), t); }, bits, threads);
  }
}

}  // namespace nibble::bench
