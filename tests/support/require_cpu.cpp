// SPDX-License-Identifier: MIT
//
// Linked into each test program that is compiled for one ISA; NIBBLE_TEST_NEEDS names its CPU features. Runs before the
// static objects of those units are made, which may already use the ISA's instructions. Compiled without any -m flag.

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "cpu.hpp"

namespace {

constexpr int skip_return_code = 77;  // SKIP_RETURN_CODE in tests/CMakeLists.txt

// Priorities up to 100 belong to the implementation; objects without a priority come last.
[[gnu::constructor(101)]] void require_cpu() {
  const std::string_view missing = nibble::test::missing_feature(NIBBLE_TEST_NEEDS);
  if (missing.empty()) return;
  std::printf("skipped: this CPU has no %.*s\n", static_cast<int>(missing.size()), missing.data());
  std::fflush(stdout);
  std::_Exit(skip_return_code);
}

}  // namespace
