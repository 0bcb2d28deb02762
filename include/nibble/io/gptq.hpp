// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Layers of GPTQ checkpoints. Int32 words, in = K inputs, out = N outputs, b bits, groups of G inputs:
///
///   qweight [K b / 32, N]            column n: the codes of output n as one stream of bits, input 0 lowest
///   qzeros  [ceil(K / G), N b / 32]  row g: the zero points of group g as one stream, output 0 lowest; v1 stores z - 1
///   scales  [ceil(K / G), N]         F16 (or BF16, F32)
///   g_idx   [K]                      the group of each input; with act-order in any order
///
///   w[k][n] = scales[g_idx[k]][n] * (q[k][n] - z[g_idx[k]][n])
///
/// 3 bits: 32 codes in 3 words, the 11th and the 22nd straddle two. Source: AutoGPTQ and GPTQModel, as they write files.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/checkpoint_matrix.hpp>
#include <nibble/io/tensor_view.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// How zero points are stored: `checkpoint_format` "gptq" (or nothing) and "gptq_v2".
enum class gptq_version : std::uint8_t {
  v1,  ///< z - 1
  v2,  ///< z
};

/// What 2^b - 1 in a file of version 1 means. Its writer had z = 0 and stored -1; AutoGPTQ's classic reader adds 1 and gets
/// 2^b, one bit wider than the codes, and models were judged with that; readers that mask once more get 0.
enum class gptq_full_zero : std::uint8_t {
  is_power,  ///< z = 2^b
  is_zero,   ///< z = 0
};

/// How the tensors of a layer are to be understood.
struct gptq_form {
  int bits = 4;                ///< 2, 3, 4 or 8
  std::size_t group_size = 0;  ///< inputs that share a scale; 0: all of them (-1 in files)
  gptq_version version = gptq_version::v1;
  gptq_full_zero full_zero = gptq_full_zero::is_power;
};

/// The tensors of a layer. Without g_idx input k is in group k / G.
struct gptq_tensors {
  tensor_view qweight, qzeros, scales;
  std::optional<tensor_view> g_idx;
};

namespace detail {

/// z of a stored zero point.
constexpr unsigned gptq_zero(unsigned stored, const gptq_form& form) noexcept {
  if (form.version == gptq_version::v2) return stored;
  const unsigned z = stored + 1;
  return z >> form.bits != 0 && form.full_zero == gptq_full_zero::is_zero ? 0 : z;
}

inline void check_form(const gptq_form& form) {
  if (form.bits != 2 && form.bits != 3 && form.bits != 4 && form.bits != 8)
    core::fail(errc::unsupported_format, "gptq: ", form.bits, " bits; 2, 3, 4 and 8 are supported");
}

/// Zero points of 8 bits with 256 among them do not fit the plane of bytes. Then the matrix holds offsets -s z in floats:
/// s has 11 significant bits at most and z 9, so that the offset is exact, the value fma(s, u, -s z) is s (u - z) rounded
/// once, and z = offset / -s. That needs scales that are finite and not 0; a negative one gives +0 where the formula has -0.
inline any_qmatrix gptq_with_offsets(const format_desc& f, std::size_t N, std::size_t K, const std::uint16_t* zeros,
                                     const tensor_view& scales) {
  format_desc wide = f;
  wide.rule = code_rule::asymmetric_offset;
  wide.scale = scale_storage::f32;
  any_qmatrix m(wide, N, K);
  const std::size_t groups = quant::groups_per_row(f, K);
  for (std::size_t n = 0; n < N; ++n) {
    for (std::size_t g = 0; g < groups; ++g) {
      float s = 0.0f;
      read_floats(scales.type, scales.bytes.data() + (g * N + n) * (bits_of(scales.type) / 8), 1, &s);
      const float offset = -rounded_product(s, static_cast<float>(zeros[n * groups + g]));
      if (f.scale != scale_storage::f16 || s == 0.0f || !is_finite(s))
        core::fail(
            errc::unsupported_format, "gptq: '", printable(scales.name),
            "': zero points of 256 beside codes of 8 bits become offsets, which takes F16 scales other than 0; group ",
            g, " of output ", n, " has ", s, " in ", name_of(scales.type),
            " (gptq_full_zero::is_zero reads such zero points as 0)");
      std::memcpy(m.scale_plane().data() + 4 * (n * groups + g), &s, 4);
      std::memcpy(m.zero_plane().data() + 4 * (n * groups + g), &offset, 4);
    }
  }
  return m;
}

}  // namespace detail

