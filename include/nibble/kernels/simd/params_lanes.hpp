// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Parameters of groups from their ranges, one group a lane, on the native register width.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/fit.hpp>
#include <nibble/quant/group_codec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

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

/// Registers whose lanes come in turns from a and b: of the lower and of the upper half of each 128 bits.
struct two_registers {
  vi low, high;
};
NIBBLE_ALWAYS_INLINE two_registers zip_lanes(vi a, vi b) noexcept {
  const auto x = static_cast<vi::register_type>(a), y = static_cast<vi::register_type>(b);
#if NIBBLE_SIMD_NEON
  return {vi(vzip1q_s32(x, y)), vi(vzip2q_s32(x, y))};
#else
  return {vi(NIBBLE_SIMD_OP(unpacklo_epi32)(x, y)), vi(NIBBLE_SIMD_OP(unpackhi_epi32)(x, y))};
#endif
}
/// The same for pairs of lanes.
NIBBLE_ALWAYS_INLINE two_registers zip_pairs(vi a, vi b) noexcept {
  const auto x = static_cast<vi::register_type>(a), y = static_cast<vi::register_type>(b);
#if NIBBLE_SIMD_NEON
  const int64x2_t p = vreinterpretq_s64_s32(x), q = vreinterpretq_s64_s32(y);
  return {vi(vreinterpretq_s32_s64(vzip1q_s64(p, q))), vi(vreinterpretq_s32_s64(vzip2q_s64(p, q)))};
#else
  return {vi(NIBBLE_SIMD_OP(unpacklo_epi64)(x, y)), vi(NIBBLE_SIMD_OP(unpackhi_epi64)(x, y))};
#endif
}
#if NIBBLE_SIMD_WIDTH >= 256
/// Of 128-bit quarters (AVX2: halves): low has the first of a and b, or the even ones; high the others.
NIBBLE_ALWAYS_INLINE two_registers part_quarters(vi a, vi b) noexcept {
  const auto x = static_cast<vi::register_type>(a), y = static_cast<vi::register_type>(b);
#if NIBBLE_SIMD_WIDTH == 512
  return {vi(_mm512_shuffle_i32x4(x, y, 0x88)), vi(_mm512_shuffle_i32x4(x, y, 0xdd))};
#else
  return {vi(_mm256_permute2x128_si256(x, y, 0x20)), vi(_mm256_permute2x128_si256(x, y, 0x31))};
#endif
}
#endif

/// Lane i of the result is op over all lanes of v[i]: a transposition whose steps already reduce.
template <class Op>
NIBBLE_ALWAYS_INLINE vi reduce_each(const vi (&v)[lanes], Op op) noexcept {
  const auto both = [&](two_registers r) NIBBLE_LAMBDA_INLINE { return op(r.low, r.high); };
  // Inside 128 bits: four registers become one that holds each's result for this quarter of them.
  vi four[lanes / 4];
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < lanes / 4; ++i)
    four[i] = both(zip_pairs(both(zip_lanes(v[4 * i], v[4 * i + 1])), both(zip_lanes(v[4 * i + 2], v[4 * i + 3]))));
#if NIBBLE_SIMD_WIDTH == 128
  return four[0];
#elif NIBBLE_SIMD_WIDTH == 256
  return both(part_quarters(four[0], four[1]));
#else
  return both(part_quarters(both(part_quarters(four[0], four[1])), both(part_quarters(four[2], four[3]))));
#endif
}

/// Lane j of v[i] and lane i of v[j] change places.
NIBBLE_ALWAYS_INLINE void transpose(vi (&v)[lanes]) noexcept {
  constexpr std::size_t fours = lanes / 4;
  vi of[fours][4];  // column q of each 128-bit part, for four rows
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < fours; ++i) {
    const two_registers a = zip_lanes(v[4 * i], v[4 * i + 1]), b = zip_lanes(v[4 * i + 2], v[4 * i + 3]);
    const two_registers low = zip_pairs(a.low, b.low), high = zip_pairs(a.high, b.high);
    of[i][0] = low.low, of[i][1] = low.high, of[i][2] = high.low, of[i][3] = high.high;
  }
  NIBBLE_UNROLL
  for (std::size_t q = 0; q < 4; ++q) {
#if NIBBLE_SIMD_WIDTH == 128
    v[q] = of[0][q];
#elif NIBBLE_SIMD_WIDTH == 256
    const two_registers r = part_quarters(of[0][q], of[1][q]);
    v[q] = r.low, v[4 + q] = r.high;
#else
    const two_registers a = part_quarters(of[0][q], of[1][q]), b = part_quarters(of[2][q], of[3][q]);
    const two_registers even = part_quarters(a.low, b.low), odd = part_quarters(a.high, b.high);
    v[q] = even.low, v[4 + q] = odd.low, v[8 + q] = even.high, v[12 + q] = odd.high;
#endif
  }
}

