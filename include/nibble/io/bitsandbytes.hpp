// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Layers of bitsandbytes checkpoints with NF4 or FP4 codes. W[N, K] row-major as n = N K values in blocks of B (64), which run
/// across rows:
///
///   X                     [ceil(n / 2), 1]  U8: value 2 i in the high half of byte i, value 2 i + 1 in the low half
///   X.absmax              [blocks]          F32; U8 with double quantization
///   X.quant_map           [16]              F32: the values of the codes
///   X.nested_absmax       [ceil(blocks / 256)]  F32 }  double
///   X.nested_quant_map    [256]                 F32 }  quantization
///   X.quant_state.bitsandbytes__nf4         U8: JSON, {"quant_type", "blocksize", "dtype", "shape", "nested_blocksize", ...}
///
///   w = quant_map[code] * absmax[block];   absmax = nested_quant_map[u] * nested_absmax[block / 256] + nested_offset
///
/// Source: bitsandbytes, functional.QuantState and nn.Params4bit.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

struct bnb_tensors {
  tensor_view weight, absmax, quant_map, quant_state;
  std::optional<tensor_view> nested_absmax, nested_quant_map;
};

/// What the JSON of quant_state says.
struct bnb_quant_state {
  std::string quant_type;        ///< "nf4" or "fp4"
  std::string dtype;             ///< of the weights before quantization, "bfloat16"
  std::size_t N = 0, K = 0;      ///< "shape"
  std::uint32_t blocksize = 64;  ///< B, a multiple of 8 of at most 4096
  bool nested = false;           ///< double quantization
  float nested_offset = 0.0f;
};

/// Reads the JSON text. Throws bad_file with `place` and the rule; unsupported_format for what nibble has no format for.
inline bnb_quant_state parse_quant_state(std::string_view text, std::string_view place) {
  const nlohmann::json state = detail::parse_json_object(text, place);
  const auto member = [&](std::string_view key) -> const nlohmann::json& {
    const nlohmann::json* const m = detail::find_member(state, key);
    if (m == nullptr) core::fail(errc::bad_file, place, ": '", key, "' is missing");
    return *m;
  };
  const auto string = [&](std::string_view key) {
    const nlohmann::json& m = member(key);
    if (!m.is_string()) core::fail(errc::bad_file, place, ": '", key, "' is no string");
    return m.get<std::string>();
  };
  const auto count = [&](const nlohmann::json& m, std::string_view key) {
    if (!m.is_number_unsigned() || m.get<std::uint64_t>() == 0 || m.get<std::uint64_t>() > 0xffffffffu)
      core::fail(errc::bad_file, place, ": '", key, "' holds ", printable(m.dump()),
                 "; rule: an integer of 1 to 2^32 - 1");
    return static_cast<std::size_t>(m.get<std::uint64_t>());
  };
  bnb_quant_state s;
  s.quant_type = string("quant_type");
  if (const std::string_view type = s.quant_type; type != "nf4" && type != "fp4")
    core::fail(errc::unsupported_format, place, ": quant_type '", printable(s.quant_type),
               "'; nf4 and fp4 are supported");
  s.dtype = string("dtype");
  s.blocksize = static_cast<std::uint32_t>(count(member("blocksize"), "blocksize"));
  if (s.blocksize % 8 != 0 || s.blocksize > quant::max_flat_block)
    core::fail(errc::unsupported_format, place, ": blocksize ", s.blocksize, "; rule: a multiple of 8 of at most ",
               quant::max_flat_block);
  const nlohmann::json& shape = member("shape");
  if (!shape.is_array() || shape.size() != 2)
    core::fail(errc::unsupported_format, place, ": shape ", printable(shape.dump()), "; rule: two extents");
  s.N = count(shape[0], "shape");
  s.K = count(shape[1], "shape");
  s.nested = detail::find_member(state, "nested_blocksize") != nullptr;
  if (!s.nested) return s;
  if (const std::size_t block = count(member("nested_blocksize"), "nested_blocksize");
      block != quant::double_quant_block)
    core::fail(errc::unsupported_format, place, ": nested_blocksize ", block, "; rule: ", quant::double_quant_block);
  const nlohmann::json& offset = member("nested_offset");
  if (!offset.is_number() || !is_finite(static_cast<float>(offset.get<double>())))
    core::fail(errc::bad_file, place, ": 'nested_offset' is ", printable(offset.dump()), "; rule: a float");
  s.nested_offset = static_cast<float>(offset.get<double>());
  return s;
}

