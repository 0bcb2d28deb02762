// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One binary for many CPUs: the public product, with the kernels of the best instruction set that this CPU has. Needs
/// the target nibble::dispatch, whose objects hold the kernels; see README.md.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/dispatch/table.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/epilogue.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/gemm/task.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/packed_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace dispatch {

namespace detail {

/// The tiers of this build, weakest first; with `all` false, only those that this CPU runs.
inline std::vector<std::string_view> tiers(bool all) {
  std::vector<std::string_view> names;
  bool runs = false;
  for (std::size_t i = 0; const dispatch_table* t = dispatch_tier(i, runs); ++i)
    if (all || runs) names.emplace_back(t->tier);
  return names;
}

inline std::string list(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

[[noreturn]] inline void refuse_forced() {
  const char* const value = dispatch_forced();
  const std::string_view name = value == nullptr ? "" : value;
  const std::vector<std::string_view> built = tiers(true);
  bool known = false;
  for (const std::string_view tier : built) known = known || tier == name;
  core::fail(errc::unsupported_isa, "dispatch: NIBBLE_FORCE_ISA is \"", name,
             known ? "\", which this CPU does not run" : "\", which names no tier of this build",
             "; available here: ", list(tiers(false)), "; in this build: ", list(built));
}

inline const dispatch_table& table() {
  const dispatch_table* const t = dispatch_chosen();
  if (t == nullptr) refuse_forced();
  return *t;
}

}  // namespace detail

/// Names of the tiers that this build has and this CPU runs, weakest first: what NIBBLE_FORCE_ISA may name.
inline std::vector<std::string_view> available() { return detail::tiers(false); }

/// The tier that serves this process. Throws unsupported_isa when NIBBLE_FORCE_ISA names one that is not available.
inline std::string_view active() { return detail::table().tier; }

/// The tag whose kernels serve layout panel16 there: `active()`, or a lower one where this build has no kernels for it
/// (x86 built without xsimd: scalar). Throws as `active` does.
inline std::string_view active_kernels() { return detail::table().kernels; }

/// The chosen table as a backend, for templates on one: `gemm::multiply<dispatch::backend>`, `gemm::repack_for`. Without
/// a table (a NIBBLE_FORCE_ISA that is not available) can_multiply refuses with unsupported_isa.
struct backend {
  /// What a caller's own kernels around the product may use: the flags of this unit. Who multiplies is known at run time
  /// only; `active()` says it.
  using isa_type = isa::native;
  static constexpr std::string_view name = "dispatch";

  static bool runs_here() noexcept { return dispatch_chosen() != nullptr; }
  static errc can_multiply(const packed_view& w, const gemm_options& o) noexcept {
    const dispatch_table* const t = dispatch_chosen();
    return t == nullptr ? errc::unsupported_isa : t->can_multiply(w, o);
  }
  static std::size_t scratch_bytes(std::span<const gemm_task> tasks, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    const dispatch_table* const t = dispatch_chosen();
    return t == nullptr ? 0 : t->scratch_bytes(tasks.data(), tasks.size(), o, concurrency);
  }
  static std::size_t scratch_bytes(const packed_view& w, std::size_t M, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    const gemm_task task{{nullptr, M, w.matrix.K, w.matrix.K}, w, {}, nullptr};
    return scratch_bytes(std::span(&task, 1), o, concurrency);
  }
  template <gemm::epilogue Epilogue>
  static void multiply(std::span<const gemm_task> tasks, const gemm_options& o, const context& ctx,
                       const Epilogue& each) noexcept {
    const dispatch_table* const t = dispatch_chosen();
    if constexpr (std::is_same_v<Epilogue, gemm::no_epilogue>) {
      t->multiply(tasks.data(), tasks.size(), o, ctx, nullptr);
    } else {
      const dispatch_epilogue erased{
          [](const void* e, std::size_t task, std::size_t m, std::size_t n0, std::size_t count, float* v) noexcept {
            (*static_cast<const Epilogue*>(e))(gemm::output_row{task, m, n0, count}, v);
          },
          &each};
      t->multiply(tasks.data(), tasks.size(), o, ctx, &erased);
    }
  }
  static void multiply(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                       const context& ctx) noexcept {
    const gemm_task task{input_of(x), w, output_of(y), o.bias};
    multiply(std::span(&task, 1), o, ctx, gemm::no_epilogue{});
  }
};
static_assert(gemm::backend<backend>);

/// Bytes of scratch memory that `dispatch::multiply` takes for M tokens on `concurrency` slots: it depends on the tier.
/// Throws for a view that multiply would refuse, and as `active` does.
inline std::size_t gemm_scratch_bytes(const packed_view& W, std::size_t M, const gemm_options& options = {},
                                      std::size_t concurrency = 1) {
  detail::table();
  gemm::check_weights(W);
  return backend::scratch_bytes(W, M, options, concurrency);
}
inline std::size_t gemm_scratch_bytes(std::span<const gemm_task> tasks, const gemm_options& options = {},
                                      std::size_t concurrency = 1) {
  detail::table();
  for (const gemm_task& t : tasks) gemm::check_weights(t.W);
  return backend::scratch_bytes(tasks, options, concurrency);
}

/// Y[M, N] = X[M, K] * transpose(W[N, K]) (+ bias + beta * Y) on the caller's threads and memory: allocates nothing.
/// Throws as nibble::multiply and `active` do.
inline void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options,
                     const context& ctx) {
  detail::table();
  gemm::multiply<backend>(X, W, Y, options, ctx);
}

