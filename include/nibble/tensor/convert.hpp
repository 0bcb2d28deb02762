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
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/lossless.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/ggml_matrix.hpp>
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

  if (quant::has_two_levels(to.scale)) {  // the same groups, so the planes are the same too
    const auto copy = [](auto&& plane, const void* from) {
      if (!plane.empty() && from != nullptr) std::memcpy(plane.data(), from, plane.size_bytes());
    };
    copy(out.scale_plane(), W.scales);
    copy(out.zero_plane(), W.zeros);
    copy(out.block_scales(), W.block_scales);
    if (to.scale == scale_storage::double_quant) {
      copy(out.super_scales().first(out.super_scales().size() - 1), W.super_scales);
      out.super_scales().back() = W.scale_offset;
    }
    if (W.format.rule == to.rule || to.rule != code_rule::asymmetric) return out;
  }
  for (std::size_t g = 0; g < out.scale_count(); ++g) {
    const quant::group_extent first = quant::extent_of(to, W.N, W.K, g);
    const std::size_t source = quant::group_of(W.format, W.K, first.n, first.k);
    const quant::group_params p = quant::params_at(W, source);
    if (!quant::has_two_levels(to.scale)) detail::put_scale(to.scale, out.scale_plane(), g, p.scale);
    if (to.rule == code_rule::asymmetric_offset) detail::put_scale(to.scale, out.zero_plane(), g, p.zero);
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

/// W as rows of blocks, each value with the same bits: as matrix_to_ggml where W has the format that holds the type; else, into
/// Q8_0, Q4_0, Q5_0, Q4_1, Q5_1 and IQ4_NL, from the formats that quant::is_lossless_v lets into them. For other types and
/// formats quantize. Throws unsupported_format for these, bad_shape unless K is a whole number of blocks, and what
/// matrix_to_ggml throws for scales that a type cannot write.
template <class = void>
std::vector<std::byte> convert_to_ggml(const quantized_view& W, ggml_type type, const context& ctx = {}) {
  check_view(W, "convert_to_ggml");
  const bool same = can_be_matrix(type) && quant::same_format(W.format, matrix_format_of(type));
  if (!same && !quant::has_plain_blocks(type))
    core::fail(errc::unsupported_format, "convert_to_ggml: not every matrix fits blocks of ", quant::name_of(type));
  std::vector<std::byte> blocks(W.N * detail::ggml_bytes(type, W.K, "convert_to_ggml"));
  if (same) {
    matrix_to_ggml(W, type, blocks, ctx);
  } else {
    const float* const table = type == ggml_type::iq4_nl ? quant::ggml::parts_of<quant::ggml::iq4_nl>::table : nullptr;
    matrix_to_ggml(convert(W, matrix_format_of(type), table).view(), type, blocks, ctx);
  }
  return blocks;
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
