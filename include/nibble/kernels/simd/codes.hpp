// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Packing 32 codes at a time: neighbours become pairs of 16 bits, pairs fours of 32, fours the 8 codes of a 64-bit lane,
/// whose bytes a shuffle brings together; and back. From AVX2 on. `part`: of a row that goes on.

#include <concepts>

#include <nibble/kernels/codes.hpp>
#include <nibble/kernels/scalar/codes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS && NIBBLE_SIMD_WIDTH >= 256
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <std::same_as<simd::isa_type> Isa>
struct dense_codes<Isa> {
  using isa_type = simd::isa_type;

  static void pack(const std::uint8_t* codes, std::size_t n, int bits, std::byte* packed) noexcept {
    nibble::pack::with_bits(bits, [&]<int Bits>() { pack_part<Bits>(codes, n, n, packed); });
  }
  static void unpack(const std::byte* packed, std::size_t n, int bits, std::uint8_t* codes) noexcept {
    nibble::pack::with_bits(bits, [&]<int Bits>() { unpack_part<Bits>(packed, n, n, codes); });
  }

  /// The first n of `left` codes of a row, n a multiple of 32 or `left`. What is behind them is read, and to be written next.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void pack_part(const std::uint8_t* codes, std::size_t n, std::size_t left,
                                             std::byte* packed) noexcept {
    std::size_t done = 0;
    if constexpr (Bits < 8) {
      done = whole_blocks<Bits>(left) < n ? whole_blocks<Bits>(left) : n;
      pack_blocks<Bits>(codes, done, packed);
    }
    nibble::pack::pack_row<Bits>(codes + done, n - done, packed + done / 8 * Bits);
  }
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void unpack_part(const std::byte* packed, std::size_t n, std::size_t left,
                                               std::uint8_t* codes) noexcept {
    std::size_t done = 0;
#if defined(__AVX512VBMI__)
    static_cast<void>(left);
    if constexpr (Bits < 8) done = unpack_lanes<Bits>(packed, n, codes);
#else
    if constexpr (Bits < 8) {
      done = whole_blocks<Bits>(left) < n ? whole_blocks<Bits>(left) : n;
      unpack_blocks<Bits>(packed, done, codes);
    }
#endif
    nibble::pack::unpack_row<Bits>(packed + done / 8 * Bits, n - done, codes + done);
  }

 private:
  static constexpr std::size_t block = 32;

  /// Codes of the blocks whose 16-byte stores, or loads, end inside n codes' bytes; half a block has 2 * Bits of the 16.
  template <int Bits>
  static std::size_t whole_blocks(std::size_t n) noexcept {
    const std::size_t bytes = nibble::pack::packed_bytes(n, Bits), reach = 2 * Bits + 16;
    return bytes < reach ? 0 : ((bytes - reach) / (4 * Bits) + 1) * block;
  }

  struct alignas(32) shuffle {
    std::uint8_t from[32];
  };
  /// For vpshufb: the Bits bytes at the low end of each 64-bit lane one after the other, or the way back.
  template <int Bits, bool Together>
  static __m256i order() noexcept {
    static constexpr shuffle bytes = [] {
      shuffle to{};
      for (std::uint8_t& b : to.from) b = 0x80;  // zero
      for (std::size_t half = 0; half < 32; half += 16)
        for (std::size_t i = 0; i < 2 * Bits; ++i) {
          const std::size_t spread = i < Bits ? i : i - Bits + 8;
          to.from[half + (Together ? i : spread)] = static_cast<std::uint8_t>(Together ? spread : i);
        }
      return to;
    }();
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes.from));
  }

  template <int Bits>
  static void pack_blocks(const std::uint8_t* codes, std::size_t end, std::byte* packed) noexcept {
    const __m256i together = order<Bits, true>(), low = _mm256_set1_epi64x(0xffffffff);
    for (std::size_t i = 0; i < end; i += block, packed += 4 * Bits) {
      __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
      if constexpr (Bits < 7) {  // a factor of vpmaddubsw is a signed byte
        v = _mm256_maddubs_epi16(v, _mm256_set1_epi16(static_cast<short>(1 | 1 << (Bits + 8))));
      } else {
        v = _mm256_or_si256(_mm256_and_si256(v, _mm256_set1_epi16(0xff)),
                            _mm256_slli_epi16(_mm256_srli_epi16(v, 8), Bits));
      }
      v = _mm256_madd_epi16(v, _mm256_set1_epi32(1 | 1 << (2 * Bits + 16)));
      v = _mm256_or_si256(_mm256_and_si256(v, low), _mm256_slli_epi64(_mm256_srli_epi64(v, 32), 4 * Bits));
      v = _mm256_shuffle_epi8(v, together);
      // What a store writes too much is overwritten by the next one.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), _mm256_castsi256_si128(v));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + 2 * Bits), _mm256_extracti128_si256(v, 1));
    }
  }

