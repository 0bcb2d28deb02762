// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Places of values among the thresholds of a table, one value a lane, on the native register width.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

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
    }
    if (steps > in_registers) set_buckets(book);
  }

  /// The greatest tables whose thresholds permutations search: more of them than a search in buckets takes.
  static constexpr int in_registers = NIBBLE_SIMD_WIDTH == 512 ? 8 : 5;

  /// For tables above that: the numbers cut into buckets as wide as a power of two, none of which holds two thresholds. Then
  /// a value's rank is the number of thresholds in the buckets before its own, and one more where it lies above the one
  /// that its bucket holds.
  void set_buckets(const codebook_desc& book) noexcept {
    const float first = book.thresholds[0], last = book.thresholds[quant::detail::threshold_count(book) - 1];
    const float reach = -first > last ? -first : last;
    if (sign_magnitude || !(reach > 0x1p-60f && reach < 0x1p60f)) return;
    // As few as will do: they share L1 with a tile of values.
    for (last_bucket = 127; last_bucket <= most_bucket; last_bucket = 2 * last_bucket + 1) {
      per_unit = 1.0f;
      while (reach * per_unit >= static_cast<float>(last_bucket)) per_unit *= 0.5f;
      while (reach * per_unit * 2.0f < static_cast<float>(last_bucket)) per_unit *= 2.0f;
      in_buckets = fill_buckets(book);
      if (in_buckets) return;
    }
  }
  bool fill_buckets(const codebook_desc& book) noexcept {
    const int count = quant::detail::threshold_count(book);
    std::int32_t bucket = 0;
    for (int i = 0; i < count; ++i) {
      const std::int32_t of = bucket_of(book.thresholds[i]);
      if (of < bucket) return false;  // that of the threshold before
      for (; bucket <= of; ++bucket) below[bucket] = i, edge[bucket] = std::numeric_limits<float>::infinity();
      edge[of] = book.thresholds[i];
    }
    for (; bucket <= 2 * last_bucket; ++bucket)
      below[bucket] = count, edge[bucket] = std::numeric_limits<float>::infinity();
    return true;
  }
  /// As bucket_lanes has it.
  std::int32_t bucket_of(float v) const noexcept {
    float t = v * per_unit;  // exact: fused with the addition or not
    const float most = static_cast<float>(last_bucket);
    t = t < -most ? -most : t;
    t = t > most ? most : t;
    return std::bit_cast<std::int32_t>(t + rounding_shift) - rounding_bits + last_bucket;
  }

  // The thresholds of a step begin on a register boundary and are read as whole registers.
  static constexpr std::size_t first_of(std::size_t step) noexcept {
    return step <= 4 ? 16 * step : 80 + ((std::size_t{32} << (step - 5)) - 32);
  }

  int steps = 0;  // log2 of the ranks
  bool sign_magnitude = false;
  alignas(64) float thresholds[80 + 32 + 64 + 128] = {};
  alignas(64) float values[256] = {};  // by rank
  static constexpr std::int32_t most_bucket = 1023;
  bool in_buckets = false;
  std::int32_t last_bucket = 0;     // on both sides of the one around 0
  float per_unit = 0.0f;            // buckets
  float edge[2 * most_bucket + 1];  // the threshold in a bucket, or infinity
  std::int32_t below[2 * most_bucket + 1];
};

#if NIBBLE_SIMD_WIDTH < 512
/// f(0), f(1), ... in the lanes.
template <class F>
NIBBLE_ALWAYS_INLINE vf from_each(F f) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(float32x4_t{f(0), f(1), f(2), f(3)});
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_setr_ps(f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)));
#else
  return vf(_mm_setr_ps(f(0), f(1), f(2), f(3)));
#endif
}
#endif
/// t[i] in each lane. Where there are gathers, loads one by one are faster on Zen 3.
NIBBLE_ALWAYS_INLINE vf look_up_lanes(const float* t, vi i) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_i32gather_ps(static_cast<vi::register_type>(i), t, 4));
#else
  alignas(64) std::int32_t u[lanes];
  i.store_aligned(u);
  return from_each([&](std::size_t j) NIBBLE_LAMBDA_INLINE { return t[u[j]]; });
