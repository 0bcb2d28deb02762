// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Layers of compressed-tensors checkpoints in the format "pack-quantized". W[N, K], b bits, groups of G columns:
///
///   weight_packed     [N, words(K)]                  int32; a code is q + 2^(b-1), column 0 lowest, the end of a row filled with 0
///   weight_scale      [N, ceil(K / G)], [N, 1], [1]  F16, BF16 or F32; one for a group, a row, the matrix
///   weight_zero_point [words(N), groups]             asymmetric only: int32, packed along the outputs, with the same offset
///   weight_shape      [2]                            N, K; int64 (or int32)
///   weight_g_idx      [K]                            int32, optional: the group of each column
///
///   w = (q - z) * scale = (code - code of z) * scale
///
/// Up to version 0.17 of the tool a word has 32 / b whole codes (10 of 3 bits; the bits above are 0), words(n) =
/// ceil(n / (32 / b)); since 0.18 codes are one stream of bits, words(n) = ceil(n b / 32). That is the same for 2, 4 and 8 bits.
///
/// Source: compressed-tensors 0.12 to 0.20, compressors/pack_quantized.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/io/word_codes.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

struct packed_tensors {
  tensor_view weight_packed, weight_scale, weight_shape;
  std::optional<tensor_view> weight_zero_point, weight_g_idx;
};

namespace detail {

/// N and K of a weight_shape tensor.
inline std::pair<std::size_t, std::size_t> packed_extents(const tensor_view& t) {
  const bool wide = t.type == dtype::i64;
  check_tensor("compressed_tensors", t, wide ? dtype::i64 : dtype::i32, {2});
  std::size_t extents[2];
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t v = wide ? load_element<std::int64_t>(t.bytes.data() + 8 * i)
                                : std::int64_t{load_element<std::int32_t>(t.bytes.data() + 4 * i)};
    if (v <= 0 || v > 0x7fffffff)
      core::fail(errc::bad_file, "compressed_tensors: '", printable(t.name), "': extent ", i, " is ", v,
                 "; rule: 1 to 2^31 - 1");
    extents[i] = static_cast<std::size_t>(v);
  }
  return {extents[0], extents[1]};
}

[[noreturn]] inline void refuse_padding(const tensor_view& t, const char* what, std::size_t i) {
  core::fail(errc::bad_file, "compressed_tensors: '", printable(t.name), "': ", what, " ", i,
             " has bits that belong to no code; rule: they are 0");
}

/// How rows of K codes lie in so many words each; `stated` decides where both ways take as many, which only rows of less than
/// 160 codes of 3, 5, 6 or 7 bits do. Nothing where neither way does, or where it is not stated.
constexpr std::optional<word_packing> packing_of(std::size_t K, std::size_t words, int bits,
                                                 std::optional<word_packing> stated) noexcept {
  const bool whole = words_of(K, bits, word_packing::whole) == words,
             stream = words_of(K, bits, word_packing::stream) == words;
  if (32 % bits == 0 && whole) return word_packing::whole;
  if (whole && stream) return stated;
  if (whole || stream) return whole ? word_packing::whole : word_packing::stream;
  return std::nullopt;
}

}  // namespace detail

