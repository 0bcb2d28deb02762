// expect: scale_type
// SPDX-License-Identifier: MIT
#include <nibble/quant/affine.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr int bits =
    nibble::quant::affine<4, nibble::code_rule::symmetric, nibble::quant::per_channel, nibble::half>::bits;
#else
constexpr int bits = nibble::quant::affine<4, nibble::code_rule::symmetric, nibble::quant::per_channel, double>::bits;
#endif
