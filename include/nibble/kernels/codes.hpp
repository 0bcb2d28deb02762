// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of packing codes, and of taking them apart.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Between codes, one per byte, and dense fields of 2..8 bits (pack/bits.hpp); nothing past them is read or written.
///
///   pack(codes, n, bits, packed)     pack::pack_row of n codes below 2^bits
///   unpack(packed, n, bits, codes)   pack::unpack_row
template <class Isa>
struct dense_codes : dense_codes<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