#endif
}
/// The same for indices of a byte each.
NIBBLE_ALWAYS_INLINE vf look_up_bytes(const float* t, const std::uint8_t* u) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_i32gather_ps(static_cast<vi::register_type>(load_bytes(u)), t, 4));
#else
  return from_each([&](std::size_t j) NIBBLE_LAMBDA_INLINE { return t[u[j]]; });
#endif
}

/// 2^Bits floats from which each lane takes one, in registers as far as there are permutations for so many.
template <int Bits>
class lane_table {
 public:
  /// `table`: on a 64-byte boundary, and whole registers of it can be read.
  NIBBLE_ALWAYS_INLINE explicit lane_table(const float* table) noexcept {
#if NIBBLE_SIMD_NEON
    if constexpr (Bits <= permuted) all_ = bytes_of_16(table);
#elif NIBBLE_SIMD_WIDTH >= 256
    if constexpr (Bits <= permuted) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < parts; ++i) all_[i] = part(table + i * lanes);
    }
#endif
    table_ = table;
  }
  NIBBLE_ALWAYS_INLINE vf operator()(vi i) const noexcept {
    [[maybe_unused]] const auto at = static_cast<vi::register_type>(i);
#if NIBBLE_SIMD_NEON
    if constexpr (Bits <= permuted) return look_up_16(all_, vreinterpretq_u32_s32(at));
    else return look_up_lanes(table_, i);
#elif NIBBLE_SIMD_WIDTH == 512
    if constexpr (Bits <= 4) return vf(_mm512_permutexvar_ps(at, all_[0]));
    else if constexpr (Bits <= permuted) return vf(choose<Bits - 1, 0>(at));
    else return look_up_lanes(table_, i);
#elif NIBBLE_SIMD_WIDTH == 256
    if constexpr (Bits <= 2) return vf(_mm256_permutevar_ps(all_[0], at));
    else if constexpr (Bits <= permuted) return vf(choose<Bits - 1, 0>(at));
    else return look_up_lanes(table_, i);
#else
    return look_up_lanes(table_, i);
#endif
  }

 private:
#if NIBBLE_SIMD_NEON
  static constexpr int permuted = 4;
  uint8x16x4_t all_;
#elif NIBBLE_SIMD_WIDTH == 512
  static constexpr int permuted = 7;
  static constexpr std::size_t parts = Bits <= 4 || Bits > permuted ? 1 : std::size_t{1} << (Bits - 4);
  static NIBBLE_ALWAYS_INLINE __m512 part(const float* t) noexcept { return _mm512_load_ps(t); }
  template <int Bit, std::size_t First>
  NIBBLE_ALWAYS_INLINE __m512 choose(__m512i u) const noexcept {
    if constexpr (Bit == 4) return _mm512_permutex2var_ps(all_[First], u, all_[First + 1]);
    else
      return _mm512_mask_blend_ps(_mm512_test_epi32_mask(u, _mm512_set1_epi32(1 << Bit)), choose<Bit - 1, First>(u),
                                  choose<Bit - 1, First + (1u << (Bit - 4))>(u));
  }
  __m512 all_[parts];
#elif NIBBLE_SIMD_WIDTH == 256
  static constexpr int permuted = 5;  // then a load for each lane is as fast
  static constexpr std::size_t parts = Bits <= 3 || Bits > permuted ? 1 : std::size_t{1} << (Bits - 3);
  static NIBBLE_ALWAYS_INLINE __m256 part(const float* t) noexcept {
    if constexpr (Bits <= 2) return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(t));
    else return _mm256_load_ps(t);
  }
  template <int Bit, std::size_t First>
  NIBBLE_ALWAYS_INLINE __m256 choose(__m256i u) const noexcept {
    if constexpr (Bit == 2) return _mm256_permutevar8x32_ps(all_[First], u);
    else
      return _mm256_blendv_ps(choose<Bit - 1, First>(u), choose<Bit - 1, First + (1u << (Bit - 3))>(u),
                              _mm256_castsi256_ps(_mm256_slli_epi32(u, 31 - Bit)));
  }
  __m256 all_[parts];
