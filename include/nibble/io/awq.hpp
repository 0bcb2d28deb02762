// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Layers of AWQ checkpoints of version "gemm": codes of 4 bits, int32 words, in = K, out = N, groups of G inputs:
///
///   qweight [K, N / 8]             word c of row k: outputs 8 c .. 8 c + 7, of which nibble i is number (0 2 4 6 1 3 5 7)[i]
///   qzeros  [ceil(K / G), N / 8]   zero points, as they are, in the same order
///   scales  [ceil(K / G), N]       F16 (or BF16, F32)
///
///   w[k][n] = (q[k][n] - z[k / G][n]) * scales[k / G][n]
///
/// Version "gemv" stores them otherwise and is refused where a configuration names it (io/checkpoint.hpp). Source: AutoAWQ.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

struct awq_tensors {
  tensor_view qweight, qzeros, scales;
};

namespace detail {

/// The output, of the eight of a word, whose code nibble i holds.
inline constexpr std::array<std::uint8_t, 8> awq_order{0, 2, 4, 6, 1, 3, 5, 7};

inline void unpack_awq(std::uint32_t word, std::uint8_t* codes) noexcept {
  for (std::size_t i = 0; i < 8; ++i) codes[awq_order[i]] = static_cast<std::uint8_t>(word >> 4 * i & 15u);
}
inline std::uint32_t pack_awq(const std::uint8_t* codes) noexcept {
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < 8; ++i) word |= std::uint32_t{codes[awq_order[i]]} << 4 * i;
  return word;
}

}  // namespace detail

/// The layer as W[N, K], `asymmetric` codes of 4 bits, nothing lost. group_size 0: one group for all inputs (-1 in files).
/// Throws bad_file with tensor and rule.
inline checkpoint_matrix read_awq(const awq_tensors& t, std::size_t group_size) {
  const std::size_t K = detail::extent_of("awq", t.qweight, 2, 0), words = detail::extent_of("awq", t.qweight, 2, 1);
  const std::size_t N = detail::extent_of("awq", t.scales, 2, 1);
  detail::check_tensor("awq", t.qweight, dtype::i32, {K, words});
  if (N % 8 != 0 || N / 8 != words)
    core::fail(errc::bad_file, "awq: '", printable(t.qweight.name), "' has ", words, " words a row for ", N,
               " outputs; rule: 8 codes in a word");
  const format_desc f =
      detail::grouped_format("awq", code_rule::asymmetric, 4, detail::storage_of_scales("awq", t.scales), group_size);
  const std::size_t groups = detail::groups_of(K, group_size);
  detail::check_tensor("awq", t.scales, t.scales.type, {groups, N});
  detail::check_tensor("awq", t.qzeros, dtype::i32, {groups, words});

  checkpoint_matrix layer;
  layer.matrix = any_qmatrix(f, N, K);
  detail::transpose_elements(t.scales.bytes.data(), groups, N, quant::scale_bytes(f.scale),
                             layer.matrix.scale_plane().data());
  std::vector<std::uint8_t> codes(8 * K);  // of eight outputs, [8][K]
  std::uint8_t eight[8];
  for (std::size_t c = 0; c < words; ++c) {
    for (std::size_t g = 0; g < groups; ++g) {
      detail::unpack_awq(detail::word_at(t.qzeros.bytes, g * words + c), eight);
      for (std::size_t i = 0; i < 8; ++i)
        layer.matrix.zero_plane()[(8 * c + i) * groups + g] = static_cast<std::byte>(eight[i]);
    }
    for (std::size_t k = 0; k < K; ++k) {
      detail::unpack_awq(detail::word_at(t.qweight.bytes, k * words + c), eight);
      for (std::size_t i = 0; i < 8; ++i) codes[i * K + k] = eight[i];
    }
    for (std::size_t i = 0; i < 8; ++i)
      pack::pack_row<4>(codes.data() + i * K, K,
                        layer.matrix.codes().data() + (8 * c + i) * layer.matrix.row_stride_bytes());
  }
  return layer;
}

/// The tensors NAME.qweight, NAME.qzeros and NAME.scales: those that read_awq read, byte for byte, or those of any
/// `asymmetric` matrix of 4 bits with a float scale for each group or row, without a column order. Throws
/// unsupported_format for others, bad_shape unless N is a multiple of 8, bad_value for a zero point above 15.
inline std::vector<tensor_bytes> write_awq(const checkpoint_matrix& layer, const std::string& name) {
  const quantized_view v = layer.matrix.view();
  const bool rows =
      v.format.granularity == granularity_kind::per_channel || v.format.granularity == granularity_kind::grouped;
  if (v.format.rule != code_rule::asymmetric || v.format.bits != 4 || !rows || quant::has_two_levels(v.format.scale) ||
      !layer.column_order.empty())
    core::fail(errc::unsupported_format, "awq: '", printable(name), "': a matrix of ", int{v.format.bits},
               " bits; rule: asymmetric codes of 4 bits, float scales for groups or rows, columns in order");
  if (v.N % 8 != 0) core::fail(errc::bad_shape, "awq: '", printable(name), "': N = ", v.N, "; rule: a multiple of 8");
  const std::size_t N = v.N, K = v.K, words = N / 8, groups = quant::groups_per_row(v.format, K);

  tensor_bytes qweight = detail::make_tensor(name + ".qweight", dtype::i32, {K, words});
  tensor_bytes qzeros = detail::make_tensor(name + ".qzeros", dtype::i32, {groups, words});
  tensor_bytes scales = detail::make_tensor(name + ".scales", detail::dtype_of(v.format.scale), {groups, N});
  detail::transpose_elements(static_cast<const std::byte*>(v.scales), N, groups, quant::scale_bytes(v.format.scale),
                             scales.bytes.data());
  const auto* const zeros = static_cast<const std::uint8_t*>(v.zeros);
  for (std::size_t i = 0; i < N * groups; ++i)
    if (zeros[i] > 15)
      core::fail(errc::bad_value, "awq: '", printable(name), "': zero point ", int{zeros[i]}, " of group ", i % groups,
                 " of output ", i / groups, "; at most 15");
  std::vector<std::uint8_t> codes(8 * K);
  std::uint8_t eight[8];
  for (std::size_t c = 0; c < words; ++c) {
    for (std::size_t g = 0; g < groups; ++g) {
      for (std::size_t i = 0; i < 8; ++i) eight[i] = zeros[(8 * c + i) * groups + g];
      detail::put_word(qzeros.bytes, g * words + c, detail::pack_awq(eight));
    }
    for (std::size_t i = 0; i < 8; ++i)
      pack::unpack_row<4>(v.codes + (8 * c + i) * v.row_stride_bytes, K, codes.data() + i * K);
    for (std::size_t k = 0; k < K; ++k) {
      for (std::size_t i = 0; i < 8; ++i) eight[i] = codes[i * K + k];
      detail::put_word(qweight.bytes, k * words + c, detail::pack_awq(eight));
    }
  }
  std::vector<tensor_bytes> out;
  out.push_back(std::move(qweight));
  out.push_back(std::move(qzeros));
  out.push_back(std::move(scales));
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
