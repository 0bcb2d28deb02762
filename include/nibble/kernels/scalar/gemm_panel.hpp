// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The panel kernels in plain C++: the meaning of the contract, and what every other ISA is tested against.

#include <nibble/core/round.hpp>
#include <nibble/kernels/gemm_panel.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct gemm_panel<isa::scalar> {
  using isa_type = isa::scalar;
  static constexpr std::size_t nr = pack::panel16::nr;
  static constexpr std::size_t row_panels = 1;
  static constexpr bool reads_halves = false;
  static constexpr std::size_t integer_row_panels(int) noexcept { return 1; }
  static constexpr std::size_t block_panels = 1;
  static constexpr std::size_t half_scale_rows = 0;
  static constexpr std::size_t packed_rows(int) noexcept { return 0; }
  static constexpr std::size_t packed_group(int) noexcept { return 32; }

  template <int Bits>
  static void unpack(const std::byte* blocks, std::size_t count, std::uint8_t* units) noexcept {
    constexpr pack::bit_planes planes = pack::planes_of(Bits);
    for (std::size_t b = 0; b < count; ++b, blocks += pack::panel16::block_bytes(Bits), units += 8 * 64) {
      for (std::size_t u = 0; u < 8; ++u) {
        for (std::size_t j = 0; j < 64; ++j) {
          unsigned code = 0;
          for (int i = 0; i < planes.count; ++i) {
            const auto f = pack::panel16::locate(planes.width[i], planes.offset_bytes[i], u, j);
            const unsigned mask = (1u << planes.width[i]) - 1u;
            code |= (static_cast<unsigned>(blocks[f.byte]) >> f.shift & mask) << planes.shift[i];
          }
          units[u * 64 + j] = static_cast<std::uint8_t>(code);
        }
      }
    }
  }

  static void values_affine(const std::uint8_t* units, std::size_t count, const float* zero, float* values) noexcept {
    for (std::size_t u = 0; u < count; ++u, units += 64, values += 64)
      for (std::size_t k = 0; k < 4; ++k)
        for (std::size_t n = 0; n < nr; ++n) values[k * nr + n] = static_cast<float>(units[4 * n + k]) - zero[n];
  }

  static void values_table(const std::uint8_t* units, std::size_t count, const float* table, int,
                           float* values) noexcept {
    for (std::size_t u = 0; u < count; ++u, units += 64, values += 64)
      for (std::size_t k = 0; k < 4; ++k)
        for (std::size_t n = 0; n < nr; ++n) values[k * nr + n] = table[units[4 * n + k]];
  }

  template <int Bits>
  static void image_codes(std::uint8_t* units, std::size_t count, const std::uint8_t* image) noexcept {
    for (std::size_t i = 0; i < count * pack::panel16::unit_bytes; ++i) units[i] = image[units[i]];
  }

  /// Scales one finished group of row m into its accumulators.
  static void fold(const integer_call& c, std::size_t m, std::size_t g, const std::int32_t* sum) noexcept {
    const panel_params& p = c.params;
    const std::int32_t x_sum = c.x_sums[m * c.sum_stride + g];
    float* acc = c.acc + m * nr;
    const float unit = p.shift == 0 ? 1.0f : 0.5f;
    const float token = c.group_scales == nullptr ? 1.0f : c.group_scales[m * c.sum_stride + g];
    for (std::size_t n = 0; n < nr; ++n) {
      std::int32_t exact = sum[n] << p.shift;
      if (p.zeros != nullptr) exact -= p.zeros[g * p.zero_stride + n] * x_sum;
      else if (p.offsets == nullptr) exact += x_sum;
      acc[n] = fused_multiply_add(static_cast<float>(exact) * unit * token, p.scales[g * p.scale_stride + n], acc[n]);
    }
    if (p.offsets == nullptr) return;
    for (std::size_t n = 0; n < nr; ++n)
      acc[n] = fused_multiply_add(c.x_levels[m * c.sum_stride + g] * token, p.offsets[g * p.offset_stride + n], acc[n]);
  }
  static void fold(const float_call& c, std::size_t m, std::size_t g, const float* sum) noexcept {
    const panel_params& p = c.params;
    float* acc = c.acc + m * nr;
    for (std::size_t n = 0; n < nr; ++n) acc[n] = fused_multiply_add(sum[n], p.scales[g * p.scale_stride + n], acc[n]);
    if (p.offsets == nullptr) return;
    const float x_sum = c.x_sums[m * c.sum_stride + g];
    for (std::size_t n = 0; n < nr; ++n) acc[n] = fused_multiply_add(x_sum, p.offsets[g * p.offset_stride + n], acc[n]);
  }

  static constexpr std::int32_t code_bias(int) noexcept { return 0; }

  static void integer_block(const integer_call& c, int, const std::uint8_t* units) noexcept {
    block(c, [&](std::size_t k, std::size_t n) {
      const std::size_t from_k0 = k - c.k0;
      return std::int32_t{units[from_k0 / 4 * 64 + 4 * n + from_k0 % 4]};
    });
  }
  static void float_block(const float_call& c, const float* values) noexcept {
    block(c, [&](std::size_t k, std::size_t n) { return values[(k - c.k0) * nr + n]; });
  }
  static constexpr std::size_t float_panels = 1, float_rows = 1;
  static void float_blocks(const float_call* calls, std::size_t, const float* const* values) noexcept {
    float_block(*calls, *values);
  }

  using bfloat16_operand = float;
  static constexpr std::size_t bfloat16_panels = 1;
  static void bfloat16_row(const float* x, std::size_t K, std::size_t padded, float* out) noexcept {
    for (std::size_t k = 0; k < padded; ++k) out[k] = k < K ? nearest_bfloat16(x[k]) : 0.0f;
  }
  static void bfloat16_weights(const float_codes& c, float* out) noexcept {
    for_each_group(c, [&](std::size_t first, std::size_t count, std::size_t g) {
      const float* const scale = c.params.scales + g * c.params.scale_stride;
      const float* const offset = c.params.offsets == nullptr ? nullptr : c.params.offsets + g * c.params.offset_stride;
      for (std::size_t i = first * 64; i < (first + count) * 64; ++i) {  // k = i / nr, column i % nr
        const std::size_t n = i % nr;
        const std::uint8_t u = c.units[i / 64 * 64 + 4 * n + i % 64 / nr];
        const float q = c.table != nullptr ? c.table[u] : static_cast<float>(u) - c.zeros[g * c.zero_stride + n];
        out[i] = bfloat16_weight(q, scale[n], offset == nullptr ? nullptr : offset + n);
      }
    });
  }
  static void bfloat16_blocks(const float_call* calls, std::size_t, const float* const* weights) noexcept {
    float_block(*calls, *weights);
  }

  template <int Bits>
  static void integer_row(const integer_call* call, const std::byte* const* blocks) noexcept {
    row<Bits>(*call, *blocks, [](std::uint8_t code, std::size_t, std::size_t) { return std::int32_t{code}; });
  }
  template <int Bits, int>
  static void image_row(const integer_call* call, const std::byte* const* blocks, const std::uint8_t* image) noexcept {
    row<Bits>(*call, *blocks, [&](std::uint8_t code, std::size_t, std::size_t) { return std::int32_t{image[code]}; });
  }
  template <int Bits>
  static void float_row(const float_call* call, const std::byte* const* blocks, const float* const* zeros,
                        std::size_t zero_stride) noexcept {
    row<Bits>(*call, *blocks, [&](std::uint8_t code, std::size_t k, std::size_t n) {
      return static_cast<float>(code) - (*zeros)[k / call->group * zero_stride + n];
    });
  }
  template <int Bits>
  static void table_row(const float_call* call, const std::byte* const* blocks, const float* table) noexcept {
    row<Bits>(*call, *blocks, [&](std::uint8_t code, std::size_t, std::size_t) { return table[code]; });
  }

 private:
  /// The law on packed codes, one block unpacked at a time.
  template <int Bits, class Call, class Decode>
  static void row(const Call& c, const std::byte* blocks, Decode&& decode) noexcept {
    std::uint8_t units[8 * 64];
    std::size_t at = c.k1;  // the block that `units` holds; none yet
    block(c, [&](std::size_t k, std::size_t n) {
      if (const std::size_t b = (k - c.k0) / 32; b != at) {
        at = b;
        unpack<Bits>(blocks + b * pack::panel16::block_bytes(Bits), 1, units);
      }
      return decode(units[k % 32 / 4 * 64 + 4 * n + k % 4], k, n);
    });
  }

  static std::int32_t step(std::int8_t x, std::int32_t w, std::int32_t sum) noexcept { return sum + x * w; }
  static float step(float x, float w, float sum) noexcept { return multiply_add(x, w, sum); }

  /// The law, with the weight at (k, n) given by a function.
  template <class Call, class Weight>
  static void block(const Call& c, Weight&& weight) noexcept {
    using state_type = std::remove_pointer_t<decltype(c.state)>;
    const std::size_t end = c.k1 < c.K ? c.k1 : c.K;
    for (std::size_t m = 0; m < c.M; ++m) {
      for (std::size_t k = c.k0; k < end;) {
        const std::size_t stop = segment_end(k, c.group, end), g = k / c.group;
        state_type sum[nr] = {};
        if (k != g * c.group)
          for (std::size_t n = 0; n < nr; ++n) sum[n] = c.state[m * nr + n];
        for (; k < stop; ++k)
          for (std::size_t n = 0; n < nr; ++n) sum[n] = step(c.x[m * c.x_stride + k], weight(k, n), sum[n]);
        const bool ends = stop == c.K || stop % c.group == 0;
        if (ends && c.fold) fold(c, m, g, sum);
        else
          for (std::size_t n = 0; n < nr; ++n) c.state[m * nr + n] = sum[n];
      }
    }
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