#endif
  const float* table_;
};

/// -1 in lanes where b is true, else 0.
NIBBLE_ALWAYS_INLINE vi minus_one_where(vf::batch_bool_type b) noexcept {
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

/// r, and one more in lanes where b is true.
NIBBLE_ALWAYS_INLINE vi one_more_where(vf::batch_bool_type b, vi r) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  const auto v = static_cast<vi::register_type>(r);
  return vi(_mm512_mask_add_epi32(v, static_cast<__mmask16>(b), v, _mm512_set1_epi32(1)));
#else
  return r - minus_one_where(b);
#endif
}

#if NIBBLE_SIMD_WIDTH == 128 && !NIBBLE_SIMD_NEON
/// Thresholds below v, one after the other: SSE2 has no permutation by a register.
NIBBLE_ALWAYS_INLINE vi count_below(const table_planes& t, int steps, vf v) noexcept {
  vi rank(0);
  for (std::size_t step = 0; step < static_cast<std::size_t>(steps); ++step)
    for (std::size_t i = 0; i < std::size_t{1} << step; ++i)
      rank = one_more_where(vf(t.thresholds[table_planes::first_of(step) + i]) < v, rank);
  return rank;
}
#endif

/// How many of the first 2^Step - 1 thresholds lie below each lane of v: a search by halving, a lane_table for each step.
template <int Step>
class threshold_steps {
 public:
  NIBBLE_ALWAYS_INLINE explicit threshold_steps(const float* thresholds) noexcept
      : before_(thresholds), here_(thresholds + table_planes::first_of(Step)) {}
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept {
    const vi r = before_.rank(v);
    return one_more_where(here_(r) < v, r + r);
  }

 private:
  threshold_steps<Step - 1> before_;
  lane_table<Step> here_;
};
template <>
class threshold_steps<0> {
 public:
  NIBBLE_ALWAYS_INLINE explicit threshold_steps(const float* thresholds) noexcept : middle_(*thresholds) {}
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept { return one_more_where(middle_ < v, vi(0)); }

 private:
  vf middle_;
};

/// The rank of each lane among the 2^Steps - 1 ascending thresholds of a table, and the value of each rank. Sign: of a table
/// by sign and magnitude.
template <int Steps, bool Sign>
class table_lanes {
 public:
  NIBBLE_ALWAYS_INLINE explicit table_lanes(const table_planes& planes) noexcept
      : planes_(planes), steps_(planes.thresholds), values_(planes.values) {}

  static constexpr bool sign_magnitude() noexcept { return Sign; }
  /// Of the value v itself, or with Sign of |v|, plus 2^Steps where v < 0.
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept {
    vf counted = v;
    if constexpr (Sign) counted = magnitude(v);
#if NIBBLE_SIMD_WIDTH >= 256 || NIBBLE_SIMD_NEON
    vi rank = steps_.rank(counted);
#else
    vi rank = count_below(planes_, Steps, counted);
#endif
    if constexpr (Sign) rank = rank + (minus_one_where(v < vf(0.0f)) & vi(1 << Steps));
    return rank;
  }
  NIBBLE_ALWAYS_INLINE vf value(vi rank) const noexcept { return values_(rank); }

 private:
  [[maybe_unused]] const table_planes& planes_;
  threshold_steps<Steps - 1> steps_;
  lane_table<Steps + (Sign ? 1 : 0)> values_;
};

/// The same for any table.
class any_table_lanes {
 public:
  explicit any_table_lanes(const table_planes& planes) noexcept : planes_(planes) {}

