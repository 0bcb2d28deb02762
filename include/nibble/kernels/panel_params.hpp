// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Stored scales to floats and back: the steps that keep scale storage out of every inner loop.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/intrinsics.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/format.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// out[i] = value of stored[i], i in [0, count). For f32, f16 and bf16.
inline void decode_scales(scale_storage storage, const void* stored, std::size_t count, float* out) noexcept {
  switch (storage) {
    case scale_storage::f32: {
      const float* s = static_cast<const float*>(stored);
      for (std::size_t i = 0; i < count; ++i) out[i] = s[i];
      return;
    }
    case scale_storage::f16: {
      const half* s = static_cast<const half*>(stored);
      std::size_t i = 0;
#if defined(__F16C__) && defined(__AVX__)
      for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(s + i))));
#elif defined(__aarch64__) && defined(__ARM_NEON)
      for (; i + 4 <= count; i += 4)
        vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(s + i)))));
#endif
      for (; i < count; ++i) out[i] = to_float(s[i]);
      return;
    }
    case scale_storage::bf16: {
      const bfloat16* s = static_cast<const bfloat16*>(stored);
      for (std::size_t i = 0; i < count; ++i) out[i] = to_float(s[i]);
      return;
    }
    case scale_storage::double_quant:  // these need the position of each scale in the canonical plane: see below
    case scale_storage::super_block: return;
  }
}

/// stored[i] = values[i] rounded to the storage type, i in [0, count): quant::as_stored. For f32, f16 and bf16.
inline void encode_scales(scale_storage storage, const float* values, std::size_t count, void* stored) noexcept {
  switch (storage) {
    case scale_storage::f32: {
      float* s = static_cast<float*>(stored);
      for (std::size_t i = 0; i < count; ++i) s[i] = values[i];
      return;
    }
    case scale_storage::f16: {
      half* s = static_cast<half*>(stored);
      std::size_t i = 0;
#if defined(__F16C__) && defined(__AVX__)
      for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(s + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__) && defined(__ARM_NEON)
      for (; i + 4 <= count; i += 4)
        vst1_u16(reinterpret_cast<std::uint16_t*>(s + i), vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
#endif
      for (; i < count; ++i) s[i] = to_half(values[i]);
      return;
    }
    case scale_storage::bf16: {
      bfloat16* s = static_cast<bfloat16*>(stored);
      for (std::size_t i = 0; i < count; ++i) s[i] = to_bfloat16(values[i]);
      return;
    }
    case scale_storage::double_quant:  // many scales at once: quant::quantize_scales, quant::quantize_super_block
    case scale_storage::super_block: return;
  }
}

/// out[g][n] = codes[g][n] * blocks[g / in_block][n] for the 16 columns of a panel. in_block: groups of 256 k.
inline void decode_super_blocks(const std::int8_t* codes, const half* blocks, std::size_t groups, std::size_t in_block,
                                float* out) noexcept {
  for (std::size_t first = 0; first < groups; first += in_block, blocks += 16) {
    const std::size_t end = groups - first < in_block ? groups : first + in_block;
    // By intrinsics: gcc 12 leaves these loops scalar at -O2, and 16 rows times `w4o_g32_sb` took 1.6 times as long (AMX).
#if defined(__AVX512F__)
    const __m512 d = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(blocks)));
    for (std::size_t g = first; g < end; ++g) {
      const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + g * 16));
      _mm512_storeu_ps(out + g * 16, _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(row)), d));
    }
#elif defined(__AVX2__) && defined(__F16C__)
    const auto half_of = [&](std::size_t n) {  // columns from n on
      const __m256 d = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks + n)));
      for (std::size_t g = first; g < end; ++g) {
        const __m128i row = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + g * 16 + n));
        _mm256_storeu_ps(out + g * 16 + n, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(row)), d));
      }
    };
    half_of(0);
    half_of(8);
#else
    // Not decode_scales: inlined with this count its last loop, of no steps, makes gcc 12 warn on Arm of one without end.
    float d[16];
    for (std::size_t n = 0; n < 16; ++n) d[n] = to_float(blocks[n]);
    for (std::size_t g = first; g < end; ++g)
      for (std::size_t n = 0; n < 16; ++n) out[g * 16 + n] = static_cast<float>(codes[g * 16 + n]) * d[n];
#endif
  }
}

/// out[i] = codes[i], std::int32_t or float, i in [0, count); count is a multiple of 16.
template <class T>
void decode_zeros(const std::uint8_t* codes, std::size_t count, T* out) noexcept {
  constexpr bool floats = std::is_same_v<T, float>;
  static_assert(floats || std::is_same_v<T, std::int32_t>);
  for (std::size_t i = 0; i < count; i += 16) {
#if defined(__AVX512F__)
    const __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    if constexpr (floats) _mm512_storeu_ps(out + i, _mm512_cvtepi32_ps(v));
    else _mm512_storeu_si512(out + i, v);
#elif defined(__AVX2__)
    for (std::size_t n = i; n < i + 16; n += 8) {
      const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + n)));
      if constexpr (floats) _mm256_storeu_ps(out + n, _mm256_cvtepi32_ps(v));
      else _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + n), v);
    }
#else
    for (std::size_t n = i; n < i + 16; ++n) out[n] = static_cast<T>(codes[n]);
#endif
  }
}

/// The double-quantized scale number `index` of the canonical plane.
inline float decode_double_quant(std::uint8_t code, std::size_t index, const float* super_scales,
                                 float offset) noexcept {
  return quant::double_quant_scale(code, super_scales[index / quant::double_quant_block], offset);
}

/// The double-quantized scales of a panel, out[groups][16], from codes[groups][16]. Its columns are rows `first` to
/// `first` + columns - 1 of the canonical plane; those past them get scales of 0.
inline void decode_double_quants(const std::uint8_t* codes, std::size_t groups, std::size_t first, std::size_t columns,
                                 const float* super_scales, float offset, float* out) noexcept {
  constexpr std::size_t block = quant::double_quant_block;
  // Apart from the arithmetic below, so that neither waits for the other.
  for (std::size_t i = 0; i < groups * 16; ++i) out[i] = quant::dynamic_map[codes[i]];
  float absmax[16] = {}, offsets[16] = {};
  for (std::size_t n = 0; n < columns; ++n) offsets[n] = offset;
  for (std::size_t g = 0, stop = 0; g < groups; g = stop) {
    stop = groups;  // until then no column comes to its next block
    for (std::size_t n = 0; n < columns; ++n) {
      const std::size_t index = (first + n) * groups + g, left = block - index % block;
      absmax[n] = super_scales[index / block];
      stop = left < stop - g ? g + left : stop;
    }
    for (std::size_t i = g * 16; i < stop * 16; i += 16) {
#if defined(__AVX512F__)
      __m512 v = _mm512_mul_ps(_mm512_loadu_ps(out + i), _mm512_loadu_ps(absmax));
      __asm__("" : "+v"(v));  // rounded before the addition, as in rounded_product
      _mm512_storeu_ps(out + i, _mm512_add_ps(v, _mm512_loadu_ps(offsets)));
#elif defined(__AVX__)
      for (std::size_t n = 0; n < 16; n += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(out + i + n), _mm256_loadu_ps(absmax + n));
        __asm__("" : "+x"(v));
        _mm256_storeu_ps(out + i + n, _mm256_add_ps(v, _mm256_loadu_ps(offsets + n)));
      }
#else
      for (std::size_t n = 0; n < 16; ++n) out[i + n] = rounded_product(out[i + n], absmax[n]) + offsets[n];
#endif
    }
  }
}

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
