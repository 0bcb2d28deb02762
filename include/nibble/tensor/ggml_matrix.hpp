// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weights in a block format of GGUF files as a quantized matrix, and back, without loss: what multiplies straight from such
/// files. K-quants become formats whose scales stand on two levels (quant/super_block.hpp), the others groups of 32.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/codes.hpp>
#include <nibble/kernels/scalar/codes.hpp>
#include <nibble/kernels/simd/codes.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/ggml_parts.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/super_block.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/ggml_rows.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

namespace detail {

/// Calls f with parts_of<Format>{}, Format{} of a type whose blocks a matrix can hold; false for the others.
template <class F>
constexpr bool with_ggml_parts(ggml_type type, F&& f) {
  bool found = false;
  with_ggml_format(type, [&]<class Format>(Format format) {
    if constexpr (requires { quant::ggml::parts_of<Format>::format; }) {
      f(quant::ggml::parts_of<Format>{}, format);
      found = true;
    }
  });
  return found;
}

}  // namespace detail

/// Whether a matrix can hold the type without loss: all block formats that nibble reads.
constexpr bool can_be_matrix(ggml_type type) noexcept {
  return detail::with_ggml_parts(type, [](auto, auto) {});
}

/// The format that holds a type, for types of can_be_matrix.
constexpr format_desc matrix_format_of(ggml_type type) noexcept {
  format_desc f;
  detail::with_ggml_parts(type, [&f]<class Parts>(Parts, auto) { f = Parts::format; });
  return f;
}

/// W[N, K] from the blocks of its rows, without loss: dequantize gives the bits of decode_ggml. Codebook types refer to tables of the
/// library. `ctx` says on which threads. Throws unsupported_format for a type that is no block format of nibble's, bad_shape when
/// K is no whole number of blocks or `blocks` has another size than N rows.
inline any_qmatrix matrix_from_ggml(ggml_type type, std::span<const std::byte> blocks, std::size_t N, std::size_t K,
                                    const context& ctx = {}) {
  if (!can_be_matrix(type))
    core::fail(errc::unsupported_format, "matrix_from_ggml: no matrix format holds type ", quant::name_of(type));
  quant::check_extents(N, K, "matrix_from_ggml");
  const std::size_t row_bytes = detail::ggml_bytes(type, K, "matrix_from_ggml");
  if (blocks.size() / N != row_bytes || blocks.size() % N != 0)
    core::fail(errc::bad_shape, "matrix_from_ggml: ", N, " rows of ", K, " values in ", quant::name_of(type), " take ",
               row_bytes, " bytes each; there are ", blocks.size(), " in all");
  any_qmatrix out;
  detail::with_ggml_parts(type, [&]<class Parts, class Format>(Parts, Format) {
    out = any_qmatrix(Parts::format, N, K, Parts::table);
    constexpr std::size_t size = Format::block_elements, groups = size / Parts::format.group_size;
    constexpr bool offset = Parts::format.rule == code_rule::asymmetric_offset;
    constexpr bool super = Parts::format.scale == scale_storage::super_block;
    const std::size_t of_row = K / size, of_halves = of_row * (offset ? 2 : 1);
    const std::size_t code_bytes = size * Parts::format.bits / 8;
    std::byte* const codes = out.codes().data();
    std::byte* const scales = out.scale_plane().data();
    std::byte* const zeros = out.zero_plane().data();
    half* const halves = out.block_scales().data();
    core::for_each_item(ctx, N, [&](std::size_t n, std::size_t) {
      quant::ggml::block_parts p;
      for (std::size_t b = 0; b < of_row; ++b) {
        const std::size_t block = n * of_row + b;
        Parts::split(blocks.data() + block * Format::block_bytes, p);
        kernels::dense_codes<isa::native>::pack(p.codes, size, Parts::format.bits, codes + block * code_bytes);
        if constexpr (super) {
          std::memcpy(scales + block * groups, p.scales, groups);
          halves[n * of_halves + b] = half{p.d};
          if constexpr (offset) {
            std::memcpy(zeros + block * groups, p.offsets, groups);
            halves[n * of_halves + of_row + b] = half{p.m};
          }
        } else {
          std::memcpy(scales + block * sizeof p.d, &p.d, sizeof p.d);
          if constexpr (offset) std::memcpy(zeros + block * sizeof p.m, &p.m, sizeof p.m);
        }
      }
    });
  });
  return out;
}

