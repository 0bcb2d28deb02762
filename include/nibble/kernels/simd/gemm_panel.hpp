// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The panel kernels on the native register width (SSE2, AVX2, AVX-512BW, NEON).

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/scalar/gemm_panel.hpp>
#include <nibble/kernels/simd/float_panel.hpp>
#include <nibble/kernels/simd/integer_panel.hpp>
#include <nibble/kernels/simd/integer_row.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <std::same_as<simd::isa_type> Isa>
struct gemm_panel<Isa> : simd::integer_one_row<Isa>, simd::integer_panel<Isa>, simd::float_panel<Isa> {
  using isa_type = simd::isa_type;
  static constexpr std::size_t nr = pack::panel16::nr;
  static constexpr bool reads_halves = NIBBLE_SIMD_HALVES != 0;
  static constexpr std::size_t block_panels = 1;

  /// Here because all parts inherit it, which gcc 12 takes for several.
  template <int Bits>
  static void unpack(const std::byte* blocks, std::size_t count, std::uint8_t* units) noexcept {
    simd::panel_tools::unpack<Bits>(blocks, count, units);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
