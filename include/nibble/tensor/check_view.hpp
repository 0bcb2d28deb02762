// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What every function demands of a view that comes from outside.

#include <cstddef>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// Raises unsupported_format, bad_shape or bad_value unless `v` has a known format, elements, and the planes that the
/// format needs. `rows`: codes are in rows of row_stride_bytes (canonical form), so the stride must hold a row.
inline void check_view(const quantized_view& v, const char* who, bool rows = true) {
  quant::check_format(v.format, who);
  quant::check_extents(v.N, v.K, who);
  const auto plane = [&](const void* p, const char* name) {
    if (p == nullptr) core::fail(errc::bad_value, who, ": the view has no ", name, ", which its format needs");
  };
  plane(v.codes, "codes");
  plane(v.scales, "scales");
  if (quant::has_zeros(v.format)) plane(v.zeros, "zero points");
  if (v.format.scale == scale_storage::double_quant) plane(v.super_scales, "second-level scales");
  if (v.format.scale == scale_storage::super_block) plane(v.block_scales, "scales of super-blocks");
  if (v.format.rule == code_rule::codebook) plane(v.table, "table");
  if (!rows || v.format.granularity == granularity_kind::flat || v.N == 1) return;
  if (const std::size_t need = pack::packed_bytes(v.K, v.format.bits); v.row_stride_bytes < need)
    core::fail(errc::bad_shape, who, ": rows of ", v.K, " codes of ", int{v.format.bits}, " bits take ", need,
               " bytes, the stride is ", v.row_stride_bytes);
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
