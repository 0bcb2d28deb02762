// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Items in parallel with exceptions: core::for_each_item, whose bodies must not throw, for code that may.

#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// f(item) for item in [0, items) on the caller's threads. The error of the lowest failing item is thrown again here,
/// after all items have ended.
template <class F>
void parallel_items(const context& ctx, std::size_t items, F&& f) {
  std::vector<std::exception_ptr> errors(items);
  core::for_each_item(ctx, items, [&](std::size_t item, std::size_t) {
    try {
      f(item);
    } catch (...) {
      errors[item] = std::current_exception();
    }
  });
  for (const std::exception_ptr& e : errors)
    if (e) std::rethrow_exception(e);
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
