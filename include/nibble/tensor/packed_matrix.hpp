// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weights in a kernel's layout: made once from the canonical form, given back bit for bit.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/packed_view.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// errc::ok when W[N, K] of this format has a form in layout `to`. Flat blocks that begin inside a row, and groups longer
/// than exact_k that are not the whole row, stay in row_major.
constexpr errc can_pack(const format_desc& f, std::size_t K, layout_id to) noexcept {
  if (f.group_size == 0 && (f.granularity == granularity_kind::grouped || f.granularity == granularity_kind::flat))
    return errc::unsupported_format;
  if (to == layout_id::row_major) return errc::ok;
  if (to != layout_id::panel16) return errc::unsupported_layout;
  switch (f.granularity) {
    case granularity_kind::per_tensor:
    case granularity_kind::per_channel: return errc::ok;
    case granularity_kind::grouped: return f.group_size <= kernels::exact_k ? errc::ok : errc::unsupported_layout;
    case granularity_kind::flat: return K % f.group_size == 0 ? errc::ok : errc::unsupported_layout;
  }
  return errc::unsupported_layout;
}

/// The fastest layout that this format has.
constexpr layout_id best_layout(const format_desc& f, std::size_t K) noexcept {
  return can_pack(f, K, layout_id::panel16) == errc::ok ? layout_id::panel16 : layout_id::row_major;
}

/// Owns W[N, K] in one layout, planes aligned to 64 bytes.
class packed_matrix {
 public:
  /// Rearranges `from`, panels in parallel. Throws unsupported_layout where can_pack refuses, and bad_shape for a view
  /// without elements.
  packed_matrix(const quantized_view& from, layout_id layout, const context& ctx = {}) : layout_(layout) {
    check_view(from, "pack");
    if (can_pack(from.format, from.K, layout) != errc::ok)
      core::fail(errc::unsupported_layout, "pack: layout ", name_of(layout), " cannot hold groups of ",
                 from.format.group_size, " with K = ", from.K, " (groups must not cross rows nor exceed ",
                 kernels::exact_k, "); use row_major");
    canonical_ = from;
    canonical_.codes = nullptr;
    canonical_.scales = canonical_.zeros = nullptr;
    canonical_.super_scales = canonical_.table = nullptr;
    const std::size_t scales = quant::scale_count(from.format, from.N, from.K);
    if (from.format.scale == scale_storage::double_quant) {
      super_scales_.reserve(quant::super_scale_count(scales));
      super_scales_.assign(from.super_scales, from.super_scales + ceil_div(scales, quant::double_quant_block));
      super_scales_.push_back(from.scale_offset);  // as the canonical form keeps it
    }
    if (from.format.rule == code_rule::codebook)
      table_.assign(from.table, from.table + (std::size_t{1} << from.format.bits));
    if (layout == layout_id::row_major) copy_rows(from, scales);
    else make_panels(from, ctx);
  }

  layout_id layout() const noexcept { return layout_; }
  const format_desc& format() const noexcept { return canonical_.format; }
  std::size_t N() const noexcept { return canonical_.N; }
  std::size_t K() const noexcept { return canonical_.K; }

  packed_view view() const noexcept {
    packed_view v{layout_, canonical_};
    v.matrix.codes = codes_.data();
    v.matrix.scales = scales_.data();
    v.matrix.zeros = zeros_.empty() ? nullptr : zeros_.data();
    v.matrix.super_scales = super_scales_.empty() ? nullptr : super_scales_.data();
    v.matrix.table = table_.empty() ? nullptr : table_.data();
    return v;
  }

  /// Where the bytes are; panels rounded up to 16 columns and 32 k count as padding, their scales too.
  byte_ledger ledger() const noexcept {
    byte_ledger l = canonical_ledger(format(), N(), K(), table_.size() * sizeof(float));
    const std::size_t stored =
        codes_.size() + scales_.size() + zeros_.size() + (super_scales_.size() + table_.size()) * sizeof(float);
    l.padding = stored - l.payload - l.scales - l.zero_points - l.container;
    return l;
  }

