// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contracts of weight quantization: parameters, codes and values of many groups at once, and the errors of many clips.

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

/// `run(codec, x, group, count, params)`: the parameters by the format's own rule (quant::detail::fit_own_rule) of `count` whole groups
/// of `group` values that lie one after the other. A group that holds NaN or an infinity gets the scale NaN. Every ISA
/// yields the same bits.
template <class Isa>
struct fit_groups : fit_groups<typename Isa::fallback> {};

/// What is asked for the codes of one format; made once, used for many groups, by several threads at a time.
///
///   encode_groups(codec)                           refers to the codec
///   operator()(params, x, group, n, codes)         the codes (quant::encode_group) of x[0, n), one per byte; element i belongs
///                                                  to params[i / group]. x is finite. Every ISA yields the same codes
///   run(codec, params, x, group, n, codes)         both, for a single call
template <class Isa>
struct encode_groups : encode_groups<typename Isa::fallback> {
  using encode_groups<typename Isa::fallback>::encode_groups;
};

/// `run(codec, params, codes, group, n, y)`: the values (quant::decode_group) of codes[0, n), one per byte; code i belongs to
/// params[i / group]. Every ISA yields the same bits.
template <class Isa>
struct decode_groups : decode_groups<typename Isa::fallback> {};

/// What is known of the squared errors of clips of one group's range before any is computed by the law.
struct clip_bounds {
  static constexpr std::size_t most = 64;  ///< clips
  bool known = false;
  float at_most = 0.0f;    ///< the least of the errors is no greater
  float at_least[most];    ///< the error of clip i is no less
  std::uint64_t open = 0;  ///< bit i: at_least[i] is not above at_most
  quant::detail::open_clips open_clips() const noexcept { return {known, open}; }
};

/// What mse_search asks about the groups of one format; made once, used for many groups, by several threads at a time.
///
///   clip_search(codec, clips, count)   the search among clips[0, count), count <= clip_bounds::most; refers to the codec
///   run(x, group, count, params)       the parameters by mse_search (quant::detail::fit_mse) of `count` whole groups of
///                                      `group` values that lie one after the other, where the clips are those of
///                                      quant::detail::clip_at. A group that holds NaN or an infinity gets the scale NaN.
///                                      The same bits on every ISA
///   bound(range, x, n, bounds)         bounds of quant::detail::squared_error of x[0, n), a group of that range, with the
///                                      parameters of each clip. They hold on every ISA and for every compiler, but are not
///                                      the same there: only what follows from them for certain may decide anything.
///                                      bounds.known is false where the kernel does not say anything
///   squared_error(params, x, n, limit) quant::detail::squared_error itself, the same bits on every ISA
template <class Isa>
struct clip_search : clip_search<typename Isa::fallback> {
  using clip_search<typename Isa::fallback>::clip_search;
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
