// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Writing the formats of GGUF files with blocks of 32 elements, on the native register width. Least and greatest values of as
/// many blocks as there are lanes become one register each, so that all divisions of these blocks are one.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/core/half.hpp>
#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/quant/ggml_block32.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

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
/// Rounded towards zero.
NIBBLE_ALWAYS_INLINE vi truncated(vf v) noexcept {
#if NIBBLE_SIMD_NEON
  return vi(vcvtq_s32_f32(static_cast<float32x4_t>(v)));
#else
  return xsimd::to_int(v);
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
/// quant::ggml::detail::inverse of each lane.
NIBBLE_ALWAYS_INLINE vf inverse(vf d) noexcept {
  const vf id = vf(1.0f) / d;
  return simd::select(magnitude(id) <= vf(std::numeric_limits<float>::max()), id, vf(0.0f));
}

struct lane_ranges {
  vf lo, hi;
};
/// The least and greatest values of one block a lane; which of two zeros is open.
NIBBLE_ALWAYS_INLINE lane_ranges ranges_of_blocks(const float* x) noexcept {
  const auto lesser = [](vi a, vi b)
                          NIBBLE_LAMBDA_INLINE { return bits_of(simd::min(float_of_bits(a), float_of_bits(b))); };
  const auto greater = [](vi a, vi b)
                           NIBBLE_LAMBDA_INLINE { return bits_of(simd::max(float_of_bits(a), float_of_bits(b))); };
  vi lo[lanes], hi[lanes];
  NIBBLE_UNROLL
  for (std::size_t j = 0; j < lanes; ++j) {
    vf least = load(x + 32 * j), most = least;
    NIBBLE_UNROLL
    for (std::size_t i = lanes; i < 32; i += lanes) {
      least = simd::min(least, load(x + 32 * j + i));
      most = simd::max(most, load(x + 32 * j + i));
    }
    lo[j] = bits_of(least);
    hi[j] = bits_of(most);
  }
  return {float_of_bits(reduce_each(lo, lesser)), float_of_bits(reduce_each(hi, greater))};
}

/// The first extreme of one block a lane, with its sign.
NIBBLE_ALWAYS_INLINE vf extremes_of_blocks(const float* x) noexcept {
  const lane_ranges r = ranges_of_blocks(x);
  const vf below = vf(0.0f) - r.lo;
  const auto as_great = r.hi == below;
  const vf v = simd::select(r.hi > below, r.hi, r.lo);
  if (!simd::any(as_great)) return v;
  alignas(64) float each[lanes], both[lanes];
  v.store_aligned(each);
  simd::select(as_great, vf(1.0f), vf(0.0f)).store_aligned(both);
  for (std::size_t j = 0; j < lanes; ++j)
    if (both[j] != 0.0f) each[j] = quant::ggml::detail::first_extreme(x + 32 * j, 32);
  return vf::load_aligned(each);
}

/// Codes below 32 in element order as Q4_0 to Q5_1 have them; the fifth bits are returned.
NIBBLE_ALWAYS_INLINE std::uint32_t store_codes(const vi (&codes)[2 * half_block], std::byte* to) noexcept {
  vi bytes[half_block];
  std::uint32_t fifth = 0;
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < half_block; ++i) bytes[i] = (codes[i] & vi(15)) | (codes[half_block + i] & vi(15)) << 4;
  store_sixteen(bytes, to);
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < 2 * half_block; ++i) fifth |= sign_bits(codes[i] << 27) << i * lanes;
  return fifth;
}

/// encode_steps of `lanes` blocks in two parts: find(x) has the quotients of a step on their way while code(found, x, n, blocks)
/// writes the blocks of the one before it.
template <class Format, class Find, class Code>
NIBBLE_ALWAYS_INLINE void encode_ahead(const float* x, std::size_t count, std::byte* blocks, Find find,
                                       Code code) noexcept {
  decltype(find(x)) found[2];
  std::size_t next = 0;
  if (count >= lanes) found[0] = find(x);
  for (; count >= lanes; count -= lanes, blocks += lanes * Format::block_bytes) {
    auto& now = found[next];
    next = 1 - next;
    const float* const values = x;
    x += lanes * Format::block_elements;
    if (count >= 2 * lanes) found[next] = find(x);
    code(now, values, lanes, blocks);
  }
  if (count == 0) return;
  float rest[lanes * Format::block_elements] = {};
  std::memcpy(rest, x, count * Format::block_elements * sizeof(float));
  found[0] = find(rest);
  code(found[0], rest, count, blocks);
}

