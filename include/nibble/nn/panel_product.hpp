// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Float times float on the panel kernels: what float linear layers and attention are made of.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

inline constexpr std::size_t panel_columns = 16;
/// Panel kernels may touch activations up to a multiple of 32 in k and want zeros there: row strides are rounded up.
constexpr std::size_t padded_columns(std::size_t columns) noexcept { return round_up(columns, std::size_t{32}); }

/// acc[m][c] += sum of x[m][k] * panel[k][c], one chain ascending in k from 0, then one addition: the value of an element
/// does not depend on M, so no result here depends on how tokens are batched. Rows of x are x_stride apart and zero in
/// [K, round_up(K, 32)); acc is [M][16].
template <class Isa>
void panel_product(const float* x, std::size_t x_stride, std::size_t M, std::size_t K, const float* panel,
                   float* acc) noexcept {
  static constexpr float ones[panel_columns] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  kernels::float_call call;
  call.M = M;
  call.K = call.k1 = K;
  call.group = round_up(K, std::size_t{4});
  call.x = x;
  call.x_stride = x_stride;
  call.params.scales = ones;
  call.params.scale_stride = 0;
  call.acc = acc;
  kernels::gemm_panel<Isa>::float_block(call, panel);
}

#if NIBBLE_EXTERN_KERNELS  // see nn/instantiate.hpp
extern template void panel_product<isa::native>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                                float*) noexcept;
extern template void panel_product<isa::scalar>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                                float*) noexcept;
#endif

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
