// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The panel kernels on the native register width (SSE2, AVX2, AVX-512BW, NEON).

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/scalar/gemm_panel.hpp>
#include <nibble/kernels/simd/float_panel.hpp>
#include <nibble/kernels/simd/integer_panel.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Both parts derive from one set of tools, all of whose members are static: their names stay unambiguous.
template <>
struct gemm_panel<simd::isa_type> : simd::integer_panel, simd::float_panel {
  using isa_type = simd::isa_type;
  static constexpr bool reads_halves = NIBBLE_SIMD_HALVES != 0;
  static constexpr std::size_t block_panels = 1;
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
