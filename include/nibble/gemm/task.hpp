// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One product of a batch, with the element types of X and Y as run-time values.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/tensor/packed_view.hpp>

namespace nibble {

/// How the numbers of X or Y are stored.
enum class element : unsigned char { f32, f16, bf16, s8 };

/// X[M, K]: row m begins at element m * stride. s8: codes in [-127, 127] of the scale gemm_options::x_scale.
struct input_ref {
  const void* data = nullptr;
  std::size_t rows = 0, cols = 0, stride = 0;
  element type = element::f32;
};

/// Y[M, N]. s8: codes rne(clamp(y / scale, -127, 127)), and -128 for NaN, which no number gets.
struct output_ref {
  void* data = nullptr;
  std::size_t rows = 0, cols = 0, stride = 0;
  element type = element::f32;
  float scale = 0.0f;  ///< of s8 only: finite and greater than 0
};

/// Y = X * transpose(W) + bias. Neighbours in a batch with the same X, the query, key and value projections of a layer,
/// share its quantization; tasks may as well have an X of their own each, the experts of a mixture, with any M, also 0.
struct gemm_task {
  input_ref X;
  packed_view W;
  output_ref Y;
  const float* bias = nullptr;  ///< [N] or nullptr
};

inline namespace NIBBLE_ABI {
namespace gemm {

template <class T>
concept element_type = std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16> ||
    std::is_same_v<T, std::int8_t>;

template <element_type T>
inline constexpr element element_of = std::is_same_v<T, float>      ? element::f32
                                      : std::is_same_v<T, half>     ? element::f16
                                      : std::is_same_v<T, bfloat16> ? element::bf16
                                                                    : element::s8;

constexpr std::size_t element_bytes(element e) noexcept { return e == element::f32 ? 4 : (e == element::s8 ? 1 : 2); }
constexpr const char* name_of(element e) noexcept {
  switch (e) {
    case element::f32: return "f32";
    case element::f16: return "f16";
    case element::bf16: return "bf16";
    case element::s8: return "s8";
  }
  return "unknown";
}

}  // namespace gemm

/// Views of float, half, bfloat16 or int8 as arguments of a task.
template <class T>
  requires gemm::element_type<std::remove_const_t<T>>
constexpr input_ref input_of(span2d<T> x) noexcept {
  return {x.data, x.rows, x.cols, x.stride, gemm::element_of<std::remove_const_t<T>>};
}
template <gemm::element_type T>
constexpr output_ref output_of(span2d<T> y, float scale = 0.0f) noexcept {
  return {y.data, y.rows, y.cols, y.stride, gemm::element_of<T>, scale};
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
