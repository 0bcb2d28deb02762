// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values on their way to the panel kernels, on the native register width.

#include <limits>

#include <nibble/kernels/attention.hpp>
#include <nibble/kernels/scalar/attention.hpp>
#include <nibble/kernels/simd/bytes.hpp>
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

template <>
struct rotate_pairs<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void run(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
    using simd::vf;
    const simd::vi top(std::numeric_limits<std::int32_t>::min());
    const std::size_t whole = half - half % simd::lanes;
    for (std::size_t i = 0; i < whole; i += simd::lanes) {
      const vf a = simd::load(head + i), b = simd::load(head + i + half);
      const vf c = simd::load(cosines + i), s = simd::load(sines + i);
      simd::madd(simd::float_of_bits(simd::bits_of(b) ^ top), s, a * c).store_unaligned(head + i);
      simd::madd(a, s, b * c).store_unaligned(head + i + half);
    }
    for (std::size_t i = whole; i < half; ++i) {
      const float a = head[i], b = head[i + half];
      head[i] = multiply_add(-b, sines[i], a * cosines[i]);
      head[i + half] = multiply_add(a, sines[i], b * cosines[i]);
    }
  }
};

template <>
struct load_cached<simd::isa_type> {
  using isa_type = simd::isa_type;

  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x) noexcept {
    using simd::vf;
    using simd::vi;
    std::size_t i = 0;
#if NIBBLE_SIMD_NEON
    const vf s(scale), z(zero);
    const vi less(bias);
    const auto store = [&](uint16x4_t u, std::size_t at) NIBBLE_LAMBDA_INLINE {
      const vi whole(vreinterpretq_s32_u32(vmovl_u16(u)));
      simd::madd(simd::to_float(whole - less), s, z).store_unaligned(x + at);
    };
    for (; i + 16 <= n; i += 16) {
      const uint8x16_t u = vld1q_u8(codes + i);
      const uint16x8_t low = vmovl_u8(vget_low_u8(u)), high = vmovl_high_u8(u);
      store(vget_low_u16(low), i);
      store(vget_high_u16(low), i + 4);
      store(vget_low_u16(high), i + 8);
      store(vget_high_u16(high), i + 12);
    }
#elif NIBBLE_SIMD_WIDTH >= 256
    const vf s(scale), z(zero);
    const vi less(bias);
    const auto load = [&](std::size_t at) NIBBLE_LAMBDA_INLINE {
#if NIBBLE_SIMD_WIDTH == 512
      const vi u(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + at))));
#else
      const vi u(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + at))));
#endif
      simd::madd(simd::to_float(u - less), s, z).store_unaligned(x + at);
    };
    for (; i + 4 * simd::lanes <= n; i += 4 * simd::lanes) {
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 4; ++j) load(i + j * simd::lanes);
    }
    for (; i + simd::lanes <= n; i += simd::lanes) load(i);
#endif
    if (i < n) load_cached<isa::scalar>::bytes(codes + i, n - i, bias, scale, zero, x + i);
  }
  static void halves(const half* h, std::size_t n, float* x) noexcept {
    std::size_t i = 0;
#if NIBBLE_SIMD_NEON
    for (; i + 4 <= n; i += 4)
      vst1q_f32(x + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(h + i)))));
#elif NIBBLE_SIMD_WIDTH >= 256
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h + i))));
#endif
    if (i < n) load_cached<isa::scalar>::halves(h + i, n - i, x + i);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
