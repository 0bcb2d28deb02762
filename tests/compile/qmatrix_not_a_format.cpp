// expect: matrix_format
// SPDX-License-Identifier: MIT
#include <nibble/quant/affine.hpp>
#include <nibble/tensor/qmatrix.hpp>

#ifdef NIBBLE_MUST_COMPILE
nibble::qmatrix<nibble::quant::affine<4, nibble::code_rule::symmetric, nibble::quant::per_channel>> m(2, 2);
#else
nibble::qmatrix<float> m(2, 2);
#endif
