// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Reading the block formats of GGUF files on the native register width. A half times the whole numbers of a block is exact
/// (quant/ggml_codec.hpp), so that nothing here depends on contraction.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/half.hpp>
#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/scalar/ggml_blocks.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

/// `lanes` codes, a byte each.
NIBBLE_ALWAYS_INLINE vi load_codes(const std::byte* p) noexcept {
  return load_bytes(reinterpret_cast<const std::uint8_t*>(p));
}
NIBBLE_ALWAYS_INLINE float half_at(const std::byte* p) noexcept {
#if NIBBLE_SIMD_HALVES && !NIBBLE_SIMD_NEON
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return _cvtsh_ss(bits);
#else
  return quant::ggml::detail::load_half(p);
#endif
}

/// decode(block, y) for each block.
template <class Format, class Decode>
NIBBLE_ALWAYS_INLINE void decode_each(const std::byte* blocks, std::size_t count, float* y, Decode decode) noexcept {
  for (std::size_t i = 0; i < count; ++i, y += Format::block_elements) {
    NIBBLE_UNROLL
    for (std::size_t line = 0; line < Format::block_elements; line += 16) will_write_after(y + line);
    decode(blocks + i * Format::block_bytes, y);
  }
}

/// Blocks of eight sub-blocks of 32 with packed scales and minima, two sub-blocks at a time: codes(block, j, l) gives those of
/// sub-block j (low) and of the next one (high) from element l on.
template <class Format, class Codes>
NIBBLE_ALWAYS_INLINE void decode_eight(const std::byte* blocks, std::size_t count, float* y, Codes codes) noexcept {
  using packed = quant::ggml::detail::packed_scales;
  decode_each<Format>(blocks, count, y, [&](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
    const float d = half_at(b), dmin = half_at(b + 2);
    for (std::size_t j = 0; j < 8; j += 2) {
      const vf s0(d * static_cast<float>(packed::scale(b + 4, j))),
          s1(d * static_cast<float>(packed::scale(b + 4, j + 1)));
      const vf m0(dmin * static_cast<float>(packed::min(b + 4, j))),
          m1(dmin * static_cast<float>(packed::min(b + 4, j + 1)));
      NIBBLE_UNROLL
      for (std::size_t l = 0; l < 32; l += lanes) {
        const two_registers u = codes(b, j, l);
        (s0 * to_float(u.low) - m0).store_unaligned(to + 32 * j + l);
        (s1 * to_float(u.high) - m1).store_unaligned(to + 32 * j + 32 + l);
      }
    }
  });
}

/// The 32 codes of 16 bytes: value(codes, i) of the lanes from element i on.
template <class Value>
NIBBLE_ALWAYS_INLINE void decode_halves(const std::byte* codes, float* y, Value value) noexcept {
  NIBBLE_UNROLL
  for (std::size_t l = 0; l < 16; l += lanes) {
    const vi v = load_codes(codes + l);
    value(v & vi(15), l).store_unaligned(y + l);
    value(v >> 4, l + 16).store_unaligned(y + l + 16);
  }
}

#if NIBBLE_SIMD_WIDTH >= 256
/// 16 where bit l of `bits` is set, l from `first` on.
NIBBLE_ALWAYS_INLINE vi fifth_bits(std::uint32_t bits, std::size_t first) noexcept {
#if NIBBLE_SIMD_WIDTH == 512
  return vi(_mm512_maskz_set1_epi32(static_cast<__mmask16>(bits >> first), 16));
#else
  const __m256i at = _mm256_setr_epi32(4, 3, 2, 1, 0, -1, -2, -3);  // bit l to place 4
  const __m256i v = _mm256_set1_epi32(static_cast<int>(bits >> first));
  const __m256i left = _mm256_sllv_epi32(v, at);  // places below 0 are far too great and give 0
  const __m256i right = _mm256_srlv_epi32(v, _mm256_sub_epi32(_mm256_setzero_si256(), at));
  return vi(_mm256_and_si256(_mm256_or_si256(left, right), _mm256_set1_epi32(16)));
#endif
}
#endif

/// A table of 16 values in registers, where an instruction looks them up.
#if NIBBLE_SIMD_NEON || NIBBLE_SIMD_WIDTH >= 256
#define NIBBLE_SIMD_TABLE_OF_16 1
class table_of_16 {
 public:
#if NIBBLE_SIMD_NEON
  explicit table_of_16(const float* v) noexcept : bytes_(bytes_of_16(v)) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vi code) const noexcept {
    return look_up_16(bytes_, vreinterpretq_u32_s32(static_cast<int32x4_t>(code)));
  }

 private:
  uint8x16x4_t bytes_;
#elif NIBBLE_SIMD_WIDTH == 512
  explicit table_of_16(const float* v) noexcept : values_(_mm512_loadu_ps(v)) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vi code) const noexcept {
    return vf(_mm512_permutexvar_ps(static_cast<__m512i>(code), values_));
  }

 private:
  __m512 values_;
