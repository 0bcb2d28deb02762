// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weight quantization on the native register width: parameters of one group a lane, codes of one value a lane.

#include <bit>
#include <concepts>
#include <cstring>
#include <limits>

#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/scalar/group_codec.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

#if NIBBLE_SIMD_WIDTH == 512
#define NIBBLE_SIMD_OP(name) _mm512_##name
#elif NIBBLE_SIMD_WIDTH == 256
#define NIBBLE_SIMD_OP(name) _mm256_##name
#else
#define NIBBLE_SIMD_OP(name) _mm_##name
#endif

struct greater_lane {
  NIBBLE_ALWAYS_INLINE vi operator()(vi a, vi b) const noexcept { return simd::max(a, b); }
};
struct lesser_lane {
  NIBBLE_ALWAYS_INLINE vi operator()(vi a, vi b) const noexcept { return simd::min(a, b); }
};

/// Lane i of the result is op over all lanes of v[i]: a transposition whose steps already reduce.
template <class Op>
NIBBLE_ALWAYS_INLINE vi reduce_each(const vi (&v)[lanes], Op op) noexcept {
  using native = vi::register_type;
  // Inside 128 bits: four registers become one that holds each's result for this quarter of them.
  vi four[lanes / 4];
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < lanes / 4; ++i) {
    const auto halves = [&](std::size_t j) NIBBLE_LAMBDA_INLINE {
      const native a = static_cast<native>(v[4 * i + j]), b = static_cast<native>(v[4 * i + j + 1]);
#if NIBBLE_SIMD_NEON
      return op(vi(vzip1q_s32(a, b)), vi(vzip2q_s32(a, b)));
#else
      return op(vi(NIBBLE_SIMD_OP(unpacklo_epi32)(a, b)), vi(NIBBLE_SIMD_OP(unpackhi_epi32)(a, b)));
#endif
    };
    const native low = static_cast<native>(halves(0)), high = static_cast<native>(halves(2));
#if NIBBLE_SIMD_NEON
    const int64x2_t x = vreinterpretq_s64_s32(low), y = vreinterpretq_s64_s32(high);
    four[i] = op(vi(vreinterpretq_s32_s64(vzip1q_s64(x, y))), vi(vreinterpretq_s32_s64(vzip2q_s64(x, y))));
#else
    four[i] = op(vi(NIBBLE_SIMD_OP(unpacklo_epi64)(low, high)), vi(NIBBLE_SIMD_OP(unpackhi_epi64)(low, high)));
#endif
  }
#if NIBBLE_SIMD_WIDTH == 128
  return four[0];
#elif NIBBLE_SIMD_WIDTH == 256
  const native a = static_cast<native>(four[0]), b = static_cast<native>(four[1]);
  return op(vi(_mm256_permute2x128_si256(a, b, 0x20)), vi(_mm256_permute2x128_si256(a, b, 0x31)));
#else
  const auto pair = [&](vi x, vi y) NIBBLE_LAMBDA_INLINE {
    const native a = static_cast<native>(x), b = static_cast<native>(y);
    return op(vi(_mm512_shuffle_i32x4(a, b, 0x88)), vi(_mm512_shuffle_i32x4(a, b, 0xdd)));
  };
  return pair(pair(four[0], four[1]), pair(four[2], four[3]));
#endif
}

