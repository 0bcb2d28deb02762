// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The searches of quant/ggml_search.hpp with one sub-block a lane. Every lane takes the steps of the scalar function in the
/// same order; where that function branches, masks choose. So the bytes are the same by construction.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/half.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/ggml_search.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// a * b in each lane, rounded before anything else happens to it: rounded_product of core/round.hpp. (gcc contracts
/// intrinsics, too.)
NIBBLE_ALWAYS_INLINE vf rounded_products(vf a, vf b) noexcept {
  auto p = static_cast<vf::register_type>(a * b);
#if NIBBLE_SIMD_NEON
  __asm__("" : "+w"(p));
#elif NIBBLE_SIMD_WIDTH == 512
  __asm__("" : "+v"(p));
#else
  __asm__("" : "+x"(p));
#endif
  return vf(p);
}

/// quant::ggml::detail::nearest in each lane, as a float: the first operand of max and min is the one that may be NaN.
NIBBLE_ALWAYS_INLINE vf nearest(vf x, vf lo, vf hi) noexcept {
  const vf shift(rounding_shift);
  return simd::min(simd::max((x + shift) - shift, lo), hi);
}

/// The roots of the lanes.
NIBBLE_ALWAYS_INLINE vf square_root(vf v) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(vsqrtq_f32(static_cast<float32x4_t>(v)));
#else
  return xsimd::sqrt(v);
#endif
}

/// Bit i is that of the sign of lane i.
NIBBLE_ALWAYS_INLINE std::uint32_t sign_bits(vi v) noexcept {
#if NIBBLE_SIMD_NEON
  const int32x4_t place = {0, 1, 2, 3};
  return vaddvq_u32(vshlq_u32(vshrq_n_u32(vreinterpretq_u32_s32(static_cast<int32x4_t>(v)), 31), place));
#elif NIBBLE_SIMD_WIDTH == 512
  return _mm512_movepi32_mask(static_cast<__m512i>(v));
#elif NIBBLE_SIMD_WIDTH == 256
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(static_cast<__m256i>(v))));
#else
  return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(static_cast<__m128i>(v))));
#endif
}
/// to_half of each lane.
NIBBLE_ALWAYS_INLINE void store_halves(vf v, half* to) noexcept {
#if NIBBLE_SIMD_NEON
  vst1_u16(reinterpret_cast<std::uint16_t*>(to), vreinterpret_u16_f16(vcvt_f16_f32(static_cast<float32x4_t>(v))));
#elif NIBBLE_SIMD_WIDTH == 512
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(static_cast<__m512>(v), 0));
#elif NIBBLE_SIMD_WIDTH == 256
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(static_cast<__m256>(v), 0));
#else
  alignas(64) float each[lanes];
  v.store_aligned(each);
  for (std::size_t i = 0; i < lanes; ++i) to[i] = to_half(each[i]);
#endif
}
/// Registers of 16 values, half a block of 32.
inline constexpr std::size_t half_block = 16 / lanes;

/// 16 lanes with values in [0, 255] as bytes.
NIBBLE_ALWAYS_INLINE void store_sixteen(const vi (&v)[half_block], void* to) noexcept {
#if NIBBLE_SIMD_NEON || NIBBLE_SIMD_WIDTH == 128
  store_bytes<false>(v, to);
#elif NIBBLE_SIMD_WIDTH == 512
  _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8(static_cast<__m512i>(v[0])));
#else
  const __m256i two = _mm256_packs_epi32(static_cast<__m256i>(v[0]), static_cast<__m256i>(v[1]));
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
  _mm_storeu_si128(static_cast<__m128i*>(to), _mm_shuffle_epi32(bytes, 0xd8));  // the fours came out in turns
#endif
}
/// Whole numbers, such that |v| < 2^22, as integers modulo 256.
NIBBLE_ALWAYS_INLINE vi low_byte(vf v) noexcept { return bits_of(v + vf(rounding_shift)) & vi(255); }

/// Value i of R * lanes sub-blocks of N values in R registers side by side.
template <std::size_t N, std::size_t R>
class sub_blocks {
 public:
  static constexpr std::size_t count = R * lanes;

