// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The public product: arguments checked, then a backend.

#include <concepts>
#include <cstddef>
#include <cstdint>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/cpu.hpp>
#include <nibble/gemm/reference.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/packed_matrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

namespace gemm {

/// Raises unless W is a view that the layout can have.
inline void check_weights(const packed_view& W) {
  check_view(W.matrix, "gemm: W", W.layout == layout_id::row_major);
  // Token sums are kept in int32: |sum| <= 127 * K.
  if (W.matrix.K > (std::size_t{1} << 24))
    core::fail(errc::bad_shape, "gemm: K = ", W.matrix.K, " exceeds the limit of 2^24 = 16777216");
  if (can_pack(W.matrix.format, W.matrix.K, W.layout) != errc::ok)
    core::fail(errc::unsupported_layout, "gemm: layout ", name_of(W.layout), " cannot hold groups of ",
               W.matrix.format.group_size, " with K = ", W.matrix.K);
}

/// True when two matrices share an element. With one row stride they may lie side by side in one buffer.
inline bool overlap(span2d<const float> a, span2d<const float> b) noexcept {
  const auto first = [](span2d<const float> s) { return reinterpret_cast<std::uintptr_t>(s.data); };
  const auto last = [&](span2d<const float> s) {
    return first(s) + ((s.rows - 1) * s.stride + s.cols) * sizeof(float);
  };
  if (first(a) >= last(b) || first(b) >= last(a)) return false;
  if (a.stride != b.stride || a.rows == 1 || b.rows == 1) return true;
  if (first(b) < first(a)) return overlap(b, a);
  const std::uintptr_t bytes = a.stride * sizeof(float), column = (first(b) - first(a)) % bytes;
  return column < a.cols * sizeof(float) || column + b.cols * sizeof(float) > bytes;
}

/// What multiply demands; the first broken rule raises an error that names both numbers.
template <backend B>
void check_arguments(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options,
                     const context& ctx) {
  check_weights(W);
  const std::size_t N = W.matrix.N, K = W.matrix.K;
  if (X.cols != K) core::fail(errc::bad_shape, "gemm: X has ", X.cols, " columns, W[N, K] has K = ", K);
  if (Y.cols != N) core::fail(errc::bad_shape, "gemm: Y has ", Y.cols, " columns, W[N, K] has N = ", N);
  if (Y.rows != X.rows) core::fail(errc::bad_shape, "gemm: Y has ", Y.rows, " rows, X has ", X.rows);
  if (X.rows > 1 && X.stride < X.cols)
    core::fail(errc::bad_shape, "gemm: the row stride of X, ", X.stride, ", is below its ", X.cols, " columns");
  if (Y.rows > 1 && Y.stride < Y.cols)
    core::fail(errc::bad_shape, "gemm: the row stride of Y, ", Y.stride, ", is below its ", Y.cols, " columns");
  if (const errc answer = B::can_multiply(W, options); answer != errc::ok)
    core::fail(answer, "gemm: backend ", B::name, " cannot multiply ", int{W.matrix.format.bits},
               "-bit weights, code rule ", int{static_cast<unsigned char>(W.matrix.format.rule)}, ", layout ",
               name_of(W.layout),
               options.computation == computation::integer ? ", integer computation" : ", weight-only computation");
  if (X.rows == 0) return;
  if (X.data == nullptr || Y.data == nullptr)
    core::fail(errc::bad_value, "gemm: ", X.data == nullptr ? "X" : "Y", " is a null pointer with ", X.rows, " rows");
  const std::size_t need = B::scratch_bytes(W, X.rows, options, ctx.concurrency);
  if (ctx.scratch_bytes < need)
    core::fail(errc::scratch_too_small, "gemm: scratch of ", ctx.scratch_bytes, " bytes, ", need,
               " are needed; ask gemm_scratch_bytes() first");
  if (need != 0 && reinterpret_cast<std::uintptr_t>(ctx.scratch) % plane_alignment != 0)
    core::fail(errc::bad_alignment, "gemm: the scratch memory must be aligned to ", plane_alignment, " bytes");
  if (overlap(X, Y)) core::fail(errc::aliasing, "gemm: Y overlaps X");
}

/// The backend that serves a layout: simd for panel16, scalar for row_major.
template <class F>
decltype(auto) with_default_backend(layout_id layout, F&& f) {
  if (layout == layout_id::panel16) return f(simd{});
  return f(scalar{});
}

/// W in a layout that backend B multiplies: W itself where its own layout does, else the fastest layout that does; the
/// codes and scales stay the same bit for bit. Raises B's refusal when no layout does.
template <backend B>
packed_matrix repack_for(packed_matrix W, const gemm_options& options = {}, const context& ctx = {}) {
  packed_view view = W.view();
  const errc refusal = B::can_multiply(view, options);
  if (refusal == errc::ok) return W;
  for (const layout_id layout : {layout_id::panel16, layout_id::row_major}) {
    view.layout = layout;
    if (can_pack(W.format(), W.K(), layout) == errc::ok && B::can_multiply(view, options) == errc::ok)
      return pack_matrix(W.unpack(ctx).view(), layout, ctx);
  }
  core::fail(refusal, "repack_for: backend ", B::name, " multiplies these ", int{W.format().bits},
             "-bit weights in no layout");
}

/// Y = X * transpose(W) (+ bias + beta * Y) on a backend of the caller's choice.
template <backend B>
void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options,
              const context& ctx) {
  check_arguments<B>(X, W, Y, options, ctx);
  B::multiply(X, W, Y, options, ctx);
}

}  // namespace gemm

