// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Weight quantization on the native register width: parameters of one group a lane, codes of one value a lane.

#include <bit>
#include <concepts>
#include <cstring>
#include <limits>
#include <optional>

#include <nibble/kernels/group_codec.hpp>
#include <nibble/kernels/scalar/group_codec.hpp>
#include <nibble/kernels/simd/bytes.hpp>
#include <nibble/kernels/simd/lookup.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/table_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {
template <std::same_as<simd::isa_type> Isa>
struct fit_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, const float* x, std::size_t group, std::size_t count,
                  quant::group_params* params) noexcept {
    if (c.format.rule == code_rule::codebook && c.book.scaling == codebook_scaling::rms)
      return by_mean_square(c, x, group, count, params);
    std::size_t g = 0;
    if (group % simd::lanes == 0 || simd::is_half(group)) {
      const simd::params_lanes fit(c);
      const auto rounds = [&]<bool BothEnds, std::size_t Halves>() {
        for (; g + simd::lanes <= count; g += simd::lanes)
          round<BothEnds, Halves>(c, fit, x + g * group, group, simd::lanes, params + g);
        // A last round that is at least half full takes its last group several times.
        if (g + simd::lanes / 2 <= count) {
          round<BothEnds, Halves>(c, fit, x + g * group, group, count - g, params + g);
          g = count;
        }
      };
      const auto of_size = [&]<bool BothEnds>() {
        switch (2 * group /
                simd::lanes) {  // in short groups the loop over registers would take longer than what is in it
          case 1: return rounds.template operator()<BothEnds, 1>();
          case 2: return rounds.template operator()<BothEnds, 2>();
          case 4: return rounds.template operator()<BothEnds, 4>();
          case 8: return rounds.template operator()<BothEnds, 8>();
          default: return rounds.template operator()<BothEnds, 0>();
        }
      };
      quant::has_zeros(c.format) ? of_size.template operator()<true>() : of_size.template operator()<false>();
    }
    if (g < count) fit_groups<isa::scalar>::run(c, x + g * group, group, count - g, params + g);
  }

 private:
  static void by_mean_square(const quant::group_codec& c, const float* x, std::size_t group, std::size_t count,
                             quant::group_params* params) noexcept {
    if (group % simd::lanes != 0 || group % 8 != 0) return fit_groups<isa::scalar>::run(c, x, group, count, params);
    for (std::size_t g = 0; g < count; ++g) {
      const double square = simd::mean_square(x + g * group, group);  // of finite floats it is finite
      params[g] = {square <= std::numeric_limits<double>::max()
                       ? quant::as_stored(c.format.scale, static_cast<float>(__builtin_sqrt(square)))
                       : std::numeric_limits<float>::quiet_NaN(),
                   0.0f};
    }
  }

  /// Parameters of `count` groups, at most one a lane. Halves: half registers of a group, or 0 when known only at run time.
  template <bool BothEnds, std::size_t Halves>
  static void round(const quant::group_codec& codec, const simd::params_lanes& fit, const float* x, std::size_t group,
                    std::size_t count, quant::group_params* params) noexcept {
    using simd::lanes;
    using simd::vf;
    using simd::vi;
    vi least[lanes], greatest[lanes];
    const auto scan = [&](std::size_t i, const float* from) NIBBLE_LAMBDA_INLINE {
      // A group of half a register comes twice, which changes no extreme.
      vi low = order<BothEnds>(Halves == 1 ? simd::load_half_twice(from) : simd::load(from)), high = low;
      const auto more = [&](std::size_t k) NIBBLE_LAMBDA_INLINE {
        const vi v = order<BothEnds>(simd::load(from + k));
        high = simd::max(high, v);
        if constexpr (BothEnds) low = simd::min(low, v);
      };
      if constexpr (Halves == 0) {
        for (std::size_t k = lanes; k < group; k += lanes) more(k);
      } else {
        NIBBLE_UNROLL
        for (std::size_t k = 1; k < Halves / 2; ++k) more(k * lanes);
      }
      greatest[i] = high;
      if constexpr (BothEnds) least[i] = low;
    };
    if constexpr (Halves == 0) {
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + (i < count ? i : count - 1) * group);
    } else if (count == lanes) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + i * Halves * lanes / 2);
    } else {
      for (std::size_t i = 0; i < lanes; ++i) scan(i, x + (i < count ? i : count - 1) * Halves * lanes / 2);
    }
    const vf high = simd::float_of_bits(turn<BothEnds>(simd::reduce_each(greatest, simd::greater_lane{})));
    vf low = high;
    if constexpr (BothEnds) low = simd::float_of_bits(turn<BothEnds>(simd::reduce_each(least, simd::lesser_lane{})));
    alignas(64) float scales[lanes], zeros[lanes];
    vf scale, zero;
    const vf most(std::numeric_limits<float>::max());
    const auto finite = (simd::magnitude(low) <= most) & (simd::magnitude(high) <= most);
    if (simd::all(finite)) {
      fit(low, high, scale, zero);
    } else {  // NaN needs no parameters: such lanes are fitted as if they were [1, 1]
      const vf one(1.0f);
      fit(simd::select(finite, low, one), simd::select(finite, high, one), scale, zero);
      scale = simd::select(finite, scale, vf(std::numeric_limits<float>::quiet_NaN()));
    }
    scale.store_aligned(scales);
    zero.store_aligned(zeros);
    for (std::size_t i = 0; i < count; ++i) params[i] = {scales[i], zeros[i]};
    // Magnitudes alone do not know the sign that a scale of zero takes from a group with -0.
    if (BothEnds || !simd::any(scale == vf(0.0f))) return;
    for (std::size_t i = 0; i < count; ++i)
      if (scales[i] == 0.0f) fit_groups<isa::scalar>::run(codec, x + i * group, group, 1, params + i);
  }

  /// As quant::range_scan: signed integers in the order of the floats; or magnitudes alone.
  template <bool BothEnds>
  static NIBBLE_ALWAYS_INLINE simd::vi turn(simd::vi v) noexcept {
    if constexpr (BothEnds) return v ^ ((v >> 31) & simd::vi(0x7fffffff));
    return v;
  }
  template <bool BothEnds>
  static NIBBLE_ALWAYS_INLINE simd::vi order(simd::vf x) noexcept {
    const simd::vi v = simd::bits_of(x);
    if constexpr (BothEnds) return turn<true>(v);
    return v & simd::vi(0x7fffffff);
  }
};

