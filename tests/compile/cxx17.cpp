// expect: nibble needs C++20
// flags: -std=c++17 -Wfatal-errors
// SPDX-License-Identifier: MIT
#include <nibble/nibble.hpp>
