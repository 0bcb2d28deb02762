// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of activation quantization: one token to signed 8-bit codes with one scale.

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

/// sums[g] = sum of the codes of group g (`group` codes each, the last one short), g in [0, ceil(K / group)): exact in
/// int32 for groups of less than 2^24 codes.
template <class Isa>
struct sum_groups : sum_groups<typename Isa::fallback> {};

/// sum_groups on the unit's own instruction set.
template <class Isa = isa::native>
inline void group_sums(const std::int8_t* codes, std::size_t K, std::size_t group, std::int32_t* sums) noexcept {
  sum_groups<Isa>::run(codes, K, group, sums);
}

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