/// The layer as W[N, K], nothing lost: `symmetric_full` codes of 2 to 8 bits, or `asymmetric` ones with zero points. Which
/// columns share a scale follows from the shape of weight_scale and, for groups, from group_size (0: rows or the whole
/// matrix); how codes lie in words from the shape of weight_packed, and from `packing` where short rows of 3, 5, 6 or 7 bits
/// have as many words in both ways. Throws bad_file with tensor and rule, unsupported_format for other widths and dtypes.
inline checkpoint_matrix read_pack_quantized(const packed_tensors& t, int bits, std::size_t group_size,
                                             std::optional<word_packing> packing = {}) {
  if (bits < 2 || bits > 8)
    core::fail(errc::unsupported_format, "compressed_tensors: ", bits, " bits; 2 to 8 are supported");
  const auto [N, K] = detail::packed_extents(t.weight_shape);
  const std::size_t words = detail::extent_of("compressed_tensors", t.weight_packed, 2, 1);
  const std::optional<word_packing> found = detail::packing_of(K, words, bits, packing);
  if (!found && detail::words_of(K, bits, word_packing::whole) == words)
    core::fail(
        errc::bad_file, "compressed_tensors: '", printable(t.weight_packed.name), "': rows of ", K, " codes of ", bits,
        " bits have ", words,
        " words whether codes straddle words or not; rule: the caller, or the version in the configuration, says "
        "which");
  const word_packing way = found.value_or(packing.value_or(word_packing::whole));
  detail::check_tensor("compressed_tensors", t.weight_packed, dtype::i32, {N, detail::words_of(K, bits, way)});
  const bool asymmetric = t.weight_zero_point.has_value();
  format_desc f =
      detail::grouped_format("compressed_tensors", asymmetric ? code_rule::asymmetric : code_rule::symmetric_full, bits,
                             detail::storage_of_scales("compressed_tensors", t.weight_scale), group_size);
  std::size_t rows = N;
  const std::size_t groups = detail::groups_of(K, group_size);
  if (group_size == 0 && N != 1 && t.weight_scale.shape.size() <= 2 &&
      std::ranges::all_of(t.weight_scale.shape, [](std::size_t extent) { return extent == 1; })) {
    f.granularity = granularity_kind::per_tensor;  // [], [1] or [1, 1]
    rows = 1;
  }
  if (t.weight_scale.shape.size() == 2 || rows * groups != 1)
    detail::check_tensor("compressed_tensors", t.weight_scale, t.weight_scale.type, {rows, groups});
  else if (t.weight_scale.shape.size() == 1)
    detail::check_tensor("compressed_tensors", t.weight_scale, t.weight_scale.type, {1});
  else detail::check_tensor("compressed_tensors", t.weight_scale, t.weight_scale.type, {});

  checkpoint_matrix layer;
  if (t.weight_g_idx)
    layer.column_order =
        detail::column_order_of("compressed_tensors", *t.weight_g_idx, K, group_size == 0 ? K : group_size);
  layer.matrix = any_qmatrix(f, N, K);
  any_qmatrix& m = layer.matrix;
  std::memcpy(m.scale_plane().data(), t.weight_scale.bytes.data(), t.weight_scale.bytes.size());
  if (asymmetric) {
    detail::check_tensor("compressed_tensors", *t.weight_zero_point, dtype::i32,
                         {detail::words_of(rows, bits, way), groups});
    std::vector<std::uint8_t> column(rows);
    for (std::size_t g = 0; g < groups; ++g) {
      if (!detail::unpack_words(t.weight_zero_point->bytes.subspan(4 * g), groups, rows, bits, way, column.data()))
        detail::refuse_padding(*t.weight_zero_point, "column", g);
      for (std::size_t n = 0; n < rows; ++n) m.zero_plane()[n * groups + g] = static_cast<std::byte>(column[n]);
    }
  }
  std::vector<std::uint8_t> codes(K), ordered(K);
  for (std::size_t n = 0; n < N; ++n) {
    if (!detail::unpack_words(t.weight_packed.bytes.subspan(4 * n * words), 1, K, bits, way, codes.data()))
      detail::refuse_padding(t.weight_packed, "row", n);
    detail::to_order(layer.column_order, codes, ordered.data());
    pack::pack_row(ordered.data(), K, bits, m.codes().data() + n * m.row_stride_bytes());
  }
  return layer;
}

/// How the tensors of a layer differ from file to file.
struct packed_form {
  dtype shape_type = dtype::i64;               ///< of weight_shape: I64 or I32
  bool g_idx = false;                          ///< with weight_g_idx
  std::size_t scale_rank = 2;                  ///< extents of weight_scale; 0 or 1 for one scale of the matrix
  word_packing packing = word_packing::whole;  ///< of 3, 5, 6 and 7 bits
};

