// SPDX-License-Identifier: MIT
//
// The kernels of nibble's own programs and tests, once for each set of flags.

#include <nibble/gemm/instantiate.hpp>
#include <nibble/nn/instantiate.hpp>
