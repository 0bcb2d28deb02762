// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Packed weights as bytes that an engine maps into memory and multiplies by, without a copy.
///
/// All numbers are little-endian. The planes follow the header in this order, each begins at a multiple of 64 bytes, gaps
/// are 0, and their sizes follow from the header alone (plane_sizes):
///
///     0  8  "nibblepk"                   48  4  scale_offset, float
///     8  4  version of this form: 1      52  4  0
///    12  4  layout_id                    56  8  bytes in all
///    16  8  N                            64  8  checksum of the bytes [0, 64) and [72, end)
///    24  8  K                            72 56  0
///    32  1  code_rule                   128     codes
///    33  1  bits                                scales
///    34  1  granularity_kind                    zero points or offsets
///    35  1  scale_storage                       second-level scales, floats
///    36  4  group_size                          table, floats
///    40  8  0
///
/// A layout id means the same bytes on every instruction set (pack/layout.hpp); a layout that changes gets a new id. The
/// checksum finds damage by chance, not by intent.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/checksum.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/pack/layout.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/tensor/check_view.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/packed_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

inline constexpr std::uint32_t packed_file_version = 1;
inline constexpr std::size_t packed_header_bytes = 128;

namespace detail {

/// The header as it lies in a file.
struct packed_header {
  char magic[8] = {'n', 'i', 'b', 'b', 'l', 'e', 'p', 'k'};
  std::uint32_t version = packed_file_version;
  std::uint32_t layout = 0;
  std::uint64_t N = 0, K = 0;
  std::uint8_t rule = 0, bits = 0, granularity = 0, scale = 0;
  std::uint32_t group_size = 0;
  std::uint64_t zero_1 = 0;
  float scale_offset = 0.0f;
  std::uint32_t zero_2 = 0;
  std::uint64_t total = 0;
  std::uint64_t checksum = 0;
  std::uint64_t zero_3[7] = {};
};
static_assert(sizeof(packed_header) == packed_header_bytes && offsetof(packed_header, checksum) == 64);

inline std::uint64_t checksum_of(std::span<const std::byte> file) noexcept {
  return checksum(file.subspan(72), checksum(file.first(64), 0));
}

/// Bytes of each plane in the order of the file.
struct plane_sizes {
  std::size_t bytes[5] = {};
  std::size_t total = packed_header_bytes;
  bool overflow = false;
};

inline plane_sizes sizes_of(const format_desc& f, std::size_t N, std::size_t K, layout_id layout) noexcept {
  plane_sizes s;
  const auto times = [&](std::size_t a, std::size_t b) {
    std::size_t r = 0;
    s.overflow |= __builtin_mul_overflow(a, b, &r);
    return r;
  };
  const bool panels = layout == layout_id::panel16, flat = f.granularity == granularity_kind::flat;
  const bool one = f.granularity == granularity_kind::per_tensor;
  const bool grouped = flat || f.granularity == granularity_kind::grouped;
  static_cast<void>(
      times(times(round_up(N, std::size_t{16}), round_up(K, std::size_t{32})), 8));  // none below exceeds it
  const std::size_t canonical = s.overflow ? 0 : quant::scale_count(f, N, K);
  std::size_t scales = canonical;
  if (panels && !one)
    scales = times(pack::panel16::panels(N) * 16, grouped ? ceil_div(K, std::size_t{f.group_size}) : 1);
  if (!s.overflow) {
    if (panels) s.bytes[0] = times(pack::panel16::panels(N), pack::panel16::panel_bytes(K, f.bits));
    else s.bytes[0] = flat ? pack::packed_bytes(N * K, f.bits) : times(N, pack::packed_bytes(K, f.bits));
  }
  s.bytes[1] = times(scales, quant::scale_bytes(f.scale));
  s.bytes[2] = times(scales, quant::zero_bytes(f));
  if (f.scale == scale_storage::double_quant)
    s.bytes[3] = times(ceil_div(canonical, quant::double_quant_block), sizeof(float));
  if (const std::size_t halves = quant::block_scales_per_row(f, K); halves != 0)
    s.bytes[3] = times(times(panels ? pack::panel16::panels(N) * 16 : N, halves), sizeof(half));
  if (f.rule == code_rule::codebook) s.bytes[4] = (std::size_t{1} << f.bits) * sizeof(float);
  for (const std::size_t b : s.bytes)
    s.overflow |= __builtin_add_overflow(s.total, round_up(b, std::size_t{64}), &s.total);
  return s;
}

}  // namespace detail

