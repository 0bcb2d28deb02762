// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Tables in registers: the values of codes as bytes, for integer images of codebooks, and as floats.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// Whether tables are looked up in registers. SSE2 has no shuffle by a register.
inline constexpr bool looks_up = lanes >= 8 || NIBBLE_SIMD_NEON;

/// The width whose tables serve codes of `bits` bits: 16 entries fill a register, fewer gain nothing.
constexpr int lookup_bits(int bits) noexcept { return bits < 4 ? 4 : bits; }

/// Looks bytes up in a table of 2^Bits bytes, 4 <= Bits <= 8, as many at once as a register has. The codes are < 2^Bits.
template <int Bits>
class byte_lookup {
 public:
  /// `table`: 2^Bits bytes.
  NIBBLE_ALWAYS_INLINE explicit byte_lookup(const std::uint8_t* table) noexcept {
#if NIBBLE_SIMD_NEON || NIBBLE_SIMD_WIDTH >= 256
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < parts; ++i) parts_[i] = part(table + i * part_size);
#else
    table_ = table;
#endif
  }

  NIBBLE_ALWAYS_INLINE vu operator()(vu codes) const noexcept {
#if NIBBLE_SIMD_NEON
    const uint8x16_t u = vreinterpretq_u8_u32(static_cast<uint32x4_t>(codes));
    uint8x16_t v = look_up(parts_[0], u);
    // tbx leaves the lanes alone whose index lies outside of its table.
    if constexpr (Bits == 7) v = vqtbx4q_u8(v, parts_[1], vsubq_u8(u, vdupq_n_u8(64)));
    if constexpr (Bits == 8) {
      v = vqtbx4q_u8(v, parts_[1], vsubq_u8(u, vdupq_n_u8(64)));
      v = vqtbx4q_u8(v, parts_[2], vsubq_u8(u, vdupq_n_u8(128)));
      v = vqtbx4q_u8(v, parts_[3], vsubq_u8(u, vdupq_n_u8(192)));
    }
    return vu(vreinterpretq_u32_u8(v));
#elif NIBBLE_SIMD_WIDTH >= 256
    const auto u = static_cast<vu::register_type>(codes);
    if constexpr (Bits == 4) return vu(shuffle(parts_[0], u));
#if NIBBLE_SIMD_WIDTH == 512 && defined(__AVX512VBMI__)
    else if constexpr (Bits <= 6) return vu(_mm512_permutexvar_epi8(u, parts_[0]));
    else if constexpr (Bits == 7) return vu(_mm512_permutex2var_epi8(parts_[0], u, parts_[1]));
    else
      return vu(_mm512_mask_blend_epi8(_mm512_movepi8_mask(u), _mm512_permutex2var_epi8(parts_[0], u, parts_[1]),
                                       _mm512_permutex2var_epi8(parts_[2], u, parts_[3])));
#else
    else return vu(choose<Bits - 1, 0>(u, static_cast<vu::register_type>(codes & vu(0x0f0f0f0fu))));
#endif
#else
    return one_by_one(table_, codes);
#endif
  }

 private:
