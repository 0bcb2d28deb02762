// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The guarded memory of the conformance kit, for kernel tests: here nobody watches, so a touch of a forbidden page stops
/// the test program at once.

#include <nibble/testing/guard_page.hpp>

namespace nibble::test {

using testing::guarded;

}  // namespace nibble::test
