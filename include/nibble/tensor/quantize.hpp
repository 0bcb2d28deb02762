// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// From float matrices to quantized ones and back, in parallel, with the same bits for any number of threads. There is one
/// implementation, for formats known at run time; the functions on policies forward to it.

#include <cstddef>
#include <cstdint>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/qmatrix.hpp>
#include <nibble/tensor/quantize_job.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace detail {

inline void check_options(const quantize_options& o) {
  if (!(o.fit.percentile > 0.0 && o.fit.percentile <= 1.0))
    core::fail(errc::bad_value, "quantize: percentile ", o.fit.percentile, "; it must be in (0, 1]");
  if (o.fit.clips < 2) core::fail(errc::bad_value, "quantize: ", o.fit.clips, " clips; mse_search needs at least 2");
}

template <class T>
void check_matrix(span2d<T> W, const char* who) {
  quant::check_extents(W.rows, W.cols, who);
  if (W.data == nullptr) core::fail(errc::bad_value, who, ": the matrix has no data");
  if (W.stride < W.cols) core::fail(errc::bad_shape, who, ": row stride ", W.stride, " is less than K = ", W.cols);
}

/// What the kernels do for weights, one struct for each ISA: values to codes and back. All of them are reached through its
/// two functions, so that a unit can leave them to another one (NIBBLE_EXTERN_KERNELS, see gemm/products.hpp).
template <class Isa>
struct weights {
  /// The values of W as `out` keeps them, rows in parallel.
  static any_qmatrix quantize(const quant::group_codec& codec, any_qmatrix out, span2d<const float> W,
                              const quantize_options& options, const context& ctx);
  /// Rows [first, first + out.rows) of a view, unchecked.
  static void dequantize(const quantized_view& v, std::size_t first, span2d<float> out) noexcept;
};

template <class Isa>
any_qmatrix weights<Isa>::quantize(const quant::group_codec& codec, any_qmatrix out, span2d<const float> W,
                                   const quantize_options& options, const context& ctx) {
  quantize_job<Isa> job(codec, W, options, out);
  if (const std::size_t failed = job.run(ctx); failed != job.no_group) job.raise(failed);
  return out;
}

template <class Isa>
void weights<Isa>::dequantize(const quantized_view& v, std::size_t first, span2d<float> out) noexcept {
  constexpr std::size_t tile = 1024, most_groups = 64;  // few: params is set before it is filled
  std::uint8_t codes[tile];
  quant::group_params params[most_groups];
  const quant::group_codec codec{v.format, {.bits = v.format.bits, .values = v.table}};
  const bool flat = v.format.granularity == granularity_kind::flat;
  const std::size_t size = flat || v.format.granularity == granularity_kind::grouped ? v.format.group_size : v.K;
  for (std::size_t i = 0; i < out.rows; ++i) {
    const std::size_t n = first + i, base = flat ? n * v.K : 0;
    const std::byte* const packed = flat ? v.codes : v.codes + n * v.row_stride_bytes;
    std::size_t g = quant::group_of(v.format, v.K, n, 0);
    std::size_t left = size - base % size;  // values left of group g
    for (std::size_t k = 0; k < v.K;) {
      // Whole groups as many as a tile holds, or what is left of one.
      const std::size_t fit = tile / size < most_groups ? tile / size : most_groups;
      const std::size_t rest = v.K - k, whole = left == size ? fit * size : 0;
      const std::size_t most = whole != 0 ? whole : left < tile ? left : tile, count = rest < most ? rest : most;
      const std::size_t at = base + k, bits = v.format.bits;
      if (at % 8 == 0) kernels::dense_codes<Isa>::unpack(packed + at / 8 * bits, count, v.format.bits, codes);
      else pack::unpack_range(packed, at, count, v.format.bits, codes);
      const std::size_t groups = whole != 0 ? ceil_div(count, size) : 1;
      read_params(v, g, groups, params);
      kernels::decode_groups<Isa>::run(codec, params, codes, whole != 0 ? size : count, count, row(out, i) + k);
      k += count;
      if (whole != 0) {
        g += groups;  // a short last one ends the row, and with it this loop
      } else if (left == count) {
        ++g;
        left = size;
      } else {
        left -= count;
      }
    }
  }
}

#if NIBBLE_EXTERN_KERNELS
extern template struct weights<isa::native>;
#endif

}  // namespace detail

// Templates without a parameter that anybody would name: a file that calls none of them does not compile the kernels.

