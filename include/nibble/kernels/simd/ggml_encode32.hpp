// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Writing the formats of GGUF files with blocks of 32 elements, on the native register width. Least and greatest values of as
/// many blocks as there are lanes become one register each, so that all divisions of these blocks are one.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <nibble/core/half.hpp>
#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/quant/ggml_block32.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

/// Rounded towards zero.
NIBBLE_ALWAYS_INLINE vi truncated(vf v) noexcept {
#if NIBBLE_SIMD_NEON
  return vi(vcvtq_s32_f32(static_cast<float32x4_t>(v)));
#else
  return xsimd::to_int(v);
#endif
}
/// quant::ggml::detail::inverse of each lane.
NIBBLE_ALWAYS_INLINE vf inverse(vf d) noexcept {
  const vf id = vf(1.0f) / d;
  return simd::select(magnitude(id) <= vf(std::numeric_limits<float>::max()), id, vf(0.0f));
}

struct lane_ranges {
  vf lo, hi;
};
/// The least and greatest values of one block a lane; which of two zeros is open.
NIBBLE_ALWAYS_INLINE lane_ranges ranges_of_blocks(const float* x) noexcept {
  const auto lesser = [](vi a, vi b)
                          NIBBLE_LAMBDA_INLINE { return bits_of(simd::min(float_of_bits(a), float_of_bits(b))); };
  const auto greater = [](vi a, vi b)
                           NIBBLE_LAMBDA_INLINE { return bits_of(simd::max(float_of_bits(a), float_of_bits(b))); };
  vi lo[lanes], hi[lanes];
  NIBBLE_UNROLL
  for (std::size_t j = 0; j < lanes; ++j) {
    vf least = load(x + 32 * j), most = least;
    NIBBLE_UNROLL
    for (std::size_t i = lanes; i < 32; i += lanes) {
      least = simd::min(least, load(x + 32 * j + i));
      most = simd::max(most, load(x + 32 * j + i));
    }
    lo[j] = bits_of(least);
    hi[j] = bits_of(most);
  }
  return {float_of_bits(reduce_each(lo, lesser)), float_of_bits(reduce_each(hi, greater))};
}

/// The first extreme of one block a lane, with its sign.
NIBBLE_ALWAYS_INLINE vf extremes_of_blocks(const float* x) noexcept {
  const lane_ranges r = ranges_of_blocks(x);
  const vf below = vf(0.0f) - r.lo;
  const auto as_great = r.hi == below;
  const vf v = simd::select(r.hi > below, r.hi, r.lo);
  if (!simd::any(as_great)) return v;
  alignas(64) float each[lanes], both[lanes];
  v.store_aligned(each);
  simd::select(as_great, vf(1.0f), vf(0.0f)).store_aligned(both);
  for (std::size_t j = 0; j < lanes; ++j)
    if (both[j] != 0.0f) each[j] = quant::ggml::detail::first_extreme(x + 32 * j, 32);
  return vf::load_aligned(each);
}

/// Codes below 32 in element order as Q4_0 to Q5_1 have them; the fifth bits are returned.
NIBBLE_ALWAYS_INLINE std::uint32_t store_codes(const vi (&codes)[2 * half_block], std::byte* to) noexcept {
  vi bytes[half_block];
  std::uint32_t fifth = 0;
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < half_block; ++i) bytes[i] = (codes[i] & vi(15)) | (codes[half_block + i] & vi(15)) << 4;
  store_sixteen(bytes, to);
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < 2 * half_block; ++i) fifth |= sign_bits(codes[i] << 27) << i * lanes;
  return fifth;
}

