// expect: affine<Bits, ...>: Bits must be 2..8
// SPDX-License-Identifier: MIT
#include <nibble/quant/affine.hpp>

#ifdef NIBBLE_MUST_COMPILE
constexpr auto format = nibble::quant::affine<8, nibble::code_rule::asymmetric, nibble::quant::per_tensor>::format();
#else
constexpr auto format = nibble::quant::affine<9, nibble::code_rule::asymmetric, nibble::quant::per_tensor>::format();
#endif
