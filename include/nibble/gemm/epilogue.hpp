// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What is done to a piece of Y before it is stored, while it is in registers or L1.
///
/// An epilogue is any noexcept function object `e(const output_row& at, float* v)` that changes v[0, at.count) in place.
/// v holds 16 floats, so that whole registers may be computed; those past at.count go nowhere. Threads call it at the same time, for each element
/// of Y exactly once, in no order. It sees the value with the scales and the bias applied; beta * Y_old is added to what
/// it leaves, and the sum is rounded to Y's type.

#include <cstddef>
#include <tuple>
#include <utility>

#include <nibble/core/config.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/kernels/kernels.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {

/// Elements [n0, n0 + count) of row m of Y of a batch's task.
struct output_row {
  std::size_t task, m, n0, count;
};

template <class E>
concept epilogue = requires(const E& e, const output_row& at, float* v) {
  { e(at, v) }
  noexcept;
};

/// Values that were computed are rounded before they are used again: else a compiler that contracts (gcc by default) makes
/// an fma of one epilogue's product and the next one's sum, and results depend on its flags.
inline void keep_rounding([[maybe_unused]] float* v) noexcept {
#if defined(__GNUC__)
  __asm__ volatile("" : : "r"(v) : "memory");
#endif
}

/// Y as it is.
struct no_epilogue {
  void operator()(const output_row&, float*) const noexcept {}
};

/// max(v, 0); NaN stays NaN.
struct relu {
  void operator()(const output_row& at, float* v) const noexcept {
    for (std::size_t i = 0; i < at.count; ++i) v[i] = v[i] < 0.0f ? 0.0f : v[i];
  }
};

/// v / (1 + exp(-v)), and GELU in its tanh form (kernels/activation.hpp has formulas and errors). The same bits wherever the
/// hardware has FMA.
struct silu {
  void operator()(const output_row&, float* v) const noexcept { kernels::activation<isa::native>::silu(v, 16); }
};
struct gelu_tanh {
  void operator()(const output_row&, float* v) const noexcept { kernels::activation<isa::native>::gelu_tanh(v, 16); }
};

/// v + R[m, n]: a residual connection. R[M, N] belongs to the caller, who checks its size; it may be Y itself.
struct add_matrix {
  span2d<const float> R;
  void operator()(const output_row& at, float* v) const noexcept {
    const float* r = R.data + at.m * R.stride + at.n0;
    for (std::size_t i = 0; i < at.count; ++i) v[i] += r[i];
  }
};

/// v * G[m, n]: a gate. As add_matrix.
struct multiply_matrix {
  span2d<const float> G;
  void operator()(const output_row& at, float* v) const noexcept {
    const float* g = G.data + at.m * G.stride + at.n0;
    for (std::size_t i = 0; i < at.count; ++i) v[i] *= g[i];
  }
};

/// One after the other, each on the rounded values of the one before: `chain{relu{}, add_matrix{R}}`.
template <epilogue... E>
struct chain {
  std::tuple<E...> all;
  constexpr explicit chain(E... e) : all(std::move(e)...) {}
  void operator()(const output_row& at, float* v) const noexcept {
    std::apply([&](const E&... e) noexcept { ((keep_rounding(v), e(at, v)), ...); }, all);
  }
};

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
