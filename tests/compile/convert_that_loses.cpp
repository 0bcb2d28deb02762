// expect: convert<To>: To does not hold all values of From
// SPDX-License-Identifier: MIT
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/convert.hpp>

#ifdef NIBBLE_MUST_COMPILE
using to = nibble::quant::w8_g128;
#else
using to = nibble::quant::w3_g128;
#endif
nibble::qmatrix<to> wider(const nibble::qmatrix<nibble::quant::w4_g128>& w) { return nibble::convert<to>(w); }
