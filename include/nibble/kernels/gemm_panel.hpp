// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The contract of the panel kernels: Y = X * transpose(W) on one panel of 16 columns in layout panel16.
///
/// The numeric law, the same for every ISA, tile height, thread count and split of M:
///
///   integer:  for each group g, ascending in k:  S = sum u * x, X = sum x       (exact integers)
///             I = (S << shift) - z * X                                          (exact)
///             acc = fma(float(I) / 2^shift, scale, acc);  with a float offset then acc = fma(float(X), offset, acc)
///             with a scale t for each token and group:  acc = fma((float(I) / 2^shift) * t, scale, acc), and
///                                                       acc = fma(float(X) * t, offset, acc)
///   float:    for each group g, ascending in k:  p = madd(x[k], q[k], p), one chain from p = 0
///             acc = fma(p, scale, acc);         with a float offset then acc = fma(sum x, offset, acc)
///   bfloat16: w[k] = bf16(float(q[k] * scale)), with a float offset bf16(fma(q[k], scale, offset)); x'[k] = bf16(x[k])
///             acc = acc + sum x' w over all of K, in any order, each addition rounded to float
///
/// A codebook has an integer image (quant/integer_image.hpp): the law of the first plane with its codes and unit * scale for
/// scale, then, from that acc, the law of the second.
///
/// u is the stored code, x the activation (s8 code in [-127, 127] or float), q the code's value before scaling. shift is
/// 1 for mid_rise, which counts in half steps: half of an integer is exact, half of a subnormal scale need not be. `madd`
/// is fused where the target has FMA (core/round.hpp); fma is always fused. One lane serves one column, so nothing is
/// added across lanes and no order depends on the register width.
///
/// A unit, block and panel are those of pack/layout.hpp. M-sized arrays are row-major. Kernels are noexcept, allocate
/// nothing, read no byte outside the ranges named here, and work for any alignment of x.

#include <cstddef>
#include <cstdint>
#include <limits>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/pack/layout.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

/// Longest run of k whose integer sums stay exact in int32: the cut K block of the numeric law. A code is at most 255,
/// mid-rise doubles it, an s8 activation is at most 127 in magnitude: 2 * 255 * 127 * 32768 = 2,122,383,360 < 2^31.
inline constexpr std::size_t exact_k = 32768;
static_assert(2ll * 255 * 127 * static_cast<long long>(exact_k) < (1ll << 31));

/// Parameters of the 16 columns of a panel, decoded to registers' types. Group g stands at pointer + g * stride;
/// a stride of 0 shares one set of 16.
struct panel_params {
  const float* scales = nullptr;  ///< [groups][16]
  /// The scales as stored, in place of `scales`: for the one-row kernels of an ISA with reads_halves, and integer ones of up to
  /// half_scale_rows, which have no need then of a pass over them beforehand.
  const half* halves = nullptr;
  /// Where those could stand, of super-blocks: multiples as stored, [groups][16], of scales and of offsets. `scales` and
  /// `offsets` hold then what they are multiples of, 16 for each 2^block_shift groups.
  const std::int8_t* scale_codes = nullptr;
  const std::int8_t* offset_codes = nullptr;
  int block_shift = 0;
  std::size_t scale_stride = 16;
  /// Integer path: z of the law, [groups][16]. nullptr when z is one number: then x_sums holds what the sum of each group, times
  /// 2^shift, lacks, ((code_bias << shift) - z) * X. With offsets, where z is 0, it holds X all the same.
  const std::int32_t* zeros = nullptr;
  std::size_t zero_stride = 16;
  const float* offsets = nullptr;  ///< [groups][16] or nullptr
  std::size_t offset_stride = 16;
  int shift = 0;  ///< integer path: 1 for mid_rise
};

/// The widest tables that one-row kernels look up as they go: those of more bits would fill the registers, and the compiler's
/// time, for what is faster in two steps.
inline constexpr int image_row_bits = 4, table_row_bits = 5;

