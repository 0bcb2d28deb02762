// SPDX-License-Identifier: MIT
#include "roofs.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/context.hpp>
#include <nibble/isa/detect.hpp>
#include <nibble/isa/intrinsics.hpp>
#include <nibble/kernels/kernels.hpp>

#include "bench.hpp"

namespace nibble::bench {
namespace {

constexpr int rounds = 9;  // the best one counts: neighbours only ever slow a loop down
constexpr double round_seconds = 5e-3;

/// Seconds that work(part, repeats), part in [0, threads), takes on all threads together, for each repeat, in the best
/// round.
template <class Work>
double best_seconds(std::size_t threads, Work&& work) {
  const context ctx = pool_of(threads).context();
  const auto run = [&](std::size_t repeats) {
    const stopwatch watch;
    core::for_each_item(ctx, threads, [&](std::size_t part, std::size_t) { work(part, repeats); });
    return watch.seconds();
  };
  std::size_t repeats = 1;
  while (run(repeats) < round_seconds) repeats *= 2;
  double best = run(repeats);
  for (int i = 1; i < rounds; ++i) best = std::min(best, run(repeats));
  return best / static_cast<double>(repeats);
}

#if defined(__AVX512F__)
constexpr std::size_t register_bytes = 64;
#elif defined(__AVX2__)
constexpr std::size_t register_bytes = 32;
#else
constexpr std::size_t register_bytes = 16;
#endif
using block = std::uint64_t __attribute__((vector_size(register_bytes), may_alias));

/// Reads [p, p + blocks) as so many streams side by side, with independent chains, so that no load waits for an
/// operation.
template <std::size_t Streams>
std::uint64_t read(const block* p, std::size_t blocks) noexcept {
  constexpr std::size_t step = 8 / Streams;  // blocks of a stream in one turn
  const std::size_t length = blocks / Streams / step * step;
  block sum[8] = {};
  for (std::size_t i = 0; i < length; i += step) {
    for (std::size_t s = 0; s < Streams; ++s)
      for (std::size_t j = 0; j < step; ++j) sum[s * step + j] ^= p[s * length + i + j];
  }
  for (std::size_t i = Streams * length; i < blocks; ++i) sum[0] ^= p[i];
  for (std::size_t j = 1; j < 8; ++j) sum[0] ^= sum[j];
  std::uint64_t all = 0;
  for (std::size_t j = 0; j < register_bytes / sizeof all; ++j) all ^= sum[0][j];
  return all;
}

/// Each thread cycles through its own part of the buffer, a window at a time, in the order that is fastest here. One
/// stream is not always: on Zen 3 it reads 22 GB/s from memory where four or eight read 31.
double measure_read(std::size_t bytes, std::size_t threads) {
  const std::size_t blocks = std::max<std::size_t>(bytes / sizeof(block) / threads, 1);
  const std::size_t window = std::min(blocks, (std::size_t{4} << 20) / sizeof(block)), windows = blocks / window;
  aligned_vector<std::byte> buffer(blocks * threads * sizeof(block), std::byte{1});
  const auto* first = reinterpret_cast<const block*>(buffer.data());
  std::vector<std::size_t> at(threads);
  double best = std::numeric_limits<double>::infinity();
  for (const auto order : {read<1>, read<4>, read<8>}) {
    best = std::min(best, best_seconds(threads, [&](std::size_t part, std::size_t repeats) {
                      for (std::size_t r = 0; r < repeats; ++r) {
                        std::uint64_t sum = order(first + part * blocks + at[part] * window, window);
                        keep(sum);
                        at[part] = at[part] + 1 < windows ? at[part] + 1 : 0;
                      }
                    }));
  }
  return static_cast<double>(window * threads * sizeof(block)) / best;
}

/// A register-only loop: `chains` independent accumulators hide the latency of `Step::next`, 4 cycles of which two begin
/// in each for an FMA, 1 for the addition that ends a byte step. More chains than that would be spilled.
template <class Step>
double measure_peak(std::size_t threads) {
  constexpr std::size_t steps = 1000;
  const double seconds = best_seconds(threads, [](std::size_t, std::size_t repeats) {
    typename Step::vector acc[Step::chains];
    for (auto& a : acc) a = Step::start();
    auto x = Step::start(), y = Step::start();
    for (std::size_t i = 0; i < repeats * steps; ++i) {
      [&]<std::size_t... C>(std::index_sequence<C...>) NIBBLE_LAMBDA_INLINE {
        ((Step::opaque(x), acc[C] = Step::next(acc[C], x, y)), ...);
      }
      (std::make_index_sequence<Step::chains>{});
    }
    for (auto& a : acc) Step::opaque(a);
  });
  return static_cast<double>(threads * steps * Step::chains * Step::operations) / seconds;
}

// `opaque` emits no instruction; the compiler must believe that the register changed, and repeats the work on it.
#if defined(__AVX512BW__) && defined(__AVX512F__)
struct float_step {
  using vector = __m512;
  static constexpr std::size_t chains = 16, operations = 2 * 16;
  static vector start() noexcept { return _mm512_set1_ps(0.5f); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+v"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept { return _mm512_fmadd_ps(x, y, acc); }
};
struct byte_step {
  using vector = __m512i;
  static constexpr std::size_t chains = 12, operations = 2 * 64;
  static vector start() noexcept { return _mm512_set1_epi8(1); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+v"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(acc, x, y);
#else
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(x, y), _mm512_set1_epi16(1)));
#endif
  }
};
#if defined(__AVX512VNNI__)
using pair_step = byte_step;
#else
struct pair_step : byte_step {
  static vector next(vector acc, vector x, vector y) noexcept {
    return _mm512_add_epi16(acc, _mm512_maddubs_epi16(x, y));
  }
};
#endif
#elif defined(__AVX2__) && defined(__FMA__)
struct float_step {
  using vector = __m256;
  static constexpr std::size_t chains = 10, operations = 2 * 8;
  static vector start() noexcept { return _mm256_set1_ps(0.5f); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+x"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept { return _mm256_fmadd_ps(x, y, acc); }
};
struct byte_step {
  using vector = __m256i;
  static constexpr std::size_t chains = 6, operations = 2 * 32;
  static vector start() noexcept { return _mm256_set1_epi8(1); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+x"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(acc, x, y);
#else
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)));
#endif
  }
};
#if defined(__AVXVNNI__)
using pair_step = byte_step;
#else
struct pair_step : byte_step {
  static vector next(vector acc, vector x, vector y) noexcept {
    return _mm256_add_epi16(acc, _mm256_maddubs_epi16(x, y));
  }
};
#endif
#elif defined(__SSE2__)
struct float_step {
  using vector = __m128;
  static constexpr std::size_t chains = 12, operations = 2 * 4;
  static vector start() noexcept { return _mm_set1_ps(0.5f); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+x"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept { return _mm_add_ps(acc, _mm_mul_ps(x, y)); }
};
struct byte_step {
  using vector = __m128i;
  static constexpr std::size_t chains = 6, operations = 2 * 8;  // bytes widened to int16
  static vector start() noexcept { return _mm_set1_epi16(1); }
  static void opaque(vector& v) noexcept { __asm__ volatile("" : "+x"(v)); }
  static vector next(vector acc, vector x, vector y) noexcept { return _mm_add_epi32(acc, _mm_madd_epi16(x, y)); }
};
using pair_step = byte_step;
#endif

#if NIBBLE_HAS_AMX_INT8 && NIBBLE_SIMD_KERNELS
/// Products of full tiles in registers: `four()` is four sums, each of two tiles of activations with each of two of
/// weights, `depth` k each.
template <class Four>
double measure_tile_peak(std::size_t threads, std::size_t depth, Four&& four) {
  constexpr std::size_t steps = 250;
  const std::size_t operations = 4 * 2 * 16 * 16 * depth;
  const double seconds = best_seconds(threads, [&](std::size_t, std::size_t repeats) {
    const kernels::amx::tile_scope scope;
    kernels::amx::tile_config shape;
    for (std::size_t tile = 0; tile < 8; ++tile) {
      shape.rows[tile] = 16;
      shape.row_bytes[tile] = 64;
    }
    kernels::amx::load_config(shape);
    for (std::size_t i = 0; i < repeats * steps; ++i) four();
  });
  return static_cast<double>(threads * steps * operations) / seconds;
}
#endif

/// A roof, and when it was measured last.
struct known_roof {
  double best = 0.0;
  stopwatch age;
};

/// The best of all measure() so far for a key. What was measured half a minute ago is measured again: a neighbour that takes
/// the machine for a moment cannot lower the roof of a whole run.
template <class Key, class Measure>
double best_so_far(std::map<Key, known_roof>& known, const Key& key, Measure&& measure) {
  constexpr double seconds_old = 30.0;
  known_roof& roof = known[key];
  if (roof.best == 0.0 || roof.age.seconds() > seconds_old) {
    roof.best = std::max(roof.best, measure());
    roof.age = stopwatch();
  }
  return roof.best;
}

}  // namespace

