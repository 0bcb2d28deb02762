// expect: Rule must be one of the affine code rules
// SPDX-License-Identifier: MIT
#include <nibble/quant/affine.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr auto format = nibble::quant::affine<4, nibble::code_rule::mid_rise, nibble::quant::per_channel>::format();
#else
constexpr auto format = nibble::quant::affine<4, nibble::code_rule::codebook, nibble::quant::per_channel>::format();
#endif