#if NIBBLE_SIMD_NEON
  static constexpr std::size_t part_size = Bits >= 6 ? 64 : std::size_t{1} << Bits;
  static constexpr std::size_t parts = (std::size_t{1} << Bits) / part_size;
  static NIBBLE_ALWAYS_INLINE auto part(const std::uint8_t* p) noexcept {
    if constexpr (part_size == 16) return vld1q_u8(p);
    else if constexpr (part_size == 32) return uint8x16x2_t{{vld1q_u8(p), vld1q_u8(p + 16)}};
    else return uint8x16x4_t{{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
  }
  static NIBBLE_ALWAYS_INLINE uint8x16_t look_up(uint8x16_t t, uint8x16_t u) noexcept { return vqtbl1q_u8(t, u); }
  static NIBBLE_ALWAYS_INLINE uint8x16_t look_up(uint8x16x2_t t, uint8x16_t u) noexcept { return vqtbl2q_u8(t, u); }
  static NIBBLE_ALWAYS_INLINE uint8x16_t look_up(uint8x16x4_t t, uint8x16_t u) noexcept { return vqtbl4q_u8(t, u); }
  decltype(part(nullptr)) parts_[parts];
#elif NIBBLE_SIMD_WIDTH >= 256
  using native = vu::register_type;
#if NIBBLE_SIMD_WIDTH == 512
#if defined(__AVX512VBMI__)
  // vpermb and vpermi2b index 64 and 128 bytes.
  static constexpr std::size_t part_size = Bits >= 6 ? 64 : std::size_t{1} << Bits;
#else
  static constexpr std::size_t part_size = 16;
#endif
  static NIBBLE_ALWAYS_INLINE native part(const std::uint8_t* p) noexcept {
    if constexpr (part_size == 64) return _mm512_loadu_si512(p);
    else if constexpr (part_size == 32)
      return _mm512_broadcast_i32x8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    else return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static NIBBLE_ALWAYS_INLINE native shuffle(native t, native u) noexcept { return _mm512_shuffle_epi8(t, u); }
  template <int Bit>
  static NIBBLE_ALWAYS_INLINE native choose(native unset, native set, native codes) noexcept {
    return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(codes, _mm512_set1_epi8(static_cast<char>(1 << Bit))), unset,
                                  set);
  }
#else
  static constexpr std::size_t part_size = 16;
  static NIBBLE_ALWAYS_INLINE native part(const std::uint8_t* p) noexcept {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static NIBBLE_ALWAYS_INLINE native shuffle(native t, native u) noexcept { return _mm256_shuffle_epi8(t, u); }
  template <int Bit>
  static NIBBLE_ALWAYS_INLINE native choose(native unset, native set, native codes) noexcept {
    // vpblendvb looks at the top bit of each byte; what a 16-bit shift brings from the neighbour lies below it.
    return _mm256_blendv_epi8(unset, set, _mm256_slli_epi16(codes, 7 - Bit));
  }
#endif
  static constexpr std::size_t parts = (std::size_t{1} << Bits) / part_size;

  /// The lookup among the 2^(Bit + 1) bytes from part `First` on: halves, then bit `Bit` of the code chooses. `low`: the
  /// lowest 4 bits of the codes.
  template <int Bit, std::size_t First>
  NIBBLE_ALWAYS_INLINE native choose(native codes, native low) const noexcept {
    if constexpr (Bit == 3) return shuffle(parts_[First], low);
    else
      return choose<Bit>(choose<Bit - 1, First>(codes, low), choose<Bit - 1, First + (1u << (Bit - 4))>(codes, low),
                         codes);
  }
  native parts_[parts];
#else
  // Not inlined: a row has 32 of these in a block, and the compiler would spend more time on them than on all else.
  [[gnu::noinline]] static vu one_by_one(const std::uint8_t* table, vu codes) noexcept {
    alignas(16) std::uint8_t each[16];
    codes.store_aligned(reinterpret_cast<std::uint32_t*>(each));
    for (std::uint8_t& c : each) c = table[c];
    return vu::load_aligned(reinterpret_cast<const std::uint32_t*>(each));
  }
  const std::uint8_t* table_;
#endif
};

/// The values of the codes of one unit and register, table[code]: q[k] for byte k of each lane. UpperHalves: the values are
/// bfloat16 numbers. `Bits` as lookup_bits gives it.
///
/// AVX2 and NEON look bytes up, in each of the four byte planes of the floats; what is left is to interleave the planes.
/// AVX-512 permutes floats. 8 bits with x86 are gathered: 64 shuffles and 60 choices would take longer.
template <int Bits, bool UpperHalves = false>
class table_lookup {
 public:
  /// `table`: 2^bits values, bits <= Bits.
  NIBBLE_ALWAYS_INLINE explicit table_lookup(const float* table, [[maybe_unused]] int bits) noexcept
      : planes_(table, bits) {}
  NIBBLE_ALWAYS_INLINE void operator()(vu four, vf (&q)[4]) const noexcept {
#if NIBBLE_SIMD_NEON
    alignas(16) constexpr std::uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const vu u(vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(static_cast<uint32x4_t>(four)), vld1q_u8(order))));
    const uint8x16_t b2 = bytes(planes_[2](u)), b3 = bytes(planes_[3](u));
    const uint16x8_t low23 = pairs(vzip1q_u8(b2, b3)), high23 = pairs(vzip2q_u8(b2, b3));
    uint16x8_t low01 = vdupq_n_u16(0), high01 = low01;
    if constexpr (!UpperHalves) {
      const uint8x16_t b0 = bytes(planes_[0](u)), b1 = bytes(planes_[1](u));
      low01 = pairs(vzip1q_u8(b0, b1));
      high01 = pairs(vzip2q_u8(b0, b1));
    }
    q[0] = vf(vreinterpretq_f32_u16(vzip1q_u16(low01, low23)));
    q[1] = vf(vreinterpretq_f32_u16(vzip2q_u16(low01, low23)));
    q[2] = vf(vreinterpretq_f32_u16(vzip1q_u16(high01, high23)));
    q[3] = vf(vreinterpretq_f32_u16(vzip2q_u16(high01, high23)));
#else
#if NIBBLE_SIMD_WIDTH == 256
    if constexpr (Bits <= 7) {
      // The first shuffle brings the four columns of a 128-bit lane together: k0 n0..n3, k1 n0..n3, ...
      const __m256i order =
          _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
      const vu u(_mm256_shuffle_epi8(static_cast<vu::register_type>(four), order));
      const __m256i b2 = bytes(planes_[2](u)), b3 = bytes(planes_[3](u));
      const __m256i low23 = _mm256_unpacklo_epi8(b2, b3), high23 = _mm256_unpackhi_epi8(b2, b3);
      __m256i low01 = _mm256_setzero_si256(), high01 = low01;
      if constexpr (!UpperHalves) {
        const __m256i b0 = bytes(planes_[0](u)), b1 = bytes(planes_[1](u));
        low01 = _mm256_unpacklo_epi8(b0, b1);
        high01 = _mm256_unpackhi_epi8(b0, b1);
      }
      q[0] = vf(_mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, low23)));
      q[1] = vf(_mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, low23)));
      q[2] = vf(_mm256_castsi256_ps(_mm256_unpacklo_epi16(high01, high23)));
      q[3] = vf(_mm256_castsi256_ps(_mm256_unpackhi_epi16(high01, high23)));
    } else
