// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// From one quantized format to another. Where each value has its place in the new format the conversion is exact, and is what
/// `convert` does; anything else has to be asked for by name, `convert_lossy`, and reports its error.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/ggml_planes.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/lossless.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/qmatrix.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace detail {

/// Stores x as element g of a plane of scales or offsets, which holds it exactly.
inline void put_scale(scale_storage storage, std::span<std::byte> plane, std::size_t g, float x) noexcept {
  const std::size_t size = quant::scale_bytes(storage);
  if (storage == scale_storage::f32) std::memcpy(plane.data() + g * size, &x, size);
  const std::uint16_t bits = storage == scale_storage::f16 ? to_half(x).bits : to_bfloat16(x).bits;
  if (storage != scale_storage::f32) std::memcpy(plane.data() + g * size, &bits, size);
}

/// The code of `to` for each code of `from`, and the values of a table of its own where `to` has one.
struct code_map {
  std::array<std::uint8_t, 256> code{};
  std::array<float, 256> table{};
};
inline code_map map_codes(const quantized_view& from, const format_desc& to) noexcept {
  code_map m;
  const int h = quant::code_bias(from.format.bits), wide = quant::code_bias(to.bits);
  const bool centred = to.rule == code_rule::symmetric || to.rule == code_rule::symmetric_full;
  for (int u = 0; u < 2 * h; ++u) {
    const std::size_t i = static_cast<std::size_t>(u);
    m.code[i] = static_cast<std::uint8_t>(centred ? u - h + wide : u);
    m.table[i] = from.format.rule == code_rule::codebook
                     ? from.table[u]
                     : static_cast<float>(u - h) + (from.format.rule == code_rule::mid_rise ? 0.5f : 0.0f);
  }
  return m;
}

}  // namespace detail

/// W in format `to`, each value with the same bits. `table`: of a codebook format, 2^bits values that outlive the result, or
/// null: then the matrix gets a table of its own. Throws unsupported_format for pairs that quant::is_lossless does not hold
/// for (convert_lossy takes them), and what check_view throws.
inline any_qmatrix convert(const quantized_view& W, const format_desc& to, const float* table = nullptr) {
  check_view(W, "convert");
  quant::check_format(to, "convert");
  if (!quant::is_lossless({W.format, W.table}, {to, table}))
    core::fail(errc::unsupported_format, "convert: a matrix of ", int{W.format.bits}, " bits, rule ",
               static_cast<int>(W.format.rule), ", groups of ", W.format.group_size, " does not fit one of ",
               int{to.bits}, " bits, rule ", static_cast<int>(to.rule), ", groups of ", to.group_size,
               " without loss; convert_lossy rounds and reports the error");
  const detail::code_map map = detail::map_codes(W, to);
  const bool own_table = to.rule == code_rule::codebook && table == nullptr;
  any_qmatrix out = own_table ? any_qmatrix(to, W.N, W.K, std::span{map.table}.first(std::size_t{1} << to.bits))
                              : any_qmatrix(to, W.N, W.K, table);

  const bool flat_in = W.format.granularity == granularity_kind::flat;
  const bool flat_out = to.granularity == granularity_kind::flat;
  std::vector<std::uint8_t> codes(W.K);
  for (std::size_t n = 0; n < W.N; ++n) {
    if (flat_in) pack::unpack_range(W.codes, n * W.K, W.K, W.format.bits, codes.data());
    else pack::unpack_row(W.codes + n * W.row_stride_bytes, W.K, W.format.bits, codes.data());
    for (std::uint8_t& u : codes) u = map.code[u];
    if (!flat_out) pack::pack_row(codes.data(), W.K, to.bits, out.codes().data() + n * out.row_stride_bytes());
    else
      for (std::size_t k = 0; k < W.K; ++k) pack::put(out.codes().data(), n * W.K + k, to.bits, codes[k]);
  }

  if (to.scale == scale_storage::double_quant) {  // the same groups
    std::memcpy(out.scale_plane().data(), W.scales, out.scale_plane().size());
    std::memcpy(out.super_scales().data(), W.super_scales, (out.super_scales().size() - 1) * sizeof(float));
    out.super_scales().back() = W.scale_offset;
  }
  const scale_storage offsets = to.scale == scale_storage::double_quant ? scale_storage::f32 : to.scale;
  for (std::size_t g = 0; g < out.scale_count(); ++g) {
    const quant::group_extent first = quant::extent_of(to, W.N, W.K, g);
    const std::size_t source = quant::group_of(W.format, W.K, first.n, first.k);
    const quant::group_params p = quant::params_at(W, source);
    if (to.scale != scale_storage::double_quant) detail::put_scale(to.scale, out.scale_plane(), g, p.scale);
    if (to.rule == code_rule::asymmetric_offset) detail::put_scale(offsets, out.zero_plane(), g, p.zero);
    if (to.rule != code_rule::asymmetric) continue;
    out.zero_plane()[g] = W.format.rule == code_rule::asymmetric
                              ? static_cast<const std::byte*>(W.zeros)[source]
                              : static_cast<std::byte>(quant::code_bias(W.format.bits));
  }
  return out;
}

