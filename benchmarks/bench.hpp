// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What all topics of nibble-bench share.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/error.hpp>
#include <nibble/core/thread_pool.hpp>

#include "shapes.hpp"

namespace nibble::bench {

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(clock::now() - begin_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point begin_ = clock::now();
};

/// The value counts as used.
template <class T>
void keep(T& value) {
  __asm__ volatile("" : "+r"(value) : : "memory");
}

/// The pool of so many threads; it lives as long as the program.
thread_pool& pool_of(std::size_t threads);

/// 1 and 2, as far as this machine has them.
std::vector<std::size_t> thread_counts();

/// How much of distinct weights a cold benchmark cycles through: 1.5 GiB, or a quarter of a smaller memory.
std::size_t cold_bytes();

/// The middle one; reorders.
inline double median(std::vector<double>& v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

/// The benchmark's loop. Returns the wall seconds of the median iteration, what counters are made from: on a machine with
/// neighbours it stays when a mean does not. (Google Benchmark's own rates count the CPU time of one thread.) The first
/// call, which finds the number of iterations, warms up.
template <class F>
double time_loop(benchmark::State& state, F&& f) {
  if (state.max_iterations == 1) f();
  std::vector<double> seconds;
  seconds.reserve(static_cast<std::size_t>(state.max_iterations));
  for (auto _ : state) {
    const stopwatch watch;
    f();
    seconds.push_back(watch.seconds());
  }
  return median(seconds);
}

/// The counters of a product: GB/s of stored weights, GOP/s, and their shares of the roofs.
struct product_cost {
  std::size_t N, K, M, threads;
  std::size_t weight_bytes;
  bool cold;
  double peak;  ///< operations per second, 0 when unknown
};
void report(benchmark::State& state, const product_cost& cost, double seconds);

/// The one set of inputs that is kept from benchmark to benchmark; asking for another one frees it first. So nothing is
/// made that is not run, and memory is bounded by the largest set.
class input_cache {
 public:
  template <class T, class Make>
  static T& get(const std::string& key, Make&& make) {
    if (key_ != key) {
      value_.reset();
      key_.clear();
      value_ = std::make_shared<T>(make());
      key_ = key;
    }
    return *static_cast<T*>(value_.get());
  }

 private:
  inline static std::string key_;  // names T as well
  inline static std::shared_ptr<void> value_;
};

/// Copies of one matrix: a single one, or so many that they exceed cold_bytes() and each comes back from memory.
template <class Matrix>
class copies {
 public:
  copies(Matrix first, std::size_t bytes) : bytes_(bytes) { all_.push_back(std::move(first)); }
  void want_cold(bool cold) { want_distinct(cold ? cold_bytes() : 0); }
  /// So many copies that `bytes` lie between two uses of one; 0 for a single one.
  void want_distinct(std::size_t bytes) {
    const std::size_t count = bytes == 0 ? 1 : bytes / bytes_ + 2;
    all_.reserve(count);
    while (all_.size() < count) all_.push_back(all_.front());
    if (count == 1) next_ = 0;
    in_turn_ = count;
  }
  const Matrix& next() {
    next_ = next_ + 1 < in_turn_ ? next_ + 1 : 0;
    return all_[next_];
  }
  const Matrix& front() const { return all_.front(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::vector<Matrix> all_;
  std::size_t bytes_, in_turn_ = 1, next_ = 0;
};

/// Seeded normal values; a block of them repeated, since timing does not look at them.
std::vector<float> values(std::size_t count, unsigned seed, float sigma = 1.0f);

/// Names from pieces: text and numbers.
template <class... Pieces>
std::string text(const Pieces&... pieces) {
  std::string s;
  (core::append_piece(s, pieces), ...);
  return s;
}

/// "N:4096/K:4096".
inline std::string name_of(shape s) { return text("N:", s.N, "/K:", s.K); }

/// Adds a benchmark under its full name.
template <class F>
void add(const std::string& name, F&& f) {
  benchmark::RegisterBenchmark(name.c_str(), std::forward<F>(f));
}

// One for each topic.
void register_quantize();
void register_pack();
void register_gemm();
void register_super_blocks();
void register_matrix();
void register_nn();
void register_peers();
void register_roofs();
/// A handful of small entries for CI, all named smoke/...
void register_smoke();
/// Compiler, flags, CPU, ISA, versions and absent peers for the head of the output.
void add_context();
/// What a product computes with, as names have it: one_plane and two_planes are a codebook's integer images.
enum class computing { weight_only, integer, one_plane, two_planes, bfloat16 };
const char* name_of(computing how);
// What register_smoke takes from the topics.
void run_gemm(benchmark::State& state, qtype type, computing how, shape s, std::size_t M, std::size_t threads,
              bool cold);
void run_quantize(benchmark::State& state, qtype type, bool search, shape s, std::size_t threads);
void run_dequantize(benchmark::State& state, qtype type, shape s, std::size_t threads);
void run_pack(benchmark::State& state, qtype type, shape s, std::size_t threads);
void run_unpack(benchmark::State& state, qtype type, shape s, std::size_t threads);

/// "gemm/w4_g128/integer/N:4096/K:4096/M:1/threads:2/cold".
std::string gemm_name(const std::string& what, shape s, std::size_t M, std::size_t threads, bool cold);

}  // namespace nibble::bench
