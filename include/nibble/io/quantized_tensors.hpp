// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// nibble's own matrices in safetensors files, which any safetensors library reads. Matrix NAME, W[N, K], is
///
///   NAME.nibble.codes         U8   [N, bytes of a row], canonical codes (quant/format.hpp); flat formats: [bytes]
///   NAME.nibble.scales        F32, F16, BF16; U8 with double quantization, I8 with super-blocks; [1], [N], [N, groups] or,
///                             flat, [blocks]
///   NAME.nibble.zeros         the shape of scales: U8 zero points, or offsets in the type of the scales (double quantization: F32)
///   NAME.nibble.block_scales  F16  [N, ceil(K / 256)], super-blocks; with offsets [N, 2 ceil(K / 256)], theirs last
///   NAME.nibble.super_scales  F32  [ceil(scales / 256) + 1], double quantization: greatest magnitudes, then the offset
///   NAME.nibble.table         F32  [2^bits], codebooks: the values of the codes
///   NAME.nibble.column_order  U32  [K], where columns were reordered \ see checkpoint_matrix
///   NAME.nibble.row_absmax    F32  [N], LLM.int8()                   /
///   __metadata__["nibble.NAME"]  {"version": 1, "rule": "asymmetric", "bits": 4, "granularity": "grouped", "group_size": 128,
///                                 "scales": "f16", "N": 4096, "K": 4096}
///
/// Planes of 4 bytes an element stand before those of 2, and these before bytes, so that a mapped file is used where it lies.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/json_text.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_set.hpp>
#include <nibble/io/tensor_sink.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Version of the description; a reader refuses greater ones.
inline constexpr unsigned quantized_tensors_version = 1;