#endif
    {
      // Permutations look at the lowest bits of a lane alone.
      constexpr bool whole_lanes = NIBBLE_SIMD_WIDTH == 512 && Bits <= 7;
      const vu low(0xffu);
      q[0] = planes_.look_up(whole_lanes ? four : four & low);
      q[1] = planes_.look_up(whole_lanes ? four >> 8 : (four >> 8) & low);
      q[2] = planes_.look_up(whole_lanes ? four >> 16 : (four >> 16) & low);
      q[3] = planes_.look_up(four >> 24);
    }
#endif
  }

 private:
  /// The four byte planes of a table of floats.
  struct byte_planes {
    alignas(64) std::uint8_t bytes[4][std::size_t{1} << Bits] = {};
    NIBBLE_ALWAYS_INLINE byte_planes(const float* table, int bits) noexcept {
      for (std::size_t i = 0; i < std::size_t{1} << bits; ++i)
        for (std::size_t j = 0; j < 4; ++j)
          bytes[j][i] = static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(table[i]) >> (8 * j));
    }
  };
  struct looked_up {
    NIBBLE_ALWAYS_INLINE looked_up(const float* table, int bits) noexcept : looked_up(byte_planes(table, bits)) {}
    NIBBLE_ALWAYS_INLINE explicit looked_up(const byte_planes& p) noexcept
        : planes{byte_lookup<Bits>(p.bytes[0]), byte_lookup<Bits>(p.bytes[1]), byte_lookup<Bits>(p.bytes[2]),
                 byte_lookup<Bits>(p.bytes[3])} {}
    NIBBLE_ALWAYS_INLINE const byte_lookup<Bits>& operator[](std::size_t i) const noexcept { return planes[i]; }
    byte_lookup<Bits> planes[4];
  };
  /// The table stays in memory.
  struct gathered {
    NIBBLE_ALWAYS_INLINE gathered(const float* t, int) noexcept : table(t) {}
    NIBBLE_ALWAYS_INLINE vf look_up(vu code) const noexcept {
#if NIBBLE_SIMD_WIDTH == 512
      return vf(_mm512_i32gather_ps(static_cast<vu::register_type>(code), table, 4));
#elif NIBBLE_SIMD_WIDTH == 256
      return vf(_mm256_i32gather_ps(table, static_cast<vu::register_type>(code), 4));
#else
      return one_by_one(table, code);
#endif
    }
#if NIBBLE_SIMD_WIDTH == 128
    [[gnu::noinline]] static vf one_by_one(const float* table, vu code) noexcept {  // as that of bytes
      alignas(64) std::uint32_t each[lanes];
      alignas(64) float values[lanes];
      code.store_aligned(each);
      for (std::size_t i = 0; i < lanes; ++i) values[i] = table[each[i]];
      return vf::load_aligned(values);
    }
#endif
    const float* table;
  };