template <std::same_as<simd::isa_type> Isa>
struct encode_groups<Isa> {
  using isa_type = simd::isa_type;

  explicit encode_groups(const quant::group_codec& codec) noexcept : codec_(codec) {
    if (codec.format.rule == code_rule::codebook) planes_.emplace(codec.book);
  }
  static void run(const quant::group_codec& c, const quant::group_params* params, const float* x, std::size_t group,
                  std::size_t n, std::uint8_t* codes) noexcept {
    encode_groups{c}(params, x, group, n, codes);
  }
  void operator()(const quant::group_params* params, const float* x, std::size_t group, std::size_t n,
                  std::uint8_t* codes) const noexcept {
    const quant::group_codec& c = codec_;
    if (group % simd::lanes != 0 && group < n && !simd::is_half(group))
      return encode_groups<isa::scalar>::run(c, params, x, group, n, codes);
    std::size_t done = 0;
    switch (c.format.rule) {
      case code_rule::symmetric: done = affine<code_rule::symmetric>(c, params, x, group, n, codes); break;
      case code_rule::symmetric_full: done = affine<code_rule::symmetric_full>(c, params, x, group, n, codes); break;
      case code_rule::mid_rise: done = affine<code_rule::mid_rise>(c, params, x, group, n, codes); break;
      case code_rule::asymmetric: done = affine<code_rule::asymmetric>(c, params, x, group, n, codes); break;
      case code_rule::asymmetric_offset:
        done = affine<code_rule::asymmetric_offset>(c, params, x, group, n, codes);
        break;
      case code_rule::codebook: done = table(*planes_, c.book, params, x, group, n, codes); break;
    }
    while (done < n) {  // less than a block, or a table's tile with a scale that has no reciprocal
      const std::size_t g = done / group, end = n - g * group < group ? n : (g + 1) * group;
      quant::encode_group(c, params[g], x + done, end - done, codes + done);
      done = end;
    }
  }

 private:
  static constexpr std::size_t block = 4 * simd::lanes;