/// Bytes that write_packed writes. Throws what check_view throws, and unsupported_layout.
inline std::size_t packed_file_bytes(const packed_view& W) {
  check_view(W.matrix, "packed_file", W.layout == layout_id::row_major);
  if (can_pack(W.matrix.format, W.matrix.K, W.layout) != errc::ok)
    core::fail(errc::unsupported_layout, "packed_file: layout ", name_of(W.layout), " cannot hold groups of ",
               W.matrix.format.group_size, " with K = ", W.matrix.K);
  return detail::sizes_of(W.matrix.format, W.matrix.N, W.matrix.K, W.layout).total;
}

/// Writes W to `out`, of exactly packed_file_bytes(W) bytes (else bad_shape). Canonical rows with a longer stride are
/// written without the gaps.
inline void write_packed(const packed_view& W, std::span<std::byte> out) {
  if (const std::size_t need = packed_file_bytes(W); out.size() != need)
    core::fail(errc::bad_shape, "packed_file: the matrix takes ", need, " bytes, the memory has ", out.size());
  const quantized_view& m = W.matrix;
  const detail::plane_sizes sizes = detail::sizes_of(m.format, m.N, m.K, W.layout);
  std::memset(out.data(), 0, out.size());
  const bool blocks = m.format.scale == scale_storage::super_block;
  const void* planes[] = {m.codes, m.scales, m.zeros,
                          blocks ? m.block_scales : static_cast<const void*>(m.super_scales), m.table};
  std::size_t at = packed_header_bytes;
  for (std::size_t i = 0; i < 5; ++i) {
    const std::size_t row = pack::packed_bytes(m.K, m.format.bits);
    if (i == 0 && W.layout == layout_id::row_major && m.format.granularity != granularity_kind::flat) {
      for (std::size_t n = 0; n < m.N; ++n)
        std::memcpy(out.data() + at + n * row, m.codes + n * m.row_stride_bytes, row);
    } else if (sizes.bytes[i] != 0) {
      std::memcpy(out.data() + at, planes[i], sizes.bytes[i]);
    }
    at += round_up(sizes.bytes[i], std::size_t{64});
  }
  detail::packed_header h;
  h.layout = static_cast<std::uint32_t>(W.layout);
  h.N = m.N;
  h.K = m.K;
  h.rule = static_cast<std::uint8_t>(m.format.rule);
  h.bits = m.format.bits;
  h.granularity = static_cast<std::uint8_t>(m.format.granularity);
  h.scale = static_cast<std::uint8_t>(m.format.scale);
  h.group_size = m.format.group_size;
  h.scale_offset = m.scale_offset;
  h.total = out.size();
  std::memcpy(out.data(), &h, sizeof h);
  h.checksum = detail::checksum_of(out);
  std::memcpy(out.data(), &h, sizeof h);
}

/// W as bytes.
inline aligned_vector<std::byte> serialize_packed(const packed_view& W) {
  aligned_vector<std::byte> out(packed_file_bytes(W));
  write_packed(W, out);
  return out;
}

