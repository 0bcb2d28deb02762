// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Packing in plain C++: the functions of pack/.

#include <nibble/kernels/codes.hpp>
#include <nibble/pack/bits.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct dense_codes<isa::scalar> {
  using isa_type = isa::scalar;

  static void pack(const std::uint8_t* codes, std::size_t n, int bits, std::byte* packed) noexcept {
    pack::pack_row(codes, n, bits, packed);
  }
  static void unpack(const std::byte* packed, std::size_t n, int bits, std::uint8_t* codes) noexcept {
    pack::unpack_row(packed, n, bits, codes);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