/// What blocks need: scales as stored and their inverses.
struct lane_scales {
  alignas(64) float ids[lanes];
  half halves[lanes];
  NIBBLE_ALWAYS_INLINE void set(vf d) noexcept {
    inverse(d).store_aligned(ids);
    store_halves(d, halves);
  }
};

/// Q4_0 and Q5_0: codes of half the width around the extreme.
template <class Format, int Half>
NIBBLE_ALWAYS_INLINE void encode_around_extreme(const float* x, std::size_t count, std::byte* blocks) noexcept {
  const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
    lane_scales found;
    found.set(extremes_of_blocks(values) / vf(static_cast<float>(-Half)));
    return found;
  };
  encode_ahead<Format>(
      x, count, blocks, find,
      [](const lane_scales& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
        const vf middle(static_cast<float>(Half) + 0.5f), top(static_cast<float>(2 * Half - 1));
        for (std::size_t b = 0; b < n; ++b, to += Format::block_bytes) {
          const vf id(found.ids[b]);
          vi codes[2 * half_block];
          NIBBLE_UNROLL
          for (std::size_t i = 0; i < 2 * half_block; ++i)
            codes[i] = truncated(simd::min(rounded_products(load(values + 32 * b + i * lanes), id) + middle, top));
          std::memcpy(to, &found.halves[b], 2);
          const std::uint32_t fifth = store_codes(codes, to + Format::block_bytes - 16);
          if constexpr (Half == 16) std::memcpy(to + 2, &fifth, 4);
        }
      });
}

/// Q4_1 and Q5_1: codes from the least to the greatest value.
template <class Format, int Max>
NIBBLE_ALWAYS_INLINE void encode_range(const float* x, std::size_t count, std::byte* blocks) noexcept {
  struct ranges : lane_scales {
    alignas(64) float los[lanes];
    half mins[lanes];
  };
  const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
    const lane_ranges r = ranges_of_blocks(values);
    ranges found;
    found.set(simd::select(r.hi == r.lo, vf(0.0f), (r.hi - r.lo) / vf(static_cast<float>(Max))));
    r.lo.store_aligned(found.los);
    store_halves(r.lo, found.mins);
    return found;
  };
  encode_ahead<Format>(x, count, blocks, find,
                       [](ranges& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
                         const vf middle(0.5f), top(static_cast<float>(Max));
                         for (std::size_t b = 0; b < n; ++b, to += Format::block_bytes) {
                           const float* const v = values + 32 * b;
                           if (found.los[b] == 0.0f) {  // the first of its zeros has a sign
                             std::size_t i = 0;
                             while (v[i] != 0.0f) ++i;
                             found.mins[b] = to_half(v[i]);
                           }
                           const vf id(found.ids[b]), lo(found.los[b]);
                           vi codes[2 * half_block];
                           NIBBLE_UNROLL
                           for (std::size_t i = 0; i < 2 * half_block; ++i)
                             codes[i] =
                                 truncated(simd::min(rounded_products(load(v + i * lanes) - lo, id) + middle, top));
                           std::memcpy(to, &found.halves[b], 2);
                           std::memcpy(to + 2, &found.mins[b], 2);
                           const std::uint32_t fifth = store_codes(codes, to + Format::block_bytes - 16);
                           if constexpr (Max == 31) std::memcpy(to + 4, &fifth, 4);
                         }
                       });
}

