// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A view over weights in a kernel's layout.

#include <nibble/core/config.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/quant/format.hpp>

namespace nibble {

/// Quantized W[N, K] in layout `layout`. Owns nothing. With row_major, `matrix` is the canonical view itself. With
/// panel16, matrix.codes holds the panels one after the other (row_stride_bytes is 0) and matrix.scales and matrix.zeros
/// are [panel][group][16] in the storage types of the format (a per_tensor matrix keeps its single scale), matrix.block_scales
/// [panel][halves of a row][16]; element 0 of
/// super_scales belongs to the first 256 scales of the canonical plane.
struct packed_view {
  layout_id layout = layout_id::row_major;
  quantized_view matrix;
};

}  // namespace nibble
