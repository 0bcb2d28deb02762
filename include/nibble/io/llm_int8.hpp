// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Layers of LLM.int8() checkpoints, as bitsandbytes writes them: W[N, K] with a greatest magnitude for each row.
///
///   X.weight  [N, K]  I8, q = round(127 W / SCB), two's complement
///   X.SCB     [N]     F32
///   X.weight_format   U8, optional, 0: rows as they are
///
///   w = q * SCB / 127
///
/// Source: Dettmers et al. 2022, "LLM.int8()"; bitsandbytes, nn.Linear8bitLt.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

struct llm_int8_tensors {
  tensor_view weight, scb;
  std::optional<tensor_view> weight_format;
};

/// The layer as W[N, K], `symmetric_full` codes of 8 bits with scales f32(SCB / 127). That division cannot be undone where
/// SCB has a significand above 1.984375 (two neighbours give one quotient), so SCB itself stays in row_absmax; dequantize
/// computes (q SCB) / 127 from it, two roundings, a product with the matrix q f32(SCB / 127). Throws bad_file with tensor and
/// rule, unsupported_format for a weight_format other than 0 (the tile orders of old GPUs).
inline checkpoint_matrix read_llm_int8(const llm_int8_tensors& t) {
  const std::size_t N = detail::extent_of("llm_int8", t.weight, 2, 0),
                    K = detail::extent_of("llm_int8", t.weight, 2, 1);
  detail::check_tensor("llm_int8", t.weight, dtype::i8, {N, K});
  detail::check_tensor("llm_int8", t.scb, dtype::f32, {N});
  if (t.weight_format)
    for (const std::byte b : t.weight_format->bytes)
      if (b != std::byte{0})
        core::fail(errc::unsupported_format, "llm_int8: '", printable(t.weight_format->name), "' is ",
                   std::to_integer<int>(b), "; rule: 0, rows as they are");
  checkpoint_matrix layer;
  layer.matrix =
      any_qmatrix({code_rule::symmetric_full, 8, granularity_kind::per_channel, scale_storage::f32, 0}, N, K);
  layer.row_absmax.resize(N);
  std::memcpy(layer.row_absmax.data(), t.scb.bytes.data(), t.scb.bytes.size());
  for (std::size_t n = 0; n < N; ++n) {
    const float scale = layer.row_absmax[n] / 127.0f;
    std::memcpy(layer.matrix.scale_plane().data() + 4 * n, &scale, 4);
  }
  for (std::size_t i = 0; i < t.weight.bytes.size(); ++i)
    layer.matrix.codes()[i] = t.weight.bytes[i] ^ std::byte{128};  // rows have no padding: 8 bits a code
  return layer;
}

/// The tensors NAME.weight and NAME.SCB of a layer that read_llm_int8 read, byte for byte; with `weight_format`, the one that
/// says 0 with the shape []. Throws unsupported_format for other layers: a matrix of 8 bits without row_absmax has scales
/// that are no SCB / 127.
inline std::vector<tensor_bytes> write_llm_int8(const checkpoint_matrix& layer, const std::string& name,
                                                bool weight_format = false) {
  const quantized_view v = layer.matrix.view();
  const bool rule = v.format.rule == code_rule::symmetric || v.format.rule == code_rule::symmetric_full;
  if (!rule || v.format.bits != 8 || v.format.granularity != granularity_kind::per_channel ||
      layer.row_absmax.size() != v.N || !layer.column_order.empty())
    core::fail(errc::unsupported_format, "llm_int8: '", printable(name),
               "': rule: symmetric codes of 8 bits, a scale for each row, and the row maxima that they come from");
  std::vector<tensor_bytes> out;
  out.push_back(detail::make_tensor(name + ".weight", dtype::i8, {v.N, v.K}));
  for (std::size_t n = 0; n < v.N; ++n)
    for (std::size_t k = 0; k < v.K; ++k)
      out.back().bytes[n * v.K + k] = v.codes[n * v.row_stride_bytes + k] ^ std::byte{128};
  out.push_back(detail::make_tensor(name + ".SCB", dtype::f32, {v.N}));
  std::memcpy(out.back().bytes.data(), layer.row_absmax.data(), out.back().bytes.size());
  if (weight_format) out.push_back(detail::make_tensor(name + ".weight_format", dtype::u8, {}));
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
