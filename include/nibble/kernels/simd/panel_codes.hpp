// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Rows to panels and back by transposing 8 x 8 words of 32 bits. From AVX2 on.
///
/// Of a width that is one bit plane (2, 4, 8) word w of row n becomes word n of the panel's line w, 64 bytes, after its
/// fields changed places: a code's place in a canonical word is its k, in a panel's k % 4 chooses the byte and k / 4 the
/// field. The other widths go through codes of one byte, four of which are a word of a unit.

#include <concepts>
#include <cstdint>
#include <cstring>

#include <nibble/kernels/panel_codes.hpp>
#include <nibble/kernels/scalar/panel_codes.hpp>
#include <nibble/kernels/simd/codes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS && NIBBLE_SIMD_WIDTH >= 256
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <std::same_as<simd::isa_type> Isa>
struct panel_codes<Isa> {
  using isa_type = simd::isa_type;

  static void pack(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K, int bits,
                   std::byte* panel) noexcept {
    nibble::pack::with_bits(bits, [&]<int Bits>() {
      if constexpr (one_plane<Bits>) pack_words<Bits>(rows, row_bytes, columns, K, panel);
      else pack_units<Bits>(rows, row_bytes, columns, K, panel);
    });
  }
  static void unpack(const std::byte* panel, std::size_t columns, std::size_t K, int bits, std::byte* rows,
                     std::size_t row_bytes) noexcept {
    nibble::pack::with_bits(bits, [&]<int Bits>() {
      if constexpr (one_plane<Bits>) unpack_words<Bits>(panel, columns, K, rows, row_bytes);
      else unpack_units<Bits>(panel, columns, K, rows, row_bytes);
    });
  }

 private:
  using layout = nibble::pack::panel16;
  template <int Bits>
  static constexpr bool one_plane = nibble::pack::planes_of(Bits).count == 1;
  /// Words of a tile: those of a register.
  static constexpr std::size_t tile = 8;