/// The tensors NAME.weight_packed, .weight_scale, .weight_shape, and .weight_zero_point and .weight_g_idx where there are
/// any: those that read_pack_quantized read, byte for byte; or those of any `symmetric`, `symmetric_full` or `asymmetric`
/// matrix with float scales for groups, rows or the whole matrix. Throws unsupported_format for others and bad_value for
/// a zero point above 2^bits - 1.
inline std::vector<tensor_bytes> write_pack_quantized(const checkpoint_matrix& layer, const std::string& name,
                                                      const packed_form& form = {}) {
  const quantized_view v = layer.matrix.view();
  const format_desc& f = v.format;
  const bool asymmetric = f.rule == code_rule::asymmetric, tensor = f.granularity == granularity_kind::per_tensor;
  if ((!asymmetric && f.rule != code_rule::symmetric && f.rule != code_rule::symmetric_full) ||
      f.granularity == granularity_kind::flat || quant::has_two_levels(f.scale))
    core::fail(errc::unsupported_format, "compressed_tensors: '", printable(name),
               "': rule: symmetric or asymmetric codes, float scales for groups, rows or the matrix");
  check_column_order(layer.column_order, v.K, "compressed_tensors");
  if (!layer.column_order.empty() && !form.g_idx)
    core::fail(errc::bad_value, "compressed_tensors: '", printable(name), "': a layer with a column order needs g_idx");
  const std::size_t N = v.N, K = v.K, words = detail::words_of(K, f.bits, form.packing);
  const std::size_t rows = tensor ? 1 : N, groups = quant::groups_per_row(f, K);

  std::vector<tensor_bytes> out;
  out.push_back(detail::make_tensor(name + ".weight_packed", dtype::i32, {N, words}));
  std::vector<std::uint8_t> codes(K), ordered(K);
  for (std::size_t n = 0; n < N; ++n) {
    pack::unpack_row(v.codes + n * v.row_stride_bytes, K, f.bits, ordered.data());
    detail::from_order(layer.column_order, ordered, codes.data());
    detail::pack_words(codes.data(), K, f.bits, form.packing, std::span{out.back().bytes}.subspan(4 * n * words), 1);
  }
  std::vector<std::size_t> scale_shape{rows, groups};
  if (rows * groups == 1) scale_shape.resize(form.scale_rank, 1);
  out.push_back(detail::make_tensor(name + ".weight_scale", detail::dtype_of(f.scale), std::move(scale_shape)));
  std::memcpy(out.back().bytes.data(), v.scales, out.back().bytes.size());
  out.push_back(detail::make_tensor(name + ".weight_shape", form.shape_type, {2}));
  const std::size_t extent_bytes = form.shape_type == dtype::i64 ? 8 : 4;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::uint64_t extent = i == 0 ? N : K;
    std::memcpy(out.back().bytes.data() + i * extent_bytes, &extent, extent_bytes);
  }
  if (asymmetric) {
    const auto* const zeros = static_cast<const std::uint8_t*>(v.zeros);
    out.push_back(detail::make_tensor(name + ".weight_zero_point", dtype::i32,
                                      {detail::words_of(rows, f.bits, form.packing), groups}));
    std::vector<std::uint8_t> column(rows);
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t n = 0; n < rows; ++n) {
        column[n] = zeros[n * groups + g];
        if (column[n] >> f.bits != 0)
          core::fail(errc::bad_value, "compressed_tensors: '", printable(name), "': zero point ", int{column[n]},
                     " of group ", g, " of row ", n, " has no code of ", int{f.bits}, " bits");
      }
      detail::pack_words(column.data(), rows, f.bits, form.packing, std::span{out.back().bytes}.subspan(4 * g), groups);
    }
  }
  if (form.g_idx)
    out.push_back(detail::make_g_idx(name + ".weight_g_idx", layer.column_order, K,
                                     f.group_size == 0 ? K : std::size_t{f.group_size}));
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
