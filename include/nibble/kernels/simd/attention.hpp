// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values on their way to the panel kernels, on the native register width.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/kernels/attention.hpp>
#include <nibble/kernels/scalar/attention.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/panel_tools.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

namespace simd {

// `lanes` stored values as a register, number r of a panel's row, and one of them as a float.
struct stored_floats {
  static constexpr std::size_t bytes = sizeof(float);
  const float* x;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept { return load(x + i); }
};
struct stored_halves {
  static constexpr std::size_t bytes = sizeof(half);
  const half* h;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept {
#if NIBBLE_SIMD_NEON
    return vf(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(h + i)))));
#elif NIBBLE_SIMD_WIDTH == 512
    return vf(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h + i))));
#elif NIBBLE_SIMD_WIDTH == 256
    return vf(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h + i))));
#else
    alignas(64) float x[lanes];
    for (std::size_t j = 0; j < lanes; ++j) x[j] = to_float(h[i + j]);
    return vf::load_aligned(x);
#endif
  }
  NIBBLE_ALWAYS_INLINE float one(std::size_t i) const noexcept { return to_float(h[i]); }
};
NIBBLE_ALWAYS_INLINE vi widened(const std::uint8_t* u) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vi(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(u))));
#elif NIBBLE_SIMD_WIDTH == 256
  // A broadcast costs no more than a load, and its shuffle stays in the 128-bit halves; vpmovzxbd crosses them.
  std::int64_t eight;
  std::memcpy(&eight, u, sizeof eight);
  const __m256i spread = _mm256_setr_epi32(-256, -255, -254, -253, -252, -251, -250, -249);  // -256 + i: byte i, zeros
  return vi(_mm256_shuffle_epi8(_mm256_set1_epi64x(eight), spread));
#else
  std::uint32_t four;
  std::memcpy(&four, u, sizeof four);
#if NIBBLE_SIMD_NEON
  const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
  return vi(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))));
#else
  const __m128i bytes = _mm_cvtsi32_si128(static_cast<int>(four)), none = _mm_setzero_si128();
  return vi(_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, none), none));
#endif
#endif
}
struct stored_bytes {
  static constexpr std::size_t bytes = 1;
  const std::uint8_t* codes;
  int bias;
  float scale, zero;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept {
    return madd(to_float(widened(codes + i) - vi(bias)), vf(scale), vf(zero));
  }
  NIBBLE_ALWAYS_INLINE float one(std::size_t i) const noexcept {
    return multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
  }
};
/// The values of bytes whose scales went to their weights.
struct stored_codes {
  static constexpr std::size_t bytes = 1;
  const std::uint8_t* codes;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept { return to_float(widened(codes + i)); }
};
NIBBLE_ALWAYS_INLINE stored_floats stored(const float* x) noexcept { return {x}; }
NIBBLE_ALWAYS_INLINE stored_halves stored(const half* h) noexcept { return {h}; }
NIBBLE_ALWAYS_INLINE stored_codes stored(const std::uint8_t* codes) noexcept { return {codes}; }
/// Bytes of a panel with a scale and a zero for each of its columns, in whole rows.
struct stored_columns {
  static constexpr std::size_t bytes = 1;
  const std::uint8_t* codes;
  vf scale[regs], zero[regs];
  NIBBLE_ALWAYS_INLINE stored_columns(const std::uint8_t* u, const float* scales, const float* zeros) noexcept
      : codes(u) {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) scale[r] = load(scales + r * lanes), zero[r] = load(zeros + r * lanes);
  }
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t r) const noexcept {
    return madd(to_float(widened(codes + i)), scale[r], zero[r]);
  }
};

/// c - a * b, as madd(-a, b, c).
NIBBLE_ALWAYS_INLINE vf less_product(vf a, vf b, vf c) noexcept {
#if NIBBLE_SIMD_NEON
  return vf(vfmsq_f32(static_cast<float32x4_t>(c), static_cast<float32x4_t>(a), static_cast<float32x4_t>(b)));
#elif NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_fnmadd_ps(a, b, c));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_fnmadd_ps(a, b, c));
#else
  return madd(float_of_bits(bits_of(a) ^ vi(std::numeric_limits<std::int32_t>::min())), b, c);
#endif
}