/// Quantizes W[N, K] to a format known at run time, rows in parallel (a per_tensor scale is fitted on the calling thread).
/// `book` describes the table of a codebook format and must outlive the result, which refers to its values. Raises
/// bad_shape, bad_value (NaN, infinities, options), scale_overflow or unsupported_format.
template <class = void>
any_qmatrix quantize(const format_desc& format, const codebook_desc& book, span2d<const float> W,
                     const quantize_options& options = {}, const context& ctx = {}) {
  detail::check_matrix(W, "quantize");
  detail::check_options(options);
  quant::check_format(format, "quantize");
  if (format.rule != code_rule::codebook)
    return detail::weights<isa::native>::quantize({format, {}}, any_qmatrix(format, W.rows, W.cols), W, options, ctx);
  if (book.bits != format.bits || book.values == nullptr)
    core::fail(errc::bad_value, "quantize: a codebook of ", book.bits, " bits for a format of ", int{format.bits},
               " bits");
  return detail::weights<isa::native>::quantize({format, book}, any_qmatrix(format, W.rows, W.cols, book.values), W,
                                                options, ctx);
}

/// Quantizes W[N, K] to an affine format, or to a codebook format with the user's table options.table, which is copied.
template <class = void>
any_qmatrix quantize(const format_desc& format, span2d<const float> W, const quantize_options& options = {},
                     const context& ctx = {}) {
  if (format.rule != code_rule::codebook) return quantize(format, codebook_desc{}, W, options, ctx);
  detail::check_matrix(W, "quantize");
  detail::check_options(options);
  quant::check_format(format, "quantize");
  if (options.table == nullptr)
    core::fail(errc::bad_value, "quantize: a codebook format needs quantize_options::table, 2^", int{format.bits},
               " values");
  const std::span<const float> values(options.table, std::size_t{1} << format.bits);
  const quant::run_time_table table(values, format.bits);
  return detail::weights<isa::native>::quantize({format, table.desc()}, any_qmatrix(format, W.rows, W.cols, values), W,
                                                options, ctx);
}

/// Quantizes W[N, K] to a format of the list.
template <class = void>
any_qmatrix quantize(qtype type, span2d<const float> W, const quantize_options& options = {}, const context& ctx = {}) {
  if (static_cast<std::size_t>(type) >= quant::qtype_count)
    core::fail(errc::unsupported_format, "quantize: qtype ", static_cast<std::size_t>(type), " of ",
               quant::qtype_count);
  const quant::qtype_info& info = quant::info_of(type);
  return quantize(info.format, info.book, W, options, ctx);
}

/// Quantizes W[N, K] to a format known at compile time: quantize<quant::w4_g128>(W).
template <quant::matrix_format P>
qmatrix<P> quantize(span2d<const float> W, const quantize_options& options = {}, const context& ctx = {}) {
  if constexpr (requires { P::table::desc(); })
    return qmatrix<P>(quantize(P::format(), P::table::desc(), W, options, ctx));
  else return qmatrix<P>(quantize(P::format(), W, options, ctx));
}

/// The value of element (n, k). Raises bad_shape when there is none, and what check_view raises; for more than a handful of
/// elements see dequantize_rows.
inline float decode_at(const quantized_view& v, std::size_t n, std::size_t k) {
  check_view(v, "decode_at");
  if (n >= v.N || k >= v.K)
    core::fail(errc::bad_shape, "decode_at: element (", n, ", ", k, ") of a matrix of ", v.N, " x ", v.K);
  const bool flat = v.format.granularity == granularity_kind::flat;
  const std::byte* const packed = flat ? v.codes : v.codes + n * v.row_stride_bytes;
  const auto code = static_cast<std::uint8_t>(pack::get(packed, flat ? n * v.K + k : k, v.format.bits));
  float value = 0.0f;
  quant::decode_group({v.format, {.bits = v.format.bits, .values = v.table}},
                      quant::params_at(v, quant::group_of(v.format, v.K, n, k)), &code, 1, &value);
  return value;
}

/// Writes the values of rows [first, first + out.rows) of a quantized matrix, in order, on the calling thread. Raises
/// bad_shape when there are no such rows or out.cols is not K, and what check_view raises.
template <class = void>
void dequantize_rows(const quantized_view& v, std::size_t first, span2d<float> out) {
  check_view(v, "dequantize_rows");
  if (out.cols != v.K)
    core::fail(errc::bad_shape, "dequantize_rows: K is ", v.K, ", the output has ", out.cols, " columns");
  if (first > v.N || out.rows > v.N - first)
    core::fail(errc::bad_shape, "dequantize_rows: rows [", first, ", ", first + out.rows, ") of a matrix of ", v.N,
               " rows");
  if (out.rows == 0) return;
  detail::check_matrix(out, "dequantize_rows");
  detail::weights<isa::native>::dequantize(v, first, out);
}

/// Writes all values of a quantized matrix to out[N, K], rows in parallel. Raises bad_shape when the extents differ.
template <class = void>
void dequantize(const quantized_view& v, span2d<float> out, const context& ctx = {}) {
  check_view(v, "dequantize");
  detail::check_matrix(out, "dequantize");
  if (out.rows != v.N || out.cols != v.K)
    core::fail(errc::bad_shape, "dequantize: W is ", v.N, " x ", v.K, ", the output ", out.rows, " x ", out.cols);
  core::for_each_item(ctx, v.N, [&](std::size_t n, std::size_t) {
    detail::weights<isa::native>::dequantize(v, n, rows_of(out, n, 1));
  });
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