/// The layer as W[N, K], nothing lost: `asymmetric` codes with one zero point a byte, which holds 2^b for b < 8 (kernels
/// take any byte); for b = 8 see gptq_full_zero and detail::gptq_with_offsets. Columns are reordered where g_idx says so.
/// Throws bad_file with tensor and rule, unsupported_format for widths and dtypes that are not GPTQ's.
inline checkpoint_matrix read_gptq(const gptq_tensors& t, const gptq_form& form) {
  detail::check_form(form);
  const std::size_t bits = static_cast<std::size_t>(form.bits);
  const std::size_t words = detail::extent_of("gptq", t.qweight, 2, 0), N = detail::extent_of("gptq", t.scales, 2, 1);
  if (words > static_cast<std::size_t>(-1) / 32 || words * 32 % bits != 0)
    core::fail(errc::bad_file, "gptq: '", printable(t.qweight.name), "' has ", words,
               " rows of words; rule: whole codes of ", bits, " bits");
  const std::size_t K = words * 32 / bits;
  if (K > 0xffffffffu)
    core::fail(errc::bad_file, "gptq: '", printable(t.qweight.name), "': K = ", K, "; at most 2^32 - 1");
  const std::size_t groups = detail::groups_of(K, form.group_size);
  detail::check_tensor("gptq", t.qweight, dtype::i32, {words, N});
  const scale_storage storage = detail::storage_of_scales("gptq", t.scales);
  detail::check_tensor("gptq", t.scales, t.scales.type, {groups, N});
  if (N % (32 / (bits == 3 ? 1 : bits)) != 0)
    core::fail(errc::bad_file, "gptq: '", printable(t.qzeros.name), "': ", N, " outputs of ", bits,
               " bits are no whole number of words");
  detail::check_tensor("gptq", t.qzeros, dtype::i32, {groups, N * bits / 32});

  const format_desc f = detail::grouped_format("gptq", code_rule::asymmetric, form.bits, storage, form.group_size);
  checkpoint_matrix layer;
  if (t.g_idx)
    layer.column_order = detail::column_order_of("gptq", *t.g_idx, K, form.group_size == 0 ? K : form.group_size);

  std::vector<std::uint16_t> zeros(N * groups);
  unsigned greatest = 0;
  {
    std::vector<std::uint8_t> stored(N);
    for (std::size_t g = 0; g < groups; ++g) {
      pack::unpack_row(t.qzeros.bytes.data() + g * N * bits / 8, N, form.bits, stored.data());
      for (std::size_t n = 0; n < N; ++n) {
        const unsigned z = detail::gptq_zero(stored[n], form);
        zeros[n * groups + g] = static_cast<std::uint16_t>(z);
        greatest = z > greatest ? z : greatest;
      }
    }
  }
  if (greatest > 255) {
    layer.matrix = detail::gptq_with_offsets(f, N, K, zeros.data(), t.scales);
  } else {
    layer.matrix = any_qmatrix(f, N, K);
    for (std::size_t i = 0; i < zeros.size(); ++i) layer.matrix.zero_plane()[i] = static_cast<std::byte>(zeros[i]);
    detail::transpose_elements(t.scales.bytes.data(), groups, N, quant::scale_bytes(storage),
                               layer.matrix.scale_plane().data());
  }
  // A column of words is the stream of bits that a row of the matrix is.
  detail::transpose_elements(t.qweight.bytes.data(), words, N, 4, layer.matrix.codes().data());
  if (layer.column_order.empty()) return layer;
  std::vector<std::uint8_t> codes(K), ordered(K);
  for (std::size_t n = 0; n < N; ++n) {
    std::byte* const packed = layer.matrix.codes().data() + n * layer.matrix.row_stride_bytes();
    pack::unpack_row(packed, K, form.bits, codes.data());
    detail::to_order(layer.column_order, codes, ordered.data());
    pack::pack_row(ordered.data(), K, form.bits, packed);
  }
  return layer;
}

