// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weights in a kernel's layout: made once from the canonical form, given back bit for bit.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/panel_codes.hpp>
#include <nibble/kernels/scalar/panel_codes.hpp>
#include <nibble/kernels/simd/panel_codes.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/quant/super_block.hpp>
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

namespace detail {

/// What the kernels do for packed_matrix, one struct for each ISA, so that a unit can leave them to another one
/// (NIBBLE_EXTERN_KERNELS, see gemm/products.hpp): kernels::panel_codes.
template <class Isa>
struct panels {
  static void pack(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K, int bits,
                   std::byte* panel) noexcept;
  static void unpack(const std::byte* panel, std::size_t columns, std::size_t K, int bits, std::byte* rows,
                     std::size_t row_bytes) noexcept;
};

template <class Isa>
void panels<Isa>::pack(const std::byte* rows, std::size_t row_bytes, std::size_t columns, std::size_t K, int bits,
                       std::byte* panel) noexcept {
  kernels::panel_codes<Isa>::pack(rows, row_bytes, columns, K, bits, panel);
}
template <class Isa>
void panels<Isa>::unpack(const std::byte* panel, std::size_t columns, std::size_t K, int bits, std::byte* rows,
                         std::size_t row_bytes) noexcept {
  kernels::panel_codes<Isa>::unpack(panel, columns, K, bits, rows, row_bytes);
}

#if NIBBLE_EXTERN_KERNELS
extern template struct panels<isa::native>;
#endif

}  // namespace detail