/// float(op(double(a), double(b))) in each lane; op takes two registers of doubles and the function that spreads one.
template <class Op>
NIBBLE_ALWAYS_INLINE vf in_doubles(vf a, vf b, Op op) noexcept {
  const auto x = static_cast<vf::register_type>(a), y = static_cast<vf::register_type>(b);
#if NIBBLE_SIMD_NEON
  const auto each = [](double d) NIBBLE_LAMBDA_INLINE { return vdupq_n_f64(d); };
  const float64x2_t low = op(vcvt_f64_f32(vget_low_f32(x)), vcvt_f64_f32(vget_low_f32(y)), each);
  return vf(vcvt_high_f32_f64(vcvt_f32_f64(low), op(vcvt_high_f64_f32(x), vcvt_high_f64_f32(y), each)));
#else
  const auto each = [](double d) NIBBLE_LAMBDA_INLINE { return NIBBLE_SIMD_OP(set1_pd)(d); };
#if NIBBLE_SIMD_WIDTH == 512
  const auto half = [&](__m256 p, __m256 q) NIBBLE_LAMBDA_INLINE {
    return _mm512_cvtpd_ps(op(_mm512_cvtps_pd(p), _mm512_cvtps_pd(q), each));
  };
  return vf(_mm512_insertf32x8(_mm512_castps256_ps512(half(_mm512_castps512_ps256(x), _mm512_castps512_ps256(y))),
                               half(_mm512_extractf32x8_ps(x, 1), _mm512_extractf32x8_ps(y, 1)), 1));
#elif NIBBLE_SIMD_WIDTH == 256
  const auto half = [&](__m128 p, __m128 q) NIBBLE_LAMBDA_INLINE {
    return _mm256_cvtpd_ps(op(_mm256_cvtps_pd(p), _mm256_cvtps_pd(q), each));
  };
  return vf(_mm256_insertf128_ps(_mm256_castps128_ps256(half(_mm256_castps256_ps128(x), _mm256_castps256_ps128(y))),
                                 half(_mm256_extractf128_ps(x, 1), _mm256_extractf128_ps(y, 1)), 1));
#else
  const auto half = [&](__m128 p, __m128 q)
                        NIBBLE_LAMBDA_INLINE { return _mm_cvtpd_ps(op(_mm_cvtps_pd(p), _mm_cvtps_pd(q), each)); };
  return vf(_mm_movelh_ps(half(x, y), half(_mm_movehl_ps(x, x), _mm_movehl_ps(y, y))));
#endif
#endif
}
#undef NIBBLE_SIMD_OP

/// Rounding to a scale's storage type, in lanes, for magnitudes in [least, most] and for zeros.
class storage_lanes {
 public:
  explicit storage_lanes(scale_storage s) noexcept {
    if (s == scale_storage::f16) dropped_ = 13, least_ = 0x1p-24f, most_ = 0x1p14f;
    if (s == scale_storage::bf16) dropped_ = 16;
    unit_ = 1 << dropped_;
    before_ = dropped_ == 0 ? 0 : unit_ / 2 - 1;
    odd_ = dropped_ == 0 ? 0 : 1;
    half_ = s == scale_storage::f16;
  }
  /// Whether a product of a stored value and a number of steps, 9 bits, is exact in float.
  bool exact_products() const noexcept { return dropped_ != 0; }
  NIBBLE_ALWAYS_INLINE auto holds(vf magnitude) const noexcept {
    return (magnitude >= vf(least_)) & (magnitude <= vf(most_));
  }

  NIBBLE_ALWAYS_INLINE vf stored(vf x) const noexcept {
    const vi b = bits_of(x);
    const vf normal = float_of_bits((b + vi(before_) + ((b >> dropped_) & vi(odd_))) & vi(-unit_));
    if (!half_) return normal;
    // Subnormal halves are multiples of 2^-24. Zeros keep their sign on the other way.
    const vf a = magnitude(x);
    return simd::select((a >= vf(0x1p-24f)) & (a < vf(0x1p-14f)), (x + vf(0.75f)) - vf(0.75f), normal);
  }
  /// The neighbour of a stored x away from zero.
  NIBBLE_ALWAYS_INLINE vf away(vf x) const noexcept { return beside(x, vi(unit_), vf(0x1p-24f)); }
  /// The neighbour of a stored x > 0 towards zero.
  NIBBLE_ALWAYS_INLINE vf towards(vf x) const noexcept {
    const vf normal = float_of_bits(bits_of(x) - vi(unit_));
    return half_ ? simd::select(x <= vf(0x1p-14f), x - vf(0x1p-24f), normal) : normal;
  }