  NIBBLE_ALWAYS_INLINE vf get(std::size_t i, std::size_t r) const noexcept {
    return vf::load_aligned(v_ + (i * R + r) * lanes);
  }
  NIBBLE_ALWAYS_INLINE void put(std::size_t i, std::size_t r, vf v) noexcept {
    v.store_aligned(v_ + (i * R + r) * lanes);
  }
  /// Value i of register r at (i * R + r) * lanes.
  const float* data() const noexcept { return v_; }
  /// From `count` sub-blocks that lie one after the other.
  void read(const float* x) noexcept {
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t i = 0; i < N; i += lanes) {
        vi v[lanes];
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < lanes; ++j)
          v[j] = load(reinterpret_cast<const std::int32_t*>(x + (r * lanes + j) * N + i));
        transpose(v);
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < lanes; ++j) put(i + j, r, float_of_bits(v[j]));
      }
  }
  /// f(i, r) as bytes, sub-block after sub-block; it gives whole numbers in [-128, 255].
  template <class F>
  static NIBBLE_ALWAYS_INLINE void write_bytes(std::uint8_t* to, F f) noexcept {
    for (std::size_t r = 0; r < R; ++r)
      for (std::size_t first = 0; first < N; first += 16) {
        vi four[4];  // codes of a lane
        NIBBLE_UNROLL
        for (std::size_t q = 0; q < 4; ++q) {
          const std::size_t i = first + 4 * q;
          four[q] = low_byte(f(i, r)) | low_byte(f(i + 1, r)) << 8 | low_byte(f(i + 2, r)) << 16 |
                    low_byte(f(i + 3, r)) << 24;
        }
        // Inside 128 bits: sixteen codes of lane 4 p + k are part p of register k.
        const two_registers a = zip_lanes(four[0], four[1]), b = zip_lanes(four[2], four[3]);
        const two_registers even = zip_pairs(a.low, b.low), odd = zip_pairs(a.high, b.high);
        alignas(64) std::int32_t sixteen[4][lanes];
        even.low.store_aligned(sixteen[0]);
        even.high.store_aligned(sixteen[1]);
        odd.low.store_aligned(sixteen[2]);
        odd.high.store_aligned(sixteen[3]);
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < lanes; ++j)
          std::memcpy(to + (r * lanes + j) * N + first, sixteen[j % 4] + j / 4 * 4, 16);
      }
  }

 private:
  alignas(64) float v_[N * R * lanes];
};

/// encode(x, n, blocks) for all blocks, up to `Step` at a time in multiples of `Unit`; the last ones in a buffer, so that there are
/// always the values of whole units to read.
template <class Format, std::size_t Step, std::size_t Unit = Step, class Encode>
NIBBLE_ALWAYS_INLINE void encode_steps(const float* x, std::size_t count, std::byte* blocks, Encode encode) noexcept {
  static_assert(Step % Unit == 0);
  for (std::size_t n = 0; count >= Unit; count -= n) {
    n = count < Step ? count - count % Unit : Step;
    encode(x, n, blocks);
    x += n * Format::block_elements;
    blocks += n * Format::block_bytes;
  }
  if (count != 0) {
    float rest[Unit * Format::block_elements] = {};
    std::memcpy(rest, x, count * Format::block_elements * sizeof(float));
    encode(rest, count, blocks);
  }
}

/// What search_affine finds, and what gives the codes that go with it: nearest(step * (x - base)).
struct affine_lanes {
  vf scale, min, step, base;
};

