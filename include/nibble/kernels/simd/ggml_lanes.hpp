// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The searches of quant/ggml_search.hpp with one sub-block a lane. Every lane takes the steps of the scalar function in the
/// same order; where that function branches, masks choose. So the bytes are the same by construction.

#include <cstddef>
#include <cstdint>
#include <cstring>

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

/// encode(x, n, blocks) for all blocks, `Step` at a time; the last ones in a buffer, so that there are always values to read.
template <class Format, std::size_t Step, class Encode>
NIBBLE_ALWAYS_INLINE void encode_steps(const float* x, std::size_t count, std::byte* blocks, Encode encode) noexcept {
  std::size_t i = 0;
  for (; i + Step <= count; i += Step) encode(x + i * Format::block_elements, Step, blocks + i * Format::block_bytes);
  if (i < count) {
    float rest[Step * Format::block_elements] = {};
    std::memcpy(rest, x + i * Format::block_elements, (count - i) * Format::block_elements * sizeof(float));
    encode(rest, count - i, blocks + i * Format::block_bytes);
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

/// The first value of greatest magnitude of each sub-block, with its sign.
template <std::size_t N, std::size_t R>
NIBBLE_ALWAYS_INLINE vf first_extreme(const sub_blocks<N, R>& x, std::size_t r) noexcept {
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

/// quant::ggml::detail::search_by_codes of R * lanes sub-blocks; codes as stored, with Max added. A pass that changes nothing in
/// a lane would change nothing again, so lanes that are done need no mask.
template <std::size_t N, int Max, std::size_t R>
inline void search_by_codes(const sub_blocks<N, R>& x, sub_blocks<N, R>& codes, vf (&found)[R]) noexcept {
  const vf none(0.0f), least(static_cast<float>(-Max)), most(static_cast<float>(Max - 1));
  vf extreme[R], sum_xl[R], sum_l2[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    extreme[r] = first_extreme(x, r);
    const vf step = least / extreme[r];
    sum_xl[r] = sum_l2[r] = none;
    for (std::size_t i = 0; i < N; ++i) {
      const vf xi = x.get(i, r), w = rounded_products(xi, xi), l = nearest(rounded_products(step, xi), least, most);
      codes.put(i, r, l);
      sum_xl[r] = sum_xl[r] + rounded_products(rounded_products(w, xi), l);
      sum_l2[r] = sum_l2[r] + rounded_products(rounded_products(w, l), l);
    }
  }
  bool changes = true;
  for (int pass = 0; pass < 5 && changes; ++pass) {
    vf changed(0.0f);
    for (std::size_t i = 0; i < N; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        const vf xi = x.get(i, r), l = codes.get(i, r);
        const vf w = rounded_products(xi, xi), wx = rounded_products(w, xi);
        const vf xl = sum_xl[r] - rounded_products(wx, l), l2 = sum_l2[r] - rounded_products(rounded_products(w, l), l);
        const vf other = nearest(rounded_products(xi, l2) / xl, least, most);
        const vf new_xl = xl + rounded_products(wx, other);
        const vf new_l2 = l2 + rounded_products(rounded_products(w, other), other);
        const auto better = (xl > none) & ((other < l) | (other > l)) & (new_l2 > none) &
                            (rounded_products(rounded_products(new_xl, new_xl), sum_l2[r]) >
                             rounded_products(rounded_products(sum_xl[r], sum_xl[r]), new_l2));
        codes.put(i, r, simd::select(better, other, l));
        sum_xl[r] = simd::select(better, new_xl, sum_xl[r]);
        sum_l2[r] = simd::select(better, new_l2, sum_l2[r]);
        changed = simd::select(better, vf(1.0f), changed);
      }
    }
    changes = simd::any(changed > none);
  }
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    const auto tiny = is_tiny(extreme[r]);
    for (std::size_t i = 0; i < N; ++i)
      codes.put(i, r, simd::select(tiny, none, codes.get(i, r) + vf(static_cast<float>(Max))));
    const vf scale = simd::select(sum_l2[r] > none, sum_xl[r] / sum_l2[r], none);
    found[r] = simd::select(tiny, none, scale);
  }
}

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
