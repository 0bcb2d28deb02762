// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A view over a row-major matrix with a row stride.

#include <cstddef>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {

/// rows x cols elements, row r begins at data + r * stride (stride in elements, >= cols). Owns nothing. An aggregate; its
/// one member function is always inlined, never a symbol, so the type may cross units with other -m flags.
template <class T>
struct span2d {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;

  /// A view for writing is a view for reading.
#if defined(__GNUC__)
  __attribute__((always_inline))
#endif
  constexpr
  operator span2d<const T>() const noexcept requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride};
  }
};

inline namespace NIBBLE_ABI {

/// A dense row-major view: stride = cols.
template <class T>
constexpr span2d<T> make_span2d(T* data, std::size_t rows, std::size_t cols) noexcept {
  return {data, rows, cols, cols};
}
template <class T>
constexpr span2d<T> make_span2d(T* data, std::size_t rows, std::size_t cols, std::size_t stride) noexcept {
  return {data, rows, cols, stride};
}
template <class T>
constexpr T* row(span2d<T> s, std::size_t r) noexcept {
  return s.data + r * s.stride;
}
/// rows [first, first + count) of s.
template <class T>
constexpr span2d<T> rows_of(span2d<T> s, std::size_t first, std::size_t count) noexcept {
  return {s.data + first * s.stride, count, s.cols, s.stride};
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
