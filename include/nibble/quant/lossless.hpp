// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Which formats hold the values of which others, bit for bit, known at compile time: is_lossless_v<From, To> for policies and
/// the block formats of GGUF files. tensor/convert.hpp converts along these pairs.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <nibble/core/config.hpp>
#include <nibble/quant/affine.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/ggml_parts.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/scale.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// A format with the values of its codebook: nullptr for rules without one, and for a user's table, which holds any values.
struct format_facts {
  format_desc format;
  const float* table = nullptr;
};

namespace detail {

/// Whether each scale of `from` is one of `to`, and where zero points or offsets are stored like scales, each of those.
constexpr bool holds_scales(const format_desc& from, const format_desc& to) noexcept {
  if (has_two_levels(to.scale))  // planes as they are
    return from.scale == to.scale && from.granularity == to.granularity && from.group_size == to.group_size;
  return from.scale == to.scale || to.scale == scale_storage::f32;
}

/// Whether no group of `to` reaches over two of `from`, whatever the extents.
constexpr bool refines_groups(const format_desc& from, const format_desc& to) noexcept {
  switch (from.granularity) {
    case granularity_kind::per_tensor: return true;
    case granularity_kind::per_channel:
      return to.granularity == granularity_kind::per_channel || to.granularity == granularity_kind::grouped;
    case granularity_kind::grouped:
    case granularity_kind::flat: return to.granularity == from.granularity && from.group_size % to.group_size == 0;
  }
  return false;
}

constexpr bool same_values(const float* a, const float* b, int bits) noexcept {
  if (a == b) return true;
  for (int u = 0; u < 1 << bits; ++u)
    if (a == nullptr || b == nullptr || a[u] != b[u]) return false;
  return true;
}

/// Whether each code of `from` has one of the same value in `to`, under the same scale.
constexpr bool holds_codes(const format_facts& from, const format_facts& to) noexcept {
  const code_rule a = from.format.rule, b = to.format.rule;
  const int narrow = from.format.bits, wide = to.format.bits;
  const bool centred = a == code_rule::symmetric || a == code_rule::symmetric_full;
  if (b == code_rule::codebook && to.table == nullptr)  // a table of its own takes steps, half steps and other tables
    return narrow == wide && a != code_rule::asymmetric && a != code_rule::asymmetric_offset;
  switch (b) {
    case code_rule::symmetric: return (a == b && narrow <= wide) || (a == code_rule::symmetric_full && narrow < wide);
    case code_rule::symmetric_full: return centred && narrow <= wide;
    case code_rule::mid_rise: return a == b && narrow == wide;
    case code_rule::asymmetric: return (a == b || centred) && narrow <= wide;
    case code_rule::asymmetric_offset: return a == b && narrow <= wide;
    case code_rule::codebook:
      return a == b && narrow == wide && from.table != nullptr && same_values(from.table, to.table, wide);
  }
  return false;
}

}  // namespace detail

/// Whether every matrix of format `from` is one of format `to` with the same values, bit for bit (scales that are not finite
/// aside). The codes may be others.
constexpr bool is_lossless(const format_facts& from, const format_facts& to) noexcept {
  return detail::holds_codes(from, to) && detail::refines_groups(from.format, to.format) &&
         detail::holds_scales(from.format, to.format);
}

/// Whether every matrix of the format that holds a type's blocks fits such blocks: those with one half for each 32 weights. (The
/// scales of K-quants have 4 or 6 bits, those of MXFP4 are powers of two.)
constexpr bool has_plain_blocks(ggml_type type) noexcept {
  return type == ggml_type::q8_0 || type == ggml_type::q4_0 || type == ggml_type::q5_0 || type == ggml_type::q4_1 ||
         type == ggml_type::q5_1 || type == ggml_type::iq4_nl;
}

namespace detail {

/// Facts of a policy, or of the format that holds a block format; bits 0 for blocks that no format holds (plain floats).
template <class T>
constexpr format_facts facts_of_type() noexcept {
  if constexpr (matrix_format<T>) {
    if constexpr (requires { T::table::desc(); }) return {T::format(), T::table::desc().values};
    else return {T::format(), nullptr};
  } else if constexpr (requires { ggml::parts_of<T>::format; }) {
    return {ggml::parts_of<T>::format, ggml::parts_of<T>::table};
  } else {
    return {{.bits = 0}, nullptr};
  }
}
template <class T>
inline constexpr bool is_blocks = !matrix_format<T> && requires {
  T::block_bytes;
};

template <class From, class To>
constexpr bool is_lossless_pair() noexcept {
  constexpr format_facts from = facts_of_type<From>(), to = facts_of_type<To>();
  if constexpr (std::is_same_v<From, To>) return true;
  if (from.format.bits == 0 || to.format.bits == 0) return false;
  if constexpr (is_blocks<To>)
    if (!has_plain_blocks(To::type)) return false;
  return is_lossless(from, to);
}

}  // namespace detail

/// Whether every matrix of From, a policy or a block format (quant::ggml::q4_0), is one of To with the same values bit for bit.
/// Rows must be whole blocks where To is a block format; that is known only at run time.
template <class From, class To>
inline constexpr bool is_lossless_v = detail::is_lossless_pair<From, To>();

// Wider codes, finer groups, longer scales; never the other way.
static_assert(is_lossless_v<affine<4, code_rule::symmetric, grouped<128>, half>,
                            affine<8, code_rule::symmetric, grouped<32>, float>>);
static_assert(!is_lossless_v<affine<4, code_rule::symmetric, grouped<32>, half>,
                             affine<4, code_rule::symmetric, grouped<128>, half>>);
static_assert(!is_lossless_v<affine<4, code_rule::symmetric, grouped<128>, float>,
                             affine<4, code_rule::symmetric, grouped<128>, half>>);
static_assert(is_lossless_v<affine<4, code_rule::symmetric_full, grouped<128>, half>,
                            affine<4, code_rule::asymmetric, grouped<128>, half>>);
static_assert(!is_lossless_v<affine<4, code_rule::symmetric_full, grouped<128>, half>,
                             affine<4, code_rule::symmetric, grouped<128>, half>>);
// Blocks of GGUF files as nibble's formats, and back.
static_assert(is_lossless_v<ggml::q8_0, affine<8, code_rule::symmetric_full, grouped<32>, half>> &&
              is_lossless_v<affine<8, code_rule::symmetric, grouped<32>, half>, ggml::q8_0>);
static_assert(is_lossless_v<affine<4, code_rule::symmetric, grouped<128>, half>, ggml::q4_0>);
static_assert(is_lossless_v<ggml::q4_1, affine<4, code_rule::asymmetric_offset, grouped<32>, half>>);
static_assert(is_lossless_v<ggml::iq4_nl, codebook<user_table<4>, grouped<32>, half>>);
static_assert(is_lossless_v<ggml::q4_k, affine<4, code_rule::asymmetric_offset, grouped<32>, super_block>> &&
              is_lossless_v<ggml::q4_k, affine<4, code_rule::asymmetric_offset, grouped<32>>> &&
              !is_lossless_v<affine<4, code_rule::asymmetric_offset, grouped<32>, super_block>, ggml::q4_k>);
static_assert(is_lossless_v<ggml::q4_0, ggml::q8_0> && !is_lossless_v<ggml::q8_0, ggml::q4_0>);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
