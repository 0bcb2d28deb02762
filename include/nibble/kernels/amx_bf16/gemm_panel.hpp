// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The bfloat16 product on AMX tiles; all else is that of amx_int8/.
///
/// Weights are rounded to bfloat16 once for all rows of a work item and lie as the instruction wants them: a pair of k in
/// each 32-bit lane, one lane a column. The lanes of an unpacked unit are columns already, so that pairing takes a shift and
/// an or. Two panels and 32 rows are four sums, each tile of weights and of activations is used twice:
///
///              panel 0   panel 1           tile registers
///              tmm6      tmm7               0 to 3  sums, float[16 rows][16 columns], from and to `acc`
///   rows 0-15  tmm4 x -> tmm0   tmm1         4, 5    activations, bfloat16[16 rows][32 k]
///   rows 16-31 tmm5 x -> tmm2   tmm3         6, 7    weights, bfloat16[16 pairs of k][16 columns][2]
///
/// Instructions: Intel SDM vol. 2, TDPBF16PS: the products of even k and those of odd k of a tile are added in a chain of FMAs
/// each, the two sums together, that to the accumulator; operands and results below 2^-126 count as 0.

#include <cstddef>
#include <cstdint>

#include <nibble/core/half.hpp>
#include <nibble/kernels/amx_int8/gemm_panel.hpp>

#if NIBBLE_SIMD_KERNELS && NIBBLE_SIMD_WIDTH == 512 && NIBBLE_SIMD_VNNI && NIBBLE_HAS_AMX_BF16
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace amx {

/// Sum += X * W: pairs of bfloat16 in float.
template <int Sum, int X, int W>
NIBBLE_ALWAYS_INLINE void multiply_bfloat16() noexcept {
  __asm__ volatile("{tdpbf16ps\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps\ttmm%c0, tmm%c1, tmm%c2}"
                   :
                   : "i"(Sum), "i"(X), "i"(W));
}

}  // namespace amx

template <>
struct gemm_panel<isa::amx_bf16> : gemm_panel<isa::amx_int8> {
  using isa_type = isa::amx_bf16;
  using bfloat16_operand = bfloat16;
  static constexpr std::size_t bfloat16_panels = 2;
  /// k of a tile: 64 bytes.
  static constexpr std::size_t depth = 32;

  static void bfloat16_row(const float* x, std::size_t K, std::size_t padded, bfloat16* out) noexcept {
    const std::size_t whole = K - K % lanes;
    for (std::size_t k = 0; k < whole; k += lanes) {
      const __m512i upper = _mm512_srli_epi32(bits(round_bfloat16<false>(simd::load(x + k))), 16);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), _mm512_cvtepi32_epi16(upper));
    }
    for (std::size_t k = whole; k < K; ++k) out[k] = to_bfloat16(nearest_bfloat16(x[k]));
    for (std::size_t k = K; k < padded; ++k) out[k] = bfloat16{};
  }

  /// [pairs of k][16][2]. Weights below 2^-126, which the product takes for 0, may already be 0 here.
  static void bfloat16_weights(const float_codes& c, bfloat16* out) noexcept {
    for_each_weight<false>(c, [&](std::size_t u, std::size_t, const vi(&w)[4], auto rounded) NIBBLE_LAMBDA_INLINE {
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 2; ++j) {
        __m512i pair;
        if constexpr (decltype(rounded)::value) {
          constexpr int a_or_b_and_c = 0xf8;
          pair = _mm512_ternarylogic_epi32(_mm512_srli_epi32(bits(w[2 * j]), 16), bits(w[2 * j + 1]),
                                           _mm512_set1_epi32(-0x10000), a_or_b_and_c);
        } else {
          pair = rounded_pair(bits(w[2 * j]), bits(w[2 * j + 1]));
        }
        _mm512_storeu_si512(out + u * 64 + j * 32, pair);
      }
    });
    const std::size_t units = (c.k1 - c.k0 + 3) / 4, all = pack::panel16::blocks(c.k1 - c.k0) * 8;
    for (std::size_t i = units * 64; i < all * 64; ++i) out[i] = bfloat16{};
  }

  static void bfloat16_blocks(const bfloat16_call<bfloat16>* calls, std::size_t count,
                              const bfloat16* const* weights) noexcept {
    if (count == 1) all_rows<1>(calls, weights);
    else all_rows<2>(calls, weights);
  }

 private:
  static NIBBLE_ALWAYS_INLINE __m512i bits(vi v) noexcept { return static_cast<vi::register_type>(v); }

  // vcvtne2ps2bf16 rounds two registers (Intel SDM vol. 2: to nearest even, what lies below 2^-126 becomes 0); vpermw then
  // puts the columns of odd k beside those of even k.
  static NIBBLE_ALWAYS_INLINE __m512i rounded_pair(__m512i even, __m512i odd) noexcept {
    alignas(64) static constexpr std::uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_castsi512_ps(odd), _mm512_castsi512_ps(even));
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), reinterpret_cast<__m512i>(both));
  }

  template <int Panels>
  static void all_rows(const bfloat16_call<bfloat16>* calls, const bfloat16* const* weights) noexcept {
    amx::tile_scope scope;
    const std::size_t M = calls[0].M;
    std::size_t m = 0;
    if (M >= 32) {
      scope.shape(32, 2 * depth);
      for (; M - m >= 32; m += 32) tiles<2, Panels>(calls, m, weights);
    }
    const std::size_t left = M - m;
    if (left == 0) return;
    scope.shape(left, 2 * depth);
    if (left > 16) tiles<2, Panels>(calls, m, weights);
    else tiles<1, Panels>(calls, m, weights);
  }

  /// Rows from m on, as many as the tiles are shaped for, of 1 or 2 panels.
  template <int RowTiles, int Panels>
  static void tiles(const bfloat16_call<bfloat16>* calls, std::size_t m, const bfloat16* const* weights) noexcept {
    const bfloat16_call<bfloat16>& c = calls[0];
    constexpr std::size_t row_bytes = nr * sizeof(float);
    const std::size_t x_bytes = c.x_stride * sizeof(bfloat16);
    const bfloat16 *const upper = c.x + m * c.x_stride, *const lower = upper + (RowTiles > 1 ? 16 : 0) * c.x_stride;
    const std::size_t k0 = c.k0, k1 = c.k1;  // not asked again after each load
    each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
      amx::load<2 * I + J>(calls[J].acc + (m + 16 * I) * nr, row_bytes);
    });
    for (std::size_t k = k0; k < k1; k += depth) {
      const std::size_t at = (k - k0) * nr;
      each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
        if constexpr (I == 0) amx::load<6 + J>(weights[J] + at, row_bytes);
        if constexpr (J == 0) amx::load<4 + I>((I == 0 ? upper : lower) + k, x_bytes);
        amx::multiply_bfloat16<2 * I + J, 4 + I, 6 + J>();
      });
    }
    each_sum<RowTiles, Panels>([&]<int I, int J>() NIBBLE_LAMBDA_INLINE {
      amx::store<2 * I + J>(calls[J].acc + (m + 16 * I) * nr, row_bytes);
    });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
