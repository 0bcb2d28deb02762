// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// RMSNorm and LayerNorm of one row, in a fixed order of operations.

#include <cmath>
#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/nn/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i in [0, size). y may be x. A square of a float is exact in double,
/// so the sum has one value whether or not the compiler contracts it.
inline void rms_norm(const float* x, const float* weight, float eps, std::size_t size, float* y) noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const auto inverse = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(size) + static_cast<double>(eps)));
  for (std::size_t i = 0; i < size; ++i) y[i] = x[i] * inverse * weight[i];
}

/// y[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]; variance is the mean squared deviation.
inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, std::size_t size,
                       float* y) noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < size; ++i) sum += static_cast<double>(x[i]);
  const double mean = sum / static_cast<double>(size);
  double squares = 0.0;
  for (std::size_t i = 0; i < size; ++i) {
    const auto deviation = static_cast<double>(static_cast<float>(static_cast<double>(x[i]) - mean));
    squares += deviation * deviation;  // exact product
  }
  const auto inverse =
      static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(size) + static_cast<double>(eps)));
  for (std::size_t i = 0; i < size; ++i)
    y[i] = multiply_add(static_cast<float>(static_cast<double>(x[i]) - mean) * inverse, weight[i], bias[i]);
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
