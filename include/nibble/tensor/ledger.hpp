// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Where the bytes of a quantized matrix are.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/quant/super_block.hpp>

namespace nibble {

/// Bytes by purpose.
struct byte_ledger {
  std::size_t payload = 0;  ///< codes: N * K * bits, rounded up to a byte
  std::size_t scales =
      0;  ///< with double quantization: codes, block maxima and the offset; with super-blocks their halves
  std::size_t zero_points = 0;  ///< zero points or offsets
  std::size_t padding = 0;      ///< rows rounded up to bytes; in packed forms panels rounded up as well
  std::size_t container = 0;    ///< what belongs to the matrix as a whole: a user's table, headers of a file
};

inline namespace NIBBLE_ABI {

constexpr std::size_t total_bytes(const byte_ledger& l) noexcept {
  return l.payload + l.scales + l.zero_points + l.padding + l.container;
}

/// Everything, in bits per weight.
constexpr double bits_per_weight(const byte_ledger& l, std::size_t N, std::size_t K) noexcept {
  return 8.0 * static_cast<double>(total_bytes(l)) / (static_cast<double>(N) * static_cast<double>(K));
}

/// How many times smaller than the same matrix in FP16.
constexpr double ratio_to_fp16(const byte_ledger& l, std::size_t N, std::size_t K) noexcept {
  return 16.0 / bits_per_weight(l, N, K);
}

/// The ratio to FP16 that no fixed-width code passes: 16 / bits. A greater one needs a named entropy codec.
constexpr double theoretical_ratio(const format_desc& f) noexcept { return 16.0 / static_cast<double>(f.bits); }

/// The ledger of canonical W[N, K], from the shape alone. `table_bytes`: of a table that the matrix owns.
constexpr byte_ledger canonical_ledger(const format_desc& f, std::size_t N, std::size_t K,
                                       std::size_t table_bytes = 0) noexcept {
  byte_ledger l;
  l.payload = pack::packed_bytes(N * K, f.bits);
  const std::size_t stored = f.granularity == granularity_kind::flat ? l.payload : N * pack::packed_bytes(K, f.bits);
  l.padding = stored - l.payload;
  const std::size_t groups = quant::scale_count(f, N, K);
  l.scales = groups * quant::scale_bytes(f.scale);
  if (f.scale == scale_storage::double_quant) l.scales += quant::super_scale_count(groups) * sizeof(float);
  l.zero_points = groups * quant::zero_bytes(f);
  if (const std::size_t halves = N * quant::block_scales_per_row(f, K) * sizeof(half); halves != 0) {
    const std::size_t of_scales = N * ceil_div(K, quant::super_block_k) * sizeof(half);
    l.scales += of_scales;
    l.zero_points += halves - of_scales;
  }
  l.container = table_bytes;
  return l;
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
