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
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/tensor/packed_view.hpp>

// A shared library that holds these objects keeps them to itself: two of them in one program never mix their tables.
#if defined(__GNUC__)
#define NIBBLE_DISPATCH_LOCAL __attribute__((visibility("hidden")))
#else
#define NIBBLE_DISPATCH_LOCAL
#endif

namespace nibble {

/// The products of one instruction set, with the contracts of `gemm::backend`. Each object compiled from
/// cmake/dispatch/instance.cpp.in defines one, nibble::dispatch_<tier>::table.
struct dispatch_table {
  const char* tier;     ///< the tag that the object was compiled for
  const char* kernels;  ///< the tag whose kernels serve panel16: another one where this build lacks kernels for `tier`
  bool (*runs_here)() noexcept;  ///< asked only when the CPU has the tier's instructions
  errc (*can_multiply)(const packed_view& w, const gemm_options& o) noexcept;
  std::size_t (*scratch_bytes)(const packed_view& w, std::size_t M, const gemm_options& o,
                               std::size_t concurrency) noexcept;
  void (*multiply)(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                   const context& ctx) noexcept;
};

static_assert(std::is_trivially_copyable_v<span2d<const float>> && std::is_trivially_copyable_v<packed_view> &&
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