/// Keys of a panel on their way into the products: the rows of pair i rotated, the others as they are.
template <class Stored>
struct turned_keys {
  Stored from;
  const float* angles;
  std::size_t pairs;
  NIBBLE_ALWAYS_INLINE void pair(std::size_t i, vf (&low)[regs], vf (&high)[regs]) const noexcept {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) {
      const vf a = from.at(i * 16 + r * lanes, r), b = from.at((i + pairs) * 16 + r * lanes, r);
      const vf c = load(angles + i * 32 + r * lanes), s = load(angles + i * 32 + 16 + r * lanes);
      low[r] = less_product(b, s, a * c);
      high[r] = madd(a, s, b * c);
    }
  }
  NIBBLE_ALWAYS_INLINE void row(std::size_t d, vf (&x)[regs]) const noexcept {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) x[r] = from.at(d * 16 + r * lanes, r);
  }
};
/// Keys that are rotated already.
struct ready_keys {
  const float* rows;
  std::size_t pairs;
  NIBBLE_ALWAYS_INLINE void pair(std::size_t i, vf (&low)[regs], vf (&high)[regs]) const noexcept {
    row(i, low);
    row(i + pairs, high);
  }
  NIBBLE_ALWAYS_INLINE void row(std::size_t d, vf (&x)[regs]) const noexcept {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) x[r] = load(rows + d * 16 + r * lanes);
  }
};