#else
  explicit table_of_16(const float* v) noexcept : low_(_mm256_loadu_ps(v)), high_(_mm256_loadu_ps(v + 8)) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vi code) const noexcept {
    const __m256i k = static_cast<__m256i>(code);
    return vf(_mm256_blendv_ps(_mm256_permutevar8x32_ps(low_, k), _mm256_permutevar8x32_ps(high_, k),
                               _mm256_castsi256_ps(_mm256_slli_epi32(k, 28))));
  }

 private:
  __m256 low_, high_;
#endif
};
inline table_of_16 iq4_levels() noexcept {
  float v[16];
  for (std::size_t i = 0; i < 16; ++i) v[i] = static_cast<float>(quant::ggml::iq4_table[i]);
  return table_of_16(v);
}
#else
#define NIBBLE_SIMD_TABLE_OF_16 0
#endif

}  // namespace simd

#if NIBBLE_SIMD_HALVES
template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::f16> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    std::size_t i = 0;
    for (; i + simd::lanes <= count; i += simd::lanes)
      simd::load(reinterpret_cast<const half*>(blocks + 2 * i)).store_unaligned(y + i);
    decode_ggml_blocks<isa::scalar, quant::ggml::f16>::run(blocks + 2 * i, count - i, y + i);
  }
};
#endif

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q8_0> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    using simd::vi;
    simd::decode_each<quant::ggml::q8_0>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b)), bias(128.0f);
      NIBBLE_UNROLL
      for (std::size_t l = 0; l < 32; l += simd::lanes)
        ((simd::to_float(simd::load_codes(b + 2 + l) ^ vi(128)) - bias) * d).store_unaligned(to + l);
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q4_0> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    simd::decode_each<quant::ggml::q4_0>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b)), bias(8.0f);
      simd::decode_halves(b + 2, to,
                          [=](simd::vi u, std::size_t) NIBBLE_LAMBDA_INLINE { return (simd::to_float(u) - bias) * d; });
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q4_1> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    simd::decode_each<quant::ggml::q4_1>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b)), m(simd::half_at(b + 2));
      simd::decode_halves(b + 4, to,
                          [=](simd::vi u, std::size_t) NIBBLE_LAMBDA_INLINE { return simd::to_float(u) * d + m; });
    });
  }
};

#if NIBBLE_SIMD_WIDTH >= 256
template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q5_0> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    simd::decode_each<quant::ggml::q5_0>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b)), bias(16.0f);
      const std::uint32_t fifth = quant::ggml::detail::load_u32(b + 2);
      simd::decode_halves(b + 6, to, [=](simd::vi u, std::size_t i) NIBBLE_LAMBDA_INLINE {
        return (simd::to_float(u | simd::fifth_bits(fifth, i)) - bias) * d;
      });
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q5_1> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    simd::decode_each<quant::ggml::q5_1>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b)), m(simd::half_at(b + 2));
      const std::uint32_t fifth = quant::ggml::detail::load_u32(b + 4);
      simd::decode_halves(b + 8, to, [=](simd::vi u, std::size_t i) NIBBLE_LAMBDA_INLINE {
        return simd::to_float(u | simd::fifth_bits(fifth, i)) * d + m;
      });
    });
  }
};
#endif