/// The same for formats known at compile time: a pair that loses is refused by the compiler.
template <quant::matrix_format To, quant::matrix_format From>
qmatrix<To> convert(const qmatrix<From>& W) {
  static_assert(quant::is_lossless_v<From, To>,
                "convert<To>: To does not hold all values of From; convert_lossy rounds them");
  return qmatrix<To>(convert(W.view(), To::format(), quant::detail::facts_of_type<To>().table));
}

/// What a lossy conversion cost, over all values.
struct conversion_error {
  double mse = 0.0;      ///< mean squared error
  double sqnr_db = 0.0;  ///< 10 log10 of mean square over mse; infinite without error
  double max_abs = 0.0;  ///< greatest magnitude of an error
};
struct lossy_conversion {
  any_qmatrix matrix;
  conversion_error error;
};

/// W decoded and quantized anew to format `to`, with the error against the values of W. Throws what quantize throws.
template <class = void>
lossy_conversion convert_lossy(const quantized_view& W, const format_desc& to, const codebook_desc& book = {},
                               const quantize_options& options = {}, const context& ctx = {}) {
  check_view(W, "convert_lossy");
  aligned_vector<float> values(W.N * W.K), row_of(W.K);
  const span2d<float> all = make_span2d(values.data(), W.N, W.K);
  dequantize(W, all, ctx);
  lossy_conversion out{book.bits != 0 ? quantize(to, book, span2d<const float>(all), options, ctx)
                                      : quantize(to, span2d<const float>(all), options, ctx),
                       {}};
  double squares = 0.0, errors = 0.0;
  for (std::size_t n = 0; n < W.N; ++n) {
    dequantize_rows(out.matrix.view(), n, make_span2d(row_of.data(), 1, W.K));
    for (std::size_t k = 0; k < W.K; ++k) {
      const double x = static_cast<double>(row(all, n)[k]), e = static_cast<double>(row_of[k]) - x;
      squares += x * x;
      errors += e * e;
      out.error.max_abs = std::max(out.error.max_abs, std::abs(e));
    }
  }
  out.error.mse = errors / (static_cast<double>(W.N) * static_cast<double>(W.K));
  out.error.sqnr_db = errors == 0.0 ? std::numeric_limits<double>::infinity() : 10.0 * std::log10(squares / errors);
  return out;
}
template <quant::matrix_format To>
lossy_conversion convert_lossy(const quantized_view& W, const quantize_options& options = {}, const context& ctx = {}) {
  if constexpr (requires { To::table::desc(); }) return convert_lossy(W, To::format(), To::table::desc(), options, ctx);
  else return convert_lossy(W, To::format(), codebook_desc{}, options, ctx);
}

