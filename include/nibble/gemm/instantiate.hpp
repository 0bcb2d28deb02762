// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The kernels for the units that define NIBBLE_EXTERN_KERNELS: include this in exactly one unit of a program, without
/// that macro and with their flags. Other flags make another inline namespace, and the linker names what is missing.

#include <span>

#include <nibble/core/config.hpp>
#include <nibble/gemm/cpu.hpp>
#include <nibble/gemm/products.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/quantize.hpp>

#if NIBBLE_EXTERN_KERNELS
#error "nibble: the unit that includes nibble/gemm/instantiate.hpp must not define NIBBLE_EXTERN_KERNELS"
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

template struct products<isa::native>;
template void cpu<isa::native>::multiply(std::span<const gemm_task>, const gemm_options&, const context&,
                                         const no_epilogue&) noexcept;
#if defined(__SSE2__) || (defined(__aarch64__) && defined(__ARM_NEON))  // elsewhere both are the same
template struct products<isa::scalar>;
template void cpu<isa::scalar>::multiply(std::span<const gemm_task>, const gemm_options&, const context&,
                                         const no_epilogue&) noexcept;
#endif

}  // namespace gemm
namespace detail {

template struct weights<isa::native>;
template struct panels<isa::native>;

}  // namespace detail
}  // namespace NIBBLE_ABI
}  // namespace nibble
