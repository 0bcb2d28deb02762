// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values on their way to the panel kernels, on the native register width.

#include <cstring>
#include <limits>
#include <type_traits>

#include <nibble/kernels/attention.hpp>
#include <nibble/kernels/scalar/attention.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/gemm_panel.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct panel_of_rows<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void run(const float* rows, std::size_t stride, std::size_t K, float* panel) noexcept {
    const std::size_t whole = K - K % 4;
#if NIBBLE_SIMD_WIDTH >= 256
    // Two blocks of 4 x 4 side by side: rows j..j+3 in the low halves, j+4..j+7 in the high ones.
    for (std::size_t k = 0; k < whole; k += 4)
      for (std::size_t j = 0; j < 16; j += 8) {
        const float* const from = rows + j * stride + k;
        const auto two = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
          return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + i * stride)),
                                      _mm_loadu_ps(from + (i + 4) * stride), 1);
        };
        const __m256 a = two(0), b = two(1), c = two(2), d = two(3);
        const __m256 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
        const __m256 ab2 = _mm256_unpackhi_ps(a, b), cd2 = _mm256_unpackhi_ps(c, d);
        float* const to = panel + k * 16 + j;
        _mm256_storeu_ps(to, _mm256_shuffle_ps(ab, cd, 0x44));
        _mm256_storeu_ps(to + 16, _mm256_shuffle_ps(ab, cd, 0xee));
        _mm256_storeu_ps(to + 32, _mm256_shuffle_ps(ab2, cd2, 0x44));
        _mm256_storeu_ps(to + 48, _mm256_shuffle_ps(ab2, cd2, 0xee));
      }
#elif NIBBLE_SIMD_NEON
    for (std::size_t k = 0; k < whole; k += 4)
      for (std::size_t j = 0; j < 16; j += 4) {
        const float* const from = rows + j * stride + k;
        const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + stride);
        const float32x4_t c = vld1q_f32(from + 2 * stride), d = vld1q_f32(from + 3 * stride);
        const float64x2_t ab = vreinterpretq_f64_f32(vzip1q_f32(a, b)), cd = vreinterpretq_f64_f32(vzip1q_f32(c, d));
        const float64x2_t ab2 = vreinterpretq_f64_f32(vzip2q_f32(a, b)), cd2 = vreinterpretq_f64_f32(vzip2q_f32(c, d));
        float* const to = panel + k * 16 + j;
        vst1q_f32(to, vreinterpretq_f32_f64(vzip1q_f64(ab, cd)));
        vst1q_f32(to + 16, vreinterpretq_f32_f64(vzip2q_f64(ab, cd)));
        vst1q_f32(to + 32, vreinterpretq_f32_f64(vzip1q_f64(ab2, cd2)));
        vst1q_f32(to + 48, vreinterpretq_f32_f64(vzip2q_f64(ab2, cd2)));
      }
#else
    for (std::size_t k = 0; k < whole; k += 4)
      for (std::size_t j = 0; j < 16; j += 4) {
        const float* const from = rows + j * stride + k;
        __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + stride);
        __m128 c = _mm_loadu_ps(from + 2 * stride), d = _mm_loadu_ps(from + 3 * stride);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        float* const to = panel + k * 16 + j;
        _mm_storeu_ps(to, a);
        _mm_storeu_ps(to + 16, b);
        _mm_storeu_ps(to + 32, c);
        _mm_storeu_ps(to + 48, d);
      }
#endif
    if (whole < K) panel_of_rows<isa::scalar>::run(rows + whole, stride, K - whole, panel + whole * 16);
  }
};

namespace simd {

// `lanes` stored values as a register, number r of a panel's row, and one of them as a float.
struct stored_floats {
  const float* x;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept { return load(x + i); }
  NIBBLE_ALWAYS_INLINE float one(std::size_t i) const noexcept { return x[i]; }
};
struct stored_halves {
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
template <bool Biased>
struct stored_bytes {
  const std::uint8_t* codes;
  int bias;
  float scale, zero;
  NIBBLE_ALWAYS_INLINE vf at(std::size_t i, std::size_t) const noexcept {
    vi u = widened(codes + i);
    if constexpr (Biased) u = u - vi(bias);
    return madd(to_float(u), vf(scale), vf(zero));
  }
  NIBBLE_ALWAYS_INLINE float one(std::size_t i) const noexcept {
    return multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
  }
};
/// Bytes of a panel with a scale and a zero for each of its columns, in whole rows.
struct stored_columns {
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

}  // namespace simd

template <>
struct load_cached<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void floats(const float* f, std::size_t n, float* x, rotation turn = {}, read_ahead ahead = {}) noexcept {
    move(simd::stored_floats{f}, n, x, turn, ahead);
  }
  static void halves(const half* h, std::size_t n, float* x, rotation turn = {}, read_ahead ahead = {}) noexcept {
    move(simd::stored_halves{h}, n, x, turn, ahead);
  }
  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x,
                    rotation turn = {}, read_ahead ahead = {}) noexcept {
    if (bias == 0) move(simd::stored_bytes<false>{codes, bias, scale, zero}, n, x, turn, ahead);
    else move(simd::stored_bytes<true>{codes, bias, scale, zero}, n, x, turn, ahead);
  }
  static void columns(const std::uint8_t* codes, std::size_t n, const float* scales, const float* zeros, float* x,
                      rotation turn = {}, read_ahead ahead = {}) noexcept {
    move(simd::stored_columns(codes, scales, zeros), n, x, turn, ahead);
  }