namespace detail {

/// Blocks of a type that has facts, and the bytes of a row of K. Throws unsupported_format or bad_shape.
inline std::size_t check_blocks(ggml_type type, std::size_t N, std::size_t K, const char* who) {
  const quant::ggml_type_info& info = quant::info_of(type);
  if (quant::facts_of(type).format.bits == 0)
    core::fail(errc::unsupported_format, who, ": ", info.name, " has no codes and scales that a matrix holds");
  quant::check_extents(N, K, who);
  if (K % info.block_elements != 0)
    core::fail(errc::bad_shape, who, ": rows of ", K, " are no whole blocks of ", info.block_elements, ", as ",
               info.name, " has them");
  return K / info.block_elements * info.block_bytes;
}

}  // namespace detail

/// Rows of a block format as W[N, K] of the format of quant::facts_of(type), each value with the same bits. `blocks` are the
/// bytes of a tensor, row after row. Throws bad_shape unless they are exactly N rows, unsupported_format for types that
/// nibble does not decode and for plain floats.
inline any_qmatrix from_ggml(ggml_type type, std::span<const std::byte> blocks, std::size_t N, std::size_t K) {
  const std::size_t row_bytes = detail::check_blocks(type, N, K, "from_ggml");
  if (blocks.size() / row_bytes != N || blocks.size() % row_bytes != 0)
    core::fail(errc::bad_shape, "from_ggml: ", blocks.size(), " bytes; ", N, " rows of ", row_bytes, " are needed");
  const quant::format_facts facts = quant::facts_of(type);
  const quant::ggml_type_info& info = quant::info_of(type);
  any_qmatrix out(facts.format, N, K, facts.table);
  const std::size_t groups = info.block_elements / facts.format.group_size;
  std::vector<std::uint8_t> codes(K);
  quant::group_params params[16];
  std::size_t g = 0;
  for (std::size_t n = 0; n < N; ++n) {
    for (std::size_t b = 0; b < K / info.block_elements; ++b) {
      quant::ggml::split_block(type, blocks.data() + n * row_bytes + b * info.block_bytes,
                               codes.data() + b * info.block_elements, params);
      for (std::size_t j = 0; j < groups; ++j, ++g) {
        detail::put_scale(facts.format.scale, out.scale_plane(), g, params[j].scale);
        if (quant::has_zeros(facts.format)) detail::put_scale(facts.format.scale, out.zero_plane(), g, params[j].zero);
      }
    }
    pack::pack_row(codes.data(), K, facts.format.bits, out.codes().data() + n * out.row_stride_bytes());
  }
  return out;
}

/// W as rows of blocks, each value with the same bits: Q8_0, Q4_0, Q5_0, Q4_1, Q5_1 and IQ4_NL from formats that
/// quant::is_lossless lets into quant::facts_of(type). Throws unsupported_format for others, bad_shape unless K is a multiple
/// of 32.
inline std::vector<std::byte> to_ggml(ggml_type type, const quantized_view& W) {
  check_view(W, "to_ggml");
  const std::size_t row_bytes = detail::check_blocks(type, W.N, W.K, "to_ggml");
  if (!quant::has_plain_blocks(type))
    core::fail(errc::unsupported_format, "to_ggml: ", quant::info_of(type).name,
               " shares scales on two levels; quantize to it");
  const quant::format_facts facts = quant::facts_of(type);
  const any_qmatrix m = convert(W, facts.format, facts.table);
  const std::size_t block_bytes = quant::info_of(type).block_bytes;
  std::vector<std::byte> out(W.N * row_bytes);
  std::vector<std::uint8_t> codes(W.K);
  std::size_t g = 0;
  for (std::size_t n = 0; n < W.N; ++n) {
    pack::unpack_row(m.codes().data() + n * m.row_stride_bytes(), W.K, facts.format.bits, codes.data());
    for (std::size_t b = 0; b < W.K / 32; ++b, ++g) {
      half scale, zero;
      std::memcpy(&scale, m.scale_plane().data() + 2 * g, 2);
      if (quant::has_zeros(facts.format)) std::memcpy(&zero, m.zero_plane().data() + 2 * g, 2);
      quant::ggml::join_block(type, codes.data() + 32 * b, scale, zero, out.data() + n * row_bytes + b * block_bytes);
    }
  }
  return out;
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
