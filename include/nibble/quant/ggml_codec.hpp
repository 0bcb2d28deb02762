// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What the block formats of GGUF files share, and the formats that are plain floats. A format is an empty type:
///
///   type, block_elements, block_bytes    its line in ggml_type.hpp
///   decode(block, y)                     one block to block_elements values; every bit pattern is a valid block
///   encode(x, block)                     the reverse; any finite values up to `greatest`
///   encode(x, importance, block)         the same weighed by importance, of formats that ggml weighs so (weighted_block)
///   halves                               where in the block the half precision numbers lie
///   greatest                             magnitude of the values that encode takes; a scale may overflow before
///
/// Each also satisfies block_codec, with checks. No decode rounds twice: a half times the integers of a block is exact in
/// float (at most 11 + 7 + 5 significant bits), so one addition is all that rounds, and contraction changes nothing.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {

/// No block format with half scales holds values of more than this magnitude: the greatest is 65504 * 128 * 32 < 2^28, of Q6_K.
/// Up to it no sum of the searches for a scale leaves the range of float where the result depends on it.
inline constexpr float block_greatest = 0x1p28f;
/// The same of the importance that weighted_block::encode takes: weights are below 2^86 then, and sums of 32 of them times a value
/// and a level of IQ4 below 2^126.
inline constexpr float importance_greatest = 0x1p56f;

/// Why a block cannot be encoded.
enum class refusal : std::uint8_t { none, not_finite, too_large };

namespace detail {

inline float load_half(const std::byte* p) noexcept {
  half h;
  std::memcpy(&h, p, sizeof h);
  return to_float(h);
}
/// Stores x as a half and returns what was stored.
inline float store_half(float x, std::byte* p) noexcept {
  const half h = to_half(x);
  std::memcpy(p, &h, sizeof h);
  return to_float(h);
}
inline unsigned load_u8(const std::byte* p) noexcept { return std::to_integer<unsigned>(*p); }

}  // namespace detail

/// The part of a format that follows from the rest of it.
template <class Format, ggml_type Type>
struct block_format {
  static constexpr ggml_type type = Type;
  static constexpr std::size_t block_elements = info_of(Type).block_elements;
  static constexpr std::size_t block_bytes = info_of(Type).block_bytes;
  static constexpr float greatest = block_greatest;  ///< magnitude of the values that encode takes
  using block = std::array<std::byte, block_bytes>;

  /// Whether values can be encoded: finite and in the range of the format.
  static refusal check_values(const float* x) noexcept {
    std::int32_t largest = 0;  // bits of magnitudes order like the numbers, infinity and NaN last
    for (std::size_t i = 0; i < block_elements; ++i) {
      const std::int32_t size = std::bit_cast<std::int32_t>(x[i]) & 0x7fffffff;
      largest = largest < size ? size : largest;
    }
    if (largest >= 0x7f800000) return refusal::not_finite;
    return largest > std::bit_cast<std::int32_t>(Format::greatest) ? refusal::too_large : refusal::none;
  }
  /// Whether the half precision numbers of an encoded block are finite; a scale above 65504 is not.
  static refusal check_block(const std::byte* b) noexcept {
    for (const std::size_t at : Format::halves)
      if (!is_finite(detail::load_half(b + at))) return refusal::too_large;
    return refusal::none;
  }

  /// x has block_elements values, else bad_shape. Throws bad_value for NaN and infinities, scale_overflow where a scale does
  /// not fit.
  template <class F = Format>  // a template, so that it is looked at when the format is complete
    requires requires(const float* v, std::byte* p) { F::encode(v, p); }
  static void encode_block(std::span<const float> x, block& b) {
    check_size(x.size());
    refusal r = check_values(x.data());
    if (r == refusal::none) {
      Format::encode(x.data(), b.data());
      r = check_block(b.data());
    }
    if (r == refusal::not_finite) core::fail(errc::bad_value, name_of(Type), ": a value of the block is not finite");
    if (r == refusal::too_large)
      core::fail(errc::scale_overflow, name_of(Type), ": the values of the block are too large for it");
  }
  static void decode_block(const block& b, std::span<float> y) {
    check_size(y.size());
    Format::decode(b.data(), y.data());
  }

 private:
  static void check_size(std::size_t n) {
    if (n != block_elements)
      core::fail(errc::bad_shape, name_of(Type), ": ", n, " values; a block has ", block_elements);
  }
};

/// Formats whose own search weighs errors by an importance of each value, 0 to importance_greatest: the bytes that ggml writes
/// with an importance matrix.
template <class Format>
concept weighted_block = requires(const float* x, const float* importance, std::byte* b) {
  Format::encode(x, importance, b);
};

/// One float.
struct f32 : block_format<f32, ggml_type::f32> {
  static constexpr float greatest = std::numeric_limits<float>::max();
  static constexpr std::array<std::size_t, 0> halves{};
  static void decode(const std::byte* b, float* y) noexcept { std::memcpy(y, b, sizeof *y); }
  static void encode(const float* x, std::byte* b) noexcept { std::memcpy(b, x, sizeof *x); }
};

/// One half.
struct f16 : block_format<f16, ggml_type::f16> {
  static constexpr float greatest = 0x1.ffdffep15f;  // below 65520: rounds to 65504
  static constexpr std::array<std::size_t, 0> halves{};
  static void decode(const std::byte* b, float* y) noexcept { *y = detail::load_half(b); }
  static void encode(const float* x, std::byte* b) noexcept { detail::store_half(*x, b); }
};

/// One bfloat16.
struct bf16 : block_format<bf16, ggml_type::bf16> {
  static constexpr float greatest = 0x1.fefffep127f;  // below 0x1.ffp127: rounds to 0x1.fep127
  static constexpr std::array<std::size_t, 0> halves{};
  static void decode(const std::byte* b, float* y) noexcept {
    bfloat16 v;
    std::memcpy(&v, b, sizeof v);
    *y = to_float(v);
  }
  static void encode(const float* x, std::byte* b) noexcept {
    const bfloat16 v = to_bfloat16(*x);
    std::memcpy(b, &v, sizeof v);
  }
};

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
