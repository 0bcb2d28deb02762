// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of moving codes between canonical rows and the panels of layout panel16.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Between up to 16 rows of dense codes, 2..8 bits each, and a panel of panel16::panel_bytes(K, bits) bytes. Rows begin at
/// rows + i * row_bytes and hold packed_bytes(K, bits) bytes; nothing past them is read or written.
///
///   pack(rows, row_bytes, columns, K, bits, panel)      pack::pack_panel16
///   unpack(panel, columns, K, bits, rows, row_bytes)    pack::unpack_panel16
template <class Isa>
struct panel_codes : panel_codes<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