/// The inverse: the rows of W as blocks, without loss. `blocks` has exactly their bytes. Throws unsupported_format when W has not
/// the format of the type (matrix_format_of) or, for codebooks, not its table; bad_shape for sizes; bad_value where a scale or offset
/// is none that the block format can write, with the first row and column of its block.
inline void matrix_to_ggml(const quantized_view& W, ggml_type type, std::span<std::byte> blocks,
                           const context& ctx = {}) {
  check_view(W, "matrix_to_ggml");
  if (!can_be_matrix(type) || !quant::same_format(W.format, matrix_format_of(type)))
    core::fail(errc::unsupported_format, "matrix_to_ggml: the matrix (", int{W.format.bits}, " bits, groups of ",
               W.format.group_size, ") has not the format that holds ", quant::name_of(type));
  const std::size_t row_bytes = detail::ggml_bytes(type, W.K, "matrix_to_ggml");
  if (blocks.size() / W.N != row_bytes || blocks.size() % W.N != 0)
    core::fail(errc::bad_shape, "matrix_to_ggml: ", W.N, " rows of ", W.K, " values in ", quant::name_of(type),
               " take ", row_bytes, " bytes each; there is room for ", blocks.size(), " in all");
  detail::with_ggml_parts(type, [&]<class Parts, class Format>(Parts, Format) {
    constexpr std::size_t size = Format::block_elements, groups = size / Parts::format.group_size;
    constexpr bool offset = Parts::format.rule == code_rule::asymmetric_offset;
    constexpr bool super = Parts::format.scale == scale_storage::super_block;
    if constexpr (Parts::table != nullptr) {
      for (std::size_t u = 0; u < std::size_t{1} << Parts::format.bits; ++u)
        if (W.table[u] != Parts::table[u])
          core::fail(errc::unsupported_format, "matrix_to_ggml: code ", u, " is worth ", W.table[u], ", in ",
                     quant::name_of(type), " ", Parts::table[u]);
    }
    const std::size_t of_row = W.K / size, of_halves = of_row * (offset ? 2 : 1);
    const std::size_t code_bytes = size * Parts::format.bits / 8;
    const auto* const scales = static_cast<const std::byte*>(W.scales);
    const auto* const zeros = static_cast<const std::byte*>(W.zeros);
    constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
    std::atomic<std::size_t> refused{none};
    core::for_each_item(ctx, W.N, [&](std::size_t n, std::size_t) {
      quant::ggml::block_parts p;
      for (std::size_t b = 0; b < of_row; ++b) {
        const std::size_t block = n * of_row + b;
        kernels::dense_codes<isa::native>::unpack(W.codes + n * W.row_stride_bytes + b * code_bytes, size,
                                                  Parts::format.bits, p.codes);
        p.m = 0;
        if constexpr (super) {
          std::memcpy(p.scales, scales + block * groups, groups);
          p.d = W.block_scales[n * of_halves + b].bits;
          if constexpr (offset) {
            std::memcpy(p.offsets, zeros + block * groups, groups);
            p.m = W.block_scales[n * of_halves + of_row + b].bits;
          }
        } else {
          std::memcpy(&p.d, scales + block * sizeof p.d, sizeof p.d);
          if constexpr (offset) std::memcpy(&p.m, zeros + block * sizeof p.m, sizeof p.m);
        }
        if (Parts::join(p, blocks.data() + block * Format::block_bytes)) continue;
        for (std::size_t least = refused.load(); block < least && !refused.compare_exchange_weak(least, block);) {}
      }
    });
    if (const std::size_t block = refused.load(); block != none)
      core::fail(errc::bad_value, "matrix_to_ggml: row ", block / of_row, ", columns ", block % of_row * size, " to ",
                 block % of_row * size + size - 1, ": a scale or offset that ", quant::name_of(type), " cannot write");
  });
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
