// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The block formats of GGUF files on the native register width.

#include <nibble/kernels/simd/ggml_decode.hpp>
#include <nibble/kernels/simd/ggml_encode256.hpp>
#include <nibble/kernels/simd/ggml_encode32.hpp>
#include <nibble/kernels/simd/ggml_encode_iq4.hpp>
#include <nibble/kernels/simd/ggml_fit.hpp>