/// One call: rows [0, M) of x against k in [k0, k1) of one panel. k0 is a multiple of 32; k1 is a multiple of 32 or K.
/// A group that began before k0 continues from `state`, one that does not end at k1 is left in `state`.
template <class X, class Sum, class State>
struct panel_call {
  std::size_t M = 0;
  std::size_t K = 0;  ///< true reduction length
  std::size_t k0 = 0, k1 = 0;
  std::size_t group = 0;  ///< k of a group, multiple of 4; >= K for one group
  bool fold = true;       ///< false: never scale, leave the running sums in state (one group > exact_k)
  const X* x = nullptr;   ///< x[m * x_stride + k], readable and 0 for k in [K, round_up(K, 32)), s8 to round_up(K, 64)
  std::size_t x_stride = 0;
  const Sum* x_sums = nullptr;      ///< sum of x over each group, [M][groups]; see panel_params::zeros
  const float* x_levels = nullptr;  ///< integer path with offsets: x_sums as floats
  std::size_t sum_stride = 0;
  /// Integer path: a scale for each token and group, [M][groups] with sum_stride, or nullptr. With them params.zeros is
  /// not nullptr.
  const float* group_scales = nullptr;
  panel_params params;
  State* state = nullptr;  ///< [M][16]
  float* acc = nullptr;    ///< [M][16], read and written
};
using integer_call = panel_call<std::int8_t, std::int32_t, std::int32_t>;
using float_call = panel_call<float, float, float>;
/// X: bfloat16 numbers as a kernel takes them (gemm_panel::bfloat16_operand). One group and the scale 1.
template <class X>
using bfloat16_call = panel_call<X, float, float>;

/// The greatest finite bfloat16.
inline constexpr float greatest_bfloat16 = 0x1.fep127f;
/// The finite bfloat16 nearest to x, ties to even, as a float: off by at most 2^-8 |x| (and 2^-134), for FLT_MAX, too. NaN
/// becomes the one NaN, infinities the greatest numbers.
constexpr float nearest_bfloat16(float x) noexcept {
  if (x != x) return std::numeric_limits<float>::quiet_NaN();
  const float low = x < greatest_bfloat16 ? x : greatest_bfloat16;
  return to_float(to_bfloat16(low > -greatest_bfloat16 ? low : -greatest_bfloat16));
}
static_assert(nearest_bfloat16(3.4e38f) == greatest_bfloat16 &&
              nearest_bfloat16(-0x1.fffffep127f) == -greatest_bfloat16);

/// w of the bfloat16 law. `offset`: nullptr where the format has none.
NIBBLE_ALWAYS_INLINE float bfloat16_weight(float q, float scale, const float* offset) noexcept {
  return nearest_bfloat16(offset == nullptr ? q * scale : fused_multiply_add(q, scale, *offset));
}

/// The unpacked codes of a panel for k in [k0, k1), and what gives them values; k0 and k1 as in panel_call.
struct float_codes {
  const std::uint8_t* units = nullptr;
  std::size_t k0 = 0, k1 = 0;
  std::size_t group = 0;
  const float* zeros = nullptr;  ///< [groups][16], 0 to 255, subtracted from codes; a stride of 0 shares one set
  std::size_t zero_stride = 0;
  const float* table = nullptr;  ///< of codebooks, else nullptr
  int bits = 0;
  panel_params params;  ///< scales and offsets
};

/// Which codes of a panel integer_blocks multiplies: those of k in [k0, k1) with the origin of their group taken off, which
/// makes them s8.
struct centred_codes {
  std::size_t k0 = 0, k1 = 0;  ///< as in panel_call
  std::size_t group = 0;
  const std::int32_t* origin = nullptr;  ///< [groups][16]; a stride of 0 shares one set
  std::size_t origin_stride = 0;
  const std::uint8_t* image = nullptr;  ///< 256 bytes that take the place of codes first, or nullptr
  bool doubled = false;                 ///< mid-rise: values are 2 u - origin
};