/// As many doubles as a register has lanes.
struct doubles {
#if NIBBLE_SIMD_NEON
  using native = float64x2_t;
#elif NIBBLE_SIMD_WIDTH == 512
  using native = __m512d;
#elif NIBBLE_SIMD_WIDTH == 256
  using native = __m256d;
#else
  using native = __m128d;
#endif
  native low, high;

  static NIBBLE_ALWAYS_INLINE native each(double d) noexcept {
#if NIBBLE_SIMD_NEON
    return vdupq_n_f64(d);
#else
    return NIBBLE_SIMD_OP(set1_pd)(d);
#endif
  }
  static NIBBLE_ALWAYS_INLINE native root(native d) noexcept {
#if NIBBLE_SIMD_NEON
    return vsqrtq_f64(d);
#else
    return NIBBLE_SIMD_OP(sqrt_pd)(d);
#endif
  }
  /// a * b + c, rounded once.
  static NIBBLE_ALWAYS_INLINE native fused(native a, native b, native c) noexcept {
#if NIBBLE_SIMD_NEON
    return vfmaq_f64(c, a, b);
#elif NIBBLE_HAS_FMA
    return NIBBLE_SIMD_OP(fmadd_pd)(a, b, c);
#else
    alignas(16) double x[2], y[2], z[2];
    _mm_store_pd(x, a);
    _mm_store_pd(y, b);
    _mm_store_pd(z, c);
    return _mm_setr_pd(__builtin_fma(x[0], y[0], z[0]), __builtin_fma(x[1], y[1], z[1]));
#endif
  }
  static NIBBLE_ALWAYS_INLINE doubles of(vf v) noexcept {
    const auto x = static_cast<vf::register_type>(v);
#if NIBBLE_SIMD_NEON
    return {vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x)};
#elif NIBBLE_SIMD_WIDTH == 512
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
#elif NIBBLE_SIMD_WIDTH == 256
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
#else
    return {_mm_cvtps_pd(x), _mm_cvtps_pd(_mm_movehl_ps(x, x))};
#endif
  }
  NIBBLE_ALWAYS_INLINE vf to_float() const noexcept {
#if NIBBLE_SIMD_NEON
    return vf(vcvt_high_f32_f64(vcvt_f32_f64(low), high));
#elif NIBBLE_SIMD_WIDTH == 512
    return vf(_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1));
#elif NIBBLE_SIMD_WIDTH == 256
    return vf(_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1));
#else
    return vf(_mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high)));
#endif
  }
};
#undef NIBBLE_SIMD_OP