/// The weights in `file`, which stays the caller's, is aligned to 64 bytes (else bad_alignment) and must outlive the view.
/// Nothing is trusted: throws bad_file with offset and rule. `verify`: read everything once for the checksum; without it a
/// mapped file is opened without touching its planes, and damaged codes give wrong numbers but no access outside `file`.
inline packed_view view_packed(std::span<const std::byte> file, bool verify = true) {
  if (file.size() < packed_header_bytes)
    core::fail(errc::bad_file, "packed_file: ", file.size(), " bytes are fewer than the header's ",
               packed_header_bytes);
  if (reinterpret_cast<std::uintptr_t>(file.data()) % 64 != 0)
    core::fail(errc::bad_alignment, "packed_file: the bytes must be aligned to 64");
  detail::packed_header h;
  std::memcpy(&h, file.data(), sizeof h);
  if (std::memcmp(h.magic, detail::packed_header{}.magic, sizeof h.magic) != 0)
    core::fail(errc::bad_file, "packed_file: offset 0: not \"nibblepk\"");
  if (h.version != packed_file_version)
    core::fail(errc::bad_file, "packed_file: offset 8: version ", h.version, ", this library reads ",
               packed_file_version);
  const auto below = [](std::uint64_t value, std::uint64_t limit, std::size_t offset, const char* what) {
    if (value >= limit)
      core::fail(errc::bad_file, "packed_file: offset ", offset, ": ", what, " ", value, " is not below ", limit);
  };
  below(h.layout, 2, 12, "layout");
  below(h.N, std::uint64_t{1} << 40, 16, "N");  // so that rounding up to whole panels cannot wrap
  below(h.K, std::uint64_t{1} << 40, 24, "K");
  below(h.rule, static_cast<std::uint64_t>(code_rule::codebook) + 1, 32, "code rule");
  below(h.granularity, static_cast<std::uint64_t>(granularity_kind::flat) + 1, 34, "granularity");
  below(h.scale, static_cast<std::uint64_t>(scale_storage::super_block) + 1, 35, "scale storage");
  if (h.bits < 2 || h.bits > 8)
    core::fail(errc::bad_file, "packed_file: offset 33: ", int{h.bits}, " bits are not 2 to 8");
  std::uint64_t gaps = h.zero_1 | h.zero_2;
  for (const std::uint64_t z : h.zero_3) gaps |= z;
  if (gaps != 0) core::fail(errc::bad_file, "packed_file: the header's unused bytes are not 0");

  packed_view W;
  W.layout = static_cast<layout_id>(h.layout);
  quantized_view& m = W.matrix;
  m.format = {static_cast<code_rule>(h.rule), h.bits, static_cast<granularity_kind>(h.granularity),
              static_cast<scale_storage>(h.scale), h.group_size};
  m.N = h.N;
  m.K = h.K;
  m.scale_offset = h.scale_offset;
  const bool grouped =
      m.format.granularity == granularity_kind::grouped || m.format.granularity == granularity_kind::flat;
  if (m.N == 0 || m.K == 0 || grouped != (m.format.group_size != 0))
    core::fail(errc::bad_file, "packed_file: N = ", m.N, ", K = ", m.K, ", group size ", m.format.group_size,
               " do not describe a matrix of this format");
  quant::check_format(m.format, "packed_file: offset 32", errc::bad_file);
  if (can_pack(m.format, m.K, W.layout) != errc::ok)
    core::fail(errc::bad_file, "packed_file: layout ", name_of(W.layout), " cannot hold groups of ",
               m.format.group_size, " with K = ", m.K);
  const detail::plane_sizes sizes = detail::sizes_of(m.format, m.N, m.K, W.layout);
  if (sizes.overflow || sizes.total != h.total || h.total != file.size())
    core::fail(errc::bad_file, "packed_file: ", m.N, " x ", m.K, " of this format take ",
               sizes.overflow ? "more than 2^64" : std::to_string(sizes.total).c_str(), " bytes, the header says ",
               h.total, ", the file has ", file.size());
  if (verify) {
    if (const std::uint64_t sum = detail::checksum_of(file); sum != h.checksum)
      core::fail(errc::bad_file, "packed_file: offset 64: checksum ", h.checksum, ", the bytes give ", sum);
  }
  const std::byte* planes[5] = {};
  std::size_t at = packed_header_bytes;
  for (std::size_t i = 0; i < 5; ++i) {
    if (sizes.bytes[i] != 0) planes[i] = file.data() + at;
    at += round_up(sizes.bytes[i], std::size_t{64});
  }
  const bool rows = W.layout == layout_id::row_major && m.format.granularity != granularity_kind::flat;
  m.row_stride_bytes = rows ? pack::packed_bytes(m.K, m.format.bits) : 0;
  m.codes = planes[0];
  m.scales = planes[1];
  m.zeros = planes[2];
  if (m.format.scale == scale_storage::super_block) m.block_scales = reinterpret_cast<const half*>(planes[3]);
  else m.super_scales = reinterpret_cast<const float*>(planes[3]);
  m.table = reinterpret_cast<const float*>(planes[4]);
  check_view(m, "packed_file", W.layout == layout_id::row_major);
  return W;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
