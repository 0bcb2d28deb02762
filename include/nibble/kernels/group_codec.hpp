// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contracts of weight quantization: parameters and codes of many groups at once, and bounds of the error of many clips.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/quant/fit.hpp>
#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/range.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// `run(codec, x, group, count, params)`: the parameters by range (quant::detail::params_for_range) of `count` whole groups
/// of `group` values that lie one after the other. A group that holds NaN or an infinity gets the scale NaN. Every ISA
/// yields the same bits.
template <class Isa>
struct fit_groups : fit_groups<typename Isa::fallback> {};

/// `run(codec, params, x, group, n, codes)`: the codes (quant::encode_group) of x[0, n), one per byte; element i belongs to
/// params[i / group]. x is finite. Every ISA yields the same codes.
template <class Isa>
struct encode_groups : encode_groups<typename Isa::fallback> {};

/// `run(table, bits, scale, codes, n, y)`: y[i] = scale * table[codes[i]], codes < 2^bits one per byte. Every ISA yields
/// the same bits.
template <class Isa>
struct decode_table : decode_table<typename Isa::fallback> {};

/// What is known of the squared errors of clips of one group's range before any is computed by the law.
struct clip_bounds {
  static constexpr std::size_t most = 64;  ///< clips
  bool known = false;
  float at_most = 0.0f;  ///< the least of the errors is no greater
  float at_least[most];  ///< the error of clip i is no less
};

/// `run(codec, range, clips, count, x, n, bounds)`: bounds of quant::detail::squared_error of x[0, n), a group of that range,
/// with the parameters of clips[0, count), count <= clip_bounds::most. They hold on every ISA and for every compiler, but
/// are not the same there: only what follows from them for certain may decide anything. bounds.known is false where the
/// kernel does not say anything.
template <class Isa>
struct bound_clips : bound_clips<typename Isa::fallback> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