/// Bytes that are wanted soon, asked for line by line while as many are read.
template <std::size_t Step>
struct soon {
  const char* at;
  /// Step number i: the lines that begin in [i * Step, (i + 1) * Step). A prefetch does not fault, whatever lies there.
  NIBBLE_ALWAYS_INLINE void ask(std::size_t i) const noexcept {
    NIBBLE_UNROLL
    for (std::size_t b = 0; b < Step; b += 64) __builtin_prefetch(at + i * Step + b);
  }
};

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct load_cached<Isa> {
  using isa_type = simd::isa_type;

  static void halves(const half* h, std::size_t n, float* x) noexcept { move(simd::stored_halves{h}, n, x); }
  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x) noexcept {
    move(simd::stored_bytes{codes, bias, scale, zero}, n, x);
  }

 private:
  template <class Stored>
  static NIBBLE_ALWAYS_INLINE void move(const Stored from, std::size_t n, float* x) noexcept {
    std::size_t i = 0;
    for (; i + simd::lanes <= n; i += simd::lanes) from.at(i, 0).store_unaligned(x + i);
    for (; i < n; ++i) x[i] = from.one(i);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct rotate_pairs<Isa> {
  using isa_type = simd::isa_type;

  static void run(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
    using simd::vf;
    std::size_t i = 0;
    for (; i + simd::lanes <= half; i += simd::lanes) {
      const vf a = simd::load(head + i), b = simd::load(head + i + half);
      const vf c = simd::load(cosines + i), s = simd::load(sines + i);
      simd::less_product(b, s, a * c).store_unaligned(head + i);
      simd::madd(a, s, b * c).store_unaligned(head + i + half);
    }
    for (; i < half; ++i) rotate_pairs<isa::scalar>::pair(head[i], head[i + half], cosines[i], sines[i]);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct store_cached<Isa> {
  using isa_type = simd::isa_type;

  static void halves(const float* x, std::size_t n, half* h) noexcept {
    std::size_t i = 0;
#if NIBBLE_SIMD_NEON
    for (; i + 4 <= n; i += 4)
      vst1_u16(reinterpret_cast<std::uint16_t*>(h + i), vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
#elif NIBBLE_SIMD_WIDTH >= 256
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(h + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    if (i < n) store_cached<isa::scalar>::halves(x + i, n - i, h + i);
  }
  static void bytes(const float* x, std::size_t n, float scale, float zero, std::uint8_t* codes) noexcept {
    using simd::vf;
    std::size_t i = 0;
    for (; i + 4 * simd::lanes <= n; i += 4 * simd::lanes) {
      simd::vi v[4];
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 4; ++j) {
        const vf place = (simd::load(x + i + j * simd::lanes) - vf(zero)) / vf(scale) + vf(128.0f);
        const vf inside = simd::min(simd::max(place, vf(0.0f)), vf(255.0f));
        v[j] = simd::bits_of(inside + vf(simd::rounding_shift)) - simd::vi(simd::rounding_bits);
      }
      simd::store_bytes<false>(v, codes + i);
    }
    if (i < n) store_cached<isa::scalar>::bytes(x + i, n - i, scale, zero, codes + i);
  }
};

/// All sums of a tile of queries and 16 keys stay in registers. A few queries take keys straight from where they are stored,
/// rotated in registers; for more of them the keys are rotated once, into `work`.
template <std::same_as<simd::isa_type> Isa>
struct score_keys<Isa> : private simd::panel_tools {
  using isa_type = simd::isa_type;

  static void floats(const score_call& c, const float* f) noexcept { run(c, simd::stored_floats{f}, f); }
  static void halves(const score_call& c, const half* h) noexcept { run(c, simd::stored_halves{h}, h); }
  static void bytes(const score_call& c, const std::uint8_t* codes, int bias, float scale, float zero) noexcept {
    run(c, simd::stored_bytes{codes, bias, scale, zero}, codes);
  }
  static void columns(const score_call& c, const std::uint8_t* codes, const float* scales,
                      const float* zeros) noexcept {
    run(c, simd::stored_columns(codes, scales, zeros), codes);
  }

 private:
  /// Queries whose sums leave registers for both rows of a pair and four more.
  static constexpr int few = simd::register_count - 2 * regs - 4 < 4 * regs ? 1 : 4;

  template <class Stored>
  static NIBBLE_ALWAYS_INLINE void run(const score_call& c, const Stored& stored, const void* here) noexcept {
    const simd::turned_keys<Stored> keys{stored, c.angles, c.pairs};
    const simd::soon<32 * Stored::bytes> next{static_cast<const char*>(c.ahead == nullptr ? here : c.ahead)};
    if (c.M <= few) {
      in_tiles<few>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE { tile<Rows>(c, m, keys, next); });
      return;
    }
    for (std::size_t i = 0; i < c.pairs; ++i) {
      next.ask(i);
      vf low[regs], high[regs];
      keys.pair(i, low, high);
      store(low, c.work + i * 16);
      store(high, c.work + (i + c.pairs) * 16);
    }
    for (std::size_t d = 2 * c.pairs; d < c.K; ++d) {
      next.ask(d / 2);
      vf x[regs];
      keys.row(d, x);
      store(x, c.work + d * 16);
    }
    in_tiles<mr>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
      tile<Rows>(c, m, simd::ready_keys{c.work, c.pairs}, simd::soon<0>{nullptr});
    });
  }
  static NIBBLE_ALWAYS_INLINE void store(const vf (&x)[regs], float* to) noexcept {
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) x[r].store_unaligned(to + r * lanes);
  }

  template <int Rows, class Keys, std::size_t Step>
  static NIBBLE_ALWAYS_INLINE void tile(const score_call& c, std::size_t m, const Keys keys,
                                        const simd::soon<Step> next) noexcept {
    constexpr std::size_t height = static_cast<std::size_t>(Rows);
    vf sum[height][regs];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < height * regs; ++i) sum[i / regs][i % regs] = vf(0.0f);
    const float* const q = c.queries + m * c.query_stride;
    const auto add = [&](std::size_t d, const vf(&x)[regs]) NIBBLE_LAMBDA_INLINE {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < height; ++i) {
        const vf v(q[i * c.query_stride + d]);
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) simd::accumulate(sum[i][r], v, x[r]);
      }
    };
    for (std::size_t i = 0; i < c.pairs; ++i) {
      next.ask(i);
      vf low[regs], high[regs];
      keys.pair(i, low, high);
      add(i, low);
      add(i + c.pairs, high);
    }
    for (std::size_t d = 2 * c.pairs; d < c.K; ++d) {
      next.ask(d / 2);
      vf x[regs];
      keys.row(d, x);
      add(d, x);
    }
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < height; ++i) store(sum[i], c.scores + (m + i) * c.score_stride);
  }
};

