// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Eigen for the tests: its assertions throw, in every build, and it can be forbidden to allocate. Every unit of a test
/// program that uses Eigen includes this first.

#include <stdexcept>
#include <string_view>

#ifdef EIGEN_CORE_H
#error "include support/eigen.hpp before any Eigen header"
#endif

namespace nibble::test {
struct eigen_assertion : std::logic_error {
  using std::logic_error::logic_error;
};
}  // namespace nibble::test

#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) \
  ((condition) ? static_cast<void>(0) : throw nibble::test::eigen_assertion("eigen_assert(" #condition ")"))
#include <Eigen/Core>

#include <nibble/core/error.hpp>

#include "matrices.hpp"

namespace nibble::test {

/// While it lives, an allocation by Eigen throws eigen_assertion.
class no_eigen_allocation {
 public:
  no_eigen_allocation() { Eigen::internal::set_is_malloc_allowed(false); }
  ~no_eigen_allocation() { Eigen::internal::set_is_malloc_allowed(true); }
  no_eigen_allocation(const no_eigen_allocation&) = delete;
  no_eigen_allocation& operator=(const no_eigen_allocation&) = delete;
};

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

/// Seeded normal values, the same in every storage order.
template <class Matrix = row_major>
Matrix normal_matrix(Eigen::Index rows, Eigen::Index cols, unsigned seed) {
  const auto values = normal_values(static_cast<std::size_t>(rows * cols), seed);
  return Eigen::Map<const row_major>(values.data(), rows, cols);
}

/// True when f raises nibble::error with this code and this text in its message.
template <class F>
bool raises(errc code, std::string_view text, F&& f) {
  try {
    f();
  } catch (const error& e) {
    return e.code() == code && std::string_view(e.what()).find(text) != std::string_view::npos;
  }
  return false;
}

}  // namespace nibble::test
