// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a number format is, as concepts. A format is a block codec: it turns one block of values into codes and
/// parameters and back. Affine and codebook formats refine that: each element is encoded and decoded on its own, given
/// the parameters of its group. Formats with two levels of scales or trellis codes are block codecs only.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// The parameters of one group, as floats whatever their storage. `zero` is the integer zero point (asymmetric), the
/// offset (asymmetric_offset), or 0.
struct group_params {
  float scale = 1.0f;
  float zero = 0.0f;
};

/// Codes and parameters of one group, codes one per byte. GroupSize 0: the group is a whole row or matrix.
template <std::uint32_t GroupSize>
struct group_block {
  group_params params;
  std::size_t count = 0;  ///< elements in use; a last group may be short
  std::conditional_t<GroupSize == 0, std::vector<std::uint8_t>, std::array<std::uint8_t, GroupSize>> codes{};
};

// clang-format 14 does not know compound requirements.
// clang-format off

/// The general contract: values to a block and back. `x` and `y` hold at most `block_elements` values (0: any number).
/// encode_block raises bad_value for NaN and infinities.
template <class P>
concept block_codec = requires(std::span<const float> x, std::span<float> y, typename P::block& b,
                               const typename P::block& cb) {
  { P::block_elements } -> std::convertible_to<std::size_t>;
  P::encode_block(x, b);
  P::decode_block(cb, y);
};

/// A format that the planes of a qmatrix can hold: it is described by a format_desc. Formats whose table is known only
/// at run time stop here.
template <class P>
concept matrix_format = requires {
  { P::format() } noexcept -> std::same_as<format_desc>;
  requires granularity<typename P::granularity>;
  requires scale_type<typename P::scale_type>;
  requires P::bits >= 2 && P::bits <= 8;
  { P::rule } -> std::convertible_to<code_rule>;
};

/// A format that encodes element by element. encode gives the stored unsigned code u in [0, 2^bits); x must be finite,
/// and the parameters are the values as stored (params_as_stored). fit is the format's own rule for finding parameters,
/// and its result is as stored. Scale 0 encodes everything as the code of value 0.
template <class P>
concept policy = block_codec<P> && matrix_format<P> &&
                 requires(float x, int u, group_params p, std::span<const float> group) {
  typename P::zero_type;
  requires std::same_as<typename P::params, group_params>;
  { P::encode(x, p) } noexcept -> std::same_as<int>;
  { P::decode(u, p) } noexcept -> std::same_as<float>;
  { P::fit(group) } noexcept -> std::same_as<group_params>;
  { P::params_as_stored(p) } noexcept -> std::same_as<group_params>;
};

// clang-format on

namespace detail {

/// encode_block and decode_block of every per-element policy.
template <class P, std::uint32_t GroupSize>
struct per_element_blocks {
  using block = group_block<GroupSize>;
  static constexpr std::size_t block_elements = GroupSize;

  static void encode_block(std::span<const float> x, block& b) {
    if (GroupSize != 0 && x.size() > GroupSize)
      core::fail(errc::bad_shape, "encode_block: ", x.size(), " values; the block holds ", GroupSize);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!is_finite(x[i])) core::fail(errc::bad_value, "encode_block: element ", i, " is ", x[i]);
    b.params = P::fit(x);
    if (!is_finite(b.params.scale) || !is_finite(b.params.zero))
      core::fail(errc::scale_overflow, "encode_block: the scale of this block does not fit its storage type");
    b.count = x.size();
    if constexpr (GroupSize == 0) b.codes.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) b.codes[i] = static_cast<std::uint8_t>(P::encode(x[i], b.params));
  }

  static void decode_block(const block& b, std::span<float> y) {
    if (y.size() != b.count) core::fail(errc::bad_shape, "decode_block: ", y.size(), " values asked of ", b.count);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = P::decode(b.codes[i], b.params);
  }
};

}  // namespace detail
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
