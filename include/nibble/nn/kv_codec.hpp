// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The two 8-bit forms of a key or value vector. Source: LMDeploy's TurboMind.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/range.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// Online form: the two floats stored with the codes of one head and token; x' = code * scale + zero.
struct kv_online_params {
  float scale = 0.0f;
  float zero = 0.0f;
};

/// codes[i] = rne((x[i] - p.zero) / p.scale), clamped to 0..255; p.scale is not 0.
template <class Isa>
void encode_kv_codes(const float* x, std::size_t n, kv_online_params p, std::uint8_t* codes) noexcept {
  // The codes of an asymmetric format with a float offset.
  static constexpr quant::group_codec codec{
      {code_rule::asymmetric_offset, 8, granularity_kind::per_tensor, scale_storage::f32, 0}, {}};
  const quant::group_params params{p.scale, p.zero};
  kernels::encode_groups<Isa>::run(codec, &params, x, n, n, codes);
}

#if NIBBLE_EXTERN_KERNELS  // see nn/instantiate.hpp
extern template void encode_kv_codes<isa::native>(const float*, std::size_t, kv_online_params, std::uint8_t*) noexcept;
#endif

/// scale = (max - min) / 255, zero = min, code = rne((x - min) / scale). |x' - x| <= scale / 2 and a few roundings. A
/// constant vector has scale 0 and comes back exactly; one that holds NaN or an infinity, or spans more than the largest
/// float, comes back as NaN as a whole.
inline kv_online_params encode_kv_online(std::span<const float> x, std::uint8_t* codes) noexcept {
  quant::range_scan scan;
  scan.add(x.data(), x.size());
  const bool finite = scan.finite();
  const float low = finite ? scan.range().lo : 0.0f, high = finite ? scan.range().hi : 0.0f;
  const float range = high - low;
  if (!finite || !is_finite(range)) {
    std::fill_n(codes, x.size(), std::uint8_t{0});
    return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  }
  const float scale = range / 255.0f;
  // A range below 255 times the least subnormal has scale 0 too: the vector is then constant to within 2e-43.
  if (scale == 0.0f) {
    std::fill_n(codes, x.size(), std::uint8_t{0});
    return {0.0f, low};
  }
  encode_kv_codes<isa::native>(x.data(), x.size(), {scale, low}, codes);
  return {scale, low};
}
inline void decode_kv_online(const std::uint8_t* codes, kv_online_params p, std::span<float> x) noexcept {
  kernels::load_cached<isa::native>::bytes(codes, x.size(), 0, p.scale, p.zero, x.data());
}

/// Offline form: one pair for all keys of a layer, one for all its values. x' = (byte - 128) * scale + zero_point.
struct kv_static_params {
  float scale = 0.0f;
  float zero_point = 0.0f;  ///< a float, the middle of the range; 0 when symmetric
};
/// The four numbers of a layer in the order of TurboMind's files.
struct kv_static_scales {
  kv_static_params k, v;
};

/// Asymmetric: scale = (high - low) / 255, zero_point = (high + low) / 2.
inline kv_static_params fit_kv_asymmetric(float low, float high) noexcept {
  return {(high - low) / 255.0f, (high + low) * 0.5f};
}
/// Symmetric: scale = absmax / 127, zero_point = 0.
inline kv_static_params fit_kv_symmetric(float absmax) noexcept { return {absmax / 127.0f, 0.0f}; }

/// byte = clamp(rne((x - zero_point) / scale + 128), 0, 255); scale 0 stores 128. x is finite. Values inside the fitted
/// range come back within scale / 2; at the very maximum of an asymmetric range, whose code +127.5 is clamped, the error
/// is scale / 2 itself.
inline void encode_kv_static(std::span<const float> x, kv_static_params p, std::uint8_t* codes) noexcept {
  if (p.scale == 0.0f) std::fill_n(codes, x.size(), std::uint8_t{128});
  else kernels::store_cached<isa::native>::bytes(x.data(), x.size(), p.scale, p.zero_point, codes);
}
inline void decode_kv_static(const std::uint8_t* codes, kv_static_params p, std::span<float> x) noexcept {
  kernels::load_cached<isa::native>::bytes(codes, x.size(), 128, p.scale, p.zero_point, x.data());
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
