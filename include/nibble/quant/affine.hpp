// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Uniform codes: a value is a scale times an integer (or half-integer) step, perhaps shifted.
///
///   rule               value of code u, h = 2^(bits-1)   range that min-max fits   scale
///   symmetric          s * (u - h), u in [1, 2h-1]       [-a, a], a = max |x|      a / (h - 1)
///   symmetric_full     s * (u - h), u in [0, 2h-1]       [-a, a]                   a / (h - 1)
///   mid_rise           s * (u - h + 0.5)                 [-a, a]                   a / h
///   asymmetric         s * (u - z)                       [min(0, x), max(0, x)]    range / (2h - 1)
///   asymmetric_offset  fma(s, u, z)                      [min x, max x]            range / (2h - 1)
///
/// Codes: x / s (IEEE division), shifted by the rule, clamped, rounded half to even. Source: Jacob et al. 2018, eq. 1.

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/range.hpp>
#include <nibble/quant/scale.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// h = 2^(bits-1): the stored code of step 0 in the signed rules.
constexpr int code_bias(int bits) noexcept { return 1 << (bits - 1); }

namespace detail {

/// The clamp bounds of a rule, in steps, and what is added to a rounded step to get the stored code.
struct step_bounds {
  float lo, hi;
  int bias;
};
template <code_rule Rule>
constexpr step_bounds bounds_of(int bits, float zero) noexcept {
  const int h = code_bias(bits), top = 2 * h - 1;
  if constexpr (Rule == code_rule::symmetric) return {static_cast<float>(1 - h), static_cast<float>(h - 1), h};
  if constexpr (Rule == code_rule::symmetric_full || Rule == code_rule::mid_rise)
    return {static_cast<float>(-h), static_cast<float>(h - 1), h};
  if constexpr (Rule == code_rule::asymmetric) return {-zero, static_cast<float>(top) - zero, static_cast<int>(zero)};
  return {0.0f, static_cast<float>(top), 0};
}

/// x in steps, unclamped and unrounded. Differences and quotients only: nothing a compiler may fuse.
template <code_rule Rule>
constexpr float steps_of(float x, float scale, float zero) noexcept {
  if constexpr (Rule == code_rule::mid_rise) return x / scale - 0.5f;
  if constexpr (Rule == code_rule::asymmetric_offset) return (x - zero) / scale;
  return x / scale;
}

}  // namespace detail

/// The stored code whose value is exactly 0 when the scale is 0. (mid_rise has no zero level; its value with scale 0 is.)
constexpr int zero_code(code_rule rule, int bits, float zero) noexcept {
  if (rule == code_rule::asymmetric) return static_cast<int>(zero);
  return rule == code_rule::asymmetric_offset ? 0 : code_bias(bits);
}

/// The stored code of a finite x.
template <code_rule Rule>
constexpr int affine_code(float x, int bits, group_params p) noexcept {
  if (p.scale == 0.0f) return zero_code(Rule, bits, p.zero);
  const detail::step_bounds b = detail::bounds_of<Rule>(bits, p.zero);
  float t = detail::steps_of<Rule>(x, p.scale, p.zero);
  t = t < b.lo ? b.lo : t;
  t = t > b.hi ? b.hi : t;
  return round_half_even(t) + b.bias;
}

/// The value of a stored code: one multiplication, or one fused multiply-add for asymmetric_offset.
template <code_rule Rule>
constexpr float affine_value(int u, int bits, group_params p) noexcept {
  if constexpr (Rule == code_rule::asymmetric_offset) return __builtin_fmaf(p.scale, static_cast<float>(u), p.zero);
  if constexpr (Rule == code_rule::asymmetric) return p.scale * (static_cast<float>(u) - p.zero);
  if constexpr (Rule == code_rule::mid_rise) return p.scale * (static_cast<float>(u - code_bias(bits)) + 0.5f);
  return p.scale * static_cast<float>(u - code_bias(bits));
}

namespace detail {

/// `scale` as stored: the nearest stored value, moved up by one unit where `reach` steps, half a step beyond the grid, do
/// not cover `range` (half and bfloat16 round by up to 2^-9, subnormals by more): no value is clipped by more than half a
/// step. Then moved down while `steps * scale`, the greatest magnitude, overflows. A scale that rounds to 0 stays 0; one
/// that overflows its storage becomes infinite.
constexpr float store_scale(scale_storage storage, float scale, float range, float reach, float steps) noexcept {
  float s = as_stored(storage, scale);
  if (s == 0.0f || !is_finite(s)) return s;
  if (static_cast<double>(s) * static_cast<double>(reach) < static_cast<double>(range))
    s = stored_neighbour(storage, s, true);
  while (is_finite(s) && !is_finite(s * steps)) s = stored_neighbour(storage, s, false);
  return s;
}

}  // namespace detail

