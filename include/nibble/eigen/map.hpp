// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Eigen matrices and maps as row-major spans, without a copy where their strides allow it.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include <Eigen/Core>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace eigen {

/// Rows that lie one after the other: what copies are made of.
using row_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Expressions that are memory: matrices, maps, blocks and their transposes.
template <class D>
inline constexpr bool has_memory = (static_cast<unsigned>(D::Flags) & Eigen::DirectAccessBit) != 0;

namespace detail {

template <class D>
constexpr void require_float() {
  static_assert(std::is_same_v<typename D::Scalar, float>,
                "nibble multiplies and quantizes floats: use .cast<float>()");
}

/// The memory of m as rows, or nothing. Looked at when the program runs: a column-major matrix of a single row or column,
/// or a map whose inner stride happens to be 1, is as good as a row-major one.
template <class T, class M>
std::optional<span2d<T>> in_place(M& m) {
  require_float<M>();
  if constexpr (has_memory<M>) {
    if (m.cols() > 1 && m.colStride() != 1) return std::nullopt;
    if (m.rows() > 1 && m.rowStride() < m.cols()) return std::nullopt;
    const auto rows = static_cast<std::size_t>(m.rows()), cols = static_cast<std::size_t>(m.cols());
    return span2d<T>{m.data(), rows, cols, rows > 1 ? static_cast<std::size_t>(m.rowStride()) : cols};
  }
  return std::nullopt;
}

template <class T, class M>
span2d<T> span_or_fail(M& m) {
  if (const auto span = in_place<T>(m)) return *span;
  core::fail(
      errc::unsupported_layout, "eigen: a ", m.rows(), " x ", m.cols(),
      " expression whose rows do not lie one after the other in memory has no span2d; copy it to a row-major matrix");
}

}  // namespace detail

/// The rows of a matrix, map or block as a span2d: row-major with inner stride 1, whatever its outer stride; vectors and
/// matrices of one row or column count too. Throws unsupported_layout for other memory, and for expressions, which have
/// none. Refers to the matrix; for the functions of the core library.
template <class D>
span2d<const float> as_span(const Eigen::DenseBase<D>& m) {
  return detail::span_or_fail<const float>(m.derived());
}
/// The same for writing.
template <class D>
  requires((static_cast<unsigned>(D::Flags) & Eigen::LvalueBit) != 0)
span2d<float> as_span(Eigen::DenseBase<D>& m) { return detail::span_or_fail<float>(m.derived()); }

/// The values of an expression as rows: in place where as_span allows it, else as a row-major copy that lives as long as
/// this object.
class readable_rows {
 public:
  template <class D>
  explicit readable_rows(const Eigen::DenseBase<D>& m) {
    if (const auto span = detail::in_place<const float>(m.derived())) {
      span_ = *span;
      return;
    }
    copy_ = m.derived();
    span_ = as_span(copy_);
    copied_ = true;
  }
  readable_rows(const readable_rows&) = delete;
  readable_rows& operator=(const readable_rows&) = delete;

  span2d<const float> span() const noexcept { return span_; }
  bool copied() const noexcept { return copied_; }

 private:
  row_matrix copy_;
  span2d<const float> span_;
  bool copied_ = false;
};

namespace detail {

/// True when writing to `out` may change `in`.
template <class D>
bool may_overlap(span2d<const float> in, const D& out) noexcept {
  if constexpr (has_memory<D>) {
    if (in.rows == 0 || in.cols == 0 || out.size() == 0) return false;
    if (out.rowStride() < 0 || out.colStride() < 0) return true;
    const auto a = reinterpret_cast<std::uintptr_t>(in.data), b = reinterpret_cast<std::uintptr_t>(out.data());
    const std::uintptr_t a_end = a + ((in.rows - 1) * in.stride + in.cols) * sizeof(float);
    const auto last = (out.rows() - 1) * out.rowStride() + (out.cols() - 1) * out.colStride();
    const std::uintptr_t b_end = b + (static_cast<std::uintptr_t>(last) + 1) * sizeof(float);
    return a < b_end && b < a_end;
  }
  return false;  // written through a temporary
}

/// Gives `out` the shape rows x cols if it has another one and can change; false if it cannot.
template <class D>
bool fit_shape(D& out, Eigen::Index rows, Eigen::Index cols) {
  if (out.rows() == rows && out.cols() == cols) return true;
  constexpr auto allows = [](Eigen::Index exact, Eigen::Index most, Eigen::Index n) {
    return (exact == Eigen::Dynamic || exact == n) && (most == Eigen::Dynamic || n <= most);
  };
  if constexpr (std::is_base_of_v<Eigen::PlainObjectBase<D>, D>) {
    if (!allows(D::RowsAtCompileTime, D::MaxRowsAtCompileTime, rows)) return false;
    if (!allows(D::ColsAtCompileTime, D::MaxColsAtCompileTime, cols)) return false;
    out.resize(rows, cols);
    return true;
  }
  return false;
}
template <class D>
bool fit_shape(Eigen::Transpose<D>& out, Eigen::Index rows, Eigen::Index cols) {
  return fit_shape(out.nestedExpression(), cols, rows);
}

}  // namespace detail
}  // namespace eigen
}  // namespace NIBBLE_ABI
}  // namespace nibble