  /// For whole blocks: set<false>(group) before a register that begins a group, or set<true>(group) before one that holds
  /// this group and the next, and code(register). Returns how many values they hold.
  template <class Set, class Code>
  static NIBBLE_ALWAYS_INLINE std::size_t for_each(std::size_t group, std::size_t n, std::uint8_t* codes, Set set,
                                                   Code code) noexcept {
    switch (2 * group / simd::lanes) {  // groups that a block holds whole: what belongs to them stays in registers
      case 1: return for_each_short<1>(n, codes, set, code);
      case 2: return for_each_short<2>(n, codes, set, code);
      case 4: return for_each_short<4>(n, codes, set, code);
      case 8: return for_each_short<8>(n, codes, set, code);
      default: return for_each_block(group, n, codes, set, code);
    }
  }
  template <class Set, class Code>
  static NIBBLE_ALWAYS_INLINE std::size_t for_each_block(std::size_t group, std::size_t n, std::uint8_t* codes, Set set,
                                                         Code code) noexcept {
    const std::size_t whole = n - n % block;
    std::size_t left = 0, g = 0;  // values left of this group
    simd::vi u[4];
    for (std::size_t i = 0; i < whole; i += block) {
      if (left >= block) {
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < 4; ++j) u[j] = code(i + j * simd::lanes);
        left -= block;
      } else {
        for (std::size_t j = 0; j < 4; ++j) {
          if (left == 0) set.template operator()<false>(g++), left = group;
          u[j] = code(i + j * simd::lanes);
          left -= simd::lanes;
        }
      }
      simd::store_bytes<false>(u, codes + i);
    }
    return whole;
  }
  /// Halves: half registers of a group.
  template <std::size_t Halves, class Set, class Code>
  static NIBBLE_ALWAYS_INLINE std::size_t for_each_short(std::size_t n, std::uint8_t* codes, Set set,
                                                         Code code) noexcept {
    const std::size_t whole = n - n % block;
    std::size_t g = 0;
    for (std::size_t i = 0; i < whole; i += block) {
      simd::vi u[4];
      NIBBLE_UNROLL
      for (std::size_t j = 0; j < 4; ++j) {
        if (2 * j % Halves == 0) {
          set.template operator()<Halves == 1>(g);
          g += Halves == 1 ? 2 : 1;
        }
        u[j] = code(i + j * simd::lanes);
      }
      simd::store_bytes<false>(u, codes + i);
    }
    return whole;
  }
  /// Asks for the value n after x: the next run, as a rule, which would else arrive after this one's work is done.
  static NIBBLE_ALWAYS_INLINE void ahead(const float* x, std::size_t n) noexcept {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(x) + n * sizeof(float)));
  }
  /// value(g) in each lane, or that of the next group in the upper half of them.
  template <bool Pair, class Value>
  static NIBBLE_ALWAYS_INLINE simd::vf spread(std::size_t g, Value value) noexcept {
    if constexpr (Pair) return simd::in_halves(value(g), value(g + 1));
    else return simd::vf(value(g));
  }

  /// 1 / scale for each of n groups, 0 for scale 0, whose values are all at step 0. False where one is subnormal or infinite.
  static bool reciprocals(const quant::group_params* params, std::size_t n, float* out) noexcept {
    using simd::vf;
    for (std::size_t g = 0; g < n; ++g) out[g] = params[g].scale;
    for (std::size_t g = n; g % simd::lanes != 0; ++g) out[g] = 1.0f;
    const vf none(0.0f);
    bool ordinary = true;
    for (std::size_t g = 0; g < n; g += simd::lanes) {
      const vf s = vf::load_aligned(out + g);
      ordinary = ordinary && simd::all((s == none) | ((s >= vf(0x1p-125f)) & (s <= vf(0x1p125f))));
      simd::select(s == none, none, vf(1.0f) / s).store_aligned(out + g);
    }
    return ordinary;
  }

  template <code_rule Rule>
  static std::size_t affine(const quant::group_codec& c, const quant::group_params* params, const float* x,
                            std::size_t group, std::size_t n, std::uint8_t* codes) noexcept {
    constexpr std::size_t at_once = 128;  // groups, a multiple of those in a block
    std::size_t done = 0;
    for (; done < n / block * block; params += at_once) {
      const std::size_t most = group < n ? at_once * group : n, count = n - done < most ? n - done : most;
      done += affine_run<Rule, at_once>(c, params, x + done, group, count, codes + done);
    }
    return done;
  }
  template <code_rule Rule, std::size_t Most>
  static std::size_t affine_run(const quant::group_codec& c, const quant::group_params* params, const float* x,
                                std::size_t group, std::size_t n, std::uint8_t* codes) noexcept {
    using simd::vf;
    using simd::vi;
    const quant::detail::step_bounds b = quant::detail::bounds_of<Rule>(c.format.bits, 0.0f);
    const vf none(0.0f), shift(simd::rounding_shift);
    vf factor(0.0f), zero(0.0f), low(b.lo), high(b.hi);
    vi bias(b.bias - simd::rounding_bits);
    alignas(64) float factors[Most];
    const bool multiply = reciprocals(params, ceil_div(n, group), factors);
    const auto factor_of = [&](std::size_t g) NIBBLE_LAMBDA_INLINE { return factors[g]; };
    const auto scale_of = [&](std::size_t g) NIBBLE_LAMBDA_INLINE { return params[g].scale; };
    const auto zero_of = [&](std::size_t g) NIBBLE_LAMBDA_INLINE { return params[g].zero; };
    const auto set = [&]<bool Pair>(std::size_t g) NIBBLE_LAMBDA_INLINE {
      factor = spread<Pair>(g, factor_of);
      if constexpr (Rule == code_rule::asymmetric_offset) zero = spread<Pair>(g, zero_of);
      if constexpr (Rule == code_rule::asymmetric) {  // zero is an integer, which its sum with the shift ends in
        zero = spread<Pair>(g, zero_of);
        low = vf(b.lo) - zero;
        high = vf(b.hi) - zero;
        bias = simd::bits_of(zero + shift) - vi(simd::rounding_bits) - vi(simd::rounding_bits);
      }
    };
    const auto value = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      ahead(x + i, n);
      if constexpr (Rule == code_rule::asymmetric_offset) return simd::load(x + i) - zero;
      else return simd::load(x + i);
    };
    const auto step = [&](vf t) NIBBLE_LAMBDA_INLINE {
      if constexpr (Rule == code_rule::mid_rise) t = t - vf(0.5f);
      return simd::min(simd::max(t, low), high);
    };
    const auto divided = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      const std::size_t g = i / group;
      const vf scale = simd::is_half(group) ? spread<true>(g, scale_of) : spread<false>(g, scale_of);
      const vf t = value(i) / simd::select(scale == none, vf(std::numeric_limits<float>::infinity()), scale);
      return simd::bits_of(step(t) + shift) + bias;
    };
    if (!multiply) return for_each(group, n, codes, set, divided);
    // x * (1 / scale) is cheaper than the quotient that the law rounds, and within 3 * 2^-24 * 256 + 2^-16 < 2^-13 of it where
    // that counts, |q| <= 256: steps that are not as close as this to the middle between two integers round to the same one.
    // Others, one register in 250 of 16 lanes, are divided.
    const vf near(0.5f - 0x1p-13f);
    return for_each(group, n, codes, set, [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      const vf q = step(value(i) * factor), shifted = q + shift;
      if (simd::any(simd::magnitude(q - (shifted - shift)) > near)) return divided(i);
      return simd::bits_of(shifted) + bias;
    });
  }

  static std::size_t table(const simd::table_planes& planes, const codebook_desc& book,
                           const quant::group_params* params, const float* x, std::size_t group, std::size_t n,
                           std::uint8_t* codes) noexcept {
    using simd::vf;
    const std::size_t groups = n / group + (n % group != 0 ? 1 : 0);
    const bool reciprocal = book.scaling == codebook_scaling::absmax_reciprocal;
    if (reciprocal)  // a tiny scale's is infinite, and then x is divided
      for (std::size_t g = 0; g < groups; ++g)
        if (params[g].scale != 0.0f && quant::detail::reciprocal_for(book, params[g].scale) == 0.0f) return 0;
    std::size_t done = 0;
    const auto encode = [&](const auto& lanes) {
      vf factor(0.0f);
      const auto factor_of = [&](std::size_t g) NIBBLE_LAMBDA_INLINE {
        const float s = params[g].scale;
        return reciprocal  ? quant::detail::reciprocal_for(book, s)
               : s == 0.0f ? std::numeric_limits<float>::infinity()
                           : s;
      };
      const auto set = [&]<bool Pair>(std::size_t g) NIBBLE_LAMBDA_INLINE { factor = spread<Pair>(g, factor_of); };
      const auto value = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
        ahead(x + i, n);
        return simd::load(x + i);
      };
      done = reciprocal ? for_each(group, n, codes, set,
                                   [&](std::size_t i) NIBBLE_LAMBDA_INLINE { return lanes.rank(value(i) * factor); })
                        : for_each(group, n, codes, set,
                                   [&](std::size_t i) NIBBLE_LAMBDA_INLINE { return lanes.rank(value(i) / factor); });
    };
    simd::with_every_table(planes, encode);
    if (book.code_of_rank != nullptr) codes_of_ranks(book, codes, done);
    return done;
  }

  /// Codes in place of ranks, n of them, whole registers.
  static void codes_of_ranks(const codebook_desc& book, std::uint8_t* codes, std::size_t n) noexcept {
    std::uint8_t code_of[256];
    const std::size_t all = std::size_t{1} << book.bits, ranks = book.sign_magnitude ? all / 2 : all;
    for (std::size_t r = 0; r < all; ++r)
      code_of[r] = static_cast<std::uint8_t>(book.code_of_rank[r % ranks] | (r - r % ranks));
    const auto replace = [&]<int Bits>() {
      const simd::byte_lookup<Bits> table(code_of);
      for (std::size_t i = 0; i < n; i += block)
        table(simd::load_lanes(codes + i)).store_unaligned(reinterpret_cast<std::uint32_t*>(codes + i));
    };
    switch (book.bits) {
      case 5: return replace.template operator()<5>();
      case 6: return replace.template operator()<6>();
      case 7: return replace.template operator()<7>();
      case 8: return replace.template operator()<8>();
      default: return replace.template operator()<4>();
    }
  }
  const quant::group_codec& codec_;
  std::optional<simd::table_planes> planes_;  // of a codebook
};