  /// The canonical form, bit for bit.
  any_qmatrix unpack(const context& ctx = {}) const {
    any_qmatrix out = table_.empty() ? any_qmatrix(format(), N(), K())
                                     : any_qmatrix(format(), N(), K(), std::span<const float>(table_));
    const std::size_t scale_size = quant::scale_bytes(format().scale), zero_size = quant::zero_bytes(format());
    std::byte* scales = out.scale_plane().data();
    std::byte* zeros = out.zero_plane().data();
    for (std::size_t i = 0; i < super_scales_.size(); ++i) out.super_scales()[i] = super_scales_[i];
    if (layout_ == layout_id::row_major || format().granularity == granularity_kind::per_tensor) {
      std::memcpy(scales, scales_.data(), scales_.size());
      if (zero_size != 0) std::memcpy(zeros, zeros_.data(), zeros_.size());
    } else {
      const std::size_t groups = panel_groups();
      for (std::size_t n = 0; n < N(); ++n) {
        for (std::size_t g = 0; g < groups; ++g) {
          const std::size_t from = (n / 16 * groups + g) * 16 + n % 16, into = n * groups + g;
          std::memcpy(scales + into * scale_size, scales_.data() + from * scale_size, scale_size);
          if (zero_size != 0) std::memcpy(zeros + into * zero_size, zeros_.data() + from * zero_size, zero_size);
        }
      }
    }
    std::byte* const to = out.codes().data();
    if (layout_ == layout_id::row_major) {
      std::memcpy(to, codes_.data(), codes_.size());
      return out;
    }
    const int bits = format().bits;
    const std::size_t row_bytes = out.row_stride_bytes(), panel_bytes = pack::panel16::panel_bytes(K(), bits);
    // Flat rows may share a byte with their neighbours: one thread then writes them all.
    const context serial;
    std::vector<std::uint8_t> rows(K() * core::slots_of(row_bytes == 0 ? serial : ctx, N()));
    core::for_each_item(row_bytes == 0 ? serial : ctx, N(), [&](std::size_t n, std::size_t slot) {
      std::uint8_t* codes = rows.data() + slot * K();
      const std::byte* panel = codes_.data() + n / 16 * panel_bytes;
      for (std::size_t k = 0; k < K(); ++k)
        codes[k] = static_cast<std::uint8_t>(pack::get_panel16(panel, bits, n % 16, k));
      if (row_bytes != 0) pack::pack_row(codes, K(), bits, to + n * row_bytes);
      else
        for (std::size_t k = 0; k < K(); ++k) pack::put(to, n * K() + k, bits, codes[k]);
    });
    return out;
  }

 private:
  std::size_t panel_groups() const noexcept {
    const format_desc& f = format();
    return f.granularity == granularity_kind::grouped || f.granularity == granularity_kind::flat
               ? ceil_div(K(), std::size_t{f.group_size})
               : 1;
  }

  void copy_rows(const quantized_view& from, std::size_t scales) {
    const std::size_t row_bytes = pack::packed_bytes(from.K, from.format.bits);
    const bool flat = from.format.granularity == granularity_kind::flat;
    if (flat) {
      codes_.assign(from.codes, from.codes + pack::packed_bytes(from.N * from.K, from.format.bits));
    } else {
      codes_.resize(from.N * row_bytes);
      for (std::size_t n = 0; n < from.N; ++n)
        std::memcpy(codes_.data() + n * row_bytes, from.codes + n * from.row_stride_bytes, row_bytes);
    }
    canonical_.row_stride_bytes = flat ? 0 : row_bytes;
    const auto* s = static_cast<const std::byte*>(from.scales);
    scales_.assign(s, s + scales * quant::scale_bytes(from.format.scale));
    if (const std::size_t zero_size = quant::zero_bytes(from.format); zero_size != 0) {
      const auto* z = static_cast<const std::byte*>(from.zeros);
      zeros_.assign(z, z + scales * zero_size);
    }
  }