double read_roof(std::size_t bytes, std::size_t threads) {
  static std::map<std::pair<std::size_t, std::size_t>, known_roof> known;
  return best_so_far(known, {bytes, threads}, [&] { return measure_read(bytes, threads); });
}

double dram_roof(std::size_t threads) { return read_roof(std::min(std::size_t{512} << 20, cold_bytes()), threads); }

double float_peak(std::size_t threads) {
#if defined(__SSE2__)
  static std::map<std::size_t, known_roof> known;
  return best_so_far(known, threads, [&] { return measure_peak<float_step>(threads); });
#else
  return 0.0;
#endif
}

double bfloat16_peak(std::size_t threads) {
#if NIBBLE_HAS_AMX_BF16 && NIBBLE_SIMD_KERNELS
  static std::map<std::size_t, known_roof> known;
  if (isa::runs_here<isa::amx_bf16>())
    return best_so_far(known, threads, [&] {
      return measure_tile_peak(threads, 32, []() NIBBLE_LAMBDA_INLINE {
        kernels::amx::multiply_bfloat16<0, 4, 6>();
        kernels::amx::multiply_bfloat16<1, 4, 7>();
        kernels::amx::multiply_bfloat16<2, 5, 6>();
        kernels::amx::multiply_bfloat16<3, 5, 7>();
      });
    });
#endif
  return float_peak(threads);
}

double byte_peak(int bits, std::size_t threads) {
#if defined(__SSE2__)
  static std::map<std::pair<bool, std::size_t>, known_roof> known;
#if NIBBLE_HAS_AMX_INT8 && NIBBLE_SIMD_KERNELS
  if (isa::runs_here<isa::amx_int8>())
    return best_so_far(known, {false, threads}, [&] {
      return measure_tile_peak(threads, 64, []() NIBBLE_LAMBDA_INLINE {
        kernels::amx::multiply<0, 4, 6>();
        kernels::amx::multiply<1, 4, 7>();
        kernels::amx::multiply<2, 5, 6>();
        kernels::amx::multiply<3, 5, 7>();
      });
    });
#endif
  const bool pairs = bits <= 5;
  return best_so_far(known, {pairs, threads},
                     [&] { return pairs ? measure_peak<pair_step>(threads) : measure_peak<byte_step>(threads); });
#else
  static_cast<void>(bits);
  return 0.0;
#endif
}

}  // namespace nibble::bench