  static NIBBLE_ALWAYS_INLINE __m256i load(const void* p) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static NIBBLE_ALWAYS_INLINE void store(__m256i v, void* p) noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(p), v);
  }

  /// Word j of register i becomes word i of register j.
  static NIBBLE_ALWAYS_INLINE void transpose(__m256i (&v)[tile]) noexcept {
    __m256i a[tile], b[tile];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; i += 2) {
      a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
      a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; i += 4) {
      b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
      b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
      b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
      b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
      v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
  }

  /// 16 rows are too many streams, each too short, for the prefetchers of CPUs. Rows mostly lie one behind the other: of the
  /// 16 that come next, as many bytes as bytes [at, at + bytes) of each row here.
  template <int Write>
  static NIBBLE_ALWAYS_INLINE void ask_for(const std::byte* rows, std::size_t row_bytes, std::size_t at,
                                           std::size_t bytes) noexcept {
    ask_for_part<Write>(rows, row_bytes, at, bytes * layout::nr, 0);
  }
  /// One of the 16 parts of that: all at once they would wait for each other.
  template <int Write>
  static NIBBLE_ALWAYS_INLINE void ask_for_part(const std::byte* rows, std::size_t row_bytes, std::size_t at,
                                                std::size_t bytes, std::size_t part) noexcept {
    const auto from = reinterpret_cast<std::uintptr_t>(rows) + (row_bytes + at) * layout::nr;  // nothing may lie there
    for (std::size_t i = part * bytes; i < (part + 1) * bytes; i += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(from + i), Write, 2);
  }

  /// Exchanges the fields at the places of `low` with those `Distance` bits above them.
  template <int Distance>
  static NIBBLE_ALWAYS_INLINE __m256i exchange(__m256i w, std::uint32_t low) noexcept {
    const __m256i differ =
        _mm256_and_si256(_mm256_xor_si256(w, _mm256_srli_epi32(w, Distance)), _mm256_set1_epi32(static_cast<int>(low)));
    return _mm256_xor_si256(w, _mm256_xor_si256(differ, _mm256_slli_epi32(differ, Distance)));
  }
  static NIBBLE_ALWAYS_INLINE __m256i bytes_in_order(__m256i v, char a, char b, char c, char d) noexcept {
    const auto at = [](char i, int word) { return static_cast<char>(i < 0 ? i : i + 4 * word); };
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                      at(a, 0), at(b, 0), at(c, 0), at(d, 0), at(a, 1), at(b, 1), at(c, 1), at(d, 1),
                                      at(a, 2), at(b, 2), at(c, 2), at(d, 2), at(a, 3), at(b, 3), at(c, 3), at(d, 3))));
  }
  /// The fields of canonical words in the order of a panel (Panel), or the way back.
  template <int Bits, bool Panel>
  static NIBBLE_ALWAYS_INLINE __m256i in_order(__m256i w) noexcept {
    if constexpr (Bits == 2) {  // four fields in each of four bytes: a transpose, its own inverse
      return exchange<12>(exchange<6>(w, 0x00cc00cc), 0x0000f0f0);
    } else if constexpr (Bits == 4) {
      const __m256i low = _mm256_set1_epi8(0x0f), join = _mm256_set1_epi16(0x1001);
      if constexpr (Panel) w = bytes_in_order(w, 0, 2, 1, 3);
      const __m256i even = _mm256_maddubs_epi16(_mm256_and_si256(w, low), join);
      const __m256i odd = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi32(w, 4), low), join);
      if constexpr (Panel) return _mm256_or_si256(even, _mm256_slli_epi16(odd, 8));
      return bytes_in_order(_mm256_or_si256(even, _mm256_slli_epi16(odd, 8)), 0, 2, 1, 3);
    } else {
      return w;
    }
  }

  /// Rows whose bytes from `at` on are copied to 32 bytes each, what is not there as zeros.
  struct staged_rows {
    alignas(32) std::byte bytes[layout::nr * 32] = {};
    void take(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t at, std::size_t K,
              int bits) noexcept {
      const std::size_t first = at * 8 / static_cast<std::size_t>(bits), whole = 256 / static_cast<std::size_t>(bits);
      const std::size_t count = K <= first ? 0 : (K - first < whole ? K - first : whole);
      std::memset(bytes, 0, sizeof bytes);
      for (std::size_t n = 0; n < columns && count > 0; ++n)
        nibble::pack::detail::copy_codes(rows + n * row_bytes + at, count, bits, bytes + n * 32);
    }
    void give(std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t at, std::size_t K,
              int bits) const noexcept {
      const std::size_t first = at * 8 / static_cast<std::size_t>(bits), whole = 256 / static_cast<std::size_t>(bits);
      const std::size_t count = K <= first ? 0 : (K - first < whole ? K - first : whole);
      for (std::size_t n = 0; n < columns && count > 0; ++n)
        nibble::pack::detail::copy_codes(bytes + n * 32, count, bits, rows + n * row_bytes + at);
    }
  };

  /// `words` <= 8 lines of a panel from as many words of 16 rows.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void lines_of(const std::byte* rows, std::size_t row_bytes, std::size_t half,
                                            std::size_t words, std::byte* lines) noexcept {
    __m256i v[tile];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; ++i) v[i] = load(rows + (half * tile + i) * row_bytes);
    transpose(v);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; ++i)
      if (i < words) store(in_order<Bits, true>(v[i]), lines + i * 64 + half * 32);
  }
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void rows_of(const std::byte* lines, std::size_t half, std::size_t words, std::byte* rows,
                                           std::size_t row_bytes) noexcept {
    __m256i v[tile];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; ++i)
      v[i] = i < words ? in_order<Bits, false>(load(lines + i * 64 + half * 32)) : _mm256_setzero_si256();
    transpose(v);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < tile; ++i) store(v[i], rows + (half * tile + i) * row_bytes);
  }

  /// Words of a row that are taken in pairs of tiles, a cache line: eight rows of them are read at a time.
  template <int Bits>
  static std::size_t whole_words(std::size_t columns, std::size_t K) noexcept {
    return columns < layout::nr ? 0 : K * Bits / 32 / (2 * tile) * (2 * tile);
  }

  template <int Bits>
  static void pack_words(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K,
                         std::byte* panel) noexcept {
    const std::size_t all = layout::blocks(K) * Bits, whole = whole_words<Bits>(columns, K);
    for (std::size_t w = 0; w < whole; w += 2 * tile) {
      ask_for<0>(rows, row_bytes, w * 4, 64);
      for (std::size_t half = 0; half < 2; ++half)
        for (std::size_t i = w; i < w + 2 * tile; i += tile)
          lines_of<Bits>(rows + i * 4, row_bytes, half, tile, panel + i * 64);
    }
    staged_rows staged;
    for (std::size_t w = whole; w < all; w += tile) {
      staged.take(rows, row_bytes, columns, w * 4, K, Bits);
      for (std::size_t half = 0; half < 2; ++half)
        lines_of<Bits>(staged.bytes, 32, half, all - w < tile ? all - w : tile, panel + w * 64);
    }
  }
  template <int Bits>
  static void unpack_words(const std::byte* panel, std::size_t columns, std::size_t K, std::byte* rows,
                           std::size_t row_bytes) noexcept {
    const std::size_t all = layout::blocks(K) * Bits, whole = whole_words<Bits>(columns, K);
    for (std::size_t w = 0; w < whole; w += 2 * tile) {
      ask_for<1>(rows, row_bytes, w * 4, 64);
      for (std::size_t half = 0; half < 2; ++half)
        for (std::size_t i = w; i < w + 2 * tile; i += tile)
          rows_of<Bits>(panel + i * 64, half, tile, rows + i * 4, row_bytes);
    }
    staged_rows staged;
    for (std::size_t w = whole; w < all; w += tile) {
      for (std::size_t half = 0; half < 2; ++half)
        rows_of<Bits>(panel + w * 64, half, all - w < tile ? all - w : tile, staged.bytes, 32);
      staged.give(rows, row_bytes, columns, w * 4, K, Bits);
    }
  }

  /// k of 16 rows whose codes are a byte each for a while: 8 KiB, and what keeps rows from one set of the cache.
  static constexpr std::size_t chunk = 512, chunk_stride = chunk + 32;

  template <int Bits>
  static void pack_units(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K,
                         std::byte* panel) noexcept {
    alignas(32) std::uint8_t codes[layout::nr * chunk_stride];
    for (std::size_t k = 0; k < K; k += chunk) {
      const std::size_t count = K - k < chunk ? K - k : chunk, blocks = layout::blocks(count);
      if (k == 0 || count < chunk) std::memset(codes, 0, sizeof codes);
      for (std::size_t n = 0; n < columns; ++n) {
        ask_for_part<0>(rows, row_bytes, k / 8 * Bits, nibble::pack::packed_bytes(count, Bits), n);
        dense_codes<isa_type>::template unpack_part<Bits>(rows + n * row_bytes + k / 8 * Bits, count, K - k,
                                                          codes + n * chunk_stride);
      }
      for (std::size_t b = 0; b < blocks; ++b, panel += layout::block_bytes(Bits)) {
        for (std::size_t half = 0; half < 2; ++half) {
          __m256i unit[tile];
          NIBBLE_UNROLL
          for (std::size_t i = 0; i < tile; ++i) unit[i] = load(codes + (half * tile + i) * chunk_stride + b * 32);
          transpose(unit);
          units_to_planes<Bits>(unit, panel + half * 32);
        }
      }
    }
  }
  template <int Bits>
  static void unpack_units(const std::byte* panel, std::size_t columns, std::size_t K, std::byte* rows,
                           std::size_t row_bytes) noexcept {
    alignas(32) std::uint8_t codes[layout::nr * chunk_stride];
    for (std::size_t k = 0; k < K; k += chunk) {
      const std::size_t count = K - k < chunk ? K - k : chunk, blocks = layout::blocks(count);
      ask_for<1>(rows, row_bytes, k / 8 * Bits, nibble::pack::packed_bytes(count, Bits));
      for (std::size_t b = 0; b < blocks; ++b, panel += layout::block_bytes(Bits)) {
        for (std::size_t half = 0; half < 2; ++half) {
          __m256i unit[tile];
          planes_to_units<Bits>(panel + half * 32, unit);
          transpose(unit);
          NIBBLE_UNROLL
          for (std::size_t i = 0; i < tile; ++i) store(unit[i], codes + (half * tile + i) * chunk_stride + b * 32);
        }
      }
      for (std::size_t n = 0; n < columns; ++n)
        dense_codes<isa_type>::template pack_part<Bits>(codes + n * chunk_stride, count, K - k,
                                                        rows + n * row_bytes + k / 8 * Bits);
    }
  }

  /// f.operator()<plane, line, first unit, units of a line>() for each line of 64 bytes of a block.
  template <int Bits, class F>
  static NIBBLE_ALWAYS_INLINE void for_each_line(F&& f) noexcept {
    constexpr auto planes = nibble::pack::planes_of(Bits);
    const auto plane = [&]<int Plane>() NIBBLE_LAMBDA_INLINE {
      constexpr int width = planes.width[Plane];
      [&]<std::size_t... Line>(std::index_sequence<Line...>) NIBBLE_LAMBDA_INLINE {
        (f.template operator()<Plane, planes.offset_bytes[Plane] + Line * 64, Line*(8 / width)>(), ...);
      }
      (std::make_index_sequence<static_cast<std::size_t>(width)>{});
    };
    [&]<int... Plane>(std::integer_sequence<int, Plane...>) NIBBLE_LAMBDA_INLINE {
      (plane.template operator()<Plane>(), ...);
    }
    (std::make_integer_sequence<int, planes.count>{});
  }
  template <int Width>
  static NIBBLE_ALWAYS_INLINE __m256i fields() noexcept {
    return _mm256_set1_epi8(static_cast<char>((1 << Width) - 1));
  }
  /// Shift > 0: to the left, inside lanes of 16 bits.
  template <int Shift>
  static NIBBLE_ALWAYS_INLINE __m256i shifted(__m256i v) noexcept {
    if constexpr (Shift > 0) return _mm256_slli_epi16(v, Shift);
    else if constexpr (Shift < 0) return _mm256_srli_epi16(v, -Shift);
    else return v;
  }

  /// Eight units of 8 columns to their halves of a block's lines.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void units_to_planes(const __m256i (&unit)[tile], std::byte* block) noexcept {
    constexpr auto planes = nibble::pack::planes_of(Bits);
    for_each_line<Bits>([&]<int Plane, std::size_t At, std::size_t First>() NIBBLE_LAMBDA_INLINE {
      constexpr int width = planes.width[Plane], down = planes.shift[Plane];
      __m256i line = _mm256_setzero_si256();
      [&]<int... U>(std::integer_sequence<int, U...>) NIBBLE_LAMBDA_INLINE {
        ((line = _mm256_or_si256(
              line, shifted<U * width>(_mm256_and_si256(shifted<-down>(unit[First + U]), fields<width>())))),
         ...);
      }
      (std::make_integer_sequence<int, 8 / width>{});
      store(line, block + At);
    });
  }
  /// The inverse.
  template <int Bits>
  static NIBBLE_ALWAYS_INLINE void planes_to_units(const std::byte* block, __m256i (&unit)[tile]) noexcept {
    constexpr auto planes = nibble::pack::planes_of(Bits);
    for_each_line<Bits>([&]<int Plane, std::size_t At, std::size_t First>() NIBBLE_LAMBDA_INLINE {
      constexpr int width = planes.width[Plane], up = planes.shift[Plane];
      const __m256i line = load(block + At);
      [&]<int... U>(std::integer_sequence<int, U...>) NIBBLE_LAMBDA_INLINE {
        const auto add = [](__m256i& to, __m256i part) NIBBLE_LAMBDA_INLINE {
          if constexpr (Plane == 0) to = part;
          else to = _mm256_or_si256(to, part);
        };
        (add(unit[First + U], shifted<up>(_mm256_and_si256(shifted<-U * width>(line), fields<width>()))), ...);
      }
      (std::make_integer_sequence<int, 8 / width>{});
    });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