  bool sign_magnitude() const noexcept { return planes_.sign_magnitude; }
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept {
    const vf counted = sign_magnitude() ? magnitude(v) : v;
#if NIBBLE_SIMD_WIDTH >= 256 || NIBBLE_SIMD_NEON
    vi rank = threshold_steps<1>(planes_.thresholds).rank(counted);  // tables have four ranks at least
    for (int step = 2; step < planes_.steps; ++step) {
      const float* const table = planes_.thresholds + table_planes::first_of(static_cast<std::size_t>(step));
      const vf middle = step == 2   ? lane_table<2>(table)(rank)
                        : step == 3 ? lane_table<3>(table)(rank)
                        : step == 4 ? lane_table<4>(table)(rank)
#if NIBBLE_SIMD_WIDTH == 512
                        : step == 5 ? lane_table<5>(table)(rank)
                        : step == 6 ? lane_table<6>(table)(rank)
                                    : lane_table<7>(table)(rank);
#else
                                    : look_up_lanes(table, rank);
#endif
      rank = one_more_where(middle < counted, rank + rank);
    }
#else
    vi rank = count_below(planes_, planes_.steps, counted);
#endif
    if (sign_magnitude()) rank = rank - (minus_one_where(v < vf(0.0f)) << planes_.steps);
    return rank;
  }
  NIBBLE_ALWAYS_INLINE vf value(vi rank) const noexcept { return look_up_lanes(planes_.values, rank); }

 private:
  const table_planes& planes_;
};

#if NIBBLE_SIMD_WIDTH < 512
/// The same for table_planes::in_buckets.
class bucket_lanes {
 public:
  explicit bucket_lanes(const table_planes& planes) noexcept : planes_(planes) {}

  static constexpr bool sign_magnitude() noexcept { return false; }
  NIBBLE_ALWAYS_INLINE vi rank(vf v) const noexcept {
    const vf most(static_cast<float>(planes_.last_bucket));
    const vf t = simd::min(simd::max(v * vf(planes_.per_unit), vf(0.0f) - most), most);
    const vi bucket = bits_of(t + vf(rounding_shift)) - vi(rounding_bits - planes_.last_bucket);
    alignas(64) std::int32_t at[lanes];
    bucket.store_aligned(at);
    const vf edge = from_each([&](std::size_t j) NIBBLE_LAMBDA_INLINE { return planes_.edge[at[j]]; });
    const vi below = bits_of(
        from_each([&](std::size_t j) NIBBLE_LAMBDA_INLINE { return std::bit_cast<float>(planes_.below[at[j]]); }));
    return one_more_where(edge < v, below);
  }
  NIBBLE_ALWAYS_INLINE vf value(vi rank) const noexcept { return look_up_lanes(planes_.values, rank); }

 private:
  const table_planes& planes_;
};

#endif

/// f(lanes) for the lanes of a table: in registers as far as they go, in buckets, or of any.
template <class F>
NIBBLE_ALWAYS_INLINE void with_every_table(const table_planes& t, F&& f) {
#if NIBBLE_SIMD_WIDTH < 512
  if (t.in_buckets) return f(bucket_lanes(t));
#endif
  if (t.sign_magnitude) return t.steps == 3 ? f(table_lanes<3, true>(t)) : f(any_table_lanes(t));
  switch (t.steps) {
    case 2: return f(table_lanes<2, false>(t));
    case 3: return f(table_lanes<3, false>(t));
    case 4: return f(table_lanes<4, false>(t));
    case 5: return f(table_lanes<5, false>(t));
#if NIBBLE_SIMD_WIDTH == 512
    case 6: return f(table_lanes<6, false>(t));
    case 7: return f(table_lanes<7, false>(t));
    case 8: return f(table_lanes<8, false>(t));
#endif
    default: return f(any_table_lanes(t));
  }
}
/// The same for the most common tables alone, and else as for any.
template <class F>
NIBBLE_ALWAYS_INLINE void with_table(const table_planes& t, F&& f) {
#if NIBBLE_SIMD_WIDTH < 512
  if (t.in_buckets) return f(bucket_lanes(t));
#endif
  if (t.sign_magnitude && t.steps == 3) return f(table_lanes<3, true>(t));
  if (!t.sign_magnitude && t.steps == 4) return f(table_lanes<4, false>(t));
  f(any_table_lanes(t));
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
