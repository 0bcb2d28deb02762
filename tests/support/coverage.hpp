// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Which ISA's kernels a test run really executed. The test `isa-coverage` runs after all others and fails when a tier
/// that this machine's CPU has was covered by none of them.

#include <string_view>
#include <type_traits>

#include <nibble/isa/detect.hpp>

/// Notes that a kernel of the ISA ran (defined in tests/main.cpp, which is compiled without -m flags).
void nibble_test_record_covered(std::string_view isa_name);

namespace nibble::test {

/// True when the kernel does its work with `Isa` itself, not with a fallback, and this CPU runs it; notes it as covered.
/// A test asks at its beginning and returns when the answer is false.
template <class Kernel, class Isa>
bool covers() {
  if constexpr (std::is_same_v<typename Kernel::isa_type, Isa>) {
    if (!isa::runs_here<Isa>()) return false;
    nibble_test_record_covered(Isa::name);
    return true;
  } else {
    return false;
  }
}

}  // namespace nibble::test