#if defined(__AVX512VBMI__)
  /// 64 codes at a time: vpermb gives each 64-bit lane the bytes of its 8 codes, of which vpmultishiftqb takes 8 bits each.
  template <int Bits>
  static std::size_t unpack_lanes(const std::byte* packed, std::size_t n, std::uint8_t* codes) noexcept {
    struct alignas(64) bytes {
      std::uint8_t at[64];
    };
    static constexpr bytes lanes = [] {
      bytes to{};
      for (std::size_t i = 0; i < 64; ++i) to.at[i] = static_cast<std::uint8_t>(i / 8 * Bits + i % 8 % Bits);
      return to;
    }();
    static constexpr bytes shifts = [] {
      bytes to{};
      for (std::size_t i = 0; i < 64; ++i) to.at[i] = static_cast<std::uint8_t>(i % 8 * Bits);
      return to;
    }();
    const __m512i from = _mm512_load_si512(lanes.at), by = _mm512_load_si512(shifts.at);
    const __m512i field = _mm512_set1_epi8((1 << Bits) - 1);
    const __mmask64 read = (std::uint64_t{1} << (8 * Bits)) - 1;
    std::size_t done = 0;
    for (; n - done >= 64; done += 64, packed += 8 * Bits) {
      const __m512i v = _mm512_permutexvar_epi8(from, _mm512_maskz_loadu_epi8(read, packed));
      _mm512_storeu_si512(codes + done, _mm512_and_si512(_mm512_multishift_epi64_epi8(by, v), field));
    }
    return done;
  }
#else
  template <int Bits>
  static void unpack_blocks(const std::byte* packed, std::size_t end, std::uint8_t* codes) noexcept {
    constexpr int one = (1 << Bits) - 1, two = (1 << 2 * Bits) - 1, four = (1 << 4 * Bits) - 1;
    const __m256i apart = order<Bits, false>();
    const auto spread = [](__m256i v, __m256i moved, __m256i low, __m256i high) NIBBLE_LAMBDA_INLINE {
      return _mm256_or_si256(_mm256_and_si256(v, low), _mm256_and_si256(moved, high));
    };
    for (std::size_t i = 0; i < end; i += block, packed += 4 * Bits) {
      __m256i v =
          _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed))),
                                  _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + 2 * Bits)), 1);
      v = _mm256_shuffle_epi8(v, apart);
      v = spread(v, _mm256_slli_epi64(v, 32 - 4 * Bits), _mm256_set1_epi64x(four),
                 _mm256_set1_epi64x(static_cast<long long>(four) << 32));
      v = spread(v, _mm256_slli_epi32(v, 16 - 2 * Bits), _mm256_set1_epi32(two), _mm256_set1_epi32(two << 16));
      v = spread(v, _mm256_slli_epi16(v, 8 - Bits), _mm256_set1_epi16(one),
                 _mm256_set1_epi16(static_cast<short>(one << 8)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), v);
    }
  }
#endif
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
