// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Writing the formats of GGUF files with super-blocks of 256 elements, on the native register width.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_code_search.hpp>
#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/quant/ggml_block256.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
namespace simd {

/// Eight codes, a byte each.
NIBBLE_ALWAYS_INLINE std::uint64_t eight_codes(const std::uint8_t* p) noexcept {
  std::uint64_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
/// f(i) for each i < n, a multiple of 8: the bytes i .. i + 7 of the result.
template <class F>
NIBBLE_ALWAYS_INLINE void pack_eights(std::byte* to, std::size_t n, F f) noexcept {
  NIBBLE_UNROLL
  for (std::size_t i = 0; i < n; i += 8) {
    const std::uint64_t v = f(i);
    std::memcpy(to + i, &v, sizeof v);
  }
}
/// A byte eight times.
constexpr std::uint64_t each_byte(unsigned v) noexcept { return v * 0x0101010101010101u; }

/// quant::ggml::detail::store_two_bits of codes shifted right.
template <int Shift>
NIBBLE_ALWAYS_INLINE void pack_two_bits(const std::uint8_t* codes, std::byte* to) noexcept {
  for (std::size_t h = 0; h < 2; ++h)
    pack_eights(to + 32 * h, 32, [c = codes + 128 * h](std::size_t i) NIBBLE_LAMBDA_INLINE {
      const auto two = [&](std::size_t k)
                           NIBBLE_LAMBDA_INLINE { return eight_codes(c + 32 * k + i) >> Shift & each_byte(3); };
      return two(0) | two(1) << 2 | two(2) << 4 | two(3) << 6;
    });
}
/// Bit `Bit` of code 32 j + l in bit j of byte l.
template <int Bit>
NIBBLE_ALWAYS_INLINE void pack_one_bit(const std::uint8_t* codes, std::byte* to) noexcept {
  pack_eights(to, 32, [=](std::size_t i) NIBBLE_LAMBDA_INLINE {
    const auto one = [&](std::size_t j)
                         NIBBLE_LAMBDA_INLINE { return (eight_codes(codes + 32 * j + i) >> Bit & each_byte(1)) << j; };
    return one(0) | one(1) | one(2) | one(3) | one(4) | one(5) | one(6) | one(7);
  });
}
/// The lower four bits of two runs of Run codes in a byte, for all 256 codes.
template <std::size_t Run>
NIBBLE_ALWAYS_INLINE void pack_four_bits(const std::uint8_t* codes, std::byte* to) noexcept {
  for (std::size_t h = 0; h < 128; h += Run)
    pack_eights(to + h, Run, [c = codes + 2 * h](std::size_t i) NIBBLE_LAMBDA_INLINE {
      return (eight_codes(c + i) & each_byte(15)) | (eight_codes(c + Run + i) & each_byte(15)) << 4;
    });
}

/// The scales from `scale` on times a factor, as whole numbers from Least to Most.
template <int Least, int Most>
NIBBLE_ALWAYS_INLINE vf whole_scales(float factor, const float* scale) noexcept {
  return nearest(rounded_products(vf(factor), vf::load_aligned(scale)), vf(static_cast<float>(Least)),
                 vf(static_cast<float>(Most)));
}

/// Whole super-blocks of sub-blocks of N values, as many as fill registers, R of them searched at a time so that the sums of one
/// run while those of another wait.
template <std::size_t N, std::size_t AtLeast = 1>
struct super_blocks {
  static constexpr std::size_t R = lanes == 16 ? 4 : 2;
  static constexpr std::size_t subs = 256 / N;                                    ///< sub-blocks of a super-block
  static constexpr std::size_t unit = std::max<std::size_t>(1, R* lanes / subs);  ///< super-blocks of whole groups
  static constexpr std::size_t blocks = std::max(AtLeast, unit);
  static constexpr std::size_t groups = blocks * subs / (R * lanes);  ///< of R registers each
  using tile = sub_blocks<N, R>;

  tile x[groups];
  alignas(64) float scale[blocks * subs], min[blocks * subs];  ///< of the sub-blocks, found and then stored
  std::uint8_t codes[blocks * 256];

  std::size_t used = groups;  ///< the groups that are encoded

  /// n super-blocks; what else there is in their groups is read, too.
  void read(const float* values, std::size_t n = blocks) noexcept {
    used = ceil_div(n * subs, tile::count);
    for (std::size_t g = 0; g < used; ++g) x[g].read(values + g * tile::count * N);
  }
  static NIBBLE_ALWAYS_INLINE std::size_t at(std::size_t g, std::size_t r) noexcept {
    return g * tile::count + r * lanes;
  }
  /// Codes 0 .. Max against scale and min as stored; what found(g, i, r) says where a scale is 0.
  template <int Max, class Found>
  NIBBLE_ALWAYS_INLINE void requantize(Found found) noexcept {
    encode<0, Max>([](vf v, vf m) NIBBLE_LAMBDA_INLINE { return v + m; }, found);
  }
  /// Codes -half .. half - 1 with half added.
  template <int Half, class Found>
  NIBBLE_ALWAYS_INLINE void requantize_signed(Found found) noexcept {
    encode<-Half, Half - 1>([](vf v, vf) NIBBLE_LAMBDA_INLINE { return v; }, found);
  }

 private:
  /// The codes of numerator(x, min) / scale. A quotient is cheaper as a product with 1 / scale: up to 64, beyond all codes, that
  /// is within 64 (2^-23 + 2^-24) < 2^-16 of the quotient as rounded. Where no product of a group comes that close to the middle
  /// between two integers, both round to the same ones; else the group is divided.
  template <int Least, int Most, class Numerator, class Found>
  NIBBLE_ALWAYS_INLINE void encode(Numerator numerator, Found found) noexcept {
    static_assert(Most < 63 && Least > -63);
    const vf least(static_cast<float>(Least)), most(static_cast<float>(Most)), bias(static_cast<float>(-Least));
    for (std::size_t g = 0; g < used; ++g) {
      vf s[R], m[R], inverse[R], farthest(0.0f);
      bool ordinary = true;
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < R; ++r) {
        s[r] = vf::load_aligned(scale + at(g, r));
        m[r] = vf::load_aligned(min + at(g, r));
        inverse[r] = vf(1.0f) / s[r];
        ordinary = ordinary && simd::all(magnitude(s[r]) >= vf(0x1p-120f));
      }
      std::uint8_t* const to = codes + g * tile::count * N;
      if (ordinary) {
        const vf shift(rounding_shift);
        tile::write_bytes(to, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
          const vf q = numerator(x[g].get(i, r), m[r]) * inverse[r], whole = (q + shift) - shift;
          farthest = simd::max(magnitude(q - whole), farthest);
          return simd::min(simd::max(whole, least), most) + bias;
        });
      }
      if (ordinary && simd::all(farthest <= vf(0.5f - 0x1p-16f))) continue;
      tile::write_bytes(to, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
        const vf code = nearest(numerator(x[g].get(i, r), m[r]) / s[r], least, most) + bias;
        return simd::select(s[r] == vf(0.0f), found(g, i, r), code);
      });
    }
  }
};