/// encode_steps of `lanes` blocks in two parts: find(x) has the quotients of a step on their way while code(found, x, n, blocks)
/// writes the blocks of the one before it.
template <class Format, class Find, class Code>
NIBBLE_ALWAYS_INLINE void encode_ahead(const float* x, std::size_t count, std::byte* blocks, Find find,
                                       Code code) noexcept {
  decltype(find(x)) found[2];
  std::size_t next = 0;
  if (count >= lanes) found[0] = find(x);
  for (; count >= lanes; count -= lanes, blocks += lanes * Format::block_bytes) {
    auto& now = found[next];
    next = 1 - next;
    const float* const values = x;
    x += lanes * Format::block_elements;
    if (count >= 2 * lanes) found[next] = find(x);
    code(now, values, lanes, blocks);
  }
  if (count == 0) return;
  float rest[lanes * Format::block_elements] = {};
  std::memcpy(rest, x, count * Format::block_elements * sizeof(float));
  found[0] = find(rest);
  code(found[0], rest, count, blocks);
}

/// What blocks need: scales as stored and their inverses.
struct lane_scales {
  alignas(64) float ids[lanes];
  half halves[lanes];
  NIBBLE_ALWAYS_INLINE void set(vf d) noexcept {
    inverse(d).store_aligned(ids);
    store_halves(d, halves);
  }
};

/// Q4_0 and Q5_0: codes of half the width around the extreme.
template <class Format, int Half>
NIBBLE_ALWAYS_INLINE void encode_around_extreme(const float* x, std::size_t count, std::byte* blocks) noexcept {
  const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
    lane_scales found;
    found.set(extremes_of_blocks(values) / vf(static_cast<float>(-Half)));
    return found;
  };
  encode_ahead<Format>(
      x, count, blocks, find,
      [](const lane_scales& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
        const vf middle(static_cast<float>(Half) + 0.5f), top(static_cast<float>(2 * Half - 1));
        for (std::size_t b = 0; b < n; ++b, to += Format::block_bytes) {
          const vf id(found.ids[b]);
          vi codes[2 * half_block];
          NIBBLE_UNROLL
          for (std::size_t i = 0; i < 2 * half_block; ++i)
            codes[i] = truncated(simd::min(rounded_products(load(values + 32 * b + i * lanes), id) + middle, top));
          std::memcpy(to, &found.halves[b], 2);
          const std::uint32_t fifth = store_codes(codes, to + Format::block_bytes - 16);
          if constexpr (Half == 16) std::memcpy(to + 2, &fifth, 4);
        }
      });
}