/// What a later call reads, asked for among the steps of this one: packed blocks of up to two panels.
struct next_blocks {
  const std::byte* at[2] = {};
  std::size_t lines = 0;  ///< of 64 bytes, from each
  std::size_t each = 0;   ///< of them in a step

  NIBBLE_ALWAYS_INLINE void spread_over(std::size_t steps) noexcept { each = (lines + steps - 1) / steps; }
  NIBBLE_ALWAYS_INLINE void step() noexcept {
    const std::size_t now = each < lines ? each : lines;
    lines -= now;
    for (std::size_t i = 0; i < now; ++i) {
      __builtin_prefetch(at[0] + i * 64, 0, 2);
      __builtin_prefetch(at[1] + i * 64, 0, 2);
    }
    at[0] += now * 64;
    at[1] += now * 64;
  }
};

/// The kernels of one ISA. Primary template: those of the fallback.
///
/// `isa_type`                            who does the work
/// `unpack<Bits>(blocks, n, units)`      n packed blocks to n * 8 units of u8 codes
/// `values_affine(units, n, zero, v)`    n units to v[4 n][16] = float(u) - zero[column]
/// `values_table(units, n, table, bits, v)`  v = table[u], table of 2^bits values
/// `code_bias(bits)`                     what the kernel subtracts from codes: with `fold` false, state = sum (u - bias) x
/// `integer_block(call, bits, units)`    the law on unpacked codes < 2^bits; units begins at k0 and is readable to a multiple
///                                       of 64 k
/// `packed_rows(bits)`                   the most rows for which the next one is the faster way; 0: not there for the width
/// `packed_group(bits)`                  the next one takes groups of a multiple of it: 32 or 16
/// `packed_block<Bits>(call, blocks)`    integer_block for M <= packed_rows without a detour over unpacked memory: the law on
///                                       packed blocks, which begin at k0; group a multiple of packed_group or >= K
/// `block_panels`                        how many panels the next one takes at once; not there when 1
/// `block_k`                             k of a block, whose operands stay in L1; divides tiling.hpp's kc_integer
/// `in_blocks(M, group, K, packed)`      whether they take groups of this size and are the faster way than packed_block, or
///                                       (packed: false) integer_block; those
///                                       below are there only where block_panels > 1
/// `centred<Bits>(codes, blocks, values)`  packed blocks, which begin at k0, to units of s8
/// `block_scope`                         what integer_blocks changes of the core's state, to be kept for many calls
/// `integer_blocks(calls, count, exact, operands, ahead, scope)`  the law for 1 <= count <= block_panels panels; calls differ in params,
///                                       state and acc only. exact: operands are what `centred` made, I is the sum of v x, and
///                                       neither x_sums nor zeros are read; else units as in integer_block. They begin at k0
///                                       and are readable to a multiple of 64 k
/// `in_stream(M, group, K)`              whether the next one takes such calls, exact and without images; there where block_panels > 1
/// `integer_stream<Bits>(calls, centres, codes, operands, scope)`  `centred` and integer_blocks, exact, for stream_panels panels and
///                                       all of K, without blocks between them: codes of k = 0 and on; operands: stream_bytes of
///                                       memory at a multiple of 64
/// `float_block(call, values)`           the law on values; values begins at k0
/// `float_panels`, `float_rows`          how many panels the next one takes at once, and rows of a tile
/// `float_blocks(calls, count, values)`  the same for 1 <= count <= float_panels panels and interleaved x: of a tile of r =
///                                       min(float_rows, M - m) rows from m on, x[m * x_stride + k * r + i] is that of row
///                                       m + i; calls differ in params, state and acc only
/// `half_scale_rows`                     the most rows for which packed_block and integer_block take panel_params::halves
/// `reads_halves`                        whether the one-row kernels take panel_params::halves
/// `bfloat16_operand`                    how the kernel takes numbers rounded to bfloat16: float, or bfloat16 itself
/// `bfloat16_row(x, K, padded, out)`     x[0, K) rounded, then zeros to out[padded]
/// `bfloat16_weights(codes, out)`        the weights w of the law, 64 for each unit, in the order that bfloat16_blocks takes; those
///                                       past the last unit to a multiple of 32 k are 0 where that reads them
/// `bfloat16_panels`                     how many panels the next one takes at once
/// `bfloat16_blocks(calls, count, weights)`  the law for 1 <= count <= bfloat16_panels panels; calls differ in state and acc
///                                       only, params are those of scale 1
/// `integer_row_panels(bits)`            how many panels the next one takes at once
/// `integer_row<Bits>(calls, blocks)`    M = 1 without a detour over unpacked memory; group 8, 16, a multiple of 32 or >= K; calls
///                                       differ in params, state and acc only
/// `image_codes<Bits>(units, n, image)`  each code u < 2^Bits of n units becomes image[u]; image: 256 bytes
/// `image_row<Bits, ImageBits>(calls, blocks, image)`  integer_row with image[u] < 2^ImageBits in place of u; Bits <=
///                                       image_row_bits, ImageBits 7 or 8, group a multiple of 32 or >= K
/// `row_panels`                          how many panels the next two take at once
/// `float_row<Bits>(calls, blocks, zeros, zero_stride)`  M = 1, affine: q = float(u) - zeros[panel][g][column]; calls differ
///                                       in params, state and acc only. zero_stride 0: one z for all columns and panels,
///                                       a multiple of 1/2 up to 2^Bits
/// `table_row<Bits>(calls, blocks, table)`  the same for codebooks: q = table[u]; Bits <= table_row_bits
template <class Isa>
struct gemm_panel : gemm_panel<typename Isa::fallback> {};