/// Searches scale and minimum of all sub-blocks, gives them to store(b), which puts back what is stored, and finds the codes.
template <int Max, bool Squared, std::size_t N, class Weight, class Store>
NIBBLE_ALWAYS_INLINE void encode_affine(super_blocks<N>& s, quant::ggml::detail::affine_steps steps, std::size_t n,
                                        Weight weigh, Store store) noexcept {
  using super = super_blocks<N>;
  constexpr std::size_t R = super::R;
  affine_lanes found[super::groups][super::R];
  for (std::size_t g = 0; g < super::groups; ++g) {
    typename super::tile w;
    for (std::size_t r = 0; r < R; ++r) weigh(s.x[g], w, r);
    search_affine<N, Max, Squared, R>(s.x[g], w, steps, found[g]);
    for (std::size_t r = 0; r < R; ++r) {
      found[g][r].scale.store_aligned(s.scale + super::at(g, r));
      found[g][r].min.store_aligned(s.min + super::at(g, r));
    }
  }
  constexpr int max = N == 32 ? 63 : 15;
  for (std::size_t b = 0; b < n; ++b) {
    float* const scale = s.scale + b * super::subs;
    float* const min = s.min + b * super::subs;
    quant::ggml::detail::affine_scale each[256 / N];
    for (std::size_t j = 0; j < super::subs; ++j) each[j] = {scale[j], min[j]};
    const auto shared = quant::ggml::detail::share<256 / N>(each, max);
    const auto [d, dmin] = store(b, shared);
    for (std::size_t j = 0; j < super::subs; ++j) {
      scale[j] = d * static_cast<float>(shared.scales[j]);
      min[j] = rounded_product(dmin, static_cast<float>(shared.mins[j]));
    }
  }
  s.template requantize<Max>([&](std::size_t g, std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
    const affine_lanes& f = found[g][r];
    return nearest(rounded_products(f.step, s.x[g].get(i, r) - f.base), vf(0.0f), vf(static_cast<float>(Max)));
  });
}

