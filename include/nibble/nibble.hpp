// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The CPU library in one include: formats, quantized matrices and products. Needs the standard library alone; uses
/// xsimd where it is found. Asked for by name: nibble/core/thread_pool.hpp, openmp.hpp and tbb.hpp (for programs without
/// threads of their own), nibble/dispatch/ (one binary for many CPUs), nibble/eigen.hpp, nibble/io/, nibble/nn/,
/// nibble/study/.

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/assert.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>

#include <nibble/isa/detect.hpp>
#include <nibble/isa/intrinsics.hpp>
#include <nibble/isa/tags.hpp>

#include <nibble/quant/affine.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/fit.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/qtype.hpp>

#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/pack/panel16.hpp>

#include <nibble/kernels/kernels.hpp>

#include <nibble/tensor/ledger.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/qmatrix.hpp>
#include <nibble/tensor/quantize.hpp>

#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/cpu.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/gemm/reference.hpp>
