// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contracts of attention: what happens to keys and values between the cache and the panel kernels.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/isa/tags.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// `run(head, half, cosines, sines)`: rotates the pairs (i, i + half) of a head in place, i in [0, half):
/// head[i] = madd(-b, sin, a cos), head[i + half] = madd(a, sin, b cos), with one rounding a step of madd where there is FMA.
template <class Isa>
struct rotate_pairs : rotate_pairs<typename Isa::fallback> {};

/// What a cache stores, as floats, in x[0, n).
///
///   halves(h, n, x)                     x[i] = h[i]
///   bytes(codes, n, bias, scale, zero, x)   x[i] = madd(codes[i] - bias, scale, zero)
template <class Isa>
struct load_cached : load_cached<typename Isa::fallback> {};

/// What a cache keeps of floats, beside the codes of encode_groups.
///
///   halves(x, n, h)                     h[i] = x[i], ties to even
///   bytes(x, n, scale, zero, codes)     codes[i] = clamp(rne((x[i] - zero) / scale + 128), 0, 255); scale > 0, x finite
template <class Isa>
struct store_cached : store_cached<typename Isa::fallback> {};

/// A panel of 16 keys in rows of 16, [K][16], and the queries that look at it.
struct score_call {
  std::size_t K = 0;
  std::size_t pairs = 0;           ///< the pairs of rows (i, i + pairs) are rotated, i in [0, pairs); 2 * pairs <= K
  const float* angles = nullptr;   ///< [pairs][2][16]: of each pair the cosines of the 16 keys, then their sines
  const float* queries = nullptr;  ///< [M][K], rotated already; rows query_stride apart
  std::size_t query_stride = 0, M = 0;
  float* scores = nullptr;  ///< [M][16], rows score_stride apart
  std::size_t score_stride = 0;
  float* work = nullptr;        ///< [K][16]: room for the rotated keys
  const void* ahead = nullptr;  ///< K rows of the same form that are wanted next; nullptr: none
};

/// scores[m][j] = one chain of madd(query, key, s) from 0 over i in [0, pairs), the rotated rows i and i + pairs after each
/// other, then over the rows [2 * pairs, K). Rotation is that of rotate_pairs. `work` is written where there are more queries
/// than a tile has rows.
///
///   floats(call, f)                         key[d][j] = f[d * 16 + j]
///   halves(call, h)                         key[d][j] = h[d * 16 + j]
///   bytes(call, codes, bias, scale, zero)   key[d][j] = madd(codes[d * 16 + j] - bias, scale, zero)
///   columns(call, codes, scales, zeros)     key[d][j] = madd(codes[d * 16 + j], scales[j], zeros[j])
template <class Isa>
struct score_keys : score_keys<typename Isa::fallback> {};

/// Values as a cache stores them: blocks of 32 slots, [columns / 16][32][16]. Rows of 16 columns lie next to each other as
/// the tiles of weigh_rows want them, and a block is one stream from memory.
inline constexpr std::size_t value_slots = 32;

/// `run(x, x_stride, M, rows, count, columns, sums, sum_stride)`: sums[m * sum_stride + c] += p for m in [0, M) and c in [0,
/// columns), a multiple of 16; p one chain of madd(x[m * x_stride + j], value(j, c), p) from 0, j ascending in [0, count).
/// value(j, c) is that of rows[j][c / 16 * 512 + c % 16]: a float, a half, or a byte's code. The block after that of rows[0] is
/// asked for meanwhile.
template <class Isa>
struct weigh_rows : weigh_rows<typename Isa::fallback> {};

/// `run(w, n, scales, zeros, lanes)`, n <= 32: lanes[i] = madd(w[i], zeros[i], lanes[i]), then w[i] *= scales[i]. So the weights
/// of values code * scale + zero become weights of codes, and what they lack is the sum of the lanes.
template <class Isa>
struct scale_weights : scale_weights<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