/// The parameters, as stored, that spread the codes of a rule over [range.lo, range.hi]. Symmetric rules use the greater
/// magnitude of the two, `asymmetric` extends the range to hold 0. A scale or offset that overflows its storage type is
/// returned as infinity. Error inside the range: at most half a step.
constexpr group_params affine_params(code_rule rule, int bits, scale_storage storage, value_range range) noexcept {
  const int h = code_bias(bits), top = 2 * h - 1;
  const double levels = static_cast<double>(top);
  switch (rule) {
    case code_rule::asymmetric: {
      const float lo = range.lo < 0.0f ? range.lo : 0.0f, hi = range.hi > 0.0f ? range.hi : 0.0f;
      // In double: hi - lo may exceed the greatest float, hi - lo over 3 or more steps cannot.
      const double width = static_cast<double>(hi) - static_cast<double>(lo);
      float s = detail::store_scale(storage, static_cast<float>(width / levels), 0.0f, 0.0f, 0.0f);
      if (s == 0.0f || !is_finite(s)) return {s, 0.0f};
      const auto zero_point = [&] {
        const float z = -lo / s;
        return round_half_even_f(z > static_cast<float>(top) ? static_cast<float>(top) : z);
      };
      float z = zero_point();
      const double step = static_cast<double>(s), down = static_cast<double>(z), up = levels - down;
      if (static_cast<double>(hi) > (up + 0.5) * step || -static_cast<double>(lo) > (down + 0.5) * step) {
        s = stored_neighbour(storage, s, true);
        z = zero_point();
      }
      const float most = z >= static_cast<float>(h) ? z : static_cast<float>(top) - z;
      while (!is_finite(s * most)) s = stored_neighbour(storage, s, false);
      return {s, z};
    }
    case code_rule::asymmetric_offset: {
      const float z = stored_at_most(storage, range.lo);
      const float width = range.hi - z;  // infinite when the range exceeds the greatest float: reported as overflow
      const float steps = static_cast<float>(top);
      float s = detail::store_scale(storage, width / steps, width, steps + 0.5f, 0.0f);
      constexpr double overflow = 0x1.ffffffp127;  // what rounds to infinity
      while (is_finite(s) && static_cast<double>(s) * levels + static_cast<double>(z) >= overflow)
        s = stored_neighbour(storage, s, false);
      return {s, z};
    }
    default: break;
  }
  const float a = greatest_magnitude(range);
  const float half_levels = static_cast<float>(h);
  if (rule == code_rule::mid_rise)
    return {detail::store_scale(storage, a / half_levels, a, half_levels, half_levels - 0.5f), 0.0f};
  const float qmax = half_levels - 1.0f;
  return {detail::store_scale(storage, a / qmax, a, qmax + 0.5f, qmax), 0.0f};
}

/// Affine codes of 2..8 bits as a policy.
template <int Bits, code_rule Rule, granularity Granularity, scale_type Scale = float>
struct affine : detail::per_element_blocks<affine<Bits, Rule, Granularity, Scale>, Granularity::group_size> {
  static_assert(Bits >= 2 && Bits <= 8, "affine<Bits, ...>: Bits must be 2..8");
  static_assert(Rule < code_rule::codebook, "affine<Bits, Rule, ...>: Rule must be one of the affine code rules");

  using granularity = Granularity;
  using scale_type = Scale;
  /// What the plane of zeros holds: u8 zero points, offsets in the scale's type (float for double_quant, s8 multiples for
  /// super_block), or nothing.
  using zero_type = std::conditional_t<
      Rule == code_rule::asymmetric, std::uint8_t,
      std::conditional_t<
          Rule != code_rule::asymmetric_offset, void,
          std::conditional_t<std::is_same_v<Scale, double_quant>, float,
                             std::conditional_t<std::is_same_v<Scale, super_block>, std::int8_t, Scale>>>>;
  using params = group_params;
  static constexpr int bits = Bits;
  static constexpr code_rule rule = Rule;

  static constexpr format_desc format() noexcept {
    return {Rule, static_cast<std::uint8_t>(Bits), Granularity::kind, storage_of<Scale>, Granularity::group_size};
  }
  static constexpr int encode(float x, params p) noexcept { return affine_code<Rule>(x, Bits, p); }
  static constexpr float decode(int u, params p) noexcept { return affine_value<Rule>(u, Bits, p); }
  static constexpr params params_as_stored(params p) noexcept {
    p.scale = as_stored(storage_of<Scale>, p.scale);
    if constexpr (Rule == code_rule::asymmetric_offset) p.zero = as_stored(storage_of<Scale>, p.zero);
    return p;
  }
  /// Min-max; scale 1 for an empty group.
  static constexpr params fit(std::span<const float> group) noexcept {
    if (group.empty()) return {};
    range_scan scan;
    scan.add(group.data(), group.size());
    return affine_params(Rule, Bits, storage_of<Scale>, scan.range());
  }
};

static_assert(policy<affine<8, code_rule::symmetric, per_channel>>);
static_assert(affine<8, code_rule::symmetric, per_channel>::encode(2.5f, {.scale = 1.0f}) == 128 + 2);
// Two bits at full range with scale absmax: ternary, threshold absmax / 2; -absmax itself is -1, not -2.
static_assert(affine<2, code_rule::symmetric_full, per_channel>::encode(-3.0f, {.scale = 3.0f}) == 1);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