/// Owns W[N, K] in one layout, planes aligned to 64 bytes. What was moved from is 0 x 0 and may be assigned to.
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
    canonical_ = description{from.format, from.N, from.K, 0, from.scale_offset};
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
  const format_desc& format() const noexcept { return canonical_.value.format; }
  std::size_t N() const noexcept { return canonical_.value.N; }
  std::size_t K() const noexcept { return canonical_.value.K; }

  packed_view view() const noexcept {
    packed_view v;
    v.layout = layout_;
    v.matrix.format = format();
    v.matrix.N = N();
    v.matrix.K = K();
    v.matrix.row_stride_bytes = canonical_.value.row_stride_bytes;
    v.matrix.scale_offset = canonical_.value.scale_offset;
    v.matrix.codes = codes_.data();
    v.matrix.scales = scales_.data();
    v.matrix.zeros = zeros_.empty() ? nullptr : zeros_.data();
    v.matrix.super_scales = super_scales_.empty() ? nullptr : super_scales_.data();
    v.matrix.block_scales = block_scales_.empty() ? nullptr : block_scales_.data();
    v.matrix.table = table_.empty() ? nullptr : table_.data();
    return v;
  }

  /// Where the bytes are; panels rounded up to 16 columns and 32 k count as padding, their scales too.
  byte_ledger ledger() const noexcept {
    if (N() == 0) return {};
    byte_ledger l = canonical_ledger(format(), N(), K(), table_.size() * sizeof(float));
    const std::size_t stored = codes_.size() + scales_.size() + zeros_.size() + block_scales_.size() * sizeof(half) +
                               (super_scales_.size() + table_.size()) * sizeof(float);
    l.padding = stored - l.payload - l.scales - l.zero_points - l.container;
    return l;
  }

  /// The canonical form, bit for bit, panels in parallel. Raises bad_shape when this matrix was moved from.
  any_qmatrix unpack(const context& ctx = {}) const {
    if (N() == 0) core::fail(errc::bad_shape, "unpack: the matrix is 0 x 0; it was moved from");
    any_qmatrix out = table_.empty() ? any_qmatrix(format(), N(), K())
                                     : any_qmatrix(format(), N(), K(), std::span<const float>(table_));
    std::byte* const scales = out.scale_plane().data();
    std::byte* const zeros = out.zero_plane().data();
    for (std::size_t i = 0; i < super_scales_.size(); ++i) out.super_scales()[i] = super_scales_[i];
    const bool one_scale = format().granularity == granularity_kind::per_tensor;
    if (layout_ == layout_id::row_major || one_scale) {
      std::memcpy(scales, scales_.data(), scales_.size());
      if (!zeros_.empty()) std::memcpy(zeros, zeros_.data(), zeros_.size());
    }
    if (layout_ == layout_id::row_major) {
      std::copy(block_scales_.begin(), block_scales_.end(), out.block_scales().begin());
      std::memcpy(out.codes().data(), codes_.data(), codes_.size());
      return out;
    }
    const std::size_t scale_size = quant::scale_bytes(format().scale), zero_size = quant::zero_bytes(format());
    const std::size_t panel_bytes = pack::panel16::panel_bytes(K(), format().bits), groups = panel_groups();
    const std::size_t row_bytes = row_bytes_of(out.view());
    core::for_each_item(ctx, pack::panel16::panels(N()), [&](std::size_t p, std::size_t) {
      const std::size_t n = p * 16, columns = N() - n < 16 ? N() - n : 16;
      detail::panels<isa::native>::unpack(codes_.data() + p * panel_bytes, columns, K(), format().bits,
                                          out.codes().data() + n * row_bytes, row_bytes);
      if (one_scale) return;
      const std::size_t first = n * groups;  // of the panel's scales in both forms
      transpose(scale_size, scales_.data() + first * scale_size, groups, columns, 16, scales + first * scale_size,
                groups);
      transpose(zero_size, zeros_.data() + first * zero_size, groups, columns, 16, zeros + first * zero_size, groups);
      const std::size_t halves = quant::block_scales_per_row(format(), K());
      if (halves != 0)
        transpose(sizeof(half), reinterpret_cast<const std::byte*>(block_scales_.data() + n * halves), halves, columns,
                  16, reinterpret_cast<std::byte*>(out.block_scales().data() + n * halves), halves);
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
    canonical_.value.row_stride_bytes = flat ? 0 : row_bytes;
    const auto* s = static_cast<const std::byte*>(from.scales);
    scales_.assign(s, s + scales * quant::scale_bytes(from.format.scale));
    if (const std::size_t zero_size = quant::zero_bytes(from.format); zero_size != 0) {
      const auto* z = static_cast<const std::byte*>(from.zeros);
      zeros_.assign(z, z + scales * zero_size);
    }
    block_scales_.assign(from.block_scales,
                         from.block_scales + from.N * quant::block_scales_per_row(from.format, from.K));
  }

  void make_panels(const quantized_view& from, const context& ctx) {
    const format_desc& f = from.format;
    const std::size_t panels = pack::panel16::panels(from.N), groups = panel_groups();
    const std::size_t panel_bytes = pack::panel16::panel_bytes(from.K, f.bits);
    const std::size_t scale_size = quant::scale_bytes(f.scale), zero_size = quant::zero_bytes(f);
    const bool one_scale = f.granularity == granularity_kind::per_tensor;
    canonical_.value.row_stride_bytes = 0;
    codes_.resize(panels * panel_bytes);
    scales_.resize((one_scale ? 1 : panels * groups * 16) * scale_size);
    zeros_.resize((one_scale ? 1 : panels * groups * 16) * zero_size);
    if (one_scale) {
      std::memcpy(scales_.data(), from.scales, scale_size);
      if (zero_size != 0) std::memcpy(zeros_.data(), from.zeros, zero_size);
    }
    const std::size_t halves = quant::block_scales_per_row(f, from.K);
    block_scales_.resize(panels * 16 * halves);
    const std::size_t row_bytes = row_bytes_of(from);
    const auto* scales = static_cast<const std::byte*>(from.scales);
    const auto* zeros = static_cast<const std::byte*>(from.zeros);
    core::for_each_item(ctx, panels, [&](std::size_t p, std::size_t) {
      const std::size_t n = p * 16, columns = from.N - n < 16 ? from.N - n : 16;
      detail::panels<isa::native>::pack(from.codes + n * row_bytes, row_bytes, columns, from.K, f.bits,
                                        codes_.data() + p * panel_bytes);
      if (one_scale) return;
      const std::size_t first = n * groups;  // of the panel's scales in both forms
      transpose(scale_size, scales + first * scale_size, columns, groups, groups, scales_.data() + first * scale_size,
                16);
      transpose(zero_size, zeros + first * zero_size, columns, groups, groups, zeros_.data() + first * zero_size, 16);
      if (halves != 0)
        transpose(sizeof(half), reinterpret_cast<const std::byte*>(from.block_scales + n * halves), columns, halves,
                  halves, reinterpret_cast<std::byte*>(block_scales_.data() + n * halves), 16);
    });
  }

  /// From one row to the next. Flat blocks that fit panels are not cut by rows, so a row of theirs, too, is whole blocks: a
  /// multiple of 8 codes, whole bytes.
  static std::size_t row_bytes_of(const quantized_view& v) noexcept {
    return v.format.granularity == granularity_kind::flat ? pack::packed_bytes(v.K, v.format.bits) : v.row_stride_bytes;
  }

  /// to[c * to_stride + r] = from[r * from_stride + c] for elements of `size` bytes: 1, 2, 4, or 0 for none.
  static void transpose(std::size_t size, const std::byte* from, std::size_t rows, std::size_t cols,
                        std::size_t from_stride, std::byte* to, std::size_t to_stride) noexcept {
    const auto move = [&]<std::size_t Size>() {
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < cols; ++c)
          std::memcpy(to + (c * to_stride + r) * Size, from + (r * from_stride + c) * Size, Size);
    };
    if (size == 1) move.template operator()<1>();
    if (size == 2) move.template operator()<2>();
    if (size == 4) move.template operator()<4>();
  }

  struct description {
    format_desc format;
    std::size_t N = 0, K = 0, row_stride_bytes = 0;
    float scale_offset = 0.0f;
  };
  layout_id layout_;
  detail::emptied_by_move<description> canonical_;
  aligned_vector<std::byte> codes_, scales_, zeros_;
  aligned_vector<float> super_scales_, table_;
  aligned_vector<half> block_scales_;
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
