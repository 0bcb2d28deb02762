// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Activation quantization on the native register width.

#include <bit>
#include <concepts>
#include <cstring>

#include <nibble/kernels/quantize_row.hpp>
#include <nibble/kernels/scalar/quantize_row.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <std::same_as<simd::isa_type> Isa>
struct quantize_row<Isa> {
  using isa_type = simd::isa_type;
  using scalar = quantize_row<isa::scalar>;

  static float run(const float* x, std::size_t K, std::int8_t* codes, std::size_t padded) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    const std::size_t whole = K - K % lanes;
    // Sign cleared, the bits of |x| are non-negative integers that order like the numbers; NaN and infinity come last.
    vi largest(0);
    for (std::size_t k = 0; k < whole; k += lanes) {
      const vi magnitude = simd::load(reinterpret_cast<const std::int32_t*>(x + k)) & vi(0x7fffffff);
      largest = simd::max(largest, magnitude);
    }
    alignas(64) std::int32_t each[lanes];
    largest.store_aligned(each);
    std::uint32_t top = 0;
    for (const std::int32_t v : each) top = top < static_cast<std::uint32_t>(v) ? static_cast<std::uint32_t>(v) : top;
    for (std::size_t k = whole; k < K; ++k) {
      const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu;
      top = top < magnitude ? magnitude : top;
    }
    const float scale = scalar::scale_of(top);
    if (!(scale > 0.0f)) {
      std::memset(codes, 0, padded);
      return scale;
    }
    const bool by_reciprocal = scale >= 0x1p-126f;  // else 1 / scale may be infinite
    const float inverse = by_reciprocal ? 1.0f / scale : 0.0f;
    const std::size_t in_blocks = K - K % block;
    for (std::size_t k = 0; k < in_blocks; k += block) encode(x + k, scale, inverse, codes + k);
    if (in_blocks < K) {
      float in[block] = {};
      std::int8_t out[block];
      std::memcpy(in, x + in_blocks, (K - in_blocks) * sizeof(float));
      encode(in, scale, inverse, out);
      std::memcpy(codes + in_blocks, out, K - in_blocks);
    }
    std::memset(codes + K, 0, padded - K);
    return scale;
  }

 private:
  static constexpr std::size_t block = 4 * simd::lanes;

  /// The codes of a block. q = x * (1 / scale) is cheaper than the quotient that the law rounds, and within
  /// 127 * 2^-23 + 127 * 2^-24 < 2^-15 of it (|q| <= 127): where no q of the block comes closer than 2^-14 to the middle
  /// between two integers, both round to the same one. Else, about once in 250 blocks of 32, the block is divided.
  static NIBBLE_ALWAYS_INLINE void encode(const float* x, float scale, float inverse, std::int8_t* codes) noexcept {
    using simd::vf;
    using simd::vi;
    const vf shift(simd::rounding_shift), r(inverse);
    vi whole[4];
    vf farthest(0.0f);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      const vf q = simd::load(x + i * simd::lanes) * r, shifted = q + shift;
      whole[i] = simd::bits_of(shifted) - vi(simd::rounding_bits);
      farthest = simd::max(farthest, simd::magnitude(q - (shifted - shift)));
    }
    if (inverse == 0.0f || simd::any(farthest > vf(0.5f - 0x1p-14f))) return divide(x, scale, codes);
    simd::store_bytes<true>(whole, codes);
  }
  [[gnu::noinline]] static void divide(const float* x, float scale, std::int8_t* codes) noexcept {
    using simd::vf;
    using simd::vi;
    const vf s(scale), low(-127.0f), high(127.0f), shift(simd::rounding_shift);
    vi whole[4];
    for (std::size_t i = 0; i < 4; ++i) {
      const vf q = simd::min(simd::max(simd::load(x + i * simd::lanes) / s, low), high);
      whole[i] = simd::bits_of(q + shift) - vi(simd::rounding_bits);
    }
    simd::store_bytes<true>(whole, codes);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct sum_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const std::int8_t* codes, std::size_t K, std::size_t group, std::int32_t* sums) noexcept {
    for (std::size_t k = 0; k < K; ++sums) {
      const std::size_t count = K - k > group ? group : K - k;
      *sums = sum(codes + k, count);
      k += count;
    }
  }

 private:
#if NIBBLE_SIMD_NEON
  static NIBBLE_ALWAYS_INLINE std::int32_t sum(const std::int8_t* x, std::size_t n) noexcept {
    int32x4_t total = vdupq_n_s32(0);
    std::size_t i = 0;
    for (; i + 16 <= n; i += 16) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(x + i)));
    std::int32_t out = vaddvq_s32(total);
    for (; i < n; ++i) out += x[i];
    return out;
  }
#else
  /// psadbw adds unsigned bytes: those of code + 128.
  static NIBBLE_ALWAYS_INLINE std::int32_t sum(const std::int8_t* x, std::size_t n) noexcept {
    const __m128i top = _mm_set1_epi8(-128), none = _mm_setzero_si128();
    __m128i total = none;
    std::size_t i = 0;
#if NIBBLE_SIMD_WIDTH >= 256
    if (n >= 32) {
      __m256i wide = _mm256_setzero_si256();
      for (; i + 32 <= n; i += 32) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        wide = _mm256_add_epi64(wide,
                                _mm256_sad_epu8(_mm256_xor_si256(v, _mm256_set1_epi8(-128)), _mm256_setzero_si256()));
      }
      total = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    }
#endif
    for (; i + 16 <= n; i += 16) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
      total = _mm_add_epi64(total, _mm_sad_epu8(_mm_xor_si128(v, top), none));
    }
    const std::int64_t biased = _mm_cvtsi128_si64(_mm_add_epi64(total, _mm_unpackhi_epi64(total, total)));
    std::int32_t out = static_cast<std::int32_t>(biased - 128 * static_cast<std::int64_t>(i));
    for (; i < n; ++i) out += x[i];
    return out;
  }
#endif
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
