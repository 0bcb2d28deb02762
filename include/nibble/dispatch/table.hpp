// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the objects of nibble::dispatch and their callers agree on. It stands outside the inline namespace, for it is
/// passed between units with other -m flags: plain data, and functions that the baseline object alone defines.

#include <cstddef>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/gemm/task.hpp>
#include <nibble/tensor/packed_view.hpp>

// A shared library that holds these objects keeps them to itself: two of them in one program never mix their tables.
#if defined(__GNUC__)
#define NIBBLE_DISPATCH_LOCAL __attribute__((visibility("hidden")))
#else
#define NIBBLE_DISPATCH_LOCAL
#endif

namespace nibble {

/// An epilogue of the caller's unit: its contract is that of gemm/epilogue.hpp, its call one through a pointer for each
/// piece of at most 16 elements.
struct dispatch_epilogue {
  void (*apply)(const void* epilogue, std::size_t task, std::size_t m, std::size_t n0, std::size_t count,
                float* v) noexcept;
  const void* epilogue;
};

/// The products of one instruction set, with the contracts of `gemm::backend` for batches. Each object compiled from
/// cmake/dispatch/instance.cpp.in defines one, nibble::dispatch_<tier>::table.
struct dispatch_table {
  const char* tier;     ///< the tag that the object was compiled for
  const char* kernels;  ///< the tag whose kernels serve panel16: another one where this build lacks kernels for `tier`
  bool (*runs_here)() noexcept;  ///< asked only when the CPU has the tier's instructions
  errc (*can_multiply)(const packed_view& w, const gemm_options& o) noexcept;
  std::size_t (*scratch_bytes)(const gemm_task* tasks, std::size_t count, const gemm_options& o,
                               std::size_t concurrency) noexcept;
  /// `epilogue`: nullptr leaves Y as it is.
  void (*multiply)(const gemm_task* tasks, std::size_t count, const gemm_options& o, const context& ctx,
                   const dispatch_epilogue* epilogue) noexcept;
};

static_assert(std::is_trivially_copyable_v<gemm_task> && std::is_trivially_copyable_v<packed_view> &&
                  std::is_trivially_copyable_v<gemm_options> && std::is_trivially_copyable_v<context>,
              "what crosses units is plain data");

/// The table that serves this process, chosen at the first call: the best one that this CPU runs, or the one that the
/// environment's NIBBLE_FORCE_ISA names. nullptr when that names none that this build and this CPU have.
NIBBLE_DISPATCH_LOCAL const dispatch_table* dispatch_chosen() noexcept;

/// The value of NIBBLE_FORCE_ISA, or nullptr when it is not set or empty.
NIBBLE_DISPATCH_LOCAL const char* dispatch_forced() noexcept;

/// Table `index` of this build, weakest first, and whether this CPU runs it; nullptr when there are no more.
NIBBLE_DISPATCH_LOCAL const dispatch_table* dispatch_tier(std::size_t index, bool& runs_here) noexcept;

}  // namespace nibble
