// SPDX-License-Identifier: MIT
//
// Exit status 0 when this CPU has the features that NIBBLE_TEST_NEEDS names. CMake runs it to choose what to compile.

#include "cpu.hpp"

int main() { return nibble::test::missing_feature(NIBBLE_TEST_NEEDS).empty() ? 0 : 1; }
