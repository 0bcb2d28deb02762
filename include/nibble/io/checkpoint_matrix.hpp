// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A quantized layer of a checkpoint as nibble holds it: a matrix, and what the layer's file says beyond it.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/tensor/qmatrix.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// W[N, K] of one layer. Column j of `matrix` is column column_order[j] of the layer, so that the columns that share a scale
/// stand together; an empty order means that they stand where they are. A product needs the activations in that order:
///
///     Y = X W^T:   multiply(permute_columns(X, layer.column_order), layer.matrix)
struct checkpoint_matrix {
  any_qmatrix matrix;
  std::vector<std::uint32_t> column_order;  ///< [K], a permutation, or empty
  std::vector<float> row_absmax;            ///< LLM.int8(): SCB [N]; the matrix has scales f32(SCB / 127)
  std::string quant_state;                  ///< bitsandbytes, 4 bits: the JSON text of the file
};

/// Throws bad_shape unless `order` is empty or a permutation of K columns; `who` begins the message.
inline void check_column_order(std::span<const std::uint32_t> order, std::size_t K, std::string_view who) {
  if (order.empty()) return;
  if (order.size() != K) core::fail(errc::bad_shape, who, ": an order of ", order.size(), " columns for K = ", K);
  std::vector<bool> seen(K);
  for (std::size_t j = 0; j < K; ++j) {
    if (order[j] >= K || seen[order[j]])
      core::fail(errc::bad_shape, who, ": the order's entry ", j, ", column ", order[j],
                 ", occurs twice or is not below K = ", K);
    seen[order[j]] = true;
  }
}

/// out[m, j] = x[m, order[j]]: activations for the matrix of a layer with a column order. An empty order copies.
inline void permute_columns(span2d<const float> x, std::span<const std::uint32_t> order, span2d<float> out) {
  if (out.rows != x.rows || out.cols != x.cols)
    core::fail(errc::bad_shape, "permute_columns: X is ", x.rows, " x ", x.cols, ", the output ", out.rows, " x ",
               out.cols);
  if (x.rows == 0) return;
  nibble::detail::check_matrix(x, "permute_columns");
  nibble::detail::check_matrix(out, "permute_columns");
  check_column_order(order, x.cols, "permute_columns");
  for (std::size_t m = 0; m < x.rows; ++m)
    for (std::size_t j = 0; j < x.cols; ++j) row(out, m)[j] = row(x, m)[order.empty() ? j : order[j]];
}

namespace detail {

/// Raises bad_shape where the parts of a layer do not fit each other.
inline void check_layer(const checkpoint_matrix& layer, std::string_view who) {
  const any_qmatrix& m = layer.matrix;
  check_column_order(layer.column_order, m.K(), who);
  if (layer.row_absmax.empty()) return;
  const bool rows = m.format().granularity == granularity_kind::per_channel;
  if (layer.row_absmax.size() != m.N() || m.format().bits != 8 || !rows)
    core::fail(errc::bad_shape, who, ": ", layer.row_absmax.size(), " row maxima for ", m.N(), " rows of ",
               int{m.format().bits}, " bits", rows ? "" : ", which have other scales");
}

/// One row of a checked layer; `in_order` has room for K floats.
template <class = void>
void dequantize_row(const checkpoint_matrix& layer, std::size_t n, float* out, float* in_order) noexcept {
  const quantized_view v = layer.matrix.view();
  float* const values = layer.column_order.empty() ? out : in_order;
  if (layer.row_absmax.empty()) {
    nibble::detail::weights<isa::native>::dequantize(v, n, make_span2d(values, 1, v.K));
  } else {
    const std::byte* const codes = v.codes + n * v.row_stride_bytes;
    for (std::size_t k = 0; k < v.K; ++k)
      values[k] = static_cast<float>(std::to_integer<int>(codes[k]) - 128) * layer.row_absmax[n] / 127.0f;
  }
  for (std::size_t j = 0; j < layer.column_order.size(); ++j) out[layer.column_order[j]] = values[j];
}

}  // namespace detail

/// The values of rows [first, first + out.rows) of a layer with its columns where the file has them: the floats of the
/// format's own formula, bit for bit. Rows in parallel. Throws bad_shape.
template <class = void>  // a file that does not call it does not compile the kernels
void dequantize_rows(const checkpoint_matrix& layer, std::size_t first, span2d<float> out, const context& ctx = {}) {
  const std::size_t N = layer.matrix.N(), K = layer.matrix.K();
  if (out.cols != K || first > N || out.rows > N - first)
    core::fail(errc::bad_shape, "dequantize_rows: rows [", first, ", +", out.rows, ") of ", out.cols, " values; W is ",
               N, " x ", K);
  if (out.rows == 0) return;
  nibble::detail::check_matrix(out, "dequantize_rows");
  detail::check_layer(layer, "dequantize_rows");
  std::vector<float> room(layer.column_order.empty() ? 0 : core::slots_of(ctx, out.rows) * K);
  core::for_each_item(ctx, out.rows, [&](std::size_t i, std::size_t slot) {
    detail::dequantize_row(layer, first + i, row(out, i), room.data() + (room.empty() ? 0 : slot * K));
  });
}

/// All values, W[N, K]. Throws bad_shape when the extents differ.
template <class = void>
void dequantize(const checkpoint_matrix& layer, span2d<float> out, const context& ctx = {}) {
  if (out.rows != layer.matrix.N())
    core::fail(errc::bad_shape, "dequantize: W has ", layer.matrix.N(), " rows, the output ", out.rows);
  io::dequantize_rows(layer, 0, out, ctx);
}

