// expect: a user's table has no values yet
// SPDX-License-Identifier: MIT
#include <nibble/quant/codebook.hpp>
#include <nibble/tensor/qmatrix.hpp>

#ifdef NIBBLE_MUST_COMPILE
nibble::qmatrix<nibble::quant::codebook<nibble::quant::nf4_table, nibble::quant::per_channel>> m(2, 2);
#else
nibble::qmatrix<nibble::quant::codebook<nibble::quant::user_table<4>, nibble::quant::per_channel>> m(2, 2);
#endif