/// quant::ggml::detail::search_affine of R * lanes sub-blocks. A trial that is accepted leaves its step and its base; the
/// codes follow from them and are seldom asked for.
template <std::size_t N, int Max, bool Squared, std::size_t R>
inline void search_affine(const sub_blocks<N, R>& x, const sub_blocks<N, R>& w, quant::ggml::detail::affine_steps steps,
                          affine_lanes (&found)[R]) noexcept {
  const vf none(0.0f), top(static_cast<float>(Max));
  vf lo[R], hi[R], sum_w[R], sum_x[R], least[R], best[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    lo[r] = hi[r] = x.get(0, r);
    sum_w[r] = w.get(0, r);
    sum_x[r] = rounded_products(w.get(0, r), x.get(0, r));
  }
  for (std::size_t i = 1; i < N; ++i) {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      const vf xi = x.get(i, r), wi = w.get(i, r);
      lo[r] = simd::min(xi, lo[r]);
      hi[r] = simd::max(xi, hi[r]);
      sum_w[r] = sum_w[r] + wi;
      sum_x[r] = sum_x[r] + rounded_products(wi, xi);
    }
  }
  sub_blocks<N, R> codes;
  const auto encode = [&](std::size_t i, std::size_t r, vf step) NIBBLE_LAMBDA_INLINE {
    const vf l = nearest(rounded_products(step, x.get(i, r) - lo[r]), none, top);
    codes.put(i, r, l);
    return l;
  };
  const auto add_errors = [&](const vf(&scale)[R], const vf(&min)[R], vf(&sum)[R]) NIBBLE_LAMBDA_INLINE {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) sum[r] = none;
    for (std::size_t i = 0; i < N; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        const vf e = rounded_products(scale[r], codes.get(i, r)) + min[r] - x.get(i, r);
        sum[r] = sum[r] + rounded_products(w.get(i, r), Squared ? rounded_products(e, e) : magnitude(e));
      }
    }
  };
  vf scale[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    lo[r] = simd::select(lo[r] > none, none, lo[r]);
    least[r] = lo[r];
    const vf whole = top / (hi[r] - lo[r]);
    scale[r] = vf(1.0f) / whole;
    found[r].step = whole;
    found[r].base = lo[r];
  }
  for (std::size_t i = 0; i < N; ++i) {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) encode(i, r, found[r].step);
  }
  add_errors(scale, lo, best);
  for (int trial = 0; trial <= steps.count; ++trial) {
    const vf levels(steps.first + rounded_product(steps.step, static_cast<float>(trial)) + static_cast<float>(Max));
    vf step[R], sum_l[R], sum_l2[R], sum_xl[R];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      step[r] = levels / (hi[r] - lo[r]);
      sum_l[r] = sum_l2[r] = sum_xl[r] = none;
    }
    for (std::size_t i = 0; i < N; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        const vf l = encode(i, r, step[r]), wl = rounded_products(w.get(i, r), l);
        sum_l[r] = sum_l[r] + wl;
        sum_l2[r] = sum_l2[r] + rounded_products(wl, l);
        sum_xl[r] = sum_xl[r] + rounded_products(wl, x.get(i, r));
      }
    }
    vf d[R], s[R], m[R], error[R];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      d[r] = rounded_products(sum_w[r], sum_l2[r]) - rounded_products(sum_l[r], sum_l[r]);
      s[r] = (rounded_products(sum_w[r], sum_xl[r]) - rounded_products(sum_x[r], sum_l[r])) / d[r];
      m[r] = (rounded_products(sum_l2[r], sum_x[r]) - rounded_products(sum_l[r], sum_xl[r])) / d[r];
      const auto above = m[r] > none;
      s[r] = simd::select(above, sum_xl[r] / sum_l2[r], s[r]);
      m[r] = simd::select(above, none, m[r]);
    }
    add_errors(s, m, error);
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      const auto better = (d[r] > none) & (error[r] < best[r]);
      found[r].step = simd::select(better, step[r], found[r].step);
      found[r].base = simd::select(better, lo[r], found[r].base);
      best[r] = simd::select(better, error[r], best[r]);
      scale[r] = simd::select(better, s[r], scale[r]);
      lo[r] = simd::select(better, m[r], lo[r]);
    }
  }
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    const auto flat = hi[r] == least[r];  // all that was found there is infinite or NaN
    found[r].scale = simd::select(flat, none, scale[r]);
    found[r].min = none - simd::select(flat, least[r], lo[r]);
    found[r].step = simd::select(flat, none, found[r].step);
    found[r].base = simd::select(flat, none, found[r].base);
  }
}

