// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weight quantization in plain C++: the functions of quant/, group by group.

#include <limits>

#include <nibble/kernels/group_codec.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct fit_groups<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const quant::group_codec& c, const float* x, std::size_t group, std::size_t count,
                  quant::group_params* params) noexcept {
    for (std::size_t g = 0; g < count; ++g) {
      quant::range_scan scan;
      scan.add(x + g * group, group);
      params[g] = scan.finite() ? quant::detail::params_for_range(c, scan.range())
                                : quant::group_params{std::numeric_limits<float>::quiet_NaN(), 0.0f};
    }
  }
};

template <>
struct encode_groups<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const quant::group_codec& c, const quant::group_params* params, const float* x, std::size_t group,
                  std::size_t n, std::uint8_t* codes) noexcept {
    for (std::size_t i = 0; i < n; i += group, ++params)
      quant::encode_group(c, *params, x + i, n - i < group ? n - i : group, codes + i);
  }
};

template <>
struct decode_table<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const float* table, int, float scale, const std::uint8_t* codes, std::size_t n, float* y) noexcept {
    for (std::size_t i = 0; i < n; ++i) y[i] = scale * table[codes[i]];
  }
};

template <>
struct bound_clips<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const quant::group_codec&, quant::value_range, const float*, std::size_t, const float*, std::size_t,
                  clip_bounds& bounds) noexcept {
    bounds.known = false;
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
