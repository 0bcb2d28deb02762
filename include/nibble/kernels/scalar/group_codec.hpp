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
      const quant::contiguous_source source{x + g * group, group};
      params[g] = scan.finite() ? quant::detail::fit_own_rule(c, source, scan.range())
                                : quant::group_params{std::numeric_limits<float>::quiet_NaN(), 0.0f};
    }
  }
};

template <>
struct encode_groups<isa::scalar> {
  using isa_type = isa::scalar;

  explicit encode_groups(const quant::group_codec& codec) noexcept : codec_(codec) {}

  void operator()(const quant::group_params* params, const float* x, std::size_t group, std::size_t n,
                  std::uint8_t* codes) const noexcept {
    for (std::size_t i = 0; i < n; i += group, ++params)
      quant::encode_group(codec_, *params, x + i, n - i < group ? n - i : group, codes + i);
  }
  static void run(const quant::group_codec& c, const quant::group_params* params, const float* x, std::size_t group,
                  std::size_t n, std::uint8_t* codes) noexcept {
    encode_groups{c}(params, x, group, n, codes);
  }

 private:
  const quant::group_codec& codec_;
};

template <>
struct decode_groups<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                  std::size_t group, std::size_t n, float* y) noexcept {
    for (std::size_t i = 0; i < n; i += group, ++params)
      quant::decode_group(c, *params, codes + i, n - i < group ? n - i : group, y + i);
  }
};

template <>
struct clip_search<isa::scalar> {
  using isa_type = isa::scalar;

  clip_search(const quant::group_codec& codec, const float*, std::size_t count) noexcept
      : codec_(codec), count_(static_cast<int>(count)) {}

  void run(const float* x, std::size_t group, std::size_t count, quant::group_params* params) const noexcept {
    for (std::size_t g = 0; g < count; ++g, x += group) {
      quant::range_scan scan;
      scan.add(x, group);
      params[g] = scan.finite()
                      ? quant::detail::fit_mse(codec_, quant::contiguous_source{x, group}, scan.range(), count_)
                      : quant::group_params{std::numeric_limits<float>::quiet_NaN(), 0.0f};
    }
  }

  void bound(quant::value_range, const float*, std::size_t, clip_bounds& bounds) const noexcept {
    bounds.known = false;
  }
  double squared_error(quant::group_params p, const float* x, std::size_t n, double limit) const noexcept {
    return quant::detail::squared_error(codec_, quant::contiguous_source{x, n}, p, limit);
  }

 private:
  const quant::group_codec& codec_;
  int count_;
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