/// The first value of greatest magnitude of each sub-block, with its sign; 0 has any.
template <std::size_t N, std::size_t R>
NIBBLE_ALWAYS_INLINE vf first_extreme(const sub_blocks<N, R>& x, std::size_t r) noexcept {
  vf lo = x.get(0, r), hi = lo;
  for (std::size_t i = 1; i < N; ++i) {
    lo = simd::min(x.get(i, r), lo);
    hi = simd::max(x.get(i, r), hi);
  }
  const vf below = vf(0.0f) - lo;
  if (!simd::any((hi == below) & (hi > vf(0.0f)))) return simd::select(hi > below, hi, lo);
  vf v(0.0f), greatest(0.0f);
  for (std::size_t i = 0; i < N; ++i) {
    const vf xi = x.get(i, r), size = magnitude(xi);
    const auto above = size > greatest;
    v = simd::select(above, xi, v);
    greatest = simd::select(above, size, greatest);
  }
  return v;
}
NIBBLE_ALWAYS_INLINE auto is_tiny(vf v) noexcept { return magnitude(v) < vf(quant::ggml::detail::least_magnitude); }

/// A scale, and what gives the codes that were found with it: nearest(step * x) + bias.
struct step_lanes {
  vf scale, step, bias;
};

/// quant::ggml::detail::search_by_steps of R * lanes sub-blocks.
template <std::size_t N, int Max, std::size_t R>
inline void search_by_steps(const sub_blocks<N, R>& x, step_lanes (&found)[R]) noexcept {
  const vf none(0.0f), least(static_cast<float>(-Max)), most(static_cast<float>(Max - 1));
  sub_blocks<N, R> squares, cubes;
  vf extreme[R], best[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    extreme[r] = first_extreme(x, r);
    for (std::size_t i = 0; i < N; ++i) {
      const vf xi = x.get(i, r), w = rounded_products(xi, xi);
      squares.put(i, r, w);
      cubes.put(i, r, rounded_products(w, xi));
    }
    found[r].scale = found[r].step = best[r] = none;
  }
  for (int trial = 0; trial < 19; ++trial) {
    const int place = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;  // 0, -9 .. -1, 1 .. 9
    const vf levels(-(static_cast<float>(Max) + rounded_product(0.1f, static_cast<float>(place))));
    vf step[R], xl[R], l2[R];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      step[r] = levels / extreme[r];
      xl[r] = l2[r] = none;
    }
    const auto sums = [&](auto code) NIBBLE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < N; ++i) {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < R; ++r) {
          const vf l = code(rounded_products(step[r], x.get(i, r)));
          xl[r] = xl[r] + rounded_products(cubes.get(i, r), l);
          l2[r] = l2[r] + rounded_products(rounded_products(squares.get(i, r), l), l);
        }
      }
    };
    // No product is greater than that of the extreme, Max + place / 10: few trials need both ends of the codes.
    const vf shift(rounding_shift);
    if (place <= -6) sums([=](vf t) NIBBLE_LAMBDA_INLINE { return (t + shift) - shift; });
    else if (place <= 4) sums([=](vf t) NIBBLE_LAMBDA_INLINE { return simd::min((t + shift) - shift, most); });
    else sums([=](vf t) NIBBLE_LAMBDA_INLINE { return nearest(t, least, most); });
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      const vf scale = simd::select(l2[r] > none, xl[r] / l2[r], none);
      if (trial == 0) {
        found[r].step = step[r];
        found[r].scale = scale;
        best[r] = rounded_products(scale, xl[r]);
      } else {
        const auto better = (l2[r] > none) & (rounded_products(xl[r], xl[r]) > rounded_products(best[r], l2[r]));
        found[r].step = simd::select(better, step[r], found[r].step);
        found[r].scale = simd::select(better, scale, found[r].scale);
        best[r] = simd::select(better, rounded_products(scale, xl[r]), best[r]);
      }
    }
  }
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    const auto tiny = is_tiny(extreme[r]);
    found[r].scale = simd::select(tiny, none, found[r].scale);
    found[r].step = simd::select(tiny, none, found[r].step);
    found[r].bias = simd::select(tiny, none, vf(static_cast<float>(Max)));
  }
}

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
