// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Places of values among the thresholds of a table, one value a lane, on the native register width.

#include <bit>
#include <cstddef>
#include <cstdint>

#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/codebook.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// A table in the order in which lanes search it.
struct table_planes {
  table_planes() noexcept = default;
  explicit table_planes(const codebook_desc& book) noexcept
      : steps(book.bits - (book.sign_magnitude ? 1 : 0)), sign_magnitude(book.sign_magnitude) {
    const std::size_t ranks = std::size_t{1} << steps;
    for (std::size_t step = 0; step < static_cast<std::size_t>(steps); ++step)
      for (std::size_t i = 0; i < std::size_t{1} << step; ++i)
        thresholds[first_of(step) + i] = book.thresholds[(2 * i + 1) * (ranks >> (step + 1)) - 1];
    for (std::size_t r = 0; r < (sign_magnitude ? 2 * ranks : ranks); ++r) {
      const std::size_t place = r % ranks;
      const std::size_t code = (book.code_of_rank == nullptr ? place : book.code_of_rank[place]) | (r - place);
      values[r] = book.values[code];
      if (r < 16) codes[r] = std::bit_cast<float>(static_cast<std::uint32_t>(code));
    }
  }

  // The thresholds of a step begin on a register boundary and are read as whole registers.
  static constexpr std::size_t first_of(std::size_t step) noexcept {
    return step <= 4 ? 16 * step : 80 + ((std::size_t{32} << (step - 5)) - 32);
  }

  int steps = 0;  // log2 of the ranks
  bool sign_magnitude = false;
  alignas(64) float thresholds[80 + 32 + 64 + 128] = {};
  alignas(64) float values[256] = {};  // by rank
  alignas(64) float codes[16] = {};    // integers
};

/// The rank of each lane among the 2^n - 1 ascending thresholds of a table, and the value of each rank: a search by
/// halving whose steps look their threshold up in a register. Steps: log2 of the ranks, or 0 when known only at run time.
template <int Steps>
class table_lanes {
 public:
  explicit table_lanes(const table_planes& planes) noexcept : t_(planes) {}

  /// The codes of ranks, where there are at most 16.
  NIBBLE_ALWAYS_INLINE vi code(vi rank) const noexcept { return bits_of(look_up(t_.codes, size(), rank)); }
  /// Of the value v itself, or with sign_magnitude of |v|, plus 2^steps where v < 0.
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept {
    const vf counted = t_.sign_magnitude ? magnitude(v) : v;
    vi rank(0);
#if NIBBLE_SIMD_WIDTH >= 256 || NIBBLE_SIMD_NEON
    const auto halve = [&](std::size_t step) NIBBLE_LAMBDA_INLINE {
      const float* const table = t_.thresholds + table_planes::first_of(step);
      const vf middle = step == 0 ? vf(*table) : look_up(table, std::size_t{1} << step, rank);
      rank = (rank + rank) - minus_one_where(middle < counted);
    };
    if constexpr (Steps != 0) {
      constexpr std::size_t count = Steps;
      NIBBLE_UNROLL
      for (std::size_t step = 0; step < count; ++step) halve(step);
    } else {
      for (int step = 0; step < t_.steps; ++step) halve(static_cast<std::size_t>(step));
    }
#else
    for (std::size_t step = 0; step < static_cast<std::size_t>(steps()); ++step)
      for (std::size_t i = 0; i < std::size_t{1} << step; ++i)
        rank = rank - minus_one_where(vf(t_.thresholds[table_planes::first_of(step) + i]) < counted);
#endif
    if (t_.sign_magnitude) rank = rank - (minus_one_where(v < vf(0.0f)) << steps());
    return rank;
  }
  NIBBLE_ALWAYS_INLINE bool sign_magnitude() const noexcept { return t_.sign_magnitude; }
  NIBBLE_ALWAYS_INLINE vf value(vi rank) const noexcept { return look_up(t_.values, size(), rank); }

 private:
  NIBBLE_ALWAYS_INLINE int steps() const noexcept { return Steps != 0 ? Steps : t_.steps; }
  /// Codes, and ranks with a sign.
  NIBBLE_ALWAYS_INLINE std::size_t size() const noexcept {
    return std::size_t{1} << (steps() + (t_.sign_magnitude ? 1 : 0));
  }
  static NIBBLE_ALWAYS_INLINE vi minus_one_where(vf::batch_bool_type b) noexcept {
#if NIBBLE_SIMD_NEON
    return vi(vreinterpretq_s32_u32(static_cast<uint32x4_t>(b)));
#elif NIBBLE_SIMD_WIDTH == 512
    return vi(_mm512_movm_epi32(static_cast<__mmask16>(b)));
#elif NIBBLE_SIMD_WIDTH == 256
    return vi(_mm256_castps_si256(static_cast<__m256>(b)));
#else
    return vi(_mm_castps_si128(static_cast<__m128>(b)));
#endif
  }
  static NIBBLE_ALWAYS_INLINE vf look_up(const float* table, std::size_t size, vi i) noexcept {
    const auto at = static_cast<vi::register_type>(i);
#if NIBBLE_SIMD_WIDTH == 512
    if (size <= 16) return vf(_mm512_permutexvar_ps(at, _mm512_load_ps(table)));
    return vf(_mm512_i32gather_ps(at, table, 4));
#elif NIBBLE_SIMD_WIDTH == 256
    if (size <= 4) return vf(_mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(table)), at));
    if (size <= 8) return vf(_mm256_permutevar8x32_ps(_mm256_load_ps(table), at));
    if (size <= 16)
      return vf(_mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_load_ps(table), at),
                                 _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), at),
                                 _mm256_castsi256_ps(_mm256_slli_epi32(at, 28))));
    return vf(_mm256_i32gather_ps(table, at, 4));
#else
#if NIBBLE_SIMD_NEON
    if (size <= 16) return look_up_16(table, vreinterpretq_u32_s32(at));
#endif
    alignas(64) std::int32_t each[lanes];
    alignas(64) float values[lanes];
    vi(at).store_aligned(each);
    for (std::size_t j = 0; j < lanes; ++j) values[j] = table[each[j]];
    return size == 0 ? vf(0.0f) : vf::load_aligned(values);
#endif
  }

  const table_planes& t_;
};

/// f(lanes) for the table_lanes of a table.
template <class F>
NIBBLE_ALWAYS_INLINE void with_table(const table_planes& t, F&& f) {
  switch (t.steps) {
    case 3: return f(table_lanes<3>(t));
    case 4: return f(table_lanes<4>(t));
    default: return f(table_lanes<0>(t));
  }
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