#if NIBBLE_SIMD_NEON
  using planes = looked_up;
  static NIBBLE_ALWAYS_INLINE uint16x8_t pairs(uint8x16_t v) noexcept { return vreinterpretq_u16_u8(v); }
  static NIBBLE_ALWAYS_INLINE uint8x16_t bytes(vu v) noexcept {
    return vreinterpretq_u8_u32(static_cast<uint32x4_t>(v));
  }
#elif NIBBLE_SIMD_WIDTH == 512
  /// vpermps for 16 floats, vpermi2ps for 32, the higher bits choose among these.
  struct permuted {
    static constexpr std::size_t count = (std::size_t{1} << Bits) / 16;
    NIBBLE_ALWAYS_INLINE permuted(const float* table, int bits) noexcept {
      alignas(64) float padded[std::size_t{1} << Bits] = {};
      for (std::size_t i = 0; i < std::size_t{1} << bits; ++i) padded[i] = table[i];
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < count; ++i) all[i] = _mm512_load_ps(padded + 16 * i);
    }
    NIBBLE_ALWAYS_INLINE vf look_up(vu code) const noexcept {
      const __m512i u = static_cast<vu::register_type>(code);
      if constexpr (count == 1) return vf(_mm512_permutexvar_ps(u, all[0]));
      else return vf(choose<Bits - 1, 0>(u));
    }
    template <int Bit, std::size_t First>
    NIBBLE_ALWAYS_INLINE __m512 choose(__m512i u) const noexcept {
      if constexpr (Bit == 4) return _mm512_permutex2var_ps(all[First], u, all[First + 1]);
      else
        return _mm512_mask_blend_ps(_mm512_test_epi32_mask(u, _mm512_set1_epi32(1 << Bit)), choose<Bit - 1, First>(u),
                                    choose<Bit - 1, First + (1u << (Bit - 4))>(u));
    }
    __m512 all[count];
  };
  using planes = std::conditional_t<(Bits <= 7), permuted, gathered>;
#elif NIBBLE_SIMD_WIDTH == 256
  using planes = std::conditional_t<(Bits <= 7), looked_up, gathered>;
  static NIBBLE_ALWAYS_INLINE __m256i bytes(vu v) noexcept { return static_cast<vu::register_type>(v); }
#else
  using planes = gathered;
#endif
  planes planes_;
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
