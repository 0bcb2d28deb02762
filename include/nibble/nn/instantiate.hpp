// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The kernels of nn/ for the units that define NIBBLE_EXTERN_KERNELS: attention, float linear layers, the codes of a cache.
/// Include this beside gemm/instantiate.hpp, in the same unit.

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/nn/attention.hpp>
#include <nibble/nn/kv_codec.hpp>
#include <nibble/nn/panel_product.hpp>

#if NIBBLE_EXTERN_KERNELS
#error "nibble: the unit that includes nibble/nn/instantiate.hpp must not define NIBBLE_EXTERN_KERNELS"
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

template void attention<isa::native>::run(const rope&, kv_cache&, std::size_t, span2d<const float>, span2d<const float>,
                                          span2d<const float>, span2d<float>, const context&);
template void panel_product<isa::native>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                         float*) noexcept;
template void encode_kv_codes<isa::native>(const float*, std::size_t, kv_online_params, std::uint8_t*) noexcept;
#if defined(__SSE2__) || (defined(__aarch64__) && defined(__ARM_NEON))  // elsewhere both are the same
template void attention<isa::scalar>::run(const rope&, kv_cache&, std::size_t, span2d<const float>, span2d<const float>,
                                          span2d<const float>, span2d<float>, const context&);
template void panel_product<isa::scalar>(const float*, std::size_t, std::size_t, std::size_t, const float*,
                                         float*) noexcept;
#endif

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
