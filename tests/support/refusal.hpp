// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a call that must fail says.

#include <string>
#include <string_view>

#include <nibble/core/error.hpp>

namespace nibble::test {

/// Code and message of the error that a call raises; ok when it raises none.
struct refusal {
  errc code = errc::ok;
  std::string message;
  bool says(std::string_view part) const { return message.find(part) != std::string::npos; }
};

template <class F>
refusal refusal_of(F&& f) {
  try {
    f();
    return {};
  } catch (const error& e) {
    return {e.code(), e.what()};
  }
}

}  // namespace nibble::test
