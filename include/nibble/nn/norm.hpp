// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// RMSNorm and LayerNorm of one row, in a fixed order of operations.

#include <cmath>
#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/nn/config.hpp>
#include <nibble/quant/group_codec.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i in [0, size). y may be x. A square of a float is exact in double,
/// so the sum, in 32 lanes, has one value whether or not the compiler contracts it.
inline void rms_norm(const float* x, const float* weight, float eps, std::size_t size, float* y) noexcept {
  quant::block_sum sum;
  sum.add(x, size, [](float v) { return static_cast<double>(v) * static_cast<double>(v); });
  const auto inverse =
      static_cast<float>(1.0 / std::sqrt(sum.total() / static_cast<double>(size) + static_cast<double>(eps)));
  for (std::size_t i = 0; i < size; ++i) y[i] = x[i] * inverse * weight[i];
}

/// y[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]; variance is the mean squared deviation.
inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, std::size_t size,
                       float* y) noexcept {
  quant::block_sum sum, squares;
  sum.add(x, size, [](float v) { return static_cast<double>(v); });
  const double mean = sum.total() / static_cast<double>(size);
  squares.add(x, size, [=](float v) {
    const auto deviation = static_cast<double>(static_cast<float>(static_cast<double>(v) - mean));
    return deviation * deviation;  // exact product
  });
  const auto inverse =
      static_cast<float>(1.0 / std::sqrt(squares.total() / static_cast<double>(size) + static_cast<double>(eps)));
  for (std::size_t i = 0; i < size; ++i)
    y[i] = multiply_add(static_cast<float>(static_cast<double>(x[i]) - mean) * inverse, weight[i], bias[i]);
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
