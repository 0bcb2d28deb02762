// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The one list of number formats: for each entry a policy type quant::NAME, a run-time name "NAME" and qtype::NAME.
///
/// Names: w<bits> and a letter for the code rule, then the granularity.
///   w4   symmetric            w4f  symmetric, full range      w4m  mid-rise
///   w4a  asymmetric           w4o  asymmetric, float offset
///   lloyd4  Lloyd-Max table   nf4, fp4  the tables of bitsandbytes
///   _tensor, _channel         one float scale for the matrix, for each row
///   _g32 _g64 _g128           one half scale for each group of a row (_bf16: bfloat16 scales)
///   _flat64                   one float scale for each 64 consecutive elements of the matrix
///   _dq                       scales quantized once more (quant/double_quant.hpp)
///   _sb                       scales as multiples of a half for each 256 weights of a row (quant/super_block.hpp): w2o_g16_sb,
///                             w3f_g16_sb, w4o_g32_sb, w5o_g32_sb and w6f_g16_sb hold Q2_K to Q6_K of GGUF files

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/quant/affine.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/lloyd_max.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/scale.hpp>

/// X(name, policy type...) for each format of one width.
#define NIBBLE_QTYPES_OF_WIDTH(X, b)                                           \
  X(w##b##_tensor, affine<b, code_rule::symmetric, per_tensor>)                \
  X(w##b##_channel, affine<b, code_rule::symmetric, per_channel>)              \
  X(w##b##_g32, affine<b, code_rule::symmetric, grouped<32>, half>)            \
  X(w##b##_g64, affine<b, code_rule::symmetric, grouped<64>, half>)            \
  X(w##b##_g128, affine<b, code_rule::symmetric, grouped<128>, half>)          \
  X(w##b##f_channel, affine<b, code_rule::symmetric_full, per_channel>)        \
  X(w##b##m_channel, affine<b, code_rule::mid_rise, per_channel>)              \
  X(w##b##m_g128, affine<b, code_rule::mid_rise, grouped<128>, half>)          \
  X(w##b##a_channel, affine<b, code_rule::asymmetric, per_channel>)            \
  X(w##b##a_g128, affine<b, code_rule::asymmetric, grouped<128>, half>)        \
  X(w##b##o_channel, affine<b, code_rule::asymmetric_offset, per_channel>)     \
  X(w##b##o_g128, affine<b, code_rule::asymmetric_offset, grouped<128>, half>) \
  X(lloyd##b##_channel, codebook<lloyd_max_table<b>, per_channel>)             \
  X(lloyd##b##_g128, codebook<lloyd_max_table<b>, grouped<128>, half>)

/// X(name, policy type...) for every format of the list.
#define NIBBLE_QTYPES(X)                                                           \
  NIBBLE_QTYPES_OF_WIDTH(X, 2)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 3)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 4)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 5)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 6)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 7)                                                     \
  NIBBLE_QTYPES_OF_WIDTH(X, 8)                                                     \
  X(w4a_g32, affine<4, code_rule::asymmetric, grouped<32>, half>)                  \
  X(w4o_g32, affine<4, code_rule::asymmetric_offset, grouped<32>, half>)           \
  X(w4_g128_bf16, affine<4, code_rule::symmetric, grouped<128>, bfloat16>)         \
  X(w8_g128_bf16, affine<8, code_rule::symmetric, grouped<128>, bfloat16>)         \
  X(w4_g64_dq, affine<4, code_rule::symmetric, grouped<64>, double_quant>)         \
  X(w2o_g16_sb, affine<2, code_rule::asymmetric_offset, grouped<16>, super_block>) \
  X(w3f_g16_sb, affine<3, code_rule::symmetric_full, grouped<16>, super_block>)    \
  X(w4o_g32_sb, affine<4, code_rule::asymmetric_offset, grouped<32>, super_block>) \
  X(w5o_g32_sb, affine<5, code_rule::asymmetric_offset, grouped<32>, super_block>) \
  X(w6f_g16_sb, affine<6, code_rule::symmetric_full, grouped<16>, super_block>)    \
  X(nf4_channel, codebook<nf4_table, per_channel>)                                 \
  X(nf4_g64, codebook<nf4_table, grouped<64>, half>)                               \
  X(nf4_flat64, codebook<nf4_table, flat<64>>)                                     \
  X(nf4_flat64_dq, codebook<nf4_table, flat<64>, double_quant>)                    \
  X(fp4_g64, codebook<fp4_table, grouped<64>, half>)                               \
  X(fp4_flat64, codebook<fp4_table, flat<64>>)                                     \
  X(fp4_flat64_dq, codebook<fp4_table, flat<64>, double_quant>)

namespace nibble {

/// Run-time names of the formats in the list. Files store the name, never the number.
enum class qtype : std::uint16_t {
#define NIBBLE_DETAIL_X(name, ...) name,
  NIBBLE_QTYPES(NIBBLE_DETAIL_X)
#undef NIBBLE_DETAIL_X
};

inline namespace NIBBLE_ABI {
namespace quant {

#define NIBBLE_DETAIL_X(name, ...) using name = __VA_ARGS__;
NIBBLE_QTYPES(NIBBLE_DETAIL_X)
#undef NIBBLE_DETAIL_X

/// What a run-time name stands for. `book.bits` is 0 for affine formats.
struct qtype_info {
  std::string_view name;
  format_desc format;
  codebook_desc book;
};

namespace detail {

/// The codebook of a policy; bits 0 when it has none.
template <class P>
constexpr codebook_desc book_of() noexcept {
  if constexpr (requires { P::table::desc(); }) return P::table::desc();
  else return {};
}

inline constexpr qtype_info qtype_infos[] = {
#define NIBBLE_DETAIL_X(name, ...) {#name, quant::name::format(), book_of<quant::name>()},
    NIBBLE_QTYPES(NIBBLE_DETAIL_X)
#undef NIBBLE_DETAIL_X
};

}  // namespace detail

inline constexpr std::size_t qtype_count = sizeof(detail::qtype_infos) / sizeof(detail::qtype_infos[0]);

/// Name, format and codebook of a qtype; `type` must be one of the list.
constexpr const qtype_info& info_of(qtype type) noexcept { return detail::qtype_infos[static_cast<std::size_t>(type)]; }
constexpr std::string_view name_of(qtype type) noexcept { return info_of(type).name; }

/// The qtype of a name such as "w4_g128", or nothing.
constexpr std::optional<qtype> qtype_from_name(std::string_view name) noexcept {
  for (std::size_t i = 0; i < qtype_count; ++i)
    if (detail::qtype_infos[i].name == name) return static_cast<qtype>(i);
  return std::nullopt;
}

/// Calls f.template operator()<Policy>(qtype) for every format of the list.
template <class F>
constexpr void for_each_qtype(F&& f) {
#define NIBBLE_DETAIL_X(name, ...) f.template operator()<quant::name>(qtype::name);
  NIBBLE_QTYPES(NIBBLE_DETAIL_X)
#undef NIBBLE_DETAIL_X
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