/// Tiles of the panel kernels' size: all sums of a tile of rows and 16 columns stay in registers.
template <std::same_as<simd::isa_type> Isa>
struct weigh_rows<Isa> : private simd::panel_tools {
  using isa_type = simd::isa_type;

  template <class T>
  static void run(const float* x, std::size_t x_stride, std::size_t M, const T* const* rows, std::size_t count,
                  std::size_t columns, float* sums, std::size_t sum_stride) noexcept {
    // The block that follows is asked for in four streams side by side: its quarters. One stream alone does not keep the
    // memory busy. A number, not a pointer: behind the last block there is nothing.
    const std::uintptr_t block =
        count == 0 ? 0 : reinterpret_cast<std::uintptr_t>(rows[0]) + columns * value_slots * sizeof(T);
    for (std::size_t c = 0; c < columns; c += nr) {
      const std::uintptr_t soon = block + c / nr * (value_slots / streams) * 16 * sizeof(T);
      in_tiles<mr>(M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
        tile<Rows>(x + m * x_stride, x_stride, rows, c * value_slots, count, sums + m * sum_stride + c, sum_stride,
                   soon, columns / streams * value_slots * sizeof(T));
      });
    }
  }

 private:
  static constexpr std::size_t streams = 4;

  template <int Rows, class T>
  static NIBBLE_ALWAYS_INLINE void tile(const float* x, std::size_t x_stride, const T* const* rows, std::size_t at,
                                        std::size_t count, float* sums, std::size_t sum_stride, std::uintptr_t soon,
                                        std::size_t stream_bytes) noexcept {
    constexpr std::size_t height = static_cast<std::size_t>(Rows);
    vf sum[height][regs];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < height * regs; ++i) sum[i / regs][i % regs] = vf(0.0f);
    const auto add = [&](std::size_t j) NIBBLE_LAMBDA_INLINE {
      const T* const from = rows[j] + at;
      vf w[regs];
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) w[r] = simd::stored(from).at(r * lanes, r);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < height; ++i) {
        const vf v(x[i * x_stride + j]);
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) simd::accumulate(sum[i][r], v, w[r]);
      }
    };
    std::size_t j = 0;
    for (; j + streams <= count; j += streams, soon += 16 * sizeof(T)) {
      NIBBLE_UNROLL
      for (std::size_t s = 0; s < streams; ++s) {
        __builtin_prefetch(reinterpret_cast<const void*>(soon + s * stream_bytes));
        add(j + s);
      }
    }
    for (; j < count; ++j) add(j);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < height; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        float* const to = sums + i * sum_stride + r * lanes;
        (simd::load(to) + sum[i][r]).store_unaligned(to);
      }
    }
  }
};

template <std::same_as<simd::isa_type> Isa>
struct scale_weights<Isa> {
  using isa_type = simd::isa_type;

  static void run(float* w, std::size_t n, const float* scales, const float* zeros, float* lanes) noexcept {
    using simd::vf;
    std::size_t i = 0;
    for (; i + simd::lanes <= n; i += simd::lanes) {
      const vf weight = simd::load(w + i);
      simd::madd(weight, simd::load(zeros + i), simd::load(lanes + i)).store_unaligned(lanes + i);
      (weight * simd::load(scales + i)).store_unaligned(w + i);
    }
    if (i < n) scale_weights<isa::scalar>::run(w + i, n - i, scales + i, zeros + i, lanes + i);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
