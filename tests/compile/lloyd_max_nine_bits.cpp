// expect: lloyd_max_table<Bits>: Bits must be 2..8
// SPDX-License-Identifier: MIT
#include <nibble/quant/lloyd_max.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr int bits = nibble::quant::lloyd_max_table<8>::bits;
#else
constexpr int bits = nibble::quant::lloyd_max_table<9>::bits;
#endif
