// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Which weights share one scale: the granularity tags of policies, and the geometry of groups at run time.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/super_block.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// One scale for the whole matrix.
struct per_tensor {
  static constexpr granularity_kind kind = granularity_kind::per_tensor;
  static constexpr std::uint32_t group_size = 0;
};

/// One scale for each row of W[N, K].
struct per_channel {
  static constexpr granularity_kind kind = granularity_kind::per_channel;
  static constexpr std::uint32_t group_size = 0;
};

/// One scale for each row of activations X[M, K]: the same geometry under the name activations use.
using per_token = per_channel;

/// One scale for each GroupSize consecutive k of a row; the last group of a row is short when K is not a multiple.
template <int GroupSize>
struct grouped {
  static_assert(GroupSize >= 4 && GroupSize % 4 == 0, "grouped<G>: G must be a positive multiple of 4");
  static constexpr granularity_kind kind = granularity_kind::grouped;
  static constexpr std::uint32_t group_size = GroupSize;
};

/// The greatest block of flat formats, in elements (bitsandbytes' own limit).
inline constexpr std::uint32_t max_flat_block = 4096;

/// One scale for each BlockSize consecutive elements of the row-major matrix; blocks run across rows (bitsandbytes).
template <int BlockSize>
struct flat {
  static_assert(BlockSize >= 8 && BlockSize % 8 == 0 && BlockSize <= static_cast<int>(max_flat_block),
                "flat<B>: B must be a multiple of 8 in 8..4096");
  static constexpr granularity_kind kind = granularity_kind::flat;
  static constexpr std::uint32_t group_size = BlockSize;
};

template <class G>
concept granularity = requires {
  { G::kind } -> std::convertible_to<granularity_kind>;
  { G::group_size } -> std::convertible_to<std::uint32_t>;
};

/// Raises bad_shape unless N and K are positive and N * K elements of up to 8 bytes can be addressed.
inline void check_extents(std::size_t N, std::size_t K, const char* who) {
  if (N == 0 || K == 0) core::fail(errc::bad_shape, who, ": N = ", N, ", K = ", K, "; both must be at least 1");
  if (N > std::numeric_limits<std::size_t>::max() / 16 / K)
    core::fail(errc::bad_shape, who, ": N = ", N, " times K = ", K, " elements overflow size_t");
}

/// Raises unsupported_format, or the `code` that readers of files have for it, unless `f` describes a format of the library.
inline void check_format(const format_desc& f, const char* who, errc code = errc::unsupported_format) {
  if (f.bits < 2 || f.bits > 8) core::fail(code, who, ": ", int{f.bits}, " bits; 2..8 are supported");
  if (f.rule > code_rule::codebook || f.granularity > granularity_kind::flat || f.scale > scale_storage::super_block)
    core::fail(code, who, ": unknown code rule ", int{static_cast<std::uint8_t>(f.rule)}, ", granularity ",
               int{static_cast<std::uint8_t>(f.granularity)}, " or scale storage ",
               int{static_cast<std::uint8_t>(f.scale)});
  if (f.scale == scale_storage::super_block &&
      (f.granularity != granularity_kind::grouped || f.group_size == 0 || super_block_k % f.group_size != 0))
    core::fail(code, who, ": scales of super-blocks with groups of ", f.group_size,
               "; they need groups of rows whose size divides ", super_block_k);
  switch (f.granularity) {
    case granularity_kind::per_tensor:
    case granularity_kind::per_channel:
      if (f.group_size != 0) core::fail(code, who, ": group size ", f.group_size, " without groups; it must be 0");
      break;
    case granularity_kind::grouped:
      if (f.group_size == 0 || f.group_size % 4 != 0)
        core::fail(code, who, ": group size ", f.group_size, "; it must be a positive multiple of 4");
      break;
    case granularity_kind::flat:
      if (f.group_size == 0 || f.group_size % 8 != 0 || f.group_size > max_flat_block)
        core::fail(code, who, ": flat block of ", f.group_size, "; it must be a multiple of 8 in 8..", max_flat_block);
      break;
  }
}

constexpr bool same_format(const format_desc& a, const format_desc& b) noexcept {
  return a.rule == b.rule && a.bits == b.bits && a.granularity == b.granularity && a.scale == b.scale &&
         a.group_size == b.group_size;
}

/// True when each group carries a zero point or an offset.
constexpr bool has_zeros(const format_desc& f) noexcept {
  return f.rule == code_rule::asymmetric || f.rule == code_rule::asymmetric_offset;
}

/// Groups in one row of K elements: 1 for per_tensor (shared by all rows) and per_channel. Not defined for flat.
constexpr std::size_t groups_per_row(const format_desc& f, std::size_t K) noexcept {
  return f.granularity == granularity_kind::grouped ? ceil_div(K, std::size_t{f.group_size}) : 1;
}

/// Scales of a matrix W[N, K].
constexpr std::size_t scale_count(const format_desc& f, std::size_t N, std::size_t K) noexcept {
  switch (f.granularity) {
    case granularity_kind::per_tensor: return 1;
    case granularity_kind::per_channel: return N;
    case granularity_kind::grouped: return N * ceil_div(K, std::size_t{f.group_size});
    case granularity_kind::flat: return ceil_div(N * K, std::size_t{f.group_size});
  }
  return 0;
}

/// The group of element (n, k), an index into the planes of scales and zeros.
constexpr std::size_t group_of(const format_desc& f, std::size_t K, std::size_t n, std::size_t k) noexcept {
  switch (f.granularity) {
    case granularity_kind::per_tensor: return 0;
    case granularity_kind::per_channel: return n;
    case granularity_kind::grouped: return n * ceil_div(K, std::size_t{f.group_size}) + k / f.group_size;
    case granularity_kind::flat: return (n * K + k) / f.group_size;
  }
  return 0;
}

/// A run of elements: `count` of them from (n, k) on, in row-major order, rows following each other.
struct group_extent {
  std::size_t n = 0;
  std::size_t k = 0;
  std::size_t count = 0;
};

/// Where group g of W[N, K] lies; the last group of a row (grouped) or of the matrix (flat) may be short.
constexpr group_extent extent_of(const format_desc& f, std::size_t N, std::size_t K, std::size_t g) noexcept {
  const std::size_t size = f.group_size;
  switch (f.granularity) {
    case granularity_kind::per_tensor: return {0, 0, N * K};
    case granularity_kind::per_channel: return {g, 0, K};
    case granularity_kind::grouped: {
      const std::size_t in_row = ceil_div(K, size), k = g % in_row * size;
      return {g / in_row, k, K - k < size ? K - k : size};
    }
    case granularity_kind::flat: {
      const std::size_t first = g * size, rest = N * K - first;
      return {first / K, first % K, rest < size ? rest : size};
    }
  }
  return {};
}

static_assert(granularity<per_tensor> && granularity<per_channel> && granularity<grouped<32>> && granularity<flat<64>>);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