/// Bytes of scratch memory that `multiply` takes for M tokens on `concurrency` slots. Throws for a view that multiply
/// would refuse.
template <class = void>
std::size_t gemm_scratch_bytes(const packed_view& W, std::size_t M, const gemm_options& options = {},
                               std::size_t concurrency = 1) {
  gemm::check_weights(W);
  return gemm::with_default_backend(W.layout, [&]<class B>(B) { return B::scratch_bytes(W, M, options, concurrency); });
}

/// Threads with scratch memory of their own: `thread_pool` (core/thread_pool.hpp), or an engine's class of this shape.
/// `with_scratch(bytes, f)` calls f(context) with at least that much scratch memory in the context.
template <class P>
concept scratch_pool = requires(P& pool, std::size_t bytes, void (&f)(const context&)) {
  { pool.size() } -> std::convertible_to<std::size_t>;
  pool.with_scratch(bytes, f);
};

// Templates without a parameter that anybody would name: a file that never multiplies does not compile the kernels.

/// Y[M, N] = X[M, K] * transpose(W[N, K]) (+ bias + beta * Y) on the caller's threads and memory: allocates nothing.
/// Throws bad_shape, unsupported_format (integer computation with a codebook), unsupported_isa, scratch_too_small,
/// bad_alignment, or aliasing when Y overlaps X.
template <class = void>
void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options,
              const context& ctx) {
  gemm::with_default_backend(W.layout, [&]<class B>(B) { gemm::multiply<B>(X, W, Y, options, ctx); });
}

/// The same on a pool, which lends its threads and keeps the scratch memory from call to call. Several threads may use one
/// pool: whoever finds it busy works on its own thread and memory.
template <scratch_pool Pool>
void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, Pool& pool,
              const gemm_options& options = {}) {
  pool.with_scratch(gemm_scratch_bytes(W, X.rows, options, pool.size()),
                    [&](const context& ctx) { multiply(X, W, Y, options, ctx); });
}
template <scratch_pool Pool>
void multiply(span2d<const float> X, const packed_matrix& W, span2d<float> Y, Pool& pool,
              const gemm_options& options = {}) {
  multiply(X, W.view(), Y, pool, options);
}

/// The same on the calling thread, with scratch memory allocated for this call alone.
template <class = void>
void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options = {}) {
  aligned_vector<std::byte> scratch(gemm_scratch_bytes(W, X.rows, options));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  multiply(X, W, Y, options, ctx);
}
template <class = void>
void multiply(span2d<const float> X, const packed_matrix& W, span2d<float> Y, const gemm_options& options = {}) {
  multiply(X, W.view(), Y, options);
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