template <std::same_as<simd::isa_type> Isa>
struct decode_groups<Isa> {
  using isa_type = simd::isa_type;

  static void run(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                  std::size_t group, std::size_t n, float* y) noexcept {
    if (group % simd::lanes != 0 && group < n && !simd::is_half(group)) {
      if (group < 2 * simd::lanes) return decode_groups<isa::scalar>::run(c, params, codes, group, n, y);
      for (std::size_t i = 0; i < n; i += group, ++params) {
        const std::size_t count = n - i < group ? n - i : group;
        run(c, params, codes + i, count, count, y + i);
      }
      return;
    }
    switch (c.format.rule) {
      case code_rule::asymmetric: return affine<code_rule::asymmetric>(c, params, codes, group, n, y);
      case code_rule::asymmetric_offset: return affine<code_rule::asymmetric_offset>(c, params, codes, group, n, y);
      case code_rule::codebook: return table(c, params, codes, group, n, y);
      default: return affine<code_rule::symmetric>(c, params, codes, group, n, y);  // all whose levels are the same
    }
  }

 private:
  using vf = simd::vf;

  /// Calls set<false>(group) before each group, or set<true>(group) for two that fill a register, and value(codes) for each
  /// register; values that fill none go through the scalar law. Halves: half registers of a group, or 0.
  template <std::size_t Halves, class Set, class Value>
  static NIBBLE_ALWAYS_INLINE void for_each_group(const quant::group_codec& c, const quant::group_params* params,
                                                  const std::uint8_t* codes, std::size_t group, std::size_t n, float* y,
                                                  Set set, Value value) noexcept {
    const auto one = [&](std::size_t i) NIBBLE_LAMBDA_INLINE {
      simd::will_write_after(y + i);
      value(codes + i).store_unaligned(y + i);
    };
    std::size_t g = 0, i = 0;
    if constexpr (Halves == 1) {
      for (; n - i >= simd::lanes; i += simd::lanes, g += 2) {
        set.template operator()<true>(g);
        one(i);
      }
    } else {
      for (; n - i >= group && group % simd::lanes == 0; ++g) {
        set.template operator()<false>(g);
        if constexpr (Halves != 0) {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < Halves / 2; ++r) one(i + r * simd::lanes);
          i += Halves / 2 * simd::lanes;
        } else {
          for (const std::size_t end = i + group; i < end; i += simd::lanes) one(i);
        }
      }
      if (i == n) return;
      set.template operator()<false>(g);
      for (; n - i >= simd::lanes; i += simd::lanes) one(i);
    }
    for (; i < n; ++g) {
      const std::size_t count = Halves == 1 && n - i > group ? group : n - i;
      quant::decode_group(c, params[g], codes + i, count, y + i);
      i += count;
    }
  }
  template <class Set, class Value>
  static NIBBLE_ALWAYS_INLINE void for_each_of(const quant::group_codec& c, const quant::group_params* params,
                                               const std::uint8_t* codes, std::size_t group, std::size_t n, float* y,
                                               Set set, Value value) noexcept {
    switch (group < n ? 2 * group / simd::lanes : 0) {  // in short groups the loop over registers would take the time
      case 1: return for_each_group<1>(c, params, codes, group, n, y, set, value);
      case 2: return for_each_group<2>(c, params, codes, group, n, y, set, value);
      case 4: return for_each_group<4>(c, params, codes, group, n, y, set, value);
      case 8: return for_each_group<8>(c, params, codes, group, n, y, set, value);
      default: return for_each_group<0>(c, params, codes, group, n, y, set, value);
    }
  }

  template <class Set, class Value>
  static NIBBLE_ALWAYS_INLINE void for_each(const quant::group_codec& c, const quant::group_params* params,
                                            const std::uint8_t* codes, std::size_t group, std::size_t n, float* y,
                                            Set set, Value value) noexcept {
    for_each_of(c, params, codes, group, n, y, set,
                [&](const std::uint8_t* u) NIBBLE_LAMBDA_INLINE { return value(simd::load_bytes(u)); });
  }
  /// A parameter in each lane, or that of the next group in the upper half of them.
  template <bool Pair>
  static NIBBLE_ALWAYS_INLINE vf spread(const quant::group_params* p, float quant::group_params::*member) noexcept {
    if constexpr (Pair) return simd::in_halves(p[0].*member, p[1].*member);
    else return vf(p->*member);
  }
  template <code_rule Rule>
  static void affine(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                     std::size_t group, std::size_t n, float* y) noexcept {
    vf scale(1.0f), zero(0.0f), shift(Rule == code_rule::symmetric ? quant::detail::level_shift(c.format, {}) : 0.0f);
    const auto set = [&]<bool Pair>(std::size_t g) NIBBLE_LAMBDA_INLINE {
      scale = spread<Pair>(params + g, &quant::group_params::scale);
      if constexpr (Rule == code_rule::asymmetric)
        shift = vf(0.0f) - spread<Pair>(params + g, &quant::group_params::zero);
      if constexpr (Rule == code_rule::asymmetric_offset) zero = spread<Pair>(params + g, &quant::group_params::zero);
    };
    for_each(c, params, codes, group, n, y, set, [&](simd::vi u) NIBBLE_LAMBDA_INLINE {
      if constexpr (Rule == code_rule::asymmetric_offset) return simd::fused(scale, simd::to_float(u), zero);
      else return scale * (simd::to_float(u) + shift);
    });
  }

  static void table(const quant::group_codec& c, const quant::group_params* params, const std::uint8_t* codes,
                    std::size_t group, std::size_t n, float* y) noexcept {
    vf scale(1.0f);
    const auto set = [&]<bool Pair>(std::size_t g)
                         NIBBLE_LAMBDA_INLINE { scale = spread<Pair>(params + g, &quant::group_params::scale); };
#if NIBBLE_SIMD_WIDTH >= 256 || NIBBLE_SIMD_NEON
    const auto permuted = [&]<int Bits>() {
      alignas(64) float values[std::size_t{1} << Bits] = {};
      std::memcpy(values, c.book.values, sizeof(float) << c.format.bits);
      const simd::lane_table<Bits> table(values);
      for_each(c, params, codes, group, n, y, set,
               [&](simd::vi code) NIBBLE_LAMBDA_INLINE { return scale * table(code); });
    };
    if (c.format.bits <= 4) return permuted.template operator()<4>();
#if NIBBLE_SIMD_WIDTH == 512
    if (c.format.bits == 5) return permuted.template operator()<5>();
    if (c.format.bits == 6) return permuted.template operator()<6>();
    if (c.format.bits == 7) return permuted.template operator()<7>();
#endif
#endif
    for_each_of(c, params, codes, group, n, y, set,
                [&, values = c.book.values](const std::uint8_t* u)
                    NIBBLE_LAMBDA_INLINE { return scale * simd::look_up_bytes(values, u); });
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