/// The same on a pool, which lends its threads and keeps the scratch memory from call to call.
template <scratch_pool Pool>
void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, Pool& pool,
              const gemm_options& options = {}) {
  pool.with_scratch(dispatch::gemm_scratch_bytes(W, X.rows, options, pool.size()),
                    [&](const context& ctx) { dispatch::multiply(X, W, Y, options, ctx); });
}
template <scratch_pool Pool>
void multiply(span2d<const float> X, const packed_matrix& W, span2d<float> Y, Pool& pool,
              const gemm_options& options = {}) {
  dispatch::multiply(X, W.view(), Y, pool, options);
}

/// The same on the calling thread, with scratch memory allocated for this call alone.
inline void multiply(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options = {}) {
  aligned_vector<std::byte> scratch(dispatch::gemm_scratch_bytes(W, X.rows, options));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  dispatch::multiply(X, W, Y, options, ctx);
}
inline void multiply(span2d<const float> X, const packed_matrix& W, span2d<float> Y, const gemm_options& options = {}) {
  dispatch::multiply(X, W.view(), Y, options);
}

/// Batches, other element types and epilogues, as nibble::multiply and nibble::multiply_as have them. An epilogue is
/// compiled in this unit and called through a pointer.
template <gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply(std::span<const gemm_task> tasks, const gemm_options& options, const context& ctx,
              const Epilogue& each = {}) {
  detail::table();
  gemm::multiply<backend>(tasks, options, ctx, each);
}
template <scratch_pool Pool, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply(std::span<const gemm_task> tasks, Pool& pool, const gemm_options& options = {},
              const Epilogue& each = {}) {
  pool.with_scratch(dispatch::gemm_scratch_bytes(tasks, options, pool.size()),
                    [&](const context& ctx) { dispatch::multiply(tasks, options, ctx, each); });
}
template <class X, class Y, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply_as(span2d<X> x, const packed_view& W, span2d<Y> y, const gemm_options& options, const context& ctx,
                 const Epilogue& each = {}, float y_scale = 0.0f) {
  const gemm_task task{input_of(x), W, output_of(y, y_scale), options.bias};
  gemm_options rest = options;
  rest.bias = nullptr;
  dispatch::multiply(std::span<const gemm_task>(&task, 1), rest, ctx, each);
}
template <class X, class Y, scratch_pool Pool, gemm::epilogue Epilogue = gemm::no_epilogue>
void multiply_as(span2d<X> x, const packed_view& W, span2d<Y> y, Pool& pool, const gemm_options& options = {},
                 const Epilogue& each = {}, float y_scale = 0.0f) {
  const gemm_task task{input_of(x), W, output_of(y, y_scale), options.bias};
  gemm_options rest = options;
  rest.bias = nullptr;
  dispatch::multiply(std::span<const gemm_task>(&task, 1), pool, rest, each);
}

}  // namespace dispatch
}  // namespace NIBBLE_ABI
}  // namespace nibble
