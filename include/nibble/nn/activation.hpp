// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The activation functions of the MLP.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/nn/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// x/2 * (1 + erf(x / sqrt 2)). Source: Hendrycks and Gimpel 2016.
inline float gelu(float x) noexcept { return kernels::activation<isa::scalar>::gelu(x); }
/// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), the same source's approximation.
inline float gelu_tanh(float x) noexcept {
  kernels::activation<isa::scalar>::gelu_tanh(&x, 1);
  return x;
}
/// x * sigmoid(x)
inline float silu(float x) noexcept {
  kernels::activation<isa::scalar>::silu(&x, 1);
  return x;
}
/// max(x, 0); NaN stays NaN.
inline float relu(float x) noexcept { return x < 0.0f ? 0.0f : x; }

/// x[i] = f(x[i]), with the bits of the functions above.
inline void activate(activation_kind kind, float* x, std::size_t size) noexcept {
  switch (kind) {
    case activation_kind::gelu: return kernels::activation<isa::native>::gelu(x, size);
    case activation_kind::gelu_tanh: return kernels::activation<isa::native>::gelu_tanh(x, size);
    case activation_kind::silu: return kernels::activation<isa::native>::silu(x, size);
    case activation_kind::relu:
      for (std::size_t i = 0; i < size; ++i) x[i] = relu(x[i]);
      return;
  }
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