namespace detail {

inline constexpr std::array<std::string_view, 6> rule_names{"symmetric",  "symmetric_full",    "mid_rise",
                                                            "asymmetric", "asymmetric_offset", "codebook"};
inline constexpr std::array<std::string_view, 4> granularity_names{"per_tensor", "per_channel", "grouped", "flat"};
inline constexpr std::array<std::string_view, 5> storage_names{"f32", "f16", "bf16", "double_quant", "super_block"};

/// The planes of a matrix, in the order of this list.
enum class plane : std::uint8_t { codes, scales, zeros, block_scales, super_scales, table, column_order, row_absmax };
inline constexpr std::array<std::string_view, 8> plane_names{
    ".nibble.codes",        ".nibble.scales", ".nibble.zeros",        ".nibble.block_scales",
    ".nibble.super_scales", ".nibble.table",  ".nibble.column_order", ".nibble.row_absmax"};
constexpr std::string_view name_of(plane p) noexcept { return plane_names[static_cast<std::size_t>(p)]; }

/// dtype and shape of a plane of a matrix of this format.
struct plane_form {
  dtype type = dtype::u8;
  std::vector<std::size_t> shape;
};
inline plane_form form_of(plane p, const format_desc& f, std::size_t N, std::size_t K) {
  const std::size_t scales = quant::scale_count(f, N, K);
  std::vector<std::size_t> shape{scales};
  if (f.granularity == granularity_kind::grouped) shape = {N, scales / N};
  switch (p) {
    case plane::codes:
      if (f.granularity == granularity_kind::flat) return {dtype::u8, {pack::packed_bytes(N * K, f.bits)}};
      return {dtype::u8, {N, pack::packed_bytes(K, f.bits)}};
    case plane::scales: return {dtype_of(f.scale), shape};
    case plane::zeros:
      if (f.rule == code_rule::asymmetric) return {dtype::u8, shape};
      return {f.scale == scale_storage::double_quant ? dtype::f32 : dtype_of(f.scale), shape};
    case plane::block_scales: return {dtype::f16, {N, quant::block_scales_per_row(f, K)}};
    case plane::super_scales: return {dtype::f32, {quant::super_scale_count(scales)}};
    case plane::table: return {dtype::f32, {std::size_t{1} << f.bits}};
    case plane::column_order: return {dtype::u32, {K}};
    case plane::row_absmax: break;
  }
  return {dtype::f32, {N}};
}
/// Whether a matrix of this format has the plane; those of checkpoints aside.
constexpr bool has_plane(plane p, const format_desc& f) noexcept {
  switch (p) {
    case plane::codes:
    case plane::scales: return true;
    case plane::zeros: return quant::has_zeros(f);
    case plane::block_scales: return f.scale == scale_storage::super_block;
    case plane::super_scales: return f.scale == scale_storage::double_quant;
    case plane::table: return f.rule == code_rule::codebook;
    case plane::column_order:
    case plane::row_absmax: break;
  }
  return false;
}

/// A matrix that lies elsewhere, with what belongs to it.
struct quantized_parts {
  quantized_view view;
  std::span<const std::uint32_t> column_order;
  std::span<const float> row_absmax;
  std::string_view quant_state;
};
inline quantized_parts parts_of(const checkpoint_matrix& m) {
  return {m.matrix.view(), m.column_order, m.row_absmax, m.quant_state};
}

inline void write_plane(plane p, const quantized_parts& m, tensor_sink& sink) {
  const quantized_view& v = m.view;
  const auto write = [&](const void* from, std::size_t bytes) {
    sink.write({static_cast<const std::byte*>(from), bytes});
  };
  switch (p) {
    case plane::codes:
      if (v.format.granularity == granularity_kind::flat) return write(v.codes, sink.left());
      for (std::size_t n = 0; n < v.N; ++n)
        write(v.codes + n * v.row_stride_bytes, pack::packed_bytes(v.K, v.format.bits));
      return;
    case plane::scales: return write(v.scales, sink.left());
    case plane::zeros: return write(v.zeros, sink.left());
    case plane::block_scales: return write(v.block_scales, sink.left());
    case plane::super_scales:
      write(v.super_scales, sink.left() - sizeof(float));
      return write(&v.scale_offset, sizeof(float));
    case plane::table: return write(v.table, sink.left());
    case plane::column_order: return write(m.column_order.data(), sink.left());
    case plane::row_absmax: return write(m.row_absmax.data(), sink.left());
  }
}

/// The text of __metadata__. Throws bad_value for a quant_state that is not UTF-8, which JSON must be.
inline std::string describe(const quantized_parts& m) {
  const format_desc& f = m.view.format;
  if (find_ill_formed_utf8(m.quant_state) != m.quant_state.size())
    core::fail(errc::bad_value, "add_quantized: quant_state '", printable(m.quant_state), "' is not UTF-8");
  nlohmann::ordered_json d;
  d["version"] = quantized_tensors_version;
  d["rule"] = rule_names[static_cast<std::size_t>(f.rule)];
  d["bits"] = int{f.bits};
  d["granularity"] = granularity_names[static_cast<std::size_t>(f.granularity)];
  d["group_size"] = f.group_size;
  d["scales"] = storage_names[static_cast<std::size_t>(f.scale)];
  d["N"] = m.view.N;
  d["K"] = m.view.K;
  if (!m.quant_state.empty()) d["quant_state"] = m.quant_state;
  return d.dump(-1, ' ', true);  // ASCII
}

/// Adds the planes of a matrix; `with` calls what it is given with the quantized_parts, when the file is written.
template <class With>
void add_planes(safetensors_writer& writer, const std::string& name, const quantized_parts& m, With with) {
  check_view(m.view, "add_quantized");
  check_column_order(m.column_order, m.view.K, "add_quantized");
  if (!m.row_absmax.empty() && m.row_absmax.size() != m.view.N)
    core::fail(errc::bad_shape, "add_quantized: '", printable(name), "': ", m.row_absmax.size(),
               " row maxima for N = ", m.view.N);
  if (!writer.metadata.emplace("nibble." + name, describe(m)).second)
    core::fail(errc::bad_value, "add_quantized: '", printable(name), "' is in the file already");
  for (std::size_t i = 0; i < plane_names.size(); ++i) {
    const plane p = static_cast<plane>(i);
    const bool extra =
        (p == plane::column_order && !m.column_order.empty()) || (p == plane::row_absmax && !m.row_absmax.empty());
    if (!extra && !has_plane(p, m.view.format)) continue;
    plane_form form = form_of(p, m.view.format, m.view.N, m.view.K);
    writer.add(name + std::string{name_of(p)}, form.type, std::move(form.shape), [with, p](tensor_sink& sink) {
      with([&](const quantized_parts& parts) { write_plane(p, parts, sink); });
    });
  }
}

}  // namespace detail

/// Adds W to a file. The view's memory is the caller's until save() returns. Throws what check_view throws, and bad_value
/// for a name that the file has.
inline void add_quantized(safetensors_writer& writer, const std::string& name, const quantized_view& W) {
  const detail::quantized_parts parts{W, {}, {}, {}};
  detail::add_planes(writer, name, parts, [parts](const auto& use) { use(parts); });
}
/// Adds a layer, which moves into the writer.
inline void add_quantized(safetensors_writer& writer, const std::string& name, checkpoint_matrix layer) {
  const auto kept = std::make_shared<const checkpoint_matrix>(std::move(layer));
  detail::add_planes(writer, name, detail::parts_of(*kept), [kept](const auto& use) { use(detail::parts_of(*kept)); });
}
/// Adds a layer that `make` makes: now, to learn its format, and again for each plane while the file is written, so that no
/// more than one layer is in memory at once. It must give the same one each time, else save() throws bad_value.
inline void add_quantized(safetensors_writer& writer, const std::string& name,
                          std::function<checkpoint_matrix()> make) {
  const checkpoint_matrix first = make();
  const auto form = [](const checkpoint_matrix& m) {
    return core::message(detail::describe(detail::parts_of(m)), m.column_order.size(), " ", m.row_absmax.size());
  };
  detail::add_planes(writer, name, detail::parts_of(first),
                     [make = std::move(make), form, want = form(first), name](const auto& use) {
                       const checkpoint_matrix again = make();
                       if (form(again) != want)
                         core::fail(errc::bad_value, "add_quantized: '", printable(name),
                                    "': the layer has another form than when it was added");
                       use(detail::parts_of(again));
                     });
}

