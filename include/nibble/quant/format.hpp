// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The run-time description of a number format and the erased view of a quantized matrix: what kernels see. Plain data
/// without member functions: these types may cross units that were compiled with other -m flags.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>

namespace nibble {

/// How a stored code u (unsigned, `bits` wide) becomes a value. h = 2^(bits-1), s = scale, z = the group's zero point.
enum class code_rule : std::uint8_t {
  symmetric,          ///< s * (u - h), u >= 1: -h never occurs
  symmetric_full,     ///< s * (u - h)
  mid_rise,           ///< s * (u - h + 0.5): half-step levels, no zero
  asymmetric,         ///< s * (u - z), z an integer in [0, 2^bits - 1]; importers store any byte, 2^bits among them
  asymmetric_offset,  ///< fma(s, u, z), z a float offset
  codebook,           ///< s * table[u]
};

/// Which weights share one scale.
enum class granularity_kind : std::uint8_t {
  per_tensor,   ///< one group
  per_channel,  ///< one group for each row of W[N, K] (for activations: each token)
  grouped,      ///< ceil(K / group_size) groups in each row, the last one short when K is not a multiple
  flat,         ///< blocks of group_size consecutive elements of the row-major matrix, running across rows
};

/// How scales are stored.
enum class scale_storage : std::uint8_t {
  f32,
  f16,
  bf16,
  double_quant,  ///< u8 codes into the signed dynamic map, float absmax for each 256 scales, one float offset (QLoRA)
  super_block,   ///< s8 multiples of a half that 256 weights of a row share, offsets likewise (K-quants of GGUF files)
};

/// A number format as run-time data. Kernels are templates on code width and decoder; everything here is read outside
/// their inner loops.
struct format_desc {
  code_rule rule = code_rule::symmetric;
  std::uint8_t bits = 8;  ///< 2..8
  granularity_kind granularity = granularity_kind::per_channel;
  scale_storage scale = scale_storage::f32;
  std::uint32_t group_size = 0;  ///< for grouped and flat, else 0
};

/// Quantized W[N, K] in canonical form: row-major codes, parameters in planes of their own. Owns nothing.
///
/// codes: element (n, k) is the `bits`-wide little-endian field at bit k * bits of row n (LSB first), row n begins at
/// codes + n * row_stride_bytes, row_stride_bytes >= ceil(K * bits / 8). For flat granularity there are no rows: element
/// i = n * K + k is the field at bit i * bits, and row_stride_bytes is 0.
/// scales: scale_count values of the storage type, group index g(n, k) = 0 (per_tensor), n (per_channel),
/// n * ceil(K / group_size) + k / group_size (grouped), (n * K + k) / group_size (flat).
/// zeros: one per scale; std::uint8_t zero points for `asymmetric`; for `asymmetric_offset` the scale's storage type
/// (float when the scales are double_quant); nullptr for the other rules.
/// block_scales: of super_block, B = ceil(K / 256) for each row, with offsets 2 B: a scale in k [256 b, 256 b + 256) of row n is
/// its code times half b of the row, an offset its code times half B + b.
struct quantized_view {
  format_desc format;
  std::size_t N = 0;  ///< outputs
  std::size_t K = 0;  ///< reduction length
  const std::byte* codes = nullptr;
  std::size_t row_stride_bytes = 0;
  const void* scales = nullptr;
  const void* zeros = nullptr;
  const float* super_scales = nullptr;  ///< double_quant: ceil(scale_count / 256) floats
  float scale_offset = 0.0f;            ///< double_quant: added to every scale
  const half* block_scales = nullptr;   ///< super_block
  const float* table = nullptr;         ///< codebook: 2^bits values
};

}  // namespace nibble