namespace detail {

/// Each byte with its halves exchanged.
inline void swap_halves(std::span<const std::byte> from, std::byte* to) noexcept {
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i] << 4 | from[i] >> 4;
}

inline bool same_table(const float* a, const float* b, std::size_t count) noexcept {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace detail

/// The layer as W[N, K], nothing lost: codes of 4 bits, flat blocks, float or double-quantized scales. A quant_map that is
/// not the one of nibble's own nf4_table or fp4_table to the bit becomes the matrix's own table. Throws bad_file with tensor
/// and rule; unsupported_format for a nested_quant_map other than the signed dynamic map.
inline checkpoint_matrix read_bnb(const bnb_tensors& t) {
  const std::size_t text_bytes = detail::extent_of("bitsandbytes", t.quant_state, 1, 0);
  detail::check_tensor("bitsandbytes", t.quant_state, dtype::u8, {text_bytes});
  checkpoint_matrix layer;
  layer.quant_state.assign(reinterpret_cast<const char*>(t.quant_state.bytes.data()), text_bytes);
  const bnb_quant_state s =
      parse_quant_state(layer.quant_state, core::message("bitsandbytes: tensor '", printable(t.quant_state.name), "'"));

  const std::size_t values = s.N * s.K;  // both below 2^32
  detail::check_tensor("bitsandbytes", t.weight, dtype::u8, {ceil_div(values, std::size_t{2}), 1});
  const std::size_t blocks = ceil_div(values, std::size_t{s.blocksize});
  detail::check_tensor("bitsandbytes", t.absmax, s.nested ? dtype::u8 : dtype::f32, {blocks});
  detail::check_tensor("bitsandbytes", t.quant_map, dtype::f32, {16});
  if (s.nested != t.nested_absmax.has_value() || s.nested != t.nested_quant_map.has_value())
    core::fail(errc::bad_file, "bitsandbytes: '", printable(t.quant_state.name),
               "' and the tensors nested_absmax and "
               "nested_quant_map disagree about double quantization");

  float map[16];
  std::memcpy(map, t.quant_map.bytes.data(), sizeof map);
  const format_desc f{code_rule::codebook, 4, granularity_kind::flat,
                      s.nested ? scale_storage::double_quant : scale_storage::f32, s.blocksize};
  const float* const known =
      std::string_view{s.quant_type} == "nf4" ? quant::nf4_table::table.values.data() : quant::fp4_table::values.data();
  if (detail::same_table(map, known, 16)) layer.matrix = any_qmatrix(f, s.N, s.K, known);
  else layer.matrix = any_qmatrix(f, s.N, s.K, std::span<const float>(map));
  any_qmatrix& m = layer.matrix;
  detail::swap_halves(t.weight.bytes, m.codes().data());  // the unused half of the last byte with them
  std::memcpy(m.scale_plane().data(), t.absmax.bytes.data(), t.absmax.bytes.size());
  if (!s.nested) return layer;

  detail::check_tensor("bitsandbytes", *t.nested_absmax, dtype::f32, {m.super_scales().size() - 1});
  detail::check_tensor("bitsandbytes", *t.nested_quant_map, dtype::f32, {256});
  float dynamic[256];
  std::memcpy(dynamic, t.nested_quant_map->bytes.data(), sizeof dynamic);
  for (std::size_t i = 0; i < 256; ++i)
    if (std::bit_cast<std::uint32_t>(dynamic[i]) != std::bit_cast<std::uint32_t>(quant::dynamic_map[i]))
      core::fail(errc::unsupported_format, "bitsandbytes: '", printable(t.nested_quant_map->name), "': entry ", i,
                 " is ", dynamic[i], "; rule: the signed dynamic map, which has ", quant::dynamic_map[i]);
  std::memcpy(m.super_scales().data(), t.nested_absmax->bytes.data(), t.nested_absmax->bytes.size());
  m.super_scales().back() = s.nested_offset;
  return layer;
}

/// quant_state of a matrix that no file had: the text that Python's json module writes. `dtype` as torch calls it.
inline std::string make_quant_state(const quantized_view& v, std::string_view quant_type, std::string_view dtype) {
  std::string s = core::message("{\"quant_type\": \"", quant_type, "\", \"blocksize\": ", v.format.group_size,
                                ", \"dtype\": \"", dtype, "\", \"shape\": [", v.N, ", ", v.K, "]");
  if (v.format.scale == scale_storage::double_quant)
    s += core::message(", \"nested_blocksize\": ", quant::double_quant_block, ", \"nested_dtype\": \"float32\", ",
                       "\"nested_offset\": ", nlohmann::json(static_cast<double>(v.scale_offset)).dump());
  return s + "}";
}

/// The tensors of a layer that read_bnb read, byte for byte, named after the weight NAME; or of any codebook matrix of 4 bits
/// with flat blocks of float or double-quantized scales, whose `quant_state` is empty: then its text is made, with
/// bfloat16 for the type that it had before. Throws unsupported_format for others, bad_value where quant_state describes
/// another matrix.
inline std::vector<tensor_bytes> write_bnb(const checkpoint_matrix& layer, const std::string& name) {
  const quantized_view v = layer.matrix.view();
  const bool nested = v.format.scale == scale_storage::double_quant;
  if (v.format.rule != code_rule::codebook || v.format.bits != 4 || v.format.granularity != granularity_kind::flat ||
      (!nested && v.format.scale != scale_storage::f32) || !layer.column_order.empty())
    core::fail(errc::unsupported_format, "bitsandbytes: '", printable(name),
               "': rule: codebook codes of 4 bits, flat blocks, float or double-quantized scales");
  std::string text = layer.quant_state;
  if (text.empty()) {
    const bool fp4 = v.table[1] == quant::fp4_table::values[1];
    if (!fp4 && !detail::same_table(v.table, quant::nf4_table::table.values.data(), 16))
      core::fail(errc::unsupported_format, "bitsandbytes: '", printable(name),
                 "': a table that is neither NF4 nor FP4");
    text = make_quant_state(v, fp4 ? "fp4" : "nf4", "bfloat16");
  }
  const bnb_quant_state s =
      parse_quant_state(text, core::message("bitsandbytes: quant_state of '", printable(name), "'"));
  if (s.N != v.N || s.K != v.K || s.blocksize != v.format.group_size || s.nested != nested ||
      (nested && s.nested_offset != v.scale_offset))
    core::fail(errc::bad_value, "bitsandbytes: '", printable(name), "': quant_state ", printable(text),
               " describes another matrix than ", v.N, " x ", v.K, " in blocks of ", v.format.group_size);

  const std::size_t values = v.N * v.K, blocks = quant::scale_count(v.format, v.N, v.K);
  std::vector<tensor_bytes> out;
  out.push_back(detail::make_tensor(name, dtype::u8, {ceil_div(values, std::size_t{2}), 1}));
  detail::swap_halves({v.codes, out.back().bytes.size()}, out.back().bytes.data());
  const auto add = [&](const char* suffix, dtype type, std::size_t count, const void* from) {
    out.push_back(detail::make_tensor(name + suffix, type, {count}));
    std::memcpy(out.back().bytes.data(), from, out.back().bytes.size());
  };
  add(".absmax", nested ? dtype::u8 : dtype::f32, blocks, v.scales);
  add(".quant_map", dtype::f32, 16, v.table);
  if (nested) {
    add(".nested_absmax", dtype::f32, ceil_div(blocks, quant::double_quant_block), v.super_scales);
    add(".nested_quant_map", dtype::f32, 256, quant::dynamic_map.data());
  }
  out.push_back(detail::make_tensor(name + ".quant_state.bitsandbytes__" + s.quant_type, dtype::u8, {text.size()}));
  std::memcpy(out.back().bytes.data(), text.data(), text.size());
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