/// A matrix where it lies in a file: nothing is copied.
struct quantized_tensor {
  quantized_view view;
  std::span<const std::uint32_t> column_order;  ///< see checkpoint_matrix
  std::span<const float> row_absmax;
  std::string quant_state;
};

namespace detail {

/// The checked description of a matrix.
struct description {
  format_desc format;
  std::size_t N = 0, K = 0;
  std::string quant_state;
};

inline description parse_description(std::string_view text, const std::string& place) {
  const nlohmann::json d = parse_json_object(text, place);
  const auto number = [&](std::string_view key, std::uint64_t most) {
    const nlohmann::json* const m = find_member(d, key);
    if (m == nullptr || !m->is_number_unsigned() || m->get<std::uint64_t>() > most)
      core::fail(errc::bad_file, place, ": '", key, "' is ", m == nullptr ? "missing" : printable(m->dump()).c_str(),
                 "; rule: an integer of at most ", most);
    return m->get<std::uint64_t>();
  };
  const auto choice = [&](std::string_view key, std::span<const std::string_view> names) {
    const nlohmann::json* const m = find_member(d, key);
    if (m != nullptr && m->is_string())
      for (std::size_t i = 0; i < names.size(); ++i)
        if (names[i] == std::string_view{m->get_ref<const std::string&>()}) return i;
    core::fail(errc::bad_file, place, ": '", key, "' is ", m == nullptr ? "missing" : printable(m->dump()).c_str());
  };
  if (const std::uint64_t version = number("version", 0xffffffffu); version != quantized_tensors_version)
    core::fail(errc::bad_file, place, ": version ", version, "; this library reads ", quantized_tensors_version);
  description out;
  out.format.rule = static_cast<code_rule>(choice("rule", rule_names));
  out.format.bits = static_cast<std::uint8_t>(number("bits", 8));
  out.format.granularity = static_cast<granularity_kind>(choice("granularity", granularity_names));
  out.format.scale = static_cast<scale_storage>(choice("scales", storage_names));
  out.format.group_size = static_cast<std::uint32_t>(number("group_size", 0xffffffffu));
  constexpr std::uint64_t most = std::uint64_t{1} << 40;
  out.N = number("N", most);
  out.K = number("K", most);
  if (const nlohmann::json* const state = find_member(d, "quant_state")) {
    if (!state->is_string()) core::fail(errc::bad_file, place, ": 'quant_state' is no string");
    out.quant_state = state->get<std::string>();
  }
  quant::check_format(out.format, place.c_str());
  quant::check_extents(out.N, out.K, place.c_str());
  return out;
}

}  // namespace detail

namespace detail {

inline const safetensors_reader& file_of(const safetensors_reader& file, const tensor_info&) { return file; }
inline const safetensors_reader& file_of(const safetensors_set& set, const tensor_info& t) { return set.shard_of(t); }

/// The planes of matrix NAME, dtype, shape and bytes checked.
struct found_planes {
  description about;
  std::array<std::optional<tensor_view>, plane_names.size()> planes;
  const std::optional<tensor_view>& operator[](plane p) const noexcept { return planes[static_cast<std::size_t>(p)]; }
};

template <class File>
found_planes find_planes(const File& file, const std::string& name) {
  const safetensors_reader& holder = file_of(file, file.at(name + std::string{name_of(plane::codes)}));
  const auto text = holder.metadata().find("nibble." + name);
  if (text == holder.metadata().end())
    core::fail(errc::bad_file, "quantized_tensors: ", holder.place(), " has no __metadata__ 'nibble.", printable(name),
               "'");
  found_planes found;
  const std::string place = core::message("quantized_tensors: ", holder.place(), ": 'nibble.", printable(name), "'");
  found.about = parse_description(text->second, place);
  for (std::size_t i = 0; i < plane_names.size(); ++i) {
    const plane p = static_cast<plane>(i);
    const std::string full = name + std::string{name_of(p)};
    const bool extra = (p == plane::column_order || p == plane::row_absmax) && file.contains(full);
    if (!extra && !has_plane(p, found.about.format)) {
      if (file.contains(full))
        core::fail(errc::bad_file, place, ": tensor '", printable(full), "' does not belong to this format");
      continue;
    }
    const plane_form form = form_of(p, found.about.format, found.about.N, found.about.K);
    found.planes[i] = file.view(file.at(full));
    check_tensor(place, *found.planes[i], form.type, form.shape);
  }
  return found;
}

/// A column order that a file holds must be a permutation: throws bad_file.
inline void check_file_order(std::span<const std::uint32_t> order, std::size_t K, const tensor_view& t) {
  std::vector<bool> seen(K);
  for (std::size_t j = 0; j < K; ++j) {
    if (order[j] >= K || seen[order[j]])
      core::fail(errc::bad_file, "quantized_tensors: '", printable(t.name), "': entry ", j, ", column ", order[j],
                 ", occurs twice or is not below K = ", K);
    seen[order[j]] = true;
  }
}

}  // namespace detail

