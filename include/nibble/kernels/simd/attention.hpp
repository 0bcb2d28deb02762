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
#if NIBBLE_SIMD_WIDTH >= 256
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
#if NIBBLE_SIMD_WIDTH >= 256
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
