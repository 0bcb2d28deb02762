// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How scales are stored, and the value that storing leaves: codes are chosen against that value, not the fitted one.

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/format.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// Storage tag: scales are 8-bit codes into the signed dynamic map (quant/double_quant.hpp).
struct double_quant {};
/// Storage tag: scales are whole multiples of a half for each 256 weights of a row (quant/super_block.hpp).
struct super_block {};

template <class T>
concept scale_type = std::same_as<T, float> || std::same_as<T, half> || std::same_as<T, bfloat16> ||
    std::same_as<T, double_quant> || std::same_as<T, super_block>;

template <scale_type T>
inline constexpr scale_storage storage_of = std::is_same_v<T, float>          ? scale_storage::f32
                                            : std::is_same_v<T, half>         ? scale_storage::f16
                                            : std::is_same_v<T, bfloat16>     ? scale_storage::bf16
                                            : std::is_same_v<T, double_quant> ? scale_storage::double_quant
                                                                              : scale_storage::super_block;

/// True when scales stand on two levels: they are fitted first, all of them, then quantized themselves.
constexpr bool has_two_levels(scale_storage s) noexcept {
  return s == scale_storage::double_quant || s == scale_storage::super_block;
}

/// Bytes of one stored scale.
constexpr std::size_t scale_bytes(scale_storage s) noexcept {
  switch (s) {
    case scale_storage::f32: return 4;
    case scale_storage::f16:
    case scale_storage::bf16: return 2;
    case scale_storage::double_quant:
    case scale_storage::super_block: return 1;
  }
  return 0;
}

/// Bytes of one stored zero point or offset; 0 for rules that have none.
constexpr std::size_t zero_bytes(const format_desc& f) noexcept {
  if (f.rule == code_rule::asymmetric) return 1;
  if (f.rule != code_rule::asymmetric_offset) return 0;
  return f.scale == scale_storage::double_quant ? 4 : scale_bytes(f.scale);
}

/// The stored value nearest to x, ties to even; infinite when x overflows the storage type. Storage on two levels looks at
/// many scales together, so alone a scale passes unchanged.
constexpr float as_stored(scale_storage s, float x) noexcept {
  switch (s) {
    case scale_storage::f16: return to_float(to_half(x));
    case scale_storage::bf16: return to_float(to_bfloat16(x));
    case scale_storage::f32:
    case scale_storage::double_quant:
    case scale_storage::super_block: break;
  }
  return x;
}

/// The neighbour of the stored value x on the side away from zero (`up`) or towards it; x > 0 and finite.
constexpr float stored_neighbour(scale_storage s, float x, bool up) noexcept {
  const int step = up ? 1 : -1;
  switch (s) {
    case scale_storage::f16: return to_float(half{static_cast<std::uint16_t>(to_half(x).bits + step)});
    case scale_storage::bf16: return to_float(bfloat16{static_cast<std::uint16_t>(to_bfloat16(x).bits + step)});
    case scale_storage::f32:
    case scale_storage::double_quant:
    case scale_storage::super_block: break;
  }
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) + static_cast<std::uint32_t>(step));
}

/// The greatest stored value <= x (minus infinity when there is none).
constexpr float stored_at_most(scale_storage s, float x) noexcept {
  const float r = as_stored(s, x);
  if (!(r > x)) return r;
  if (r > 0.0f) return stored_neighbour(s, r, false);
  if (r < 0.0f) return -stored_neighbour(s, -r, true);
  // x is negative and rounded to zero: the storage type's least magnitude.
  return s == scale_storage::f16 ? -0x1p-24f : -0x1p-133f;
}

static_assert(as_stored(scale_storage::f16, 1.0f + 0x1p-11f) == 1.0f);
static_assert(stored_at_most(scale_storage::f16, 1.0f - 0x1p-20f) == 1.0f - 0x1p-11f);
static_assert(stored_at_most(scale_storage::f16, -1.0f - 0x1p-20f) == -1.0f - 0x1p-10f);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