/// The halves of a super-block as stored.
struct super_scales {
  float d, dmin;
};

/// Q4_K and Q5_K; pack(codes, block) writes the codes.
template <int Max, class Format, class Pack>
NIBBLE_ALWAYS_INLINE void encode_eight(const float* x, std::size_t count, std::byte* blocks,
                                       quant::ggml::detail::affine_steps steps, Pack pack) noexcept {
  using super = super_blocks<32>;
  super s;
  encode_steps<Format, super::blocks>(x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
    s.read(v);
    const auto weigh = [](const super::tile& values, super::tile& w, std::size_t r) NIBBLE_LAMBDA_INLINE {
      vf squares(0.0f);
      for (std::size_t i = 0; i < 32; ++i) squares = squares + rounded_products(values.get(i, r), values.get(i, r));
      const vf mean = square_root(squares / vf(32.0f));
      for (std::size_t i = 0; i < 32; ++i) w.put(i, r, mean + magnitude(values.get(i, r)));
    };
    encode_affine<Max, true>(s, steps, n, weigh, [&](std::size_t b, const auto& shared) {
      std::byte* const block = to + b * Format::block_bytes;
      quant::ggml::detail::packed_scales::store(shared.scales, shared.mins, block + 4);
      return super_scales{quant::ggml::detail::store_half(shared.d, block),
                          quant::ggml::detail::store_half(shared.dmin, block + 2)};
    });
    for (std::size_t b = 0; b < n; ++b) pack(s.codes + 256 * b, to + b * Format::block_bytes);
  });
}

}  // namespace simd

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q4_k> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q4_k;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_eight<15, format>(x, count, blocks, {-1.0f, 0.1f, 20}, [](const std::uint8_t* codes, std::byte* to) {
      simd::pack_four_bits<32>(codes, to + 16);
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q5_k> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q5_k;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    simd::encode_eight<31, format>(x, count, blocks, {-0.5f, 0.1f, 15}, [](const std::uint8_t* codes, std::byte* to) {
      simd::pack_one_bit<4>(codes, to + 16);
      simd::pack_four_bits<32>(codes, to + 48);
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q2_k> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q2_k;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    using super = simd::super_blocks<16>;
    super s;
    simd::encode_steps<format, super::blocks>(x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
      s.read(v);
      const auto weigh = [](const super::tile& values, super::tile& w, std::size_t r) NIBBLE_LAMBDA_INLINE {
        for (std::size_t i = 0; i < 16; ++i) w.put(i, r, simd::magnitude(values.get(i, r)));
      };
      simd::encode_affine<3, false>(s, {-0.5f, 0.1f, 15}, n, weigh, [&](std::size_t b, const auto& shared) {
        std::byte* const block = to + b * format::block_bytes;
        for (std::size_t j = 0; j < 16; ++j) block[j] = static_cast<std::byte>(shared.scales[j] | shared.mins[j] << 4);
        return simd::super_scales{quant::ggml::detail::store_half(shared.d, block + 80),
                                  quant::ggml::detail::store_half(shared.dmin, block + 82)};
      });
      for (std::size_t b = 0; b < n; ++b) simd::pack_two_bits<0>(s.codes + 256 * b, to + b * format::block_bytes + 16);
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q6_k> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q6_k;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    namespace g = quant::ggml::detail;
    using super = simd::super_blocks<16>;
    super s;
    std::memset(s.min, 0, sizeof s.min);
    simd::encode_steps<format, super::blocks>(x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
      s.read(v);
      simd::step_lanes found[super::groups][super::R];
      for (std::size_t i = 0; i < super::groups; ++i) {
        simd::search_by_steps<16, 32>(s.x[i], found[i]);
        for (std::size_t r = 0; r < super::R; ++r) found[i][r].scale.store_aligned(s.scale + super::at(i, r));
      }
      bool zero[super::blocks] = {};
      for (std::size_t b = 0; b < n; ++b) {
        std::byte* const block = to + b * format::block_bytes;
        float* const scale = s.scale + 16 * b;
        const float extreme = g::first_extreme(scale, 16);
        zero[b] = g::is_tiny(extreme);
        if (zero[b]) {
          std::memset(block, 0, format::block_bytes);
          continue;
        }
        const float iscale = -128.0f / extreme, d = g::store_half(1.0f / iscale, block + 208);
        simd::vi bytes[16 / simd::lanes];
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < 16; j += simd::lanes) {
          const simd::vf whole = simd::whole_scales<-128, 127>(iscale, scale + j);
          bytes[j / simd::lanes] = simd::low_byte(whole);
          (simd::vf(d) * whole).store_aligned(scale + j);
        }
        simd::store_sixteen(bytes, block + 192);
      }
      s.template requantize_signed<32>([&](std::size_t i, std::size_t k, std::size_t r) NIBBLE_LAMBDA_INLINE {
        const simd::step_lanes& f = found[i][r];
        return simd::nearest(simd::rounded_products(f.step, s.x[i].get(k, r)), simd::vf(-32.0f), simd::vf(31.0f)) +
               f.bias;
      });
      for (std::size_t b = 0; b < n; ++b) {
        if (zero[b]) continue;
        std::byte* const block = to + b * format::block_bytes;
        simd::pack_four_bits<64>(s.codes + 256 * b, block);
        simd::pack_two_bits<4>(s.codes + 256 * b, block + 128);
      }
    });
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_ggml_blocks<Isa, quant::ggml::q3_k> {
  using isa_type = simd::isa_type;
  using format = quant::ggml::q3_k;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    namespace g = quant::ggml::detail;
    using super = simd::super_blocks<16, 32>;  // what the search goes on with should fill registers
    super s;
    simd::code_search<16, 4, 16 * super::blocks> search;
    std::memset(s.scale, 0, sizeof s.scale);
    std::memset(s.min, 0, sizeof s.min);
    simd::encode_steps<format, super::blocks, super::unit>(
        x, count, blocks, [&](const float* v, std::size_t n, std::byte* to) {
          s.read(v, n);
          for (std::size_t i = 0; i < s.used; ++i) search.begin(s.x[i], super::at(i, 0), v, s.scale);
          search.finish(v, s.scale);
          alignas(64) float extremes[super::blocks], iscales[super::blocks];
          half halves[super::blocks];
          for (std::size_t b = 0; b < n; b += simd::lanes) {
            simd::sub_blocks<16, 1> scales;
            scales.read(s.scale + 16 * b);
            const simd::vf extreme = simd::first_extreme(scales, 0), iscale = simd::vf(-32.0f) / extreme;
            extreme.store_aligned(extremes + b);
            iscale.store_aligned(iscales + b);
            simd::store_halves(simd::vf(1.0f) / iscale, halves + b);
          }
          for (std::size_t b = 0; b < n; ++b) {
            std::byte* const block = to + b * format::block_bytes;
            float* const scale = s.scale + 16 * b;
            std::memset(block + 96, 0, 14);
            const float iscale = iscales[b], d = to_float(halves[b]);
            if (extremes[b] == 0.0f) continue;  // all scales are 0 already
            std::memcpy(block + 108, &halves[b], 2);
            simd::vi bytes[16 / simd::lanes];
            NIBBLE_UNROLL
            for (std::size_t j = 0; j < 16; j += simd::lanes) {
              const simd::vf whole = simd::whole_scales<-32, 31>(iscale, scale + j);
              bytes[j / simd::lanes] = simd::low_byte(whole + simd::vf(32.0f));
              (simd::vf(d) * whole).store_aligned(scale + j);
            }
            std::uint8_t integers[16];
            simd::store_sixteen(bytes, integers);
            for (std::size_t j = 0; j < 8; ++j)
              block[96 + j] = static_cast<std::byte>((integers[j] & 15u) | (integers[j + 8] & 15u) << 4);
            for (std::size_t j = 0; j < 4; ++j)
              block[104 + j] = static_cast<std::byte>(integers[j] >> 4 | integers[j + 4] >> 4 << 2 |
                                                      integers[j + 8] >> 4 << 4 | integers[j + 12] >> 4 << 6);
          }
          s.template requantize_signed<4>([&](std::size_t i, std::size_t k, std::size_t r) NIBBLE_LAMBDA_INLINE {
            return search.first_code(super::at(i, r), s.x[i].get(k, r));
          });
          search.find_codes(v, s.scale, 16 * n, s.codes);
          for (std::size_t b = 0; b < n; ++b) {
            std::byte* const block = to + b * format::block_bytes;
            simd::pack_one_bit<2>(s.codes + 256 * b, block);
            simd::pack_two_bits<0>(s.codes + 256 * b, block + 32);
          }
        });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
