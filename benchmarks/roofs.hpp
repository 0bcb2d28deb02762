// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What this machine allows, measured in this process: the ceilings that results are divided by.

#include <cstddef>

namespace nibble::bench {

/// Bytes per second of `threads` threads reading a buffer of `bytes` over and over, each its own part. Measured at the
/// first question for a size and thread count, best of several passes.
double read_roof(std::size_t bytes, std::size_t threads);

/// The same from memory: a buffer far larger than any cache.
double dram_roof(std::size_t threads);

/// Operations per second (a multiplication and an addition are two) of `threads` threads that multiply and add floats in
/// registers: FMA where the build has it. 0 where unknown.
double float_peak(std::size_t threads);

/// The same for products of bfloat16 numbers added in float: AMX tiles where the build and this CPU have them, else
/// float_peak, for then such numbers are multiplied as floats.
double bfloat16_peak(std::size_t threads);

/// The same for exact sums of products of `bits`-bit codes and signed bytes by the instructions of the build's ISA:
/// vpdpbusd; or vpmaddubsw + vpaddw up to 5 bits (the sums are widened now and then) and vpmaddubsw + vpmaddwd + vpaddd
/// above; or with SSE2 pmaddwd + paddd on widened bytes. 0 where unknown.
double byte_peak(int bits, std::size_t threads);

}  // namespace nibble::bench
