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

/// `run(rows, stride, K, panel)`: panel[k * 16 + j] = rows[j * stride + k] for 16 rows and k in [0, K): rows become the columns
/// of a float panel.
template <class Isa>
struct panel_of_rows : panel_of_rows<typename Isa::fallback> {};

/// `run(head, half, cosines, sines)`: rotates the pairs (i, i + half) of a head in place, i in [0, half):
/// head[i] = madd(-b, sin, a cos), head[i + half] = madd(a, sin, b cos), with one rounding a step of madd where there is FMA.
template <class Isa>
struct rotate_pairs : rotate_pairs<typename Isa::fallback> {};

/// The arguments of rotate_pairs that belong to a position; {} leaves a head as it is.
struct rotation {
  std::size_t half = 0;
  const float* cosines = nullptr;
  const float* sines = nullptr;
};

/// Memory that is wanted soon: each step of a kernel's inner loop asks for the next `step` bytes.
struct read_ahead {
  const void* from = nullptr;
  std::size_t step = 0;
};

/// What a cache stores, as floats, in x; then rotated by `turn` as rotate_pairs does. `ahead` is asked for once for each 16
/// pairs.
///
///   floats(f, n, x, turn, ahead)                         x[i] = f[i]
///   halves(h, n, x, turn, ahead)                         x[i] = h[i]
///   bytes(codes, n, bias, scale, zero, x, turn, ahead)   x[i] = madd(codes[i] - bias, scale, zero)
///   columns(codes, n, scales, zeros, x, turn, ahead)     x[i] = madd(codes[i], scales[i % 16], zeros[i % 16]): a panel of
///                                                        16 columns; n and turn.half are multiples of 16
template <class Isa>
struct load_cached : load_cached<typename Isa::fallback> {};

/// What a cache keeps of floats, beside the codes of encode_groups.
///
///   halves(x, n, h)                     h[i] = x[i], ties to even
///   bytes(x, n, scale, zero, codes)     codes[i] = clamp(rne((x[i] - zero) / scale + 128), 0, 255); scale > 0, x finite
template <class Isa>
struct store_cached : store_cached<typename Isa::fallback> {};

/// `run(x, x_stride, M, rows, row_stride, count, columns, sums, sum_stride, ahead)`:
/// sums[m * sum_stride + c] += p for m in [0, M) and c in [0, columns), p one chain of madd(x[m * x_stride + j],
/// rows[j * row_stride + c], p) from 0, j ascending in [0, count): the few rows of attention times keys or values where
/// they lie. `ahead` is asked for once for each j and 16 columns.
template <class Isa>
struct weigh_rows : weigh_rows<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