/// The tensors NAME.qweight, NAME.qzeros, NAME.scales and, with `g_idx`, NAME.g_idx of a layer that read_gptq gave with the
/// same form, byte for byte; or of any `asymmetric` matrix of 2, 3, 4 or 8 bits with one float scale for each group or row.
/// Throws unsupported_format for other matrices, bad_shape where N or K is no whole number of words, bad_value for a zero
/// point that the form has no code for.
inline std::vector<tensor_bytes> write_gptq(const checkpoint_matrix& layer, const gptq_form& form,
                                            const std::string& name, bool g_idx = true) {
  detail::check_form(form);
  const quantized_view v = layer.matrix.view();
  const bool offsets =
      v.format.rule == code_rule::asymmetric_offset && v.format.scale == scale_storage::f32 && v.format.bits == 8;
  const bool rows =
      v.format.granularity == granularity_kind::per_channel || v.format.granularity == granularity_kind::grouped;
  if ((v.format.rule != code_rule::asymmetric && !offsets) || v.format.bits != form.bits || !rows ||
      quant::has_two_levels(v.format.scale) || v.format.group_size != form.group_size)
    core::fail(errc::unsupported_format, "gptq: '", printable(name), "': a matrix of ", int{v.format.bits},
               " bits in groups of ", v.format.group_size, " to be written with ", form.bits, " bits in groups of ",
               form.group_size, "; rule: asymmetric codes of the same, with float scales");
  const std::size_t N = v.N, K = v.K, bits = static_cast<std::size_t>(form.bits);
  if (K * bits % 32 != 0 || N * bits % 32 != 0)
    core::fail(errc::bad_shape, "gptq: '", printable(name), "': N = ", N, " or K = ", K, " codes of ", bits,
               " bits are no whole number of words");
  check_column_order(layer.column_order, K, "gptq");
  if (!layer.column_order.empty() && !g_idx)
    core::fail(errc::bad_value, "gptq: '", printable(name), "': a layer with a column order needs g_idx");
  const std::size_t groups = detail::groups_of(K, form.group_size), words = K * bits / 32;

  std::vector<tensor_bytes> out;
  out.push_back(detail::make_tensor(name + ".qweight", dtype::i32, {words, N}));
  if (layer.column_order.empty()) {
    detail::transpose_elements(v.codes, N, words, 4, out.back().bytes.data());
  } else {
    std::vector<std::uint8_t> codes(K), ordered(K);
    std::vector<std::byte> packed(words * 4);
    for (std::size_t n = 0; n < N; ++n) {
      pack::unpack_row(v.codes + n * v.row_stride_bytes, K, form.bits, ordered.data());
      detail::from_order(layer.column_order, ordered, codes.data());
      pack::pack_row(codes.data(), K, form.bits, packed.data());
      for (std::size_t w = 0; w < words; ++w) std::memcpy(out.back().bytes.data() + 4 * (w * N + n), &packed[4 * w], 4);
    }
  }

  out.push_back(detail::make_tensor(name + ".qzeros", dtype::i32, {groups, N * bits / 32}));
  std::vector<std::uint8_t> stored(N);
  for (std::size_t g = 0; g < groups; ++g) {
    for (std::size_t n = 0; n < N; ++n) {
      const quant::group_params p = quant::params_at(v, n * groups + g);
      const float z = offsets ? p.zero / -p.scale : p.zero;
      const bool whole = z >= 0.0f && z <= 256.0f && z == static_cast<float>(static_cast<unsigned>(z));
      const unsigned zero = whole ? static_cast<unsigned>(z) : 0;
      const unsigned code = form.version == gptq_version::v1 ? (zero + 255) & 255 : zero;
      stored[n] = static_cast<std::uint8_t>(code & ((1u << bits) - 1u));
      if (!whole || detail::gptq_zero(stored[n], form) != zero)
        core::fail(errc::bad_value, "gptq: '", printable(name), "': zero point ", z, " of group ", g, " of output ", n,
                   " has no code of ", bits, " bits in this version");
    }
    pack::pack_row(stored.data(), N, form.bits, out.back().bytes.data() + g * N * bits / 8);
  }

  if (offsets) {  // float scales stand for the half precision ones of the file
    out.push_back(detail::make_tensor(name + ".scales", dtype::f16, {groups, N}));
    for (std::size_t n = 0; n < N; ++n)
      for (std::size_t g = 0; g < groups; ++g) {
        const float s = quant::scale_at(v, n * groups + g);
        const half h = to_half(s);
        if (to_float(h) != s)
          core::fail(errc::unsupported_format, "gptq: '", printable(name), "': scale ", s, " of group ", g,
                     " of output ", n, " is not in half precision");
        std::memcpy(out.back().bytes.data() + 2 * (g * N + n), &h, 2);
      }
  } else {
    out.push_back(detail::make_tensor(name + ".scales", detail::dtype_of(v.format.scale), {groups, N}));
    detail::transpose_elements(static_cast<const std::byte*>(v.scales), N, groups, quant::scale_bytes(v.format.scale),
                               out.back().bytes.data());
  }
  if (g_idx)
    out.push_back(
        detail::make_g_idx(name + ".g_idx", layer.column_order, K, form.group_size == 0 ? K : form.group_size));
  return out;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
