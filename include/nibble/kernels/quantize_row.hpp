// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of activation quantization: one token to signed 8-bit codes with one scale.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Symmetric per-token quantization to s8: scale = absmax / 127 (IEEE division), code = rne(clamp(x / scale, -127, 127)).
/// A token with a NaN or infinity gets scale NaN and codes 0, so that its whole output row, and no other, becomes NaN. A
/// scale that underflows to 0 gives codes 0. Every ISA yields the same bits.
///
/// `run(x, K, codes, padded)` writes codes[0, padded), zero past K, reads x[0, K) only, and returns the scale.
template <class Isa>
struct quantize_row : quantize_row<typename Isa::fallback> {};

/// The greatest magnitude of x[0, K) as the bits of a float, which order like the numbers, with infinity and NaN above all:
/// one maximum answers both questions.
inline std::uint32_t greatest_magnitude_bits(const float* x, std::size_t K) noexcept {
  constexpr std::size_t lanes = 64;  // for vectors, also where compilers make them of loops of constant length only
  std::int32_t largest[lanes] = {};
  std::size_t k = 0;
  for (; K - k >= lanes; k += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::int32_t magnitude = std::bit_cast<std::int32_t>(x[k + lane]) & 0x7fffffff;
      largest[lane] = largest[lane] < magnitude ? magnitude : largest[lane];
    }
  for (; k < K; ++k) largest[0] = std::max(largest[0], std::bit_cast<std::int32_t>(x[k]) & 0x7fffffff);
  return static_cast<std::uint32_t>(*std::max_element(largest, largest + lanes));
}
/// The bits of infinity: a row whose greatest magnitude is not below is not finite.
inline constexpr std::uint32_t not_finite_bits = 0x7f800000u;

/// sums[g] = sum of the codes of group g (`group` codes each, the last one short), g in [0, ceil(K / group)): exact in
/// int32 for groups of less than 2^24 codes.
template <class Isa>
struct sum_groups : sum_groups<typename Isa::fallback> {};

/// sum_groups on the unit's own instruction set.
template <class Isa = isa::native>
inline void group_sums(const std::int8_t* codes, std::size_t K, std::size_t group, std::int32_t* sums) noexcept {
  sum_groups<Isa>::run(codes, K, group, sums);
}
static_assert(127ll * (1ll << 24) < (1ll << 31), "group_sums: a row of 2^24 codes");

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
