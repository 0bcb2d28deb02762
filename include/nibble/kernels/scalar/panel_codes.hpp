// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Panels of codes in plain C++: the functions of pack/.

#include <nibble/kernels/panel_codes.hpp>
#include <nibble/pack/panel16.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct panel_codes<isa::scalar> {
  using isa_type = isa::scalar;

  static void pack(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K, int bits,
                   std::byte* panel) noexcept {
    nibble::pack::pack_panel16(rows, row_bytes, columns, K, bits, panel);
  }
  static void unpack(const std::byte* panel, std::size_t columns, std::size_t K, int bits, std::byte* rows,
                     std::size_t row_bytes) noexcept {
    nibble::pack::unpack_panel16(panel, columns, K, bits, rows, row_bytes);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