/// The nearest levels of IQ4_NL, the upper one of two as near, and their codes, as floats.
class iq4_lanes {
 public:
#if NIBBLE_SIMD_WIDTH == 512
  iq4_lanes() noexcept : midpoint_(of(table.midpoint)), below_(of(table.below)), above_(of(table.above)) {}
  /// Of |t| < 145.
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept { return chosen(t, below_, above_); }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    return chosen(simd::min(simd::max(t, vf(-140.0f)), vf(140.0f)), of(table.code_below), of(table.code_above));
  }

 private:
  /// Buckets of width 10 around multiples of 10: midpoints are further apart, and none is near the end of a bucket, so that
  /// each bucket has one of them at most and rounding decides nothing. Bucket s has number s % 32.
  struct buckets {
    float midpoint[32], below[32], above[32], code_below[32], code_above[32];
  };
  static constexpr buckets table = [] {
    buckets b{};
    for (int s = -16; s < 16; ++s) {
      const auto k = static_cast<std::size_t>(s & 31);
      std::size_t code = 0;
      const auto twice = [](std::size_t c) { return quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]; };
      while (code < 15 && twice(code) < 2 * (10 * s - 5)) ++code;
      const bool inside = code < 15 && twice(code) < 2 * (10 * s + 5);
      const std::size_t next = inside ? code + 1 : code;
      b.midpoint[k] = inside ? 0.5f * static_cast<float>(twice(code)) : std::numeric_limits<float>::infinity();
      b.below[k] = static_cast<float>(quant::ggml::iq4_table[code]);
      b.above[k] = static_cast<float>(quant::ggml::iq4_table[next]);
      b.code_below[k] = static_cast<float>(code);
      b.code_above[k] = static_cast<float>(next);
    }
    return b;
  }();
  struct two {
    __m512 low, high;
  };
  static NIBBLE_ALWAYS_INLINE two of(const float (&v)[32]) noexcept {
    return {_mm512_loadu_ps(v), _mm512_loadu_ps(v + 16)};
  }
  NIBBLE_ALWAYS_INLINE vf chosen(vf t, two below, two above) const noexcept {
    const __m512i bucket = static_cast<__m512i>(bits_of(fused(t, vf(0.1f), vf(rounding_shift))));
    const auto find = [bucket](two v)
                          NIBBLE_LAMBDA_INLINE { return vf(_mm512_permutex2var_ps(v.low, bucket, v.high)); };
    return simd::select(t >= find(midpoint_), find(above), find(below));
  }
  two midpoint_, below_, above_;
#elif NIBBLE_SIMD_WIDTH == 256
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept {
    const search s(t);
    const auto find = [&](const float(&v)[8])
                          NIBBLE_LAMBDA_INLINE { return _mm256_permutevar8x32_ps(_mm256_load_ps(v), s.node); };
    return vf(_mm256_blendv_ps(find(tree.below), find(tree.above), s.upper));
  }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    const search s(t);
    return to_float(vi(s.next(s.node, s.upper))) - vf(16.0f);
  }

 private:
  /// Midpoints as a search tree: those of three steps by number 1 to 7 (node k leads to 2 k and 2 k + 1), then those of the
  /// nodes 8 to 15 with the levels on both sides; vpermps takes the lower three bits of a number.
  struct nodes {
    alignas(32) float inner[8], last[8], below[8], above[8];
  };
  static constexpr nodes tree = [] {
    nodes n{};
    const auto midpoint = [](std::size_t c) {
      return 0.5f * static_cast<float>(quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]);
    };
    for (std::size_t step = 0, first = 1; step < 3; ++step, first *= 2)
      for (std::size_t i = 0; i < first; ++i) n.inner[first + i] = midpoint((2 * i + 1) * (8 >> step) - 1);
    for (std::size_t i = 0; i < 8; ++i) {
      n.last[i] = midpoint(2 * i);
      n.below[i] = static_cast<float>(quant::ggml::iq4_table[2 * i]);
      n.above[i] = static_cast<float>(quant::ggml::iq4_table[2 * i + 1]);
    }
    return n;
  }();
  struct search {
    __m256i node;
    __m256 upper;
    static NIBBLE_ALWAYS_INLINE __m256i next(__m256i k, __m256 up) noexcept {
      return _mm256_sub_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(up));
    }
    NIBBLE_ALWAYS_INLINE explicit search(vf v) noexcept {
      const __m256 t = static_cast<__m256>(v), inner = _mm256_load_ps(tree.inner);
      node = next(_mm256_set1_epi32(1), _mm256_cmp_ps(t, _mm256_set1_ps(tree.inner[1]), _CMP_GE_OQ));
      NIBBLE_UNROLL
      for (int step = 0; step < 2; ++step)
        node = next(node, _mm256_cmp_ps(t, _mm256_permutevar8x32_ps(inner, node), _CMP_GE_OQ));
      upper = _mm256_cmp_ps(t, _mm256_permutevar8x32_ps(_mm256_load_ps(tree.last), node), _CMP_GE_OQ);
    }
  };
#else
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept {
    return climbed(t, static_cast<float>(quant::ggml::iq4_table[0]), [](std::size_t c) {
      return static_cast<float>(quant::ggml::iq4_table[c + 1] - quant::ggml::iq4_table[c]);
    });
  }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    return climbed(t, 0.0f, [](std::size_t) { return 1.0f; });
  }

 private:
  /// `first` and step(c) for each midpoint c that is not above t: exact whole numbers.
  template <class Step>
  static NIBBLE_ALWAYS_INLINE vf climbed(vf t, float first, Step step) noexcept {
    vf sum(first);
    for (std::size_t c = 0; c < 15; ++c) {
      const vf midpoint(0.5f * static_cast<float>(quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]));
      sum = sum + simd::select(t >= midpoint, vf(step(c)), vf(0.0f));
    }
    return sum;
  }