/// Q4_1 and Q5_1: codes from the least to the greatest value.
template <class Format, int Max>
NIBBLE_ALWAYS_INLINE void encode_range(const float* x, std::size_t count, std::byte* blocks) noexcept {
  struct ranges : lane_scales {
    alignas(64) float los[lanes];
    half mins[lanes];
  };
  const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
    const lane_ranges r = ranges_of_blocks(values);
    ranges found;
    found.set(simd::select(r.hi == r.lo, vf(0.0f), (r.hi - r.lo) / vf(static_cast<float>(Max))));
    r.lo.store_aligned(found.los);
    store_halves(r.lo, found.mins);
    return found;
  };
  encode_ahead<Format>(x, count, blocks, find,
                       [](ranges& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
                         const vf middle(0.5f), top(static_cast<float>(Max));
                         for (std::size_t b = 0; b < n; ++b, to += Format::block_bytes) {
                           const float* const v = values + 32 * b;
                           if (found.los[b] == 0.0f) {  // the first of its zeros has a sign
                             std::size_t i = 0;
                             while (v[i] != 0.0f) ++i;
                             found.mins[b] = to_half(v[i]);
                           }
                           const vf id(found.ids[b]), lo(found.los[b]);
                           vi codes[2 * half_block];
                           NIBBLE_UNROLL
                           for (std::size_t i = 0; i < 2 * half_block; ++i)
                             codes[i] =
                                 truncated(simd::min(rounded_products(load(v + i * lanes) - lo, id) + middle, top));
                           std::memcpy(to, &found.halves[b], 2);
                           std::memcpy(to + 2, &found.mins[b], 2);
                           const std::uint32_t fifth = store_codes(codes, to + Format::block_bytes - 16);
                           if constexpr (Max == 31) std::memcpy(to + 4, &fifth, 4);
                         }
                       });
}

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q8_0> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q8_0;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
      const simd::lane_ranges r = simd::ranges_of_blocks(values);
      simd::lane_scales found;
      found.set(simd::max(simd::magnitude(r.hi), simd::magnitude(r.lo)) / vf(127.0f));
      return found;
    };
    simd::encode_ahead<format>(
        x, count, blocks, find,
        [](const simd::lane_scales& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
          // Halves away from zero: what lies just below 1/2, added towards the sign, reaches the next integer for them alone.
          const vi sign(std::numeric_limits<std::int32_t>::min()), below_half = simd::bits_of(vf(0x1.fffffep-2f));
          for (std::size_t b = 0; b < n; ++b, to += format::block_bytes) {
            const vf id(found.ids[b]);
            std::memcpy(to, &found.halves[b], 2);
            NIBBLE_UNROLL
            for (std::size_t k = 0; k < 2; ++k) {
              vi codes[simd::half_block];
              NIBBLE_UNROLL
              for (std::size_t i = 0; i < simd::half_block; ++i) {
                const vf v = simd::rounded_products(simd::load(values + 32 * b + 16 * k + i * lanes), id);
                codes[i] = simd::truncated(v + simd::float_of_bits((simd::bits_of(v) & sign) | below_half)) & vi(255);
              }
              simd::store_sixteen(codes, to + 2 + 16 * k);
            }
          }
        });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q4_0> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_around_extreme<quant::ggml::q4_0, 8>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q5_0> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_around_extreme<quant::ggml::q5_0, 16>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q4_1> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_range<quant::ggml::q4_1, 15>(x, count, blocks);
  }
};
template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q5_1> {
  using isa_type = simd::isa_type;
  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_range<quant::ggml::q5_1, 31>(x, count, blocks);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::mxfp4> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::mxfp4;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    const auto find = [](const float* values) NIBBLE_LAMBDA_INLINE {
      const simd::lane_ranges r = simd::ranges_of_blocks(values);
      alignas(64) float greatest[lanes];
      simd::max(simd::magnitude(r.hi), simd::magnitude(r.lo)).store_aligned(greatest);
      std::array<std::uint8_t, lanes> found;
      for (std::size_t b = 0; b < lanes; ++b) found[b] = static_cast<std::uint8_t>(format::exponent_of(greatest[b]));
      return found;
    };
    simd::encode_ahead<format>(
        x, count, blocks, find,
        [](const auto& found, const float* values, std::size_t n, std::byte* to) NIBBLE_LAMBDA_INLINE {
          for (std::size_t b = 0; b < n; ++b, to += format::block_bytes) {
            // Values over 2 d, so that the levels are those of E2M1: 0, 1/2, 1, 3/2, 2, 3, 4, 6. (With e above 253 all are 0.)
            const int e = found[b];
            const vf factor = simd::float_of_bits(vi(e < 254 ? (254 - e) << 23 : 0));
            const vf top(e < 253 ? 6.0f : 3.0f);  // 8 * 2^125 is no float
            to[0] = static_cast<std::byte>(e);
            vi codes[2 * simd::half_block];
            NIBBLE_UNROLL
            for (std::size_t i = 0; i < 2 * simd::half_block; ++i) {
              const vf v = simd::load(values + 32 * b + i * lanes), q = simd::min(simd::magnitude(v) * factor, top);
              // From 1 on a code is exponent and first bit of the mantissa, rounded, halves down.
              const vi high = (simd::bits_of(q) + vi((1 << 21) - 1)) >> 22;
              const auto pick = [](auto mask, vi yes, vi no) NIBBLE_LAMBDA_INLINE {
                return simd::bits_of(simd::select(mask, simd::float_of_bits(yes), simd::float_of_bits(no)));
              };
              const auto some = q > vf(0.25f);
              const vi sign = pick(some, (simd::bits_of(v) >> 28) & vi(8), vi(0));
              const vi low = pick(q > vf(0.75f), vi(2), pick(some, vi(1), vi(0)));
              codes[i] = pick(q >= vf(1.0f), high - vi(252), low) | sign;
            }
            simd::store_codes(codes, to + 1);
          }
        });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