namespace detail {

/// The order of columns that a file's g_idx [K], the group of each column, stands for: columns by group, each group in the
/// file's order; empty when they stand so already. Throws bad_file unless each group but the last has group_size columns.
inline std::vector<std::uint32_t> column_order_of(std::string_view who, const tensor_view& g_idx, std::size_t K,
                                                  std::size_t group_size) {
  check_tensor(who, g_idx, dtype::i32, {K});
  const std::size_t groups = ceil_div(K, group_size);
  std::vector<std::uint32_t> next(groups);  // where the next column of a group goes
  for (std::size_t g = 0; g < groups; ++g) next[g] = static_cast<std::uint32_t>(g * group_size);
  std::vector<std::uint32_t> order(K);
  bool sorted = true;
  for (std::size_t k = 0; k < K; ++k) {
    const auto value = static_cast<std::int32_t>(word_at(g_idx.bytes, k));
    if (value < 0 || static_cast<std::size_t>(value) >= groups)
      core::fail(errc::bad_file, who, ": '", printable(g_idx.name), "': column ", k, " is in group ", value, " of ",
                 groups);
    const std::size_t g = static_cast<std::size_t>(value), end = (g + 1) * group_size < K ? (g + 1) * group_size : K;
    if (next[g] == end)
      core::fail(errc::bad_file, who, ": '", printable(g_idx.name), "': group ", g, " has more than ",
                 end - g * group_size, " columns, column ", k, " among them; rule: ", group_size,
                 " in each group, the last one what is left of ", K);
    sorted = sorted && next[g] == k;
    order[next[g]++] = static_cast<std::uint32_t>(k);
  }
  if (sorted) order.clear();
  return order;
}

/// g_idx [K] of a layer: what column_order_of read.
inline tensor_bytes make_g_idx(std::string name, std::span<const std::uint32_t> order, std::size_t K,
                               std::size_t group_size) {
  tensor_bytes t = make_tensor(std::move(name), dtype::i32, {K});
  for (std::size_t j = 0; j < K; ++j)
    put_word(t.bytes, order.empty() ? j : order[j], static_cast<std::uint32_t>(j / group_size));
  return t;
}

/// Columns of `codes` [K] of one row into the matrix's order, and back.
inline void to_order(std::span<const std::uint32_t> order, std::span<const std::uint8_t> codes, std::uint8_t* out) {
  for (std::size_t j = 0; j < codes.size(); ++j) out[j] = codes[order.empty() ? j : order[j]];
}
inline void from_order(std::span<const std::uint32_t> order, std::span<const std::uint8_t> codes, std::uint8_t* out) {
  for (std::size_t j = 0; j < codes.size(); ++j) out[order.empty() ? j : order[j]] = codes[j];
}

/// How a file stores floats of scales, or nothing.
constexpr bool scale_storage_of(dtype type, scale_storage& storage) noexcept {
  switch (type) {
    case dtype::f32: storage = scale_storage::f32; return true;
    case dtype::f16: storage = scale_storage::f16; return true;
    case dtype::bf16: storage = scale_storage::bf16; return true;
    default: return false;
  }
}
constexpr dtype dtype_of(scale_storage storage) noexcept {
  switch (storage) {
    case scale_storage::f32: return dtype::f32;
    case scale_storage::f16: return dtype::f16;
    case scale_storage::bf16: return dtype::bf16;
    case scale_storage::super_block: return dtype::i8;
    case scale_storage::double_quant: break;
  }
  return dtype::u8;
}
inline scale_storage storage_of_scales(std::string_view who, const tensor_view& t) {
  scale_storage storage{};
  if (!scale_storage_of(t.type, storage))
    core::fail(errc::unsupported_format, who, ": tensor '", printable(t.name), "' is ", name_of(t.type),
               "; scales are F32, F16 or BF16");
  return storage;
}

/// Groups in a row of K; group_size 0 is one group.
constexpr std::size_t groups_of(std::size_t K, std::size_t group_size) noexcept {
  return group_size == 0 ? 1 : ceil_div(K, group_size);
}
/// The format of grouped weights with float scales; group_size 0: one scale a row.
inline format_desc grouped_format(std::string_view who, code_rule rule, int bits, scale_storage scale,
                                  std::size_t group_size) {
  if (group_size % 4 != 0 || group_size > 0xffffffffu)
    core::fail(errc::unsupported_format, who, ": groups of ", group_size,
               "; rule: a multiple of 4 below 2^32, or one group for the row");
  return {rule, static_cast<std::uint8_t>(bits),
          group_size == 0 ? granularity_kind::per_channel : granularity_kind::grouped, scale,
          static_cast<std::uint32_t>(group_size)};
}

/// to[c, r] = from[r, c], elements of `size` bytes.
inline void transpose_elements(const std::byte* from, std::size_t rows, std::size_t cols, std::size_t size,
                               std::byte* to) {
  constexpr std::size_t tile = 16;  // of columns: what is written stays in a few lines
  for (std::size_t c0 = 0; c0 < cols; c0 += tile) {
    const std::size_t end = cols - c0 < tile ? cols : c0 + tile;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = c0; c < end; ++c)
        std::memcpy(to + (c * rows + r) * size, from + (r * cols + c) * size, size);
  }
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
