// expect: round_to: float, half or bfloat16
// SPDX-License-Identifier: MIT
#include <nibble/core/half.hpp>

#ifdef NIBBLE_MUST_COMPILE
nibble::half x = nibble::round_to<nibble::half>(1.0f);
#else
int x = nibble::round_to<int>(1.0f);
#endif
