// expect: user_table<Bits>: Bits must be 2..8
// SPDX-License-Identifier: MIT
#include <nibble/quant/codebook.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr int bits = nibble::quant::user_table<2>::bits;
#else
constexpr int bits = nibble::quant::user_table<1>::bits;
#endif
