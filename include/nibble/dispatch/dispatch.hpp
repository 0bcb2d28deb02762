// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// One binary for many CPUs: the public product, with the kernels of the best instruction set that this CPU has. Needs
/// the target nibble::dispatch, whose objects hold the kernels; see README.md.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/dispatch/table.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/gemm.hpp>
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
/// (built without xsimd: scalar). Throws as `active` does.
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
  static std::size_t scratch_bytes(const packed_view& w, std::size_t M, const gemm_options& o,
                                   std::size_t concurrency) noexcept {
    const dispatch_table* const t = dispatch_chosen();
    return t == nullptr ? 0 : t->scratch_bytes(w, M, o, concurrency);
  }
  static void multiply(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                       const context& ctx) noexcept {
    dispatch_chosen()->multiply(x, w, y, o, ctx);
  }
};
static_assert(gemm::backend<backend>);

/// Bytes of scratch memory that `dispatch::multiply` takes for M tokens on `concurrency` slots: it depends on the tier.
/// Throws for a view that multiply would refuse, and as `active` does.
inline std::size_t gemm_scratch_bytes(const packed_view& W, std::size_t M, const gemm_options& options = {},
                                      std::size_t concurrency = 1) {
  const dispatch_table& t = detail::table();
  gemm::check_weights(W);
  return t.scratch_bytes(W, M, options, concurrency);
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

}  // namespace dispatch
}  // namespace NIBBLE_ABI
}  // namespace nibble
