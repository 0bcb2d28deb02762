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

/// What a cache stores, as floats.
///
///   bytes(codes, n, bias, scale, zero, x)   x[i] = madd(codes[i] - bias, scale, zero)
///   halves(h, n, x)                         x[i] = h[i]
template <class Isa>
struct load_cached : load_cached<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