#if NIBBLE_SIMD_TABLE_OF_16
template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::iq4_nl> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    const simd::table_of_16 levels = simd::iq4_levels();
    simd::decode_each<quant::ggml::iq4_nl>(blocks, count, y, [&](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(simd::half_at(b));
      simd::decode_halves(b + 2, to, [&](simd::vi u, std::size_t) NIBBLE_LAMBDA_INLINE { return levels(u) * d; });
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::mxfp4> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    const simd::table_of_16 levels(quant::ggml::mxfp4_table.data());
    simd::decode_each<quant::ggml::mxfp4>(blocks, count, y, [&](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const vf d(quant::ggml::mxfp4::scale_of(quant::ggml::detail::load_u8(b)));
      simd::decode_halves(b + 1, to, [&](simd::vi u, std::size_t) NIBBLE_LAMBDA_INLINE { return levels(u) * d; });
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::iq4_xs> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vf;
    const simd::table_of_16 levels = simd::iq4_levels();
    simd::decode_each<quant::ggml::iq4_xs>(blocks, count, y, [&](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const float d = simd::half_at(b);
      const unsigned upper = quant::ggml::detail::load_u8(b + 2) | quant::ggml::detail::load_u8(b + 3) << 8;
      for (std::size_t j = 0; j < 8; ++j) {
        const unsigned low = quant::ggml::detail::load_u8(b + 4 + j / 2) >> (j % 2 * 4) & 15u;
        const vf scale(d * (static_cast<float>(low | (upper >> 2 * j & 3u) << 4) - 32.0f));
        simd::decode_halves(b + 8 + 16 * j, to + 32 * j,
                            [&](simd::vi u, std::size_t) NIBBLE_LAMBDA_INLINE { return scale * levels(u); });
      }
    });
  }
};
#endif

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q2_k> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    simd::decode_each<quant::ggml::q2_k>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const float d = simd::half_at(b + 80), dmin = simd::half_at(b + 82);
      float scale[16], min[16];
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned s = quant::ggml::detail::load_u8(b + j);
        scale[j] = d * static_cast<float>(s & 15u);
        min[j] = dmin * static_cast<float>(s >> 4);
      }
      for (std::size_t h = 0; h < 2; ++h)
        for (std::size_t l = 0; l < 32; l += lanes) {
          const vi v = simd::load_codes(b + 16 + 32 * h + l);
          NIBBLE_UNROLL
          for (std::size_t k = 0; k < 4; ++k) {
            const std::size_t sub = 8 * h + 2 * k + l / 16;
            const vf q = simd::to_float((v >> static_cast<int>(2 * k)) & vi(3));
            (vf(scale[sub]) * q - vf(min[sub])).store_unaligned(to + 128 * h + 32 * k + l);
          }
        }
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q3_k> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    simd::decode_each<quant::ggml::q3_k>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const float d = simd::half_at(b + 108);
      float scale[16];
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned low = quant::ggml::detail::load_u8(b + 96 + j % 8) >> (j / 8 * 4) & 15u;
        const unsigned high = quant::ggml::detail::load_u8(b + 104 + j % 4) >> (j / 4 * 2) & 3u;
        scale[j] = d * (static_cast<float>(low | high << 4) - 32.0f);
      }
      const vf bias(4.0f);
      for (std::size_t l = 0; l < 32; l += lanes) {
        const vi third = simd::load_codes(b + l) << 2;  // the bit of element 32 j + l at place j + 2
        NIBBLE_UNROLL
        for (std::size_t h = 0; h < 2; ++h) {
          const vi v = simd::load_codes(b + 32 + 32 * h + l);
          NIBBLE_UNROLL
          for (std::size_t k = 0; k < 4; ++k) {
            const vi u = ((v >> static_cast<int>(2 * k)) & vi(3)) | ((third >> static_cast<int>(4 * h + k)) & vi(4));
            (vf(scale[8 * h + 2 * k + l / 16]) * (simd::to_float(u) - bias)).store_unaligned(to + 128 * h + 32 * k + l);
          }
        }
      }
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q4_k> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vi;
    simd::decode_eight<quant::ggml::q4_k>(blocks, count, y,
                                          [](const std::byte* b, std::size_t j, std::size_t l) NIBBLE_LAMBDA_INLINE {
                                            const vi v = simd::load_codes(b + 16 + 16 * j + l);
                                            return simd::two_registers{v & vi(15), v >> 4};
                                          });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q5_k> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::vi;
    simd::decode_eight<quant::ggml::q5_k>(
        blocks, count, y, [](const std::byte* b, std::size_t j, std::size_t l) NIBBLE_LAMBDA_INLINE {
          const vi v = simd::load_codes(b + 48 + 16 * j + l);
          const vi fifth = (simd::load_codes(b + 16 + l) << 4) >> static_cast<int>(j);
          return simd::two_registers{(v & vi(15)) | (fifth & vi(16)), (v >> 4) | ((fifth >> 1) & vi(16))};
        });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct decode_ggml_blocks<Isa, quant::ggml::q6_k> {
  using isa_type = simd::isa_type;
  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    simd::decode_each<quant::ggml::q6_k>(blocks, count, y, [](const std::byte* b, float* to) NIBBLE_LAMBDA_INLINE {
      const float d = simd::half_at(b + 208);
      float scale[16];
      for (std::size_t j = 0; j < 16; ++j)
        scale[j] = d * static_cast<float>(static_cast<std::int8_t>(quant::ggml::detail::load_u8(b + 192 + j)));
      const vf bias(32.0f);
      for (std::size_t h = 0; h < 2; ++h)
        for (std::size_t l = 0; l < 32; l += lanes) {
          const vi first = simd::load_codes(b + 64 * h + l), second = simd::load_codes(b + 64 * h + 32 + l);
          const vi upper = simd::load_codes(b + 128 + 32 * h + l);
          const vi u[4] = {(first & vi(15)) | ((upper << 4) & vi(48)), (second & vi(15)) | ((upper << 2) & vi(48)),
                           (first >> 4) | (upper & vi(48)), (second >> 4) | ((upper >> 2) & vi(48))};
          NIBBLE_UNROLL
          for (std::size_t k = 0; k < 4; ++k)
            (vf(scale[8 * h + 2 * k + l / 16]) * (simd::to_float(u[k]) - bias))
                .store_unaligned(to + 128 * h + 32 * k + l);
        }
    });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
