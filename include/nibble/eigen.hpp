// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Quantized weights in Eigen code. Needs Eigen 3.4.
///
///   const auto W4 = nibble::eigen::quantize<nibble::quant::w4_g128>(W);     // W[N, K], any dense float expression
///   Y = X * W4.transpose();                                                 // tokens are rows
///   y = W4 * x;                                                             // tokens are columns; vectors
///   Y.noalias() += X * W4.with(pool).with(nibble::computation::integer).transpose();

#include <nibble/eigen/map.hpp>
#include <nibble/eigen/product.hpp>
#include <nibble/eigen/weights.hpp>
#include <nibble/nibble.hpp>