  void make_panels(const quantized_view& from, const context& ctx) {
    const format_desc& f = from.format;
    const std::size_t panels = pack::panel16::panels(from.N), groups = panel_groups();
    const std::size_t panel_bytes = pack::panel16::panel_bytes(from.K, f.bits);
    const std::size_t scale_size = quant::scale_bytes(f.scale), zero_size = quant::zero_bytes(f);
    const bool one_scale = f.granularity == granularity_kind::per_tensor;
    canonical_.row_stride_bytes = 0;
    codes_.resize(panels * panel_bytes);
    scales_.resize((one_scale ? 1 : panels * groups * 16) * scale_size);
    zeros_.resize((one_scale ? 1 : panels * groups * 16) * zero_size);
    if (one_scale) {
      std::memcpy(scales_.data(), from.scales, scale_size);
      if (zero_size != 0) std::memcpy(zeros_.data(), from.zeros, zero_size);
    }
    // One panel of codes, a byte each, in unit order; and one row.
    const std::size_t padded = pack::panel16::padded_k(from.K), slot_bytes = padded * 16 + from.K;
    aligned_vector<std::uint8_t> scratch(slot_bytes * core::slots_of(ctx, panels));
    core::for_each_item(ctx, panels, [&](std::size_t p, std::size_t slot) {
      std::uint8_t* units = scratch.data() + slot * slot_bytes;
      std::uint8_t* row = units + padded * 16;
      std::memset(units, 0, padded * 16);
      for (std::size_t i = 0; i < 16 && p * 16 + i < from.N; ++i) {
        const std::size_t n = p * 16 + i;
        if (f.granularity == granularity_kind::flat) pack::unpack_range(from.codes, n * from.K, from.K, f.bits, row);
        else pack::unpack_row(from.codes + n * from.row_stride_bytes, from.K, f.bits, row);
        std::size_t k = 0;
        for (; k + 4 <= from.K; k += 4) std::memcpy(units + k * 16 + i * 4, row + k, 4);
        for (; k < from.K; ++k) units[k / 4 * 64 + i * 4 + k % 4] = row[k];
        if (one_scale) continue;
        for (std::size_t g = 0; g < groups; ++g) {
          const std::size_t into = (p * groups + g) * 16 + i, at = n * groups + g;
          std::memcpy(scales_.data() + into * scale_size, static_cast<const std::byte*>(from.scales) + at * scale_size,
                      scale_size);
          if (zero_size != 0)
            std::memcpy(zeros_.data() + into * zero_size, static_cast<const std::byte*>(from.zeros) + at * zero_size,
                        zero_size);
        }
      }
      pack_units(units, pack::panel16::blocks(from.K), f.bits, codes_.data() + p * panel_bytes);
    });
  }

  /// Unpacked units to bit planes (pack/layout.hpp). The inner loop runs over 64 bytes with constant shifts.
  static void pack_units(const std::uint8_t* units, std::size_t blocks, int bits, std::byte* out) noexcept {
    const pack::bit_planes planes = pack::planes_of(bits);
    for (std::size_t b = 0; b < blocks; ++b, units += 8 * 64) {
      for (int i = 0; i < planes.count; ++i) {
        const int width = planes.width[i], down = planes.shift[i];
        const std::size_t per_byte = 8 / static_cast<std::size_t>(width);
        const unsigned mask = (1u << width) - 1u;
        for (std::size_t v = 0; v < 8 / per_byte; ++v, out += 64) {
          std::uint8_t bytes[64] = {};
          for (std::size_t t = 0; t < per_byte; ++t) {
            const std::uint8_t* u = units + (v * per_byte + t) * 64;
            const int up = static_cast<int>(t) * width;
            for (std::size_t j = 0; j < 64; ++j)
              bytes[j] = static_cast<std::uint8_t>(bytes[j] | ((u[j] >> down & mask) << up));
          }
          std::memcpy(out, bytes, 64);
        }
      }
    }
  }

  layout_id layout_;
  quantized_view canonical_;  // format, extents, scale offset; the pointers are filled in by view()
  aligned_vector<std::byte> codes_, scales_, zeros_;
  aligned_vector<float> super_scales_, table_;
};

/// W in the fastest layout that its format has.
inline packed_matrix pack_matrix(const quantized_view& W, const context& ctx = {}) {
  return packed_matrix(W, best_layout(W.format, W.K), ctx);
}
/// W in a layout of the caller's choice.
inline packed_matrix pack_matrix(const quantized_view& W, layout_id layout, const context& ctx = {}) {
  return packed_matrix(W, layout, ctx);
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