#endif
};

/// The scales of IQ4_NL, one block a lane.
template <std::size_t R>
inline void search_levels(const sub_blocks<32, R>& x, const iq4_lanes& table, vf (&found)[R]) noexcept {
  constexpr float first = static_cast<float>(quant::ggml::iq4_table[0]);
  const vf none(0.0f);
  vf extreme[R], best[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    extreme[r] = first_extreme(x, r);
    found[r] = best[r] = none;
  }
  for (int trial = -8; trial <= 7; ++trial) {
    vf id[R], xt[R], tt[R];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      // Tiny blocks, whose result does not count, must not leave the range of the table.
      const vf v = simd::select(is_tiny(extreme[r]), vf(1.0f), extreme[r]);
      id[r] = trial == -8 ? vf(1.0f) / ((none - v) / vf(first)) : vf(static_cast<float>(trial) + first) / v;
      xt[r] = tt[r] = none;
    }
    for (std::size_t i = 0; i < 32; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        const vf xi = x.get(i, r), t = table.level(rounded_products(xi, id[r]));
        const vf wt = rounded_products(rounded_products(xi, xi), t);
        xt[r] = xt[r] + rounded_products(wt, xi);
        tt[r] = tt[r] + rounded_products(wt, t);
      }
    }
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      const auto some = tt[r] > none;
      const vf d = simd::select(some, xt[r] / tt[r], none), gain = rounded_products(d, xt[r]);
      if (trial == -8) {
        found[r] = d;
        best[r] = gain;
      } else {
        const auto better = some & (rounded_products(xt[r], xt[r]) > rounded_products(best[r], tt[r]));
        found[r] = simd::select(better, d, found[r]);
        best[r] = simd::select(better, gain, best[r]);
      }
    }
  }
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) found[r] = simd::select(is_tiny(extreme[r]), none, found[r]);
}

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q8_0> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q8_0;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
      const simd::lane_ranges r = simd::ranges_of_blocks(values);
      simd::lane_scales found;
      found.set(simd::max(simd::magnitude(r.hi), simd::magnitude(r.lo)) / vf(127.0f));
      return found;
    };
    simd::encode_ahead<format>(
        x, count, blocks, find,
        [](const simd::lane_scales& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
          // Halves away from zero: what lies just below 1/2, added towards the sign, reaches the next integer for them alone.
          const vi sign(std::numeric_limits<std::int32_t>::min()), below_half = simd::bits_of(vf(0x1.fffffep-2f));
          for (std::size_t b = 0; b < n; ++b, to += format::block_bytes) {
            const vf id(found.ids[b]);
            std::memcpy(to, &found.halves[b], 2);
            NIBBLE_UNROLL
            for (std::size_t k = 0; k < 2; ++k) {
              vi codes[simd::half_block];
              NIBBLE_UNROLL
              for (std::size_t i = 0; i < simd::half_block; ++i) {
                const vf v = simd::rounded_products(simd::load(values + 32 * b + 16 * k + i * lanes), id);
                codes[i] = simd::truncated(v + simd::float_of_bits((simd::bits_of(v) & sign) | below_half)) & vi(255);
              }
              simd::store_sixteen(codes, to + 2 + 16 * k);
            }
          }
        });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q4_0> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_around_extreme<quant::ggml::q4_0, 8>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q5_0> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_around_extreme<quant::ggml::q5_0, 16>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q4_1> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_range<quant::ggml::q4_1, 15>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q5_1> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_range<quant::ggml::q5_1, 31>(x, count, blocks);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::iq4_nl> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::iq4_nl;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    constexpr std::size_t R = 1;
    using tile = simd::sub_blocks<32, R>;
    const simd::iq4_lanes table;
    tile values;
    simd::encode_steps<format, tile::count>(x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
      values.read(v);
      simd::vf d[R], id[R];
      half halves[tile::count];
      std::uint8_t codes[32 * tile::count];
      simd::search_levels(values, table, d);
      for (std::size_t r = 0; r < R; ++r) {
        id[r] = simd::inverse(d[r]);
        simd::store_halves(d[r], halves + r * simd::lanes);
      }
      tile::write_bytes(codes, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
        return table.code(simd::rounded_products(values.get(i, r), id[r]));
      });
      for (std::size_t b = 0; b < n; ++b, to += format::block_bytes) {
        std::memcpy(to, &halves[b], 2);
        quant::ggml::detail::store_nibbles(codes + 32 * b, to + 2);
      }
    });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