/// The groups of a call in turn, each cut to [k0, min(k1, K)). Divides once: a group of 32 is multiplied in less time than two
/// divisions take.
class group_walk {
 public:
  template <class Call>
  NIBBLE_ALWAYS_INLINE explicit group_walk(const Call& c) noexcept
      : g(c.k0 / c.group), k(c.k0), K_(c.K), group_(c.group), end_(c.k1 < c.K ? c.k1 : c.K), fold_(c.fold) {
    const std::size_t first = g * c.group;
    begins = k == first;
    cut(first);
  }
  NIBBLE_ALWAYS_INLINE bool done() const noexcept { return k >= end_; }
  NIBBLE_ALWAYS_INLINE void next() noexcept {
    k = stop;
    ++g;
    begins = true;
    cut(k);
  }
  std::size_t g, k, stop = 0;  ///< group g in [k, stop)
  bool begins = false;         ///< with k; else its sums are in `state`
  bool ends = false;           ///< with stop, and is to be folded; else its sums go to `state`

 private:
  NIBBLE_ALWAYS_INLINE void cut(std::size_t first) noexcept {
    const bool whole = group_ <= end_ - first;
    stop = whole ? first + group_ : end_;
    ends = fold_ && (whole || end_ == K_);
  }
  std::size_t K_, group_, end_;
  bool fold_;
};

/// The end of the group that holds k, cut to K and k1.
constexpr std::size_t segment_end(std::size_t k, std::size_t group, std::size_t limit) noexcept {
  const std::size_t left = group - k % group;
  return left < limit - k ? k + left : limit;
}

/// f(first unit, units, g) for each group of a block of codes: the units that hold it.
template <class F>
NIBBLE_ALWAYS_INLINE void for_each_group(const float_codes& c, F&& f) noexcept {
  for (std::size_t k = c.k0; k < c.k1;) {
    const std::size_t stop = segment_end(k, c.group, c.k1);
    f((k - c.k0) / 4, (stop - k + 3) / 4, k / c.group);
    k = stop;
  }
}

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
