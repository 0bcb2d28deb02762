// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Between registers of 32-bit lanes and bytes in memory, on the native register width.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

#if NIBBLE_SIMD_NEON
/// The bits of each lane.
NIBBLE_ALWAYS_INLINE vi bits_of(vf v) noexcept { return vi(vreinterpretq_s32_f32(static_cast<float32x4_t>(v))); }
NIBBLE_ALWAYS_INLINE vf float_of_bits(vi v) noexcept { return vf(vreinterpretq_f32_s32(static_cast<int32x4_t>(v))); }
#else
#if NIBBLE_SIMD_WIDTH == 512
#define NIBBLE_SIMD_OP(name) _mm512_##name
#define NIBBLE_SIMD_CAST(from, to) _mm512_cast##from##_##to##512
#elif NIBBLE_SIMD_WIDTH == 256
#define NIBBLE_SIMD_OP(name) _mm256_##name
#define NIBBLE_SIMD_CAST(from, to) _mm256_cast##from##_##to##256
#else
#define NIBBLE_SIMD_OP(name) _mm_##name
#define NIBBLE_SIMD_CAST(from, to) _mm_cast##from##_##to##128
#endif

/// The bits of each lane.
NIBBLE_ALWAYS_INLINE vi bits_of(vf v) noexcept {
  return vi(NIBBLE_SIMD_CAST(ps, si)(static_cast<vf::register_type>(v)));
}
NIBBLE_ALWAYS_INLINE vf float_of_bits(vi v) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vf(_mm512_castsi512_ps(static_cast<vi::register_type>(v)));
#elif NIBBLE_SIMD_WIDTH == 256
  return vf(_mm256_castsi256_ps(static_cast<vi::register_type>(v)));
#else
  return vf(_mm_castsi128_ps(static_cast<vi::register_type>(v)));
#endif
}
#endif
NIBBLE_ALWAYS_INLINE vf magnitude(vf v) noexcept { return float_of_bits(bits_of(v) & vi(0x7fffffff)); }

/// Asks for the line 2 KB after y, which is written soon: stores that miss would wait for their lines one after the other.
NIBBLE_ALWAYS_INLINE void will_write_after(const float* y) noexcept {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(y) + 2048), 1);
}

/// Adding it rounds to even and leaves the integer in the low bits of the mantissa, for |x| <= 2^22.
inline constexpr float rounding_shift = 12582912.0f;
inline constexpr std::int32_t rounding_bits = 0x4b400000;

/// The lanes of four registers as 4 * lanes bytes; every value fits a byte (int8 if Signed, else uint8).
template <bool Signed>
NIBBLE_ALWAYS_INLINE void store_bytes(const vi (&v)[4], void* to) noexcept {
#if NIBBLE_SIMD_NEON
  const auto halves = [](vi a, vi b) NIBBLE_LAMBDA_INLINE {  // the lower ones of the lanes
    return vuzp1q_s16(vreinterpretq_s16_s32(static_cast<int32x4_t>(a)),
                      vreinterpretq_s16_s32(static_cast<int32x4_t>(b)));
  };
  vst1q_s8(static_cast<std::int8_t*>(to),
           vuzp1q_s8(vreinterpretq_s8_s16(halves(v[0], v[1])), vreinterpretq_s8_s16(halves(v[2], v[3]))));
#else
  using native = vi::register_type;
  const native low = NIBBLE_SIMD_OP(packs_epi32)(static_cast<native>(v[0]), static_cast<native>(v[1]));
  const native high = NIBBLE_SIMD_OP(packs_epi32)(static_cast<native>(v[2]), static_cast<native>(v[3]));
  const native bytes = Signed ? NIBBLE_SIMD_OP(packs_epi16)(low, high) : NIBBLE_SIMD_OP(packus_epi16)(low, high);
  // All packs work inside 128 bits: the fours of bytes come out in turns.
#if NIBBLE_SIMD_WIDTH == 512
  const native order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
#elif NIBBLE_SIMD_WIDTH == 256
  const native order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(static_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
#else
  _mm_storeu_si128(static_cast<__m128i*>(to), bytes);
#endif
#endif
}

/// `lanes` bytes, widened without a sign.
NIBBLE_ALWAYS_INLINE vi load_bytes(const std::uint8_t* from) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vi(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif NIBBLE_SIMD_WIDTH == 256
  return vi(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  std::uint32_t four;
  std::memcpy(&four, from, sizeof four);
#if NIBBLE_SIMD_NEON
  const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
  return vi(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide))));
#else
  const __m128i none = _mm_setzero_si128(), wide = _mm_unpacklo_epi8(_mm_cvtsi32_si128(static_cast<int>(four)), none);
  return vi(_mm_unpacklo_epi16(wide, none));
#endif
#endif
}

#undef NIBBLE_SIMD_OP
#undef NIBBLE_SIMD_CAST

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
