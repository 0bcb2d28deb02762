// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// All kernel contracts, then all ISA folders.

#include <nibble/kernels/activation.hpp>
#include <nibble/kernels/attention.hpp>
#include <nibble/kernels/codes.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/panel_codes.hpp>
#include <nibble/kernels/quantize_row.hpp>

#include <nibble/kernels/scalar/activation.hpp>
#include <nibble/kernels/scalar/attention.hpp>
#include <nibble/kernels/scalar/codes.hpp>
#include <nibble/kernels/scalar/gemm_panel.hpp>
#include <nibble/kernels/scalar/group_codec.hpp>
#include <nibble/kernels/scalar/panel_codes.hpp>
#include <nibble/kernels/scalar/quantize_row.hpp>

#include <nibble/kernels/simd/activation.hpp>
#include <nibble/kernels/simd/attention.hpp>
#include <nibble/kernels/simd/clip_search.hpp>
#include <nibble/kernels/simd/codes.hpp>
#include <nibble/kernels/simd/gemm_panel.hpp>
#include <nibble/kernels/simd/group_codec.hpp>
#include <nibble/kernels/simd/panel_codes.hpp>
#include <nibble/kernels/simd/quantize_row.hpp>

#include <nibble/kernels/amx_int8/gemm_panel.hpp>

#include <nibble/kernels/amx_bf16/gemm_panel.hpp>
