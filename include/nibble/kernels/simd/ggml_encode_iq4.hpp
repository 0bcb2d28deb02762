// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Writing IQ4_NL and IQ4_XS on the native register width: a run of 32 values a lane.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_encode32.hpp>
#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

/// The nearest levels of IQ4_NL, the upper one of two as near, and their codes, as floats.
class iq4_lanes {
 public:
#if NIBBLE_SIMD_WIDTH == 512
  iq4_lanes() noexcept : midpoint_(of(table.midpoint)), below_(of(table.below)), above_(of(table.above)) {}
  /// Of |t| < 145.
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept { return chosen(t, below_, above_); }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    return chosen(simd::min(simd::max(t, vf(-140.0f)), vf(140.0f)), of(table.code_below), of(table.code_above));
  }

 private:
  /// Buckets of width 10 around multiples of 10: midpoints are further apart, and none is near the end of a bucket, so that
  /// each bucket has one of them at most and rounding decides nothing. Bucket s has number s % 32.
  struct buckets {
    float midpoint[32], below[32], above[32], code_below[32], code_above[32];
  };
  static constexpr buckets table = [] {
    buckets b{};
    for (int s = -16; s < 16; ++s) {
      const auto k = static_cast<std::size_t>(s & 31);
      std::size_t code = 0;
      const auto twice = [](std::size_t c) { return quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]; };
      while (code < 15 && twice(code) < 2 * (10 * s - 5)) ++code;
      const bool inside = code < 15 && twice(code) < 2 * (10 * s + 5);
      const std::size_t next = inside ? code + 1 : code;
      b.midpoint[k] = inside ? 0.5f * static_cast<float>(twice(code)) : std::numeric_limits<float>::infinity();
      b.below[k] = static_cast<float>(quant::ggml::iq4_table[code]);
      b.above[k] = static_cast<float>(quant::ggml::iq4_table[next]);
      b.code_below[k] = static_cast<float>(code);
      b.code_above[k] = static_cast<float>(next);
    }
    return b;
  }();
  struct two {
    __m512 low, high;
  };
  static NIBBLE_ALWAYS_INLINE two of(const float (&v)[32]) noexcept {
    return {_mm512_loadu_ps(v), _mm512_loadu_ps(v + 16)};
  }
  NIBBLE_ALWAYS_INLINE vf chosen(vf t, two below, two above) const noexcept {
    const __m512i bucket = static_cast<__m512i>(bits_of(fused(t, vf(0.1f), vf(rounding_shift))));
    const auto find = [bucket](two v)
                          NIBBLE_LAMBDA_INLINE { return vf(_mm512_permutex2var_ps(v.low, bucket, v.high)); };
    return simd::select(t >= find(midpoint_), find(above), find(below));
  }
  two midpoint_, below_, above_;
#elif NIBBLE_SIMD_WIDTH == 256
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept {
    const search s(t);
    const auto find = [&](const float(&v)[8])
                          NIBBLE_LAMBDA_INLINE { return _mm256_permutevar8x32_ps(_mm256_load_ps(v), s.node); };
    return vf(_mm256_blendv_ps(find(tree.below), find(tree.above), s.upper));
  }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    const search s(t);
    return to_float(vi(s.next(s.node, s.upper))) - vf(16.0f);
  }

 private:
  /// Midpoints as a search tree: those of three steps by number 1 to 7 (node k leads to 2 k and 2 k + 1), then those of the
  /// nodes 8 to 15 with the levels on both sides; vpermps takes the lower three bits of a number.
  struct nodes {
    alignas(32) float inner[8], last[8], below[8], above[8];
  };
  static constexpr nodes tree = [] {
    nodes n{};
    const auto midpoint = [](std::size_t c) {
      return 0.5f * static_cast<float>(quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]);
    };
    for (std::size_t step = 0, first = 1; step < 3; ++step, first *= 2)
      for (std::size_t i = 0; i < first; ++i) n.inner[first + i] = midpoint((2 * i + 1) * (8 >> step) - 1);
    for (std::size_t i = 0; i < 8; ++i) {
      n.last[i] = midpoint(2 * i);
      n.below[i] = static_cast<float>(quant::ggml::iq4_table[2 * i]);
      n.above[i] = static_cast<float>(quant::ggml::iq4_table[2 * i + 1]);
    }
    return n;
  }();
  struct search {
    __m256i node;
    __m256 upper;
    static NIBBLE_ALWAYS_INLINE __m256i next(__m256i k, __m256 up) noexcept {
      return _mm256_sub_epi32(_mm256_add_epi32(k, k), _mm256_castps_si256(up));
    }
    NIBBLE_ALWAYS_INLINE explicit search(vf v) noexcept {
      const __m256 t = static_cast<__m256>(v), inner = _mm256_load_ps(tree.inner);
      node = next(_mm256_set1_epi32(1), _mm256_cmp_ps(t, _mm256_set1_ps(tree.inner[1]), _CMP_GE_OQ));
      NIBBLE_UNROLL
      for (int step = 0; step < 2; ++step)
        node = next(node, _mm256_cmp_ps(t, _mm256_permutevar8x32_ps(inner, node), _CMP_GE_OQ));
      upper = _mm256_cmp_ps(t, _mm256_permutevar8x32_ps(_mm256_load_ps(tree.last), node), _CMP_GE_OQ);
    }
  };