/// float(op(double(a), double(b))) in each lane; op takes two registers of doubles.
template <class Op>
NIBBLE_ALWAYS_INLINE vf in_doubles(vf a, vf b, Op op) noexcept {
  const doubles x = doubles::of(a), y = doubles::of(b);
  return doubles{op(x.low, y.low), op(x.high, y.high)}.to_float();
}

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

  /// How far `stored` and then a neighbour take a number: relatively, and besides that in the subnormal range.
  float relative_slack() const noexcept { return dropped_ == 0 ? 0x1p-21f : (half_ ? 0x1p-9f : 0x1p-6f); }
  float absolute_slack() const noexcept { return half_ ? 0x1p-23f : 0.0f; }

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
    with_rule([&]<code_rule Rule>() NIBBLE_LAMBDA_INLINE { fit_of<Rule>()(lo, hi, scale, zero); });
  }
  /// fit(lo, hi, scale, zero) does the same for formats of one rule.
  template <code_rule Rule>
  NIBBLE_ALWAYS_INLINE auto fit_of() const noexcept {
    return [ordinary = ordinary_fit<Rule>(), this](vf lo, vf hi, vf& scale, vf& zero) NIBBLE_LAMBDA_INLINE {
      zero = vf(0.0f);
      if (!ordinary(lo, hi, scale, zero)) one_by_one(lo, hi, scale, zero);
    };
  }
  const storage_lanes& storage() const noexcept { return storage_; }
  /// quant::as_stored of x > 0.
  vf stored(vf x) const noexcept {
    if (simd::all(storage_.holds(x))) return storage_.stored(x);
    alignas(64) float each[lanes];
    x.store_aligned(each);
    for (float& v : each) v = quant::as_stored(codec_.format.scale, v);
    return vf::load_aligned(each);
  }
  /// The same for n ranges, whole registers of them; all arrays begin on a register boundary.
  void run(const float* lo, const float* hi, std::size_t n, float* scale, float* zero) const noexcept {
    with_rule([&]<code_rule Rule>() NIBBLE_LAMBDA_INLINE {
      const auto fit = fit_of<Rule>();
      for (std::size_t i = 0; i < n; i += lanes) {
        vf s, z;
        fit(vf::load_aligned(lo + i), vf::load_aligned(hi + i), s, z);
        s.store_aligned(scale + i);
        z.store_aligned(zero + i);
      }
    });
  }

 private:
  /// f.operator()<Rule>() for the format's rule. Both symmetric ones have the same parameters.
  template <class F>
  NIBBLE_ALWAYS_INLINE void with_rule(F f) const noexcept {
    switch (codec_.format.rule) {
      case code_rule::asymmetric: return f.template operator()<code_rule::asymmetric>();
      case code_rule::asymmetric_offset: return f.template operator()<code_rule::asymmetric_offset>();
      case code_rule::mid_rise: return f.template operator()<code_rule::mid_rise>();
      case code_rule::codebook: return f.template operator()<code_rule::codebook>();
      default: return f.template operator()<code_rule::symmetric>();
    }
  }
  /// fit(lo, hi, scale, zero): false where some lane is out of the ordinary.
  template <code_rule Rule>
  NIBBLE_ALWAYS_INLINE auto ordinary_fit() const noexcept {
    const float h = static_cast<float>(quant::code_bias(codec_.format.bits)), top = 2.0f * h - 1.0f;
    if constexpr (Rule == code_rule::asymmetric) {
      return [=, this](vf lo, vf hi, vf& scale, vf& zero)
                 NIBBLE_LAMBDA_INLINE { return with_zero_point(lo, hi, top, scale, zero); };
    } else if constexpr (Rule == code_rule::asymmetric_offset) {
      return [=, this](vf lo, vf hi, vf& scale, vf& zero)
                 NIBBLE_LAMBDA_INLINE { return with_offset(lo, hi, top, scale, zero); };
    } else {
      constexpr bool mid_rise = Rule == code_rule::mid_rise, table = Rule == code_rule::codebook;
      const float levels = table ? codec_.book.greatest : (mid_rise ? h : h - 1.0f);
      const float reach = table ? 0.0f : (mid_rise ? h : h - 0.5f);
      return [=, this](vf lo, vf hi, vf& scale, vf&)
                 NIBBLE_LAMBDA_INLINE { return symmetric(lo, hi, levels, reach, scale); };
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
    const vf s = in_doubles(hi, lo, [=](doubles::native high, doubles::native low) NIBBLE_LAMBDA_INLINE {
      return (high - low) / doubles::each(static_cast<double>(top));
    });
    scale = storage_.stored(s);
    const auto zero_point = [&](vf step) NIBBLE_LAMBDA_INLINE {
      return (simd::min((none - lo) / step, vf(top)) + shift) - shift;
    };
    zero = zero_point(scale);
    const auto narrow = below(scale, (vf(top) - zero) + half, hi) | below(scale, zero + half, none - lo);
    if (simd::any(narrow)) {
      scale = simd::select(narrow, storage_.away(scale), scale);
      zero = simd::select(narrow, zero_point(scale), zero);
    }
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

/// The mean square of n values, a multiple of the lanes and of 8, in the order of quant::lane_sum.
inline double mean_square(const float* x, std::size_t n) noexcept {
  constexpr std::size_t chains = 8, of_register = lanes / 2, registers = chains / of_register;
  doubles::native sum[registers];
  for (doubles::native& s : sum) s = doubles::each(0.0);
  constexpr std::size_t step = lanes < chains ? chains : lanes;
  for (std::size_t i = 0; i < n; i += step) {
    NIBBLE_UNROLL
    for (std::size_t j = 0; j < step / lanes; ++j) {
      const doubles d = doubles::of(load(x + i + j * lanes));
      doubles::native& low = sum[2 * j % registers];
      low = low + d.low * d.low;  // the squares are exact: fused or not
      doubles::native& high = sum[(2 * j + 1) % registers];
      high = high + d.high * d.high;
    }
  }
  alignas(64) double s[chains];
  std::memcpy(s, sum, sizeof s);
  return (((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))) / static_cast<double>(n);
}

/// The root of the mean square of n values [value][lane] in each lane, in the order of quant::lane_sum.
inline vf root_mean_square(const float* x, std::size_t n) noexcept {
  using native = doubles::native;
  constexpr std::size_t chains = 8;
  native low[chains], high[chains];
  for (std::size_t i = 0; i < chains; ++i) {
    low[i] = high[i] = doubles::each(0.0);
    for (std::size_t k = i; k < n; k += chains) {
      const doubles d = doubles::of(vf::load_aligned(x + k * lanes));
      low[i] = low[i] + d.low * d.low;  // the squares are exact: fused or not
      high[i] = high[i] + d.high * d.high;
    }
  }
  const auto root = [&](const native(&s)[chains]) NIBBLE_LAMBDA_INLINE {
    const native sum = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    return doubles::root(sum / doubles::each(static_cast<double>(n)));
  };
  return doubles{root(low), root(high)}.to_float();
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
