// expect: grouped<G>: G must be a positive multiple of 4
// SPDX-License-Identifier: MIT
#include <nibble/quant/granularity.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr auto size = nibble::quant::grouped<12>::group_size;
#else
constexpr auto size = nibble::quant::grouped<3>::group_size;
#endif