#else
  NIBBLE_ALWAYS_INLINE vf level(vf t) const noexcept {
    return climbed(t, static_cast<float>(quant::ggml::iq4_table[0]), [](std::size_t c) {
      return static_cast<float>(quant::ggml::iq4_table[c + 1] - quant::ggml::iq4_table[c]);
    });
  }
  NIBBLE_ALWAYS_INLINE vf code(vf t) const noexcept {
    return climbed(t, 0.0f, [](std::size_t) { return 1.0f; });
  }

 private:
  /// `first` and step(c) for each midpoint c that is not above t: exact whole numbers.
  template <class Step>
  static NIBBLE_ALWAYS_INLINE vf climbed(vf t, float first, Step step) noexcept {
    vf sum(first);
    for (std::size_t c = 0; c < 15; ++c) {
      const vf midpoint(0.5f * static_cast<float>(quant::ggml::iq4_table[c] + quant::ggml::iq4_table[c + 1]));
      sum = sum + simd::select(t >= midpoint, vf(step(c)), vf(0.0f));
    }
    return sum;
  }
#endif
};

/// quant::ggml::detail::search_levels of R * lanes runs of 32 values; weight(i, r, x) is what value x of them counts.
template <std::size_t R, class Weight>
NIBBLE_ALWAYS_INLINE void search_levels(const sub_blocks<32, R>& x, Weight weight, const iq4_lanes& table,
                                        vf (&found)[R]) noexcept {
  constexpr float first = static_cast<float>(quant::ggml::iq4_table[0]);
  const vf none(0.0f);
  vf extreme[R], best[R];
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) {
    extreme[r] = first_extreme(x, r);
    found[r] = best[r] = none;
  }
  for (int trial = -8; trial <= 7; ++trial) {
    vf id[R], xt[R], tt[R];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      // Tiny blocks, whose result does not count, must not leave the range of the table.
      const vf v = simd::select(is_tiny(extreme[r]), vf(1.0f), extreme[r]);
      id[r] = trial == -8 ? vf(1.0f) / ((none - v) / vf(first)) : vf(static_cast<float>(trial) + first) / v;
      xt[r] = tt[r] = none;
    }
    for (std::size_t i = 0; i < 32; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        const vf xi = x.get(i, r), t = table.level(rounded_products(xi, id[r]));
        const vf wt = rounded_products(weight(i, r, xi), t);
        xt[r] = xt[r] + rounded_products(wt, xi);
        tt[r] = tt[r] + rounded_products(wt, t);
      }
    }
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
      const auto some = tt[r] > none;
      const vf d = simd::select(some, xt[r] / tt[r], none), gain = rounded_products(d, xt[r]);
      if (trial == -8) {
        found[r] = d;
        best[r] = gain;
      } else {
        const auto better = some & (rounded_products(xt[r], xt[r]) > rounded_products(best[r], tt[r]));
        found[r] = simd::select(better, d, found[r]);
        best[r] = simd::select(better, gain, best[r]);
      }
    }
  }
  NIBBLE_UNROLL
  for (std::size_t r = 0; r < R; ++r) found[r] = simd::select(is_tiny(extreme[r]), none, found[r]);
}