/// Matrix NAME of a file, a safetensors_reader or safetensors_set that must outlive the result. Everything is checked: the
/// description, and dtype, shape and bytes of each plane. Throws bad_file with the rule; bad_alignment where a plane does not
/// stand at a multiple of its element size, as in a mapped file of add_quantized it always does (read_quantized copies).
template <class File>
quantized_tensor view_quantized(const File& file, const std::string& name) {
  const detail::found_planes found = detail::find_planes(file, name);
  quantized_tensor out;
  const auto at = [&]<class T>(detail::plane p, T) -> const T* {
    if (!found[p]) return nullptr;
    const std::byte* const bytes = found[p]->bytes.data();
    if (const std::size_t size = bits_of(found[p]->type) / 8; reinterpret_cast<std::uintptr_t>(bytes) % size != 0)
      core::fail(errc::bad_alignment, "view_quantized: '", printable(found[p]->name), "' is not aligned to ", size,
                 " bytes; read_quantized copies it");
    return reinterpret_cast<const T*>(bytes);
  };
  quantized_view& v = out.view;
  v.format = found.about.format;
  v.N = found.about.N;
  v.K = found.about.K;
  v.codes = at(detail::plane::codes, std::byte{});
  v.row_stride_bytes = v.format.granularity == granularity_kind::flat ? 0 : pack::packed_bytes(v.K, v.format.bits);
  v.scales = at(detail::plane::scales, std::byte{});
  v.zeros = at(detail::plane::zeros, std::byte{});
  v.block_scales = at(detail::plane::block_scales, half{});
  v.super_scales = at(detail::plane::super_scales, float{});
  if (v.super_scales != nullptr)
    v.scale_offset = v.super_scales[quant::super_scale_count(quant::scale_count(v.format, v.N, v.K)) - 1];
  v.table = at(detail::plane::table, float{});
  if (const std::uint32_t* const order = at(detail::plane::column_order, std::uint32_t{})) {
    out.column_order = {order, v.K};
    detail::check_file_order(out.column_order, v.K, *found[detail::plane::column_order]);
  }
  if (const float* const absmax = at(detail::plane::row_absmax, float{})) out.row_absmax = {absmax, v.N};
  out.quant_state = found.about.quant_state;
  check_view(v, "view_quantized");
  return out;
}

/// The same as a copy, whatever its alignment.
template <class File>
checkpoint_matrix read_quantized(const File& file, const std::string& name) {
  const detail::found_planes found = detail::find_planes(file, name);
  const auto copy = [&](detail::plane p, void* to) {
    if (found[p]) std::memcpy(to, found[p]->bytes.data(), found[p]->bytes.size());
  };
  const detail::description& about = found.about;
  checkpoint_matrix out;
  if (found[detail::plane::table]) {
    std::vector<float> table(std::size_t{1} << about.format.bits);
    copy(detail::plane::table, table.data());
    out.matrix = any_qmatrix(about.format, about.N, about.K, std::span<const float>(table));
  } else {
    out.matrix = any_qmatrix(about.format, about.N, about.K);
  }
  copy(detail::plane::codes, out.matrix.codes().data());
  copy(detail::plane::scales, out.matrix.scale_plane().data());
  copy(detail::plane::zeros, out.matrix.zero_plane().data());
  copy(detail::plane::block_scales, out.matrix.block_scales().data());
  copy(detail::plane::super_scales, out.matrix.super_scales().data());
  if (found[detail::plane::column_order]) {
    out.column_order.resize(about.K);
    copy(detail::plane::column_order, out.column_order.data());
    detail::check_file_order(out.column_order, about.K, *found[detail::plane::column_order]);
  }
  if (found[detail::plane::row_absmax]) {
    out.row_absmax.resize(about.N);
    copy(detail::plane::row_absmax, out.row_absmax.data());
  }
  out.quant_state = about.quant_state;
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