 private:
  template <class Stored>
  static NIBBLE_ALWAYS_INLINE void move(const Stored from, std::size_t n, float* x, rotation turn,
                                        read_ahead ahead) noexcept {
    using simd::vf;
    constexpr std::size_t lanes = simd::lanes, regs = simd::regs;
    const std::size_t half = turn.half, whole = half - half % lanes, rows = half - half % 16;
    const auto rotate = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
      const vf a = from.at(i, r), b = from.at(i + half, r);
      const vf c = simd::load(turn.cosines + i), s = simd::load(turn.sines + i);
      simd::less_product(b, s, a * c).store_unaligned(x + i);
      simd::madd(a, s, b * c).store_unaligned(x + i + half);
    };
    const char* soon = static_cast<const char*>(ahead.from == nullptr ? x : ahead.from);
    for (std::size_t i = 0; i < rows; i += 16, soon += ahead.step) {
      __builtin_prefetch(soon);
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) rotate(i + r * lanes, r);
    }
    std::size_t i = 2 * half;
    for (; i + 16 <= n; i += 16) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) from.at(i + r * lanes, r).store_unaligned(x + i + r * lanes);
    }
    if constexpr (!std::is_same_v<Stored, simd::stored_columns>) {  // whose rows are whole
      for (std::size_t j = rows; j < whole; j += lanes) rotate(j, 0);
      for (std::size_t j = whole; j < half; ++j) {
        const float a = from.one(j), b = from.one(j + half);
        x[j] = multiply_add(-b, turn.sines[j], a * turn.cosines[j]);
        x[j + half] = multiply_add(a, turn.sines[j], b * turn.cosines[j]);
      }
      for (; i + lanes <= n; i += lanes) from.at(i, 0).store_unaligned(x + i);
      for (; i < n; ++i) x[i] = from.one(i);
    }
  }
};

template <>
struct rotate_pairs<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void run(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
    load_cached<simd::isa_type>::floats(head, 2 * half, head, {half, cosines, sines});
  }
};

template <>
struct store_cached<simd::isa_type> {
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

/// Tiles of the panel kernels' size: all sums of a tile of rows and 16 columns stay in registers.
template <>
struct weigh_rows<simd::isa_type> : private gemm_panel<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void run(const float* x, std::size_t x_stride, std::size_t M, const float* rows, std::size_t row_stride,
                  std::size_t count, std::size_t columns, float* sums, std::size_t sum_stride,
                  read_ahead ahead = {}) noexcept {
    const std::size_t whole = columns - columns % nr;
    if (ahead.from == nullptr)
      ahead.from = rows;  // near by: an address that is not mapped would be looked up each time
    for (std::size_t c = 0; c < whole; c += nr) {
      const char* const soon = static_cast<const char*>(ahead.from) + c / nr * count * ahead.step;
      in_tiles<mr>(M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
        tile<Rows>(x + m * x_stride, x_stride, rows + c, row_stride, count, sums + m * sum_stride + c, sum_stride,
                   {soon, m == 0 ? ahead.step : 0});
      });
    }
    if (whole < columns)
      weigh_rows<isa::scalar>::run(x, x_stride, M, rows + whole, row_stride, count, columns - whole, sums + whole,
                                   sum_stride);
  }

 private:
  template <int Rows>
  static NIBBLE_ALWAYS_INLINE void tile(const float* x, std::size_t x_stride, const float* from, std::size_t row_stride,
                                        std::size_t count, float* sums, std::size_t sum_stride,
                                        read_ahead ahead) noexcept {
    constexpr std::size_t height = static_cast<std::size_t>(Rows);
    vf sum[height][regs];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < height * regs; ++i) sum[i / regs][i % regs] = vf(0.0f);
    const char* soon = static_cast<const char*>(ahead.from);
    for (std::size_t j = 0; j < count; ++j, from += row_stride, soon += ahead.step) {
      __builtin_prefetch(soon);  // whatever lies there, a prefetch does not fault
      vf w[regs];
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) w[r] = simd::load(from + r * lanes);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < height; ++i) {
        const vf v(x[i * x_stride + j]);
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) simd::accumulate(sum[i][r], v, w[r]);
      }
    }
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

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
