// expect: flat<B>: B must be a multiple of 8 in 8..4096
// SPDX-License-Identifier: MIT
#include <nibble/quant/granularity.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr auto size = nibble::quant::flat<64>::group_size;
#else
constexpr auto size = nibble::quant::flat<12>::group_size;
#endif