/// The blocks of a format whose runs have levels of IQ4.
template <class Format>
class iq4_encoder {
  static constexpr std::size_t R = lanes < 8 ? 2 : 1;  // IQ4_XS has eight runs
  using tile = sub_blocks<32, R>;
  static constexpr std::size_t runs = Format::block_elements / 32, blocks = tile::count / runs;

 public:
  static void run(const float* x, std::size_t count, ggml_importance importance, std::byte* to) noexcept {
    const iq4_lanes table;
    tile values;
    encode_steps<Format, blocks>(x, count, to, [&](const float* v, std::size_t n, std::byte* out) {
      values.read(v);
      vf found[R];
      if (importance.values == nullptr) {
        search_levels(
            values, [](std::size_t, std::size_t, vf xi) NIBBLE_LAMBDA_INLINE { return rounded_products(xi, xi); },
            table, found);
      } else {
        tile weights;
        weigh(v, values, n, importance, weights);
        importance.first += n;
        search_levels(
            values, [&](std::size_t i, std::size_t r, vf) NIBBLE_LAMBDA_INLINE { return weights.get(i, r); }, table,
            found);
      }
      alignas(64) float scales[tile::count];
      for (std::size_t r = 0; r < R; ++r) found[r].store_aligned(scales + r * lanes);
      write(values, table, scales, n, out);
    });
  }

 private:
  static void weigh(const float* v, const tile& values, std::size_t n, const ggml_importance& importance,
                    tile& weights) noexcept {
    alignas(64) float of_columns[tile::count * 32] = {}, spreads[tile::count];
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = b * Format::block_elements;
      const float spread = quant::ggml::detail::iq4_spread(v + first, Format::block_elements);
      for (std::size_t j = 0; j < runs; ++j) spreads[b * runs + j] = spread;
      if (b < n)
        std::memcpy(of_columns + first, importance.of_block(b, Format::block_elements),
                    Format::block_elements * sizeof(float));
    }
    weights.read(of_columns);
    for (std::size_t r = 0; r < R; ++r) {
      const vf spread = vf::load_aligned(spreads + r * lanes);
      for (std::size_t i = 0; i < 32; ++i) {
        const vf xi = values.get(i, r);
        weights.put(i, r, rounded_products(weights.get(i, r), square_root(spread + rounded_products(xi, xi))));
      }
    }
  }
  static void write(const tile& values, const iq4_lanes& table, float* scales, std::size_t n, std::byte* out) noexcept {
    for (std::size_t b = 0; b < n; ++b) {
      std::byte* const block = out + b * Format::block_bytes;
      if constexpr (runs == 1) quant::ggml::detail::store_half(scales[b], block);
      else Format::store_scales(scales + b * runs, block, scales + b * runs);
    }
    vf id[R];
    for (std::size_t r = 0; r < R; ++r) id[r] = inverse(vf::load_aligned(scales + r * lanes));
    std::uint8_t codes[32 * tile::count];
    tile::write_bytes(codes, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
      return table.code(rounded_products(values.get(i, r), id[r]));
    });
    for (std::size_t b = 0; b < n; ++b, out += Format::block_bytes)
      for (std::size_t j = 0; j < runs; ++j)
        quant::ggml::detail::store_nibbles(codes + 32 * (b * runs + j), out + Format::block_bytes - 16 * (runs - j));
  }
};

/// What encode_ggml_blocks has for such formats.
template <class Format>
struct encode_iq4 {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    iq4_encoder<Format>::run(x, count, {}, blocks);
  }
  static void run(const float* x, std::size_t count, const ggml_importance& importance, std::byte* blocks) noexcept {
    iq4_encoder<Format>::run(x, count, importance, blocks);
  }
};

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::iq4_nl> : simd::encode_iq4<quant::ggml::iq4_nl> {};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::iq4_xs> : simd::encode_iq4<quant::ggml::iq4_xs> {};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