 private:
  NIBBLE_ALWAYS_INLINE vf beside(vf x, vi unit, vf step) const noexcept {
    const vf normal = float_of_bits(bits_of(x) + unit);
    if (!half_) return normal;
    const vf signed_step = float_of_bits(bits_of(step) | (bits_of(x) & vi(std::numeric_limits<std::int32_t>::min())));
    return simd::select(magnitude(x) < vf(0x1p-14f), x + signed_step, normal);
  }

  int dropped_ = 0;  // mantissa bits
  std::int32_t unit_, before_, odd_;
  bool half_;
  float least_ = 0x1p-60f, most_ = 0x1p60f;
};

/// quant::detail::params_for_range, one range a lane, with the same bits; lanes that are out of the ordinary (scales or
/// offsets near the ends of their storage type) go through the scalar function.
class params_lanes {
 public:
  explicit params_lanes(const quant::group_codec& c) noexcept : codec_(c), storage_(c.format.scale) {}

  void operator()(vf lo, vf hi, vf& scale, vf& zero) const noexcept {
    with_rule([&](auto fit) NIBBLE_LAMBDA_INLINE {
      zero = vf(0.0f);
      if (!fit(lo, hi, scale, zero)) one_by_one(lo, hi, scale, zero);
    });
  }
  /// The same for n ranges, whole registers of them; all arrays begin on a register boundary.
  void run(const float* lo, const float* hi, std::size_t n, float* scale, float* zero) const noexcept {
    with_rule([&](auto fit) NIBBLE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < n; i += lanes) {
        const vf low = vf::load_aligned(lo + i), high = vf::load_aligned(hi + i);
        vf s, z(0.0f);
        if (!fit(low, high, s, z)) one_by_one(low, high, s, z);
        s.store_aligned(scale + i);
        z.store_aligned(zero + i);
      }
    });
  }

 private:
  /// f(fit): fit(lo, hi, scale, zero) for the format's rule; false where some lane is out of the ordinary.
  template <class F>
  NIBBLE_ALWAYS_INLINE void with_rule(F f) const noexcept {
    const int h = quant::code_bias(codec_.format.bits);
    const float half_levels = static_cast<float>(h), top = static_cast<float>(2 * h - 1);
    const auto by_magnitude = [&](float levels, float reach) NIBBLE_LAMBDA_INLINE {
      f([=, this](vf lo, vf hi, vf& scale, vf&)
            NIBBLE_LAMBDA_INLINE { return symmetric(lo, hi, levels, reach, scale); });
    };
    switch (codec_.format.rule) {
      case code_rule::asymmetric:
        return f([=, this](vf lo, vf hi, vf& scale, vf& zero)
                     NIBBLE_LAMBDA_INLINE { return with_zero_point(lo, hi, top, scale, zero); });
      case code_rule::asymmetric_offset:
        return f([=, this](vf lo, vf hi, vf& scale, vf& zero)
                     NIBBLE_LAMBDA_INLINE { return with_offset(lo, hi, top, scale, zero); });
      case code_rule::mid_rise: return by_magnitude(half_levels, half_levels);
      case code_rule::codebook: return by_magnitude(codec_.book.greatest, 0.0f);
      default: return by_magnitude(half_levels - 1.0f, half_levels - 0.5f);
    }
  }
  /// `a / levels`, and one unit more where `reach` steps do not cover a; reach 0 for tables, which need not.
  NIBBLE_ALWAYS_INLINE bool symmetric(vf lo, vf hi, float levels, float reach, vf& scale) const noexcept {
    const vf a = simd::max(magnitude(lo), magnitude(hi)), s = a / vf(levels);
    scale = storage_.stored(s);
    if (reach != 0.0f) scale = simd::select(below(scale, vf(reach), a), storage_.away(scale), scale);
    return simd::all(storage_.holds(s) & storage_.holds(a));
  }
  NIBBLE_ALWAYS_INLINE bool with_zero_point(vf lo, vf hi, float top, vf& scale, vf& zero) const noexcept {
    const vf none(0.0f), half(0.5f), shift(rounding_shift);
    lo = simd::min(lo, none);
    hi = simd::max(hi, none);
    const vf s = in_doubles(hi, lo, [=](auto high, auto low, auto each) NIBBLE_LAMBDA_INLINE {
      return (high - low) / each(static_cast<double>(top));
    });
    scale = storage_.stored(s);
    const auto zero_point = [&](vf step) NIBBLE_LAMBDA_INLINE {
      return (simd::min((none - lo) / step, vf(top)) + shift) - shift;
    };
    zero = zero_point(scale);
    const auto narrow = below(scale, (vf(top) - zero) + half, hi) | below(scale, zero + half, none - lo);
    scale = simd::select(narrow, storage_.away(scale), scale);
    zero = simd::select(narrow, zero_point(scale), zero);
    return simd::all(storage_.holds(s));
  }
  NIBBLE_ALWAYS_INLINE bool with_offset(vf lo, vf hi, float top, vf& scale, vf& zero) const noexcept {
    const vf none(0.0f);
    const vf at = storage_.stored(lo);
    zero = simd::select(at > lo, simd::select(at > none, storage_.towards(at), storage_.away(at)), at);
    const vf width = hi - zero, s = width / vf(top), a = magnitude(lo);
    scale = storage_.stored(s);
    scale = simd::select(below(scale, vf(top + 0.5f), width), storage_.away(scale), scale);
    return simd::all(storage_.holds(s) & (storage_.holds(a) | (a == none)));
  }
  /// s * steps < x, exactly.
  NIBBLE_ALWAYS_INLINE vf::batch_bool_type below(vf s, vf steps, vf x) const noexcept {
    if (storage_.exact_products()) return s * steps < x;
    return fused(s, steps, vf(0.0f) - x) < vf(0.0f);
  }
  [[gnu::noinline]] void one_by_one(vf lo, vf hi, vf& scale, vf& zero) const noexcept {
    alignas(64) float los[lanes], his[lanes], scales[lanes], zeros[lanes];
    lo.store_aligned(los);
    hi.store_aligned(his);
    for (std::size_t i = 0; i < lanes; ++i) {
      const quant::group_params p = quant::detail::params_for_range(codec_, {los[i], his[i]});
      scales[i] = p.scale;
      zeros[i] = p.zero;
    }
    scale = vf::load_aligned(scales);
    zero = vf::load_aligned(zeros);
  }

  const quant::group_codec& codec_;
  storage_lanes storage_;
};

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

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct fit_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, const float* x, std::size_t group, std::size_t count,
                  quant::group_params* params) noexcept {
    std::size_t g = 0;
    if (group % simd::lanes == 0) {
      const simd::params_lanes fit(c);
      const auto rounds = [&]<bool BothEnds, std::size_t Registers>() {
        for (; g + simd::lanes <= count; g += simd::lanes)
          round<BothEnds, Registers>(c, fit, x + g * group, group, simd::lanes, params + g);
        // A last round that is at least half full takes its last group several times.
        if (g + simd::lanes / 2 <= count) {
          round<BothEnds, Registers>(c, fit, x + g * group, group, count - g, params + g);
          g = count;
        }
      };
      const auto of_size = [&]<bool BothEnds>() {
        switch (group / simd::lanes) {  // in short groups the loop over registers would take longer than what is in it
          case 1: return rounds.template operator()<BothEnds, 1>();
          case 2: return rounds.template operator()<BothEnds, 2>();
          case 4: return rounds.template operator()<BothEnds, 4>();
          default: return rounds.template operator()<BothEnds, 0>();
        }
      };
      quant::has_zeros(c.format) ? of_size.template operator()<true>() : of_size.template operator()<false>();
    }
    if (g < count) fit_groups<isa::scalar>::run(c, x + g * group, group, count - g, params + g);
  }

 private:
  /// Parameters of `count` groups, at most one a lane. Registers: those of a group, or 0 when known only at run time.
  template <bool BothEnds, std::size_t Registers>
  static void round(const quant::group_codec& codec, const simd::params_lanes& fit, const float* x, std::size_t group,
                    std::size_t count, quant::group_params* params) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    vi least[lanes], greatest[lanes];
    const auto scan = [&](std::size_t i, const float* from) NIBBLE_LAMBDA_INLINE {
      vi low = order<BothEnds>(from), high = low;
      const auto more = [&](std::size_t k) NIBBLE_LAMBDA_INLINE {
        const vi v = order<BothEnds>(from + k);
        high = simd::max(high, v);
        if constexpr (BothEnds) low = simd::min(low, v);
      };
      if constexpr (Registers == 0) {
        for (std::size_t k = lanes; k < group; k += lanes) more(k);
      } else {
        NIBBLE_UNROLL
        for (std::size_t k = 1; k < Registers; ++k) more(k * lanes);
      }
      greatest[i] = high;
      if constexpr (BothEnds) least[i] = low;
    };
    if constexpr (Registers == 0) {
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + (i < count ? i : count - 1) * group);
    } else if (count == lanes) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + i * Registers * lanes);
    } else {
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + (i < count ? i : count - 1) * Registers * lanes);
    }
    const vf high = simd::float_of_bits(turn<BothEnds>(simd::reduce_each(greatest, simd::greater_lane{})));
    vf low = high;
    if constexpr (BothEnds) low = simd::float_of_bits(turn<BothEnds>(simd::reduce_each(least, simd::lesser_lane{})));
    alignas(64) float scales[lanes], zeros[lanes];
    vf scale, zero;
    const vf most(std::numeric_limits<float>::max());
    const auto finite = (simd::magnitude(low) <= most) & (simd::magnitude(high) <= most);
    if (simd::all(finite)) {
      fit(low, high, scale, zero);
    } else {  // NaN needs no parameters: such lanes are fitted as if they were [1, 1]
      const vf one(1.0f);
      fit(simd::select(finite, low, one), simd::select(finite, high, one), scale, zero);
      scale = simd::select(finite, scale, vf(std::numeric_limits<float>::quiet_NaN()));
    }
    scale.store_aligned(scales);
    zero.store_aligned(zeros);
    for (std::size_t i = 0; i < count; ++i) params[i] = {scales[i], zeros[i]};
    // Magnitudes alone do not know the sign that a scale of zero takes from a group with -0.
    if (BothEnds || !simd::any(scale == vf(0.0f))) return;
    for (std::size_t i = 0; i < count; ++i)
      if (scales[i] == 0.0f) fit_groups<isa::scalar>::run(codec, x + i * group, group, 1, params + i);
  }

  /// As quant::range_scan: signed integers in the order of the floats; or magnitudes alone.
  template <bool BothEnds>
  static NIBBLE_ALWAYS_INLINE simd::vi turn(simd::vi v) noexcept {
    if constexpr (BothEnds) return v ^ ((v >> 31) & simd::vi(0x7fffffff));
    return v;
  }
  template <bool BothEnds>
  static NIBBLE_ALWAYS_INLINE simd::vi order(const float* x) noexcept {
    const simd::vi v = simd::bits_of(simd::load(x));
    if constexpr (BothEnds) return turn<true>(v);
    return v & simd::vi(0x7fffffff);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, const quant::group_params* params, const float* x, std::size_t group,
                  std::size_t n, std::uint8_t* codes) noexcept {
    if (group % simd::lanes != 0 && group < n) return encode_groups<isa::scalar>::run(c, params, x, group, n, codes);
    std::size_t done = 0;
    switch (c.format.rule) {
      case code_rule::symmetric: done = affine<code_rule::symmetric>(c, params, x, group, n, codes); break;
      case code_rule::symmetric_full: done = affine<code_rule::symmetric_full>(c, params, x, group, n, codes); break;
      case code_rule::mid_rise: done = affine<code_rule::mid_rise>(c, params, x, group, n, codes); break;
      case code_rule::asymmetric: done = affine<code_rule::asymmetric>(c, params, x, group, n, codes); break;
      case code_rule::asymmetric_offset:
        done = affine<code_rule::asymmetric_offset>(c, params, x, group, n, codes);
        break;
      case code_rule::codebook: done = table(c.book, params, x, group, n, codes); break;
    }
    while (done < n) {  // less than a block, or a table's tile with a scale that has no reciprocal
      const std::size_t g = done / group, end = n - g * group < group ? n : (g + 1) * group;
      quant::encode_group(c, params[g], x + done, end - done, codes + done);
      done = end;
    }
  }

 private:
  static constexpr std::size_t block = 4 * simd::lanes;

  /// Calls set(group) before a register that begins a group, code(register) for each register of whole blocks.
  template <class Set, class Code>
  static NIBBLE_ALWAYS_INLINE std::size_t for_each_block(std::size_t group, std::size_t n, std::uint8_t* codes, Set set,
                                                         Code code) noexcept {
    const std::size_t whole = n - n % block;
    std::size_t left = 0, g = 0;  // values left of this group
    simd::vi u[4];
    for (std::size_t i = 0; i < whole; i += block) {
      if (left >= block) {
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < 4; ++j) u[j] = code(i + j * simd::lanes);
        left -= block;
      } else {
        for (std::size_t j = 0; j < 4; ++j) {
          if (left == 0) set(g++), left = group;
          u[j] = code(i + j * simd::lanes);
          left -= simd::lanes;
        }
      }
      simd::store_bytes<false>(u, codes + i);
    }
    return whole;
  }

  /// The same for groups of so many registers.
  template <std::size_t Registers, class Set, class Code>
  static NIBBLE_ALWAYS_INLINE std::size_t for_each_short(std::size_t n, std::uint8_t* codes, Set set,
                                                         Code code) noexcept {
    const std::size_t whole = n - n % block;
    std::size_t g = 0;
    for (std::size_t i = 0; i < whole; i += block) {
      simd::vi u[4];
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 4; ++j) {
        if (j % Registers == 0) set(g++);
        u[j] = code(i + j * simd::lanes);
      }
      simd::store_bytes<false>(u, codes + i);
    }
    return whole;
  }

  template <code_rule Rule>
  static std::size_t affine(const quant::group_codec& c, const quant::group_params* params, const float* x,
                            std::size_t group, std::size_t n, std::uint8_t* codes) noexcept {
    using simd::vf;
    using simd::vi;
    const quant::detail::step_bounds b = quant::detail::bounds_of<Rule>(c.format.bits, 0.0f);
    const vf none(0.0f), shift(simd::rounding_shift), infinite(std::numeric_limits<float>::infinity());
    vf scale(1.0f), zero(0.0f), low(b.lo), high(b.hi);
    vi bias(b.bias - simd::rounding_bits);
    const auto set = [&](std::size_t g) NIBBLE_LAMBDA_INLINE {
      scale = vf(params[g].scale);
      scale = simd::select(scale == none, infinite, scale);  // with scale 0 every value is at step 0
      if constexpr (Rule == code_rule::asymmetric_offset) zero = vf(params[g].zero);
      if constexpr (Rule == code_rule::asymmetric) {  // zero is an integer, which its sum with the shift ends in
        zero = vf(params[g].zero);
        low = vf(b.lo) - zero;
        high = vf(b.hi) - zero;
        bias = simd::bits_of(zero + shift) - vi(simd::rounding_bits) - vi(simd::rounding_bits);
      }
    };
    const auto code = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      vf t = simd::load(x + i);
      if constexpr (Rule == code_rule::asymmetric_offset) t = t - zero;
      t = t / scale;
      if constexpr (Rule == code_rule::mid_rise) t = t - vf(0.5f);
      return simd::bits_of(simd::min(simd::max(t, low), high) + shift) + bias;
    };
    switch (group / simd::lanes) {  // groups that a block holds whole: what belongs to them stays in registers
      case 1: return for_each_short<1>(n, codes, set, code);
      case 2: return for_each_short<2>(n, codes, set, code);
      case 4: return for_each_short<4>(n, codes, set, code);
      default: return for_each_block(group, n, codes, set, code);
    }
  }

  static std::size_t table(const codebook_desc& book, const quant::group_params* params, const float* x,
                           std::size_t group, std::size_t n, std::uint8_t* codes) noexcept {
    using simd::vf;
    const std::size_t groups = n / group + (n % group != 0 ? 1 : 0);
    const bool reciprocal = book.scaling == codebook_scaling::absmax_reciprocal;
    if (reciprocal)  // a tiny scale's is infinite, and then x is divided
      for (std::size_t g = 0; g < groups; ++g)
        if (params[g].scale != 0.0f && quant::detail::reciprocal_for(book, params[g].scale) == 0.0f) return 0;
    std::size_t done = 0;
    const simd::table_planes planes(book);
    simd::with_table(planes, [&](const auto& lanes) {
      vf factor(0.0f);
      const auto set = [&](std::size_t g) NIBBLE_LAMBDA_INLINE {
        const float s = params[g].scale;
        factor = vf(reciprocal  ? quant::detail::reciprocal_for(book, s)
                    : s == 0.0f ? std::numeric_limits<float>::infinity()
                                : s);
      };
      const auto encode = [&](auto code_of) {
        return reciprocal ? for_each_block(group, n, codes, set,
                                           [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
                                             return code_of(lanes.rank(simd::load(x + i) * factor));
                                           })
                          : for_each_block(group, n, codes, set, [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
                              return code_of(lanes.rank(simd::load(x + i) / factor));
                            });
      };
      const bool in_register = book.code_of_rank != nullptr && book.bits <= 4;
      done = in_register ? encode([&](simd::vi rank) NIBBLE_LAMBDA_INLINE { return lanes.code(rank); })
                         : encode([](simd::vi rank) NIBBLE_LAMBDA_INLINE { return rank; });
    });
    if (book.code_of_rank == nullptr || book.bits <= 4) return done;
    std::uint8_t code_of[256];
    const std::size_t ranks = std::size_t{1} << (book.bits - (book.sign_magnitude ? 1 : 0));
    for (std::size_t r = 0; r < std::size_t{1} << book.bits; ++r)
      code_of[r] = static_cast<std::uint8_t>(book.code_of_rank[r % ranks] | (r - r % ranks));
    for (std::size_t i = 0; i < done; ++i) codes[i] = code_of[codes[i]];
    return done;
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                  std::size_t group, std::size_t n, float* y) noexcept {
    if (group % simd::lanes != 0 && group < n) {
      if (group < 2 * simd::lanes) return decode_groups<isa::scalar>::run(c, params, codes, group, n, y);
      for (std::size_t i = 0; i < n; i += group, ++params) {
        const std::size_t count = n - i < group ? n - i : group;
        run(c, params, codes + i, count, count, y + i);
      }
      return;
    }
    switch (c.format.rule) {
      case code_rule::asymmetric: return affine<code_rule::asymmetric>(c, params, codes, group, n, y);
      case code_rule::asymmetric_offset: return affine<code_rule::asymmetric_offset>(c, params, codes, group, n, y);
      case code_rule::codebook: return table(c, params, codes, group, n, y);
      default: return affine<code_rule::symmetric>(c, params, codes, group, n, y);  // all whose levels are the same
    }
  }

 private:
  using vf = simd::vf;

  /// Calls set(group) before each group, value(codes) for each register; values that fill none go through the scalar law.
  template <std::size_t Registers, class Set, class Value>
  static NIBBLE_ALWAYS_INLINE void for_each_group(const quant::group_codec& c, const quant::group_params* params,
                                                  const std::uint8_t* codes, std::size_t group, std::size_t n, float* y,
                                                  Set set, Value value) noexcept {
    const auto one = [&](std::size_t i)
                         NIBBLE_LAMBDA_INLINE { value(simd::load_bytes(codes + i)).store_unaligned(y + i); };
    std::size_t g = 0, i = 0;
    for (; n - i >= group && group % simd::lanes == 0; ++g) {
      set(g);
      if constexpr (Registers != 0) {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < Registers; ++r) one(i + r * simd::lanes);
        i += Registers * simd::lanes;
      } else {
        for (const std::size_t end = i + group; i < end; i += simd::lanes) one(i);
      }
    }
    if (i == n) return;
    set(g);
    for (; n - i >= simd::lanes; i += simd::lanes) one(i);
    if (i < n) quant::decode_group(c, params[g], codes + i, n - i, y + i);
  }
  template <class Set, class Value>
  static NIBBLE_ALWAYS_INLINE void for_each(const quant::group_codec& c, const quant::group_params* params,
                                            const std::uint8_t* codes, std::size_t group, std::size_t n, float* y,
                                            Set set, Value value) noexcept {
    switch (group / simd::lanes) {  // in short groups the loop over registers would take longer than what is in it
      case 1: return for_each_group<1>(c, params, codes, group, n, y, set, value);
      case 2: return for_each_group<2>(c, params, codes, group, n, y, set, value);
      case 4: return for_each_group<4>(c, params, codes, group, n, y, set, value);
      default: return for_each_group<0>(c, params, codes, group, n, y, set, value);
    }
  }

  template <code_rule Rule>
  static void affine(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                     std::size_t group, std::size_t n, float* y) noexcept {
    vf scale(1.0f), zero(0.0f), shift(Rule == code_rule::symmetric ? quant::detail::level_shift(c.format, {}) : 0.0f);
    const auto set = [&](std::size_t g) NIBBLE_LAMBDA_INLINE {
      scale = vf(params[g].scale);
      if constexpr (Rule == code_rule::asymmetric) shift = vf(0.0f) - vf(params[g].zero);
      if constexpr (Rule == code_rule::asymmetric_offset) zero = vf(params[g].zero);
    };
    for_each(c, params, codes, group, n, y, set, [&](simd::vi u) NIBBLE_LAMBDA_INLINE {
      if constexpr (Rule == code_rule::asymmetric_offset) return simd::fused(scale, simd::to_float(u), zero);
      else return scale * (simd::to_float(u) + shift);
    });
  }

  static void table(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                    std::size_t group, std::size_t n, float* y) noexcept {
#if NIBBLE_SIMD_WIDTH >= 256 || NIBBLE_SIMD_NEON
    if (c.format.bits <= 4) {
      alignas(64) float values[16] = {};
      std::memcpy(values, c.book.values, sizeof(float) << c.format.bits);
      vf scale(1.0f);
      const auto set = [&](std::size_t g) NIBBLE_LAMBDA_INLINE { scale = vf(params[g].scale); };
      return for_each(c, params, codes, group, n, y, set, [&](simd::vi code) NIBBLE_LAMBDA_INLINE {
        const auto u = static_cast<simd::vi::register_type>(code);
#if NIBBLE_SIMD_NEON
        return scale * simd::look_up_16(values, vreinterpretq_u32_s32(u));
#elif NIBBLE_SIMD_WIDTH == 512
        return scale * vf(_mm512_permutexvar_ps(u, _mm512_load_ps(values)));
#else
        const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(values), u);
        const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(values + 8), u);
        return scale * vf(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(u, 28))));
#endif
      });
    }
#endif
    decode_groups<isa::scalar>::run(c, params, codes, group, n, y);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
