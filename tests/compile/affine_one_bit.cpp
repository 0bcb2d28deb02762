// expect: affine<Bits, ...>: Bits must be 2..8
// SPDX-License-Identifier: MIT
#include <nibble/quant/affine.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr int code =
    nibble::quant::affine<2, nibble::code_rule::symmetric, nibble::quant::per_channel>::encode(1.0f, {});
#else
constexpr int code =
    nibble::quant::affine<1, nibble::code_rule::symmetric, nibble::quant::per_channel>::encode(1.0f, {});
#endif
