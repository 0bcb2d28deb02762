// SPDX-License-Identifier: MIT
// nibble-bench: see README.md in this folder.

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>

#include <nibble/gemm/cpu.hpp>

#include "bench.hpp"
#include "peers.hpp"
#include "roofs.hpp"

namespace nibble::bench {

thread_pool& pool_of(std::size_t threads) {
  static std::map<std::size_t, thread_pool> pools;
  return pools.try_emplace(threads, threads).first->second;
}

std::vector<std::size_t> thread_counts() {
  return available_concurrency() < 2 ? std::vector<std::size_t>{1} : std::vector<std::size_t>{1, 2};
}

std::size_t cold_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  const std::size_t wanted = std::size_t{3} << 29;
  if (pages <= 0 || page <= 0) return wanted;
  return std::min(wanted, static_cast<std::size_t>(pages) / 4 * static_cast<std::size_t>(page));
}

std::vector<float> values(std::size_t count, unsigned seed, float sigma) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> v(count);
  const std::size_t period = 1 << 18;
  for (std::size_t i = 0; i < count; ++i) v[i] = i < period ? normal(rng) : v[i - period];
  return v;
}

void report(benchmark::State& state, const product_cost& c, double seconds) {
  const double bytes = static_cast<double>(c.weight_bytes) / seconds;
  const double operations =
      2.0 * static_cast<double>(c.M) * static_cast<double>(c.N) * static_cast<double>(c.K) / seconds;
  state.counters["GBps"] = bytes * 1e-9;
  state.counters["GOPs"] = operations * 1e-9;
  state.counters["read_roof"] = bytes / (c.cold ? dram_roof(c.threads) : read_roof(c.weight_bytes, c.threads));
  if (c.peak != 0.0) state.counters["peak_roof"] = operations / c.peak;
}

namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

std::string flags() {
#if defined(__OPTIMIZE__)
  std::string how = "optimized";
#else
  std::string how = "NOT optimized";
#endif
#if defined(NDEBUG)
  how += ", assertions off";
#else
  how += ", assertions ON";
#endif
  return how + ", " NIBBLE_ABI_NAME;
}

std::string xsimd_version() {
#if NIBBLE_HAS_XSIMD && defined(XSIMD_VERSION_MAJOR)
  return text(XSIMD_VERSION_MAJOR, ".", XSIMD_VERSION_MINOR, ".", XSIMD_VERSION_PATCH);
#else
  return "absent: the kernels are plain C++";
#endif
}

}  // namespace

void add_context() {
  benchmark::AddCustomContext("nibble",
                              text(NIBBLE_VERSION_MAJOR, ".", NIBBLE_VERSION_MINOR, ".", NIBBLE_VERSION_PATCH));
  benchmark::AddCustomContext("cpu", text(cpu_name(), ", ", available_concurrency(), " threads usable"));
  benchmark::AddCustomContext("isa", std::string(gemm::simd::isa_type::name));
  benchmark::AddCustomContext("compiler", compiler());
  benchmark::AddCustomContext("flags", flags());
  benchmark::AddCustomContext("xsimd", xsimd_version());
  for (const peer& p : all_peers())
    benchmark::AddCustomContext("peer " + p.name, p.absent.empty() ? p.version : "absent: " + p.absent);
  benchmark::AddCustomContext("cold set", text(cold_bytes() >> 20, " MiB"));
}

constexpr shape small{1024, 3072};

void register_smoke() {
  const std::size_t most = thread_counts().back();
  const auto gemm = [&](qtype type, computing how, std::size_t M, std::size_t threads, bool cold) {
    const std::string what = text(quant::name_of(type), '/', name_of(how));
    add(text("smoke/", gemm_name(what, small, M, threads, cold)),
        [=](benchmark::State& state) { run_gemm(state, type, how, small, M, threads, cold); });
  };
  gemm(qtype::w4_g128, computing::weight_only, 1, 1, false);
  gemm(qtype::w4_g128, computing::weight_only, 1, most, true);
  gemm(qtype::w4_g128, computing::integer, 16, most, false);
  gemm(qtype::nf4_g64, computing::weight_only, 5, 1, false);
  gemm(qtype::nf4_g64, computing::one_plane, 1, 1, false);
  gemm(qtype::nf4_g64, computing::bfloat16, 16, 1, false);
  for (const peer& p : all_peers())
    if (p.absent.empty())
      add(text("smoke/", gemm_name(p.name, small, 5, most, false)),
          [run = p.run, most](benchmark::State& state) { run(state, small, 5, most, false); });
  add("smoke/quantize", [](benchmark::State& state) { run_quantize(state, qtype::w4_g128, false, small, 1); });
  add("smoke/dequantize", [](benchmark::State& state) { run_dequantize(state, qtype::w4_g128, small, 1); });
  add("smoke/pack", [](benchmark::State& state) { run_pack(state, qtype::w4_g128, small, 1); });
  add("smoke/unpack", [](benchmark::State& state) { run_unpack(state, qtype::w4_g128, small, 1); });
}

}  // namespace nibble::bench

int main(int argc, char** argv) {
  // A shorter default than Google Benchmark's half second, so that a run of everything takes minutes. The user's own
  // flags come later and win.
  std::string min_time = "--benchmark_min_time=0.05";
  std::vector<char*> arguments{argv[0], min_time.data()};
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;

  nibble::bench::add_context();
  nibble::bench::register_smoke();
  nibble::bench::register_quantize();
  nibble::bench::register_pack();
  nibble::bench::register_roofs();
  nibble::bench::register_peers();
  nibble::bench::register_gemm();
  nibble::bench::register_super_blocks();
  nibble::bench::register_matrix();
  nibble::bench::register_nn();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
