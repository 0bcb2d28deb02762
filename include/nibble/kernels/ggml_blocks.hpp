// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contracts of reading and writing the block formats of GGUF files.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Values of consecutive blocks of a format (quant::ggml): `run(blocks, count, y)` reads count * block_bytes bytes, which
/// need no alignment and may hold anything, and writes count * block_elements values. Every ISA yields the same bits.
template <class Isa, class Format>
struct decode_ggml_blocks : decode_ggml_blocks<typename Isa::fallback, Format> {};

/// How much the squared error of each column counts: `values` has a number >= 0 for each of the columns of a row, `of_row` blocks;
/// the first block that is encoded is number `first` of its row. Without values all columns count the same.
struct ggml_importance {
  const float* values = nullptr;
  std::size_t of_row = 1, first = 0;

  /// The values of block i of those that are encoded.
  const float* of_block(std::size_t i, std::size_t block_elements) const noexcept {
    return values + (first + i) % of_row * block_elements;
  }
};

/// The reverse for formats that have `encode`: `run(x, count, blocks)`, x with magnitudes of at most Format::greatest. Formats
/// that satisfy quant::ggml::weighted_block also have `run(x, count, importance, blocks)`, values of at most
/// quant::ggml::importance_greatest; without values it is the other. Every ISA yields the same bytes.
template <class Isa, class Format>
struct encode_ggml_blocks : encode_ggml_blocks<typename Isa::fallback, Format> {};

/// Blocks with less squared error than those of encode_ggml_blocks, for formats that have a search for it (quant/ggml_fit.hpp):
/// `run(x, count, importance, blocks)`. Every ISA yields the same bytes.
template <class Isa, class Format>
struct fit_ggml_blocks : fit_ggml_blocks<typename Isa::fallback, Format> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
