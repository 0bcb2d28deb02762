// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The public product: arguments checked, then a backend.

#include <cfloat>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/cpu.hpp>
#include <nibble/gemm/epilogue.hpp>
#include <nibble/gemm/reference.hpp>
#include <nibble/gemm/task.hpp>
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

/// The bytes of a matrix: rows of `row_bytes`, `stride` apart.
struct byte_rows {
  std::uintptr_t first = 0;
  std::size_t rows = 0, row_bytes = 0, stride = 0;
};
template <class Matrix>
byte_rows bytes_of(const Matrix& m) noexcept {
  const std::size_t size = element_bytes(m.type);
  return {reinterpret_cast<std::uintptr_t>(m.data), m.rows, m.cols * size, m.stride * size};
}

/// True when two matrices share a byte. With one row stride they may lie side by side in one buffer.
inline bool overlap(const byte_rows& a, const byte_rows& b) noexcept {
  if (a.rows == 0 || b.rows == 0) return false;
  const auto last = [](const byte_rows& s) { return s.first + (s.rows - 1) * s.stride + s.row_bytes; };
  if (a.first >= last(b) || b.first >= last(a)) return false;
  if (a.stride != b.stride || a.rows == 1 || b.rows == 1) return true;
  if (b.first < a.first) return overlap(b, a);
  const std::uintptr_t column = (b.first - a.first) % a.stride;
  return column < a.row_bytes || column + b.row_bytes > a.stride;
}
inline bool overlap(span2d<const float> a, span2d<const float> b) noexcept {
  return overlap(bytes_of(input_of(a)), bytes_of(input_of(b)));
}

/// What a task demands whatever the backend; `where` begins each message: "gemm: " or "gemm: task 3: ".
inline void check_task(const gemm_task& t, const gemm_options& o, const char* where) {
  check_weights(t.W);
  const input_ref& X = t.X;
  const output_ref& Y = t.Y;
  const std::size_t N = t.W.matrix.N, K = t.W.matrix.K;
  if (X.cols != K) core::fail(errc::bad_shape, where, "X has ", X.cols, " columns, W[N, K] has K = ", K);
  if (Y.cols != N) core::fail(errc::bad_shape, where, "Y has ", Y.cols, " columns, W[N, K] has N = ", N);
  if (Y.rows != X.rows) core::fail(errc::bad_shape, where, "Y has ", Y.rows, " rows, X has ", X.rows);
  if (X.rows > 1 && X.stride < X.cols)
    core::fail(errc::bad_shape, where, "the row stride of X, ", X.stride, ", is below its ", X.cols, " columns");
  if (Y.rows > 1 && Y.stride < Y.cols)
    core::fail(errc::bad_shape, where, "the row stride of Y, ", Y.stride, ", is below its ", Y.cols, " columns");
  if (o.activations == activation_scales::fixed && !(o.x_scale > 0.0f && o.x_scale <= FLT_MAX))
    core::fail(errc::bad_value, where, "fixed activation scales need a finite x_scale above 0, not ", o.x_scale);
  if (X.type == element::s8 && (o.computation != computation::integer || o.activations != activation_scales::fixed))
    core::fail(errc::bad_value, where, "X of s8 codes needs integer computation with the fixed scale of its codes");
  if (Y.type == element::s8 && !(Y.scale > 0.0f && Y.scale <= FLT_MAX))
    core::fail(errc::bad_value, where, "Y of s8 codes needs a finite scale above 0, not ", Y.scale);
  if (X.rows == 0) return;
  if (X.data == nullptr || Y.data == nullptr)
    core::fail(errc::bad_value, where, X.data == nullptr ? "X" : "Y", " is a null pointer with ", X.rows, " rows");
  if (X.type == element::s8) {
    const auto* x = static_cast<const std::int8_t*>(X.data);
    for (std::size_t m = 0; m < X.rows; ++m)
      for (std::size_t k = 0; k < K; ++k)
        if (x[m * X.stride + k] == -128)
          core::fail(errc::bad_value, where, "X[", m, ", ", k, "] is -128; s8 codes go from -127 to 127");
  }
  if (overlap(bytes_of(X), bytes_of(Y))) core::fail(errc::aliasing, where, "Y overlaps X");
}

/// Raises the refusal of a backend in words.
template <backend B>
void check_backend(const packed_view& W, const gemm_options& o, const char* where) {
  const errc answer = B::can_multiply(W, o);
  if (answer == errc::ok) return;
  constexpr const char* computations[] = {"weight-only", "integer", "bfloat16"};
  constexpr const char* scales[] = {"", ", activation scales for each group", ", a fixed activation scale"};
  core::fail(answer, where, "backend ", B::name, " cannot multiply ", int{W.matrix.format.bits},
             "-bit weights, code rule ", int{static_cast<unsigned char>(W.matrix.format.rule)}, ", layout ",
             name_of(W.layout), ", ", computations[static_cast<unsigned char>(o.computation)], " computation",
             scales[static_cast<unsigned char>(o.activations)],
             o.computation == computation::integer && W.matrix.format.rule == code_rule::codebook &&
                     o.image == table_image::none
                 ? ", without an integer image of the codebook (gemm_options::image)"
                 : "");
}

inline void check_scratch(const context& ctx, std::size_t need) {
  if (ctx.scratch_bytes < need)
    core::fail(errc::scratch_too_small, "gemm: scratch of ", ctx.scratch_bytes, " bytes, ", need,
               " are needed; ask gemm_scratch_bytes() first");
  if (need != 0 && reinterpret_cast<std::uintptr_t>(ctx.scratch) % plane_alignment != 0)
    core::fail(errc::bad_alignment, "gemm: the scratch memory must be aligned to ", plane_alignment, " bytes");
}

/// What multiply demands; the first broken rule raises an error that names both numbers.
template <backend B>
void check_arguments(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options,
                     const context& ctx) {
  check_task({input_of(X), W, output_of(Y), options.bias}, options, "gemm: ");
  check_backend<B>(W, options, "gemm: ");
  if (X.rows != 0) check_scratch(ctx, B::scratch_bytes(W, X.rows, options, ctx.concurrency));
}

/// The same for a batch. No Y may overlap any X or another Y.
template <backend B>
void check_arguments(std::span<const gemm_task> tasks, const gemm_options& options, const context& ctx) {
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    char where[48];
    std::snprintf(where, sizeof where, "gemm: task %zu: ", i);
    check_task(tasks[i], options, where);
    check_backend<B>(tasks[i].W, options, where);
    const byte_rows y = bytes_of(tasks[i].Y);
    for (std::size_t j = 0; j < tasks.size(); ++j) {
      if (j == i || y.rows == 0) continue;
      if (overlap(y, bytes_of(tasks[j].X))) core::fail(errc::aliasing, where, "Y overlaps X of task ", j);
      if (overlap(y, bytes_of(tasks[j].Y))) core::fail(errc::aliasing, where, "Y overlaps Y of task ", j);
    }
  }
  if (options.bias != nullptr)
    core::fail(errc::bad_value, "gemm: each task of a batch has its own bias; that of the options must be null");
  check_scratch(ctx, B::scratch_bytes(tasks, options, ctx.concurrency));
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

/// A batch on a backend of the caller's choice: gemm::simd or gemm::scalar.
template <backend B, epilogue Epilogue = no_epilogue>
void multiply(std::span<const gemm_task> tasks, const gemm_options& options, const context& ctx,
              const Epilogue& each = {}) {
  check_arguments<B>(tasks, options, ctx);
  B::multiply(tasks, options, ctx, each);
}

/// The backend that serves all tasks: a batch with canonical rows in it is left to plain code.
template <class F>
decltype(auto) with_default_backend(std::span<const gemm_task> tasks, F&& f) {
  for (const gemm_task& t : tasks)
    if (t.W.layout != layout_id::panel16) return f(scalar{});
  return f(simd{});
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

/// The same for a batch.
template <class = void>
std::size_t gemm_scratch_bytes(std::span<const gemm_task> tasks, const gemm_options& options = {},
                               std::size_t concurrency = 1) {
  for (const gemm_task& t : tasks) gemm::check_weights(t.W);
  return gemm::with_default_backend(tasks, [&]<class B>(B) { return B::scratch_bytes(tasks, options, concurrency); });
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
/// Throws bad_shape, unsupported_format (integer computation with a codebook and without gemm_options::image), unsupported_isa, scratch_too_small,
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

// Batches, other element types, epilogues.

/// All tasks in one call: Y = X * transpose(W) (+ bias + beta * Y) for each of them, on the caller's threads and memory.
/// X and Y may be float, half or bfloat16; with a fixed activation scale also s8. `each` is the epilogue
/// (gemm/epilogue.hpp). A task's results do not depend on the others. Throws as multiply does, with the number of the
/// task.
template <gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply(std::span<const gemm_task> tasks, const gemm_options& options, const context& ctx,
              const Epilogue& each = {}) {
  gemm::with_default_backend(tasks, [&]<class B>(B) { gemm::multiply<B>(tasks, options, ctx, each); });
}
template <scratch_pool Pool, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply(std::span<const gemm_task> tasks, Pool& pool, const gemm_options& options = {},
              const Epilogue& each = {}) {
  pool.with_scratch(gemm_scratch_bytes(tasks, options, pool.size()),
                    [&](const context& ctx) { multiply(tasks, options, ctx, each); });
}

/// One product with X and Y of float, half, bfloat16 or int8, and an epilogue. `y_scale`: of an int8 Y.
template <class X, class Y, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply_as(span2d<X> x, const packed_view& W, span2d<Y> y, const gemm_options& options, const context& ctx,
                 const Epilogue& each = {}, float y_scale = 0.0f) {
  const gemm_task task{input_of(x), W, output_of(y, y_scale), options.bias};
  gemm_options rest = options;
  rest.bias = nullptr;
  multiply(std::span<const gemm_task>(&task, 1), rest, ctx, each);
}
template <class X, class Y, scratch_pool Pool, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply_as(span2d<X> x, const packed_view& W, span2d<Y> y, Pool& pool, const gemm_options& options = {},
                 const Epilogue& each = {}, float y_scale = 0.0f) {
  const gemm_task task{input_of(x), W, output_of(y, y_scale), options.bias};
  gemm_options rest = options;
  rest.bias = nullptr;
  multiply(std::span<const gemm_task>(&task, 1), pool, rest, each);
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
