// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The panel kernels of integers on the native register width: one lane per column.
///
/// Register budget of a tile of mr rows and 16 columns: mr * regs accumulators, regs weights, one broadcast activation
/// (and the constant 1 of `quads`): 6 * 2 + 2 + 1 = 15 of 16 with AVX2, 12 + 1 + 1 of 32 with AVX-512,
/// 2 * 4 + 4 + 1 = 13 of 16 with SSE2, 6 * 4 + 4 + 1 = 29 of 32 with NEON. Of `pairs` the int16 sums live in registers and
/// the int32 sums in memory.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <nibble/core/round.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/lookup.hpp>
#include <nibble/kernels/simd/panel_tools.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// A template so that only the units that call it compile it.
template <class Isa>
struct integer_panel : panel_tools {
  /// Panels of the integer path's single row: side by side they are streams side by side. One stream from memory brings 22
  /// GB/s on Zen 3, four 30, and the load of an activation serves them all. Codes of several planes, which take longer to
  /// unpack, come as fast in fewer streams that are prefetched.
  static constexpr std::size_t integer_row_panels(int bits) noexcept {
    if (regs == 2) return bits <= 3 ? 1 : (bits == 4 || bits == 8 ? 4 : 2);
    return regs == 4 ? 1 : 4;
  }

  /// Whether integer rows prefetch codes. Four streams keep Zen 3's own prefetchers busy, and then instructions for it only
  /// take their place: 8 bits from memory in 0.8 of the time without them, 4 bits in 0.9.
  static constexpr bool integer_row_prefetches(int bits) noexcept {
    return !(regs == 2 && integer_row_panels(bits) == 4);
  }

  template <int Bits>
  static void image_codes(std::uint8_t* units, std::size_t count, const std::uint8_t* image) noexcept {
    const simd::byte_lookup<simd::lookup_bits(Bits)> lookup(image);
    for (std::size_t i = 0; i < count * regs; ++i, units += lanes * 4)
      lookup(simd::load_lanes(units)).store_unaligned(reinterpret_cast<std::uint32_t*>(units));
  }

  static constexpr std::int32_t code_bias(int bits) noexcept { return simd::bias_of(simd::dot_of(bits)); }

  static void integer_block(const integer_call& c, int bits, const std::uint8_t* units) noexcept {
    // Only the kinds that dot_of gives on this instruction set are compiled.
    [&]<int... Bits>(std::integer_sequence<int, Bits...>) NIBBLE_LAMBDA_INLINE {
      (void)((bits == Bits && (rows_of_tiles<simd::dot_of(Bits)>(c, units, simd::pair_run(Bits)), true)) || ...);
    }
    (std::integer_sequence<int, 2, 3, 4, 5, 6, 7, 8>{});
  }

  /// Whether the accumulators of a tile stay in registers beside its sums.
  static constexpr bool resident(simd::dot_kind kind) noexcept { return regs == 1 && kind == simd::dot_kind::quads; }
  /// Rows of the full register tile that unpacks codes: fewer where there is one for each width, to save compile time.
  static constexpr int tallest_packed(simd::dot_kind kind) noexcept { return resident(kind) ? 8 : tallest(kind); }

  /// Tiles of few rows unpack codes in their registers: up to three times that takes fewer instructions than the way through
  /// memory once. Codes of several planes, and int16 sums of less than a block, go that way. With VNNI two tiles take codes of all
  /// widths: the ports have as much to do either way, and the next codes come from memory meanwhile.
  static constexpr std::size_t packed_rows(int bits) noexcept {
    const simd::dot_kind kind = simd::dot_of(bits);
    if (resident(kind) && NIBBLE_SIMD_VNNI) return 16;
    return bits == 4 || bits == 2 ? 3 * static_cast<std::size_t>(tallest(kind)) : 0;
  }
  /// The most rows whose tiles take panel_params::halves.
  static constexpr std::size_t half_scale_rows = resident(simd::dot_of(4)) ? 16 : 0;

  template <int Bits>
  static void packed_block(const integer_call& c, const std::byte* blocks) noexcept {
    constexpr simd::dot_kind kind = simd::dot_of(Bits);
    in_tiles<tallest_packed(kind)>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
      integer_tile<kind, Rows>(c, m, packed_codes<Bits>{blocks}, 8);
    });
  }

  template <int Bits>
  static void integer_row(const integer_call* calls, const std::byte* const* blocks) noexcept {
    constexpr simd::dot_kind kind = simd::dot_of(Bits);
    if (calls[0].group != 8 && calls[0].group != 16) {
      // int16 sums of two blocks and more are worth a register each for the only panel.
      if constexpr (kind == simd::dot_kind::pairs && integer_row_panels(Bits) == 1 && simd::pair_run(Bits) >= 16)
        return pair_row<Bits, kind>(*calls, *blocks);
      else return code_row<Bits, kind>(calls, blocks, [](vu four) NIBBLE_LAMBDA_INLINE { return four; });
    }
    for (std::size_t p = 0; p < integer_row_panels(Bits); p += short_group_panels<Bits>) {
      if (calls[0].group == 8) short_groups<Bits, kind, 2>(calls + p, blocks + p);
      else short_groups<Bits, kind, 4>(calls + p, blocks + p);
    }
  }

  template <int Bits, int ImageBits>
  static void image_row(const integer_call* calls, const std::byte* const* blocks, const std::uint8_t* image) noexcept {
    constexpr simd::dot_kind kind = simd::image_dot_of(ImageBits);
    static_assert(simd::bias_of(kind) == code_bias(ImageBits));
    constexpr std::uint8_t taken_off = kind == simd::dot_kind::tables ? 0x80 : 0;
    std::uint8_t table[16];
    for (std::size_t u = 0; u < 16; ++u) table[u] = image[u] ^ taken_off;
    const simd::byte_lookup<4> lookup(table);
    code_row<Bits, kind>(calls, blocks, [lookup](vu four) NIBBLE_LAMBDA_INLINE { return lookup(four); });
  }

 protected:
  /// One row of codes against the panels of `calls`; image_of: from stored codes to those that are multiplied. Panels take
  /// turns at a block, whose activations stay in registers for all of them; what waits for its turn lies in memory.
  template <int Bits, simd::dot_kind Kind, class ImageOf>
  static NIBBLE_ALWAYS_INLINE void code_row(const integer_call* calls, const std::byte* const* blocks,
                                            const ImageOf& image_of) noexcept {
    constexpr std::size_t panels = integer_row_panels(Bits);
    using dot = simd::byte_dot<Kind>;
    const integer_call c = calls[0];  // a copy, which no store can change
    const std::size_t end = c.k1 < c.K ? c.k1 : c.K;
    const bool simple = started(c), one = constant_zero(c);
    std::size_t g = c.k0 / c.group;
    bool fresh = c.k0 == g * c.group;                               // nothing lies in the sums
    std::size_t left = (c.group - (c.k0 - g * c.group) + 31) / 32;  // blocks of the group
    std::int32_t sums[panels][nr];
    float acc[panels][nr];
    for (std::size_t p = 0; p < panels; ++p) {
      std::memcpy(acc[p], calls[p].acc, sizeof acc[p]);
      if (!fresh) std::memcpy(sums[p], calls[p].state, sizeof sums[p]);
    }
    for (std::size_t k = c.k0, at = 0; k < end; k += 32, at += pack::panel16::block_bytes(Bits)) {
      const bool last = --left == 0 || (k + 32 >= end && end == c.K), folds = last && one && c.fold;
      if constexpr (integer_row_prefetches(Bits)) {
        const std::ptrdiff_t ahead = prefetch_distance<Bits>(blocks, panels, end - k);
        for (std::size_t p = 0; p < panels; ++p) prefetch<Bits>(blocks[p] + at, ahead);
      }
      const auto multiply = [&]<std::size_t First, std::size_t Units>() NIBBLE_LAMBDA_INLINE {
        decltype(dot::activations(0)) v[Units];
        NIBBLE_UNROLL
        for (std::size_t u = 0; u < Units; ++u) v[u] = dot::activations(four_of(c.x + k + 4 * (First + u)));
        NIBBLE_UNROLL
        for (std::size_t p = 0; p < panels; ++p) {
          vi sum[regs];
          multiply_block<Bits, Kind, First>(blocks[p] + at, v, sum, image_of);
          if (!fresh) {
            NIBBLE_UNROLL
            for (std::size_t r = 0; r < regs; ++r) sum[r] = sum[r] + simd::load(sums[p] + r * lanes);
          }
          if (folds && First + Units == 8) {
            const vi rest(c.x_sums[g]);
            const std::array<vf, regs> scale = scales_of(calls[p].params, g);
            prefetch_scales(calls[p].params, g);
            if (simple) {
              NIBBLE_UNROLL
              for (std::size_t r = 0; r < regs; ++r)
                with_sum(sum[r] + rest, scale[r], simd::load(acc[p] + r * lanes)).store_unaligned(acc[p] + r * lanes);
            } else {
              NIBBLE_UNROLL
              for (std::size_t r = 0; r < regs; ++r)
                with_half_or_offset<simd::bias_of(Kind)>(calls[p].params, g, r, sum[r], rest, scale[r],
                                                         simd::load(acc[p] + r * lanes))
                    .store_unaligned(acc[p] + r * lanes);
            }
          } else {
            NIBBLE_UNROLL
            for (std::size_t r = 0; r < regs; ++r) sum[r].store_unaligned(sums[p] + r * lanes);
          }
          simd::in_order();
        }
        fresh = false;
      };
      // An activation of `tables` takes two registers.
      if constexpr (Kind == simd::dot_kind::tables) {
        multiply.template operator()<0, 4>();
        multiply.template operator()<4, 4>();
      } else {
        multiply.template operator()<0, 8>();
      }
      if (!last || !c.fold) continue;
      if (!one)
        for (std::size_t p = 0; p < panels; ++p) fold_kept<simd::bias_of(Kind)>(calls[p], 0, 1, g, sums[p], acc[p]);
      ++g;
      left = c.group / 32;
      fresh = true;
    }
    for (std::size_t p = 0; p < panels; ++p) {
      std::memcpy(calls[p].acc, acc[p], sizeof acc[p]);
      if (!fresh) std::memcpy(calls[p].state, sums[p], sizeof sums[p]);
    }
  }

  /// One row of codes of few bits against one panel. Sums stay in registers, those of int16 over as many blocks as they hold.
  template <int Bits, simd::dot_kind Kind>
  static NIBBLE_ALWAYS_INLINE void pair_row(const integer_call& call, const std::byte* block) noexcept {
    using dot = simd::byte_dot<Kind>;
    constexpr std::size_t most = simd::pair_run(Bits) / 8;
    const integer_call c = call;  // a copy, which no store can change
    vf acc[regs];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) acc[r] = simd::load(c.acc + r * lanes);
    for (group_walk group(c); !group.done(); group.next()) {
      vi sum[regs];
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) sum[r] = group.begins ? vi(0) : simd::load(c.state + r * lanes);
      const std::int8_t* x = c.x + group.k;
      for (std::size_t left = (group.stop - group.k + 31) / 32; left > 0;) {
        typename dot::native pairs[regs];
        const auto multiply = [&]<bool First>() NIBBLE_LAMBDA_INLINE {
          prefetch<Bits>(block, prefetch_distance<Bits>(&block, 1, 0));
          for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
            const auto v = dot::activations(four_of(x + 4 * U));
            NIBBLE_UNROLL
            for (std::size_t r = 0; r < regs; ++r) {
              const auto w = dot::weights(codes<Bits, U>(block, r));
              if constexpr (First && U == 0) pairs[r] = dot::product(w, v);
              else dot::add(pairs[r], w, v);
            }
          });
          x += 32;
          block += pack::panel16::block_bytes(Bits);
        };
        const std::size_t run = left < most ? left : most;
        multiply.template operator()<true>();
        for (std::size_t b = 1; b < run; ++b) multiply.template operator()<false>();
        left -= run;
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) dot::widen(sum[r], pairs[r]);
      }
      if (group.ends) {
        const vi rest(started(c) ? c.x_sums[group.g] : 0);
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r)
          acc[r] = with_group<simd::bias_of(Kind)>(c, group.g, r, sum[r] + rest, acc[r]);
      } else {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r) sum[r].store_unaligned(c.state + r * lanes);
      }
    }
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) acc[r].store_unaligned(c.acc + r * lanes);
  }

  /// How many panels the next one takes at once: their accumulators and sums fill the registers.
  template <int Bits>
  static constexpr std::size_t short_group_panels = regs == 2 && integer_row_panels(Bits) > 2
                                                        ? 2
                                                        : integer_row_panels(Bits);

  /// integer_row for groups of Units units, several in a block: the accumulators stay in registers from group to group.
  template <int Bits, simd::dot_kind Kind, std::size_t Units>
  static NIBBLE_ALWAYS_INLINE void short_groups(const integer_call* calls, const std::byte* const* blocks) noexcept {
    constexpr std::size_t panels = short_group_panels<Bits>;
    constexpr std::size_t run = simd::pair_run(Bits) < Units ? simd::pair_run(Bits) : Units;
    static_assert(Kind != simd::dot_kind::pairs || Units % run == 0);
    using dot = simd::byte_dot<Kind>;
    const integer_call& c = calls[0];
    const std::byte* at[panels];
    vf acc[panels][regs];
    for (std::size_t p = 0; p < panels; ++p) {
      at[p] = blocks[p];
      for (std::size_t r = 0; r < regs; ++r) acc[p][r] = simd::load(calls[p].acc + r * lanes);
    }
    const std::size_t end = c.k1 < c.K ? c.k1 : c.K;
    for (std::size_t k = c.k0; k < end; k += 32) {
      const std::ptrdiff_t ahead = prefetch_distance<Bits>(blocks, panels, end - k);
      for (std::size_t p = 0; p < panels; ++p) prefetch<Bits>(at[p], ahead);
      vi sum[panels][regs];
      [[maybe_unused]] typename dot::native pairs[panels][regs];
      for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
        if (k + 4 * (U - U % Units) >= end) return;  // behind the last group
        const std::size_t g = (k + 4 * U) / (4 * Units);
        const auto v = dot::activations(four_of(c.x + k + 4 * U));
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < panels * regs; ++i) {
          const std::size_t p = i / regs, r = i % regs;
          if constexpr (U % Units == 0) sum[p][r] = vi(started(c) ? c.x_sums[g] : 0);
          const auto w = dot::weights(codes<Bits, U>(at[p], r));
          if constexpr (Kind == simd::dot_kind::pairs) {
            if constexpr (U % run == 0) pairs[p][r] = dot::product(w, v);
            else dot::add(pairs[p][r], w, v);
            if constexpr (U % run == run - 1) dot::widen(sum[p][r], pairs[p][r]);
          } else {
            dot::add(sum[p][r], w, v);
          }
          if constexpr (U % Units == Units - 1)
            acc[p][r] = with_group<simd::bias_of(Kind)>(calls[p], g, r, sum[p][r], acc[p][r]);
        }
      });
      for (std::size_t p = 0; p < panels; ++p) at[p] += pack::panel16::block_bytes(Bits);
    }
    for (std::size_t p = 0; p < panels; ++p)
      for (std::size_t r = 0; r < regs; ++r) acc[p][r].store_unaligned(calls[p].acc + r * lanes);
  }

  /// sum = activations v, those of units from First on, against a packed block.
  template <int Bits, simd::dot_kind Kind, std::size_t First, class V, std::size_t units, class ImageOf>
  static NIBBLE_ALWAYS_INLINE void multiply_block(const std::byte* block, const V (&v)[units], vi (&sum)[regs],
                                                  const ImageOf& image_of) noexcept {
    using dot = simd::byte_dot<Kind>;
    [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE {
      if constexpr (Kind == simd::dot_kind::pairs) {
        constexpr std::size_t run = simd::pair_run(Bits) < units ? simd::pair_run(Bits) : units;
        static_assert(units % run == 0);
        typename dot::native pairs[regs];
        const auto multiply = [&]<std::size_t N>() NIBBLE_LAMBDA_INLINE {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r) {
            const auto w = dot::weights(image_of(codes<Bits, First + N>(block, r)));
            if constexpr (N % run == 0) pairs[r] = dot::product(w, v[N]);
            else dot::add(pairs[r], w, v[N]);
            if constexpr (N == run - 1) sum[r] = dot::widened(pairs[r]);
            else if constexpr (N % run == run - 1) dot::widen(sum[r], pairs[r]);
          }
        };
        (multiply.template operator()<U>(), ...);
      } else {
        constexpr std::size_t chains = simd::chains_of(Kind, regs);
        vi all[chains][regs];
        const auto multiply = [&]<std::size_t N>() NIBBLE_LAMBDA_INLINE {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r) {
            const auto w = dot::weights(image_of(codes<Bits, First + N>(block, r)));
            if constexpr (N < chains) all[N][r] = dot::product(w, v[N]);
            else dot::add(all[N % chains][r], w, v[N]);
          }
        };
        (multiply.template operator()<U>(), ...);
        for (std::size_t r = 0; r < regs; ++r) {
          sum[r] = all[0][r];
          for (std::size_t i = 1; i < chains; ++i) sum[r] = sum[r] + all[i][r];
        }
      }
    }
    (std::make_index_sequence<units>{});
  }

  static NIBBLE_ALWAYS_INLINE std::int32_t four_of(const std::int8_t* x) noexcept {
    std::int32_t v;
    std::memcpy(&v, x, sizeof v);
    return v;
  }

  /// Stored scales of a later group: they are read once in many blocks, too seldom to count on the CPU's own prefetchers. A
  /// gain is not shown: on a busy machine the rows took 0.91 to 1.07 of the time.
  static NIBBLE_ALWAYS_INLINE void prefetch_scales([[maybe_unused]] const panel_params& p,
                                                   [[maybe_unused]] std::size_t g) noexcept {
#if NIBBLE_SIMD_HALVES
    if (p.halves != nullptr) __builtin_prefetch(p.halves + (g + 8) * p.scale_stride);
    if (p.scale_codes != nullptr) __builtin_prefetch(p.scale_codes + (g + 16) * nr);
    if (p.offset_codes != nullptr) __builtin_prefetch(p.offset_codes + (g + 16) * nr);
#endif
  }

  /// acc with a group whose I of the law is `exact`, without shift, offset or scale of its own.
  static NIBBLE_ALWAYS_INLINE vf with_sum(vi exact, vf scale, vf acc) noexcept {
    return simd::fused(simd::to_float(exact), scale, acc);
  }

  /// x_sums holds (bias - z) X: the fold adds them, and that is all.
  static NIBBLE_ALWAYS_INLINE bool started(const integer_call& c) noexcept {
    return constant_zero(c) && c.params.shift == 0 && c.params.offsets == nullptr;
  }
  /// z is one number, and x_sums holds what panel_params::zeros says.
  static NIBBLE_ALWAYS_INLINE bool constant_zero(const integer_call& c) noexcept { return c.params.zeros == nullptr; }

  /// The law's steps for sum (u - Bias) x where z is one number and there are half steps or offsets.
  template <std::int32_t Bias>
  static NIBBLE_ALWAYS_INLINE vf with_half_or_offset(const panel_params& p, std::size_t g, std::size_t r, vi sum,
                                                     vi x_sum, vf scale, vf acc) noexcept {
    if (p.offsets == nullptr) return simd::fused(simd::to_float((sum << 1) + x_sum) * vf(0.5f), scale, acc);
    if constexpr (Bias != 0) sum = sum + x_sum * vi(Bias);
    acc = with_sum(sum, scale, acc);
    return simd::fused(simd::to_float(x_sum), offset_of(p, g, r), acc);
  }

  /// The law's steps for the sums of a group, for row m and register r.
  template <bool General>
  static NIBBLE_ALWAYS_INLINE vf folded(const integer_call& c, std::size_t m, std::size_t g, std::size_t r, vi sum,
                                        vf scale, vi zero, vf acc) noexcept {
    const panel_params& p = c.params;
    const vi x_sum(c.x_sums[m * c.sum_stride + g]);
    vi exact = sum;
    if constexpr (General) exact = exact << p.shift;
    exact = exact - zero * x_sum;
    vf levels = simd::to_float(exact);
    vf x_level = simd::to_float(x_sum);
    if constexpr (General) {
      if (p.shift != 0) levels = levels * vf(0.5f);
      if (c.group_scales != nullptr) {
        const vf token(c.group_scales[m * c.sum_stride + g]);
        levels = levels * token;
        x_level = x_level * token;
      }
    }
    acc = simd::fused(levels, scale, acc);
    if constexpr (General)
      if (p.offsets != nullptr) acc = simd::fused(x_level, offset_of(p, g, r), acc);
    return acc;
  }

  /// acc with a finished group, for the only row and register r.
  template <std::int32_t Bias>
  static NIBBLE_ALWAYS_INLINE vf with_group(const integer_call& c, std::size_t g, std::size_t r, vi sum,
                                            vf acc) noexcept {
    const panel_params& p = c.params;
    const vf scale = scales_of(p, g)[r];
    if (started(c)) return with_sum(sum, scale, acc);
    if (constant_zero(c)) return with_half_or_offset<Bias>(p, g, r, sum, vi(c.x_sums[g]), scale, acc);
    vi zero = simd::load(p.zeros + g * p.zero_stride + r * lanes);
    if constexpr (Bias != 0) zero = zero - vi(Bias << p.shift);
    if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr)
      return folded<false>(c, 0, g, r, sum, scale, zero, acc);
    return folded<true>(c, 0, g, r, sum, scale, zero, acc);
  }

  /// Codes that tiles multiply: unit U from here on, register r of it. From memory ...
  struct unpacked_codes {
    static constexpr bool blocks = false;
    template <std::size_t U>
    NIBBLE_ALWAYS_INLINE vu get(std::size_t r) const noexcept {
      return simd::load_lanes(units + U * 64 + r * lanes * 4);
    }
    NIBBLE_ALWAYS_INLINE void skip(std::size_t count) noexcept { units += count * 64; }
    NIBBLE_ALWAYS_INLINE void prefetch() const noexcept {}
    const std::uint8_t* units;
  };

  /// ... or unpacked on the way, in whole blocks of 8.
  template <int Bits>
  struct packed_codes {
    static constexpr bool blocks = true;
    template <std::size_t U>
    NIBBLE_ALWAYS_INLINE vu get(std::size_t r) const noexcept {
      return codes<Bits, U>(block, r);
    }
    NIBBLE_ALWAYS_INLINE void skip(std::size_t count) noexcept {
      block += count / 8 * pack::panel16::block_bytes(Bits);
    }
    /// What is needed sixteen blocks on: a block of two rows takes a small part of the time in which L3 answers.
    NIBBLE_ALWAYS_INLINE void prefetch() const noexcept {
      panel_tools::prefetch<Bits>(block, 16 * static_cast<std::ptrdiff_t>(pack::panel16::block_bytes(Bits)));
    }
    const std::byte* block;
  };

  /// Rows of the full register tile of integers.
  static constexpr int tallest(simd::dot_kind kind) noexcept {
#if NIBBLE_SIMD_NEON
    // Without a dot product two registers hold the int16 sums of an output, or the int16 products on their way to its sum.
    return NIBBLE_SIMD_SDOT ? mr : (kind == simd::dot_kind::pairs ? 3 : 4);
#else
    // These hold weights in two registers each.
    const bool two = kind == simd::dot_kind::wide || kind == simd::dot_kind::signs;
    return two && regs == 2 ? 4 : mr;
#endif
  }

  /// All rows, in the tallest tiles that fit. `run`: units that int16 sums hold, at least two (pairs).
  template <simd::dot_kind Kind>
  static void rows_of_tiles(const integer_call& c, const std::uint8_t* units, std::size_t run) noexcept {
    in_tiles<tallest(Kind)>(c.M, [&]<int Rows>(std::size_t m) NIBBLE_LAMBDA_INLINE {
      integer_tile<Kind, Rows>(c, m, unpacked_codes{units}, run);
    });
  }

  template <simd::dot_kind Kind, int Rows, class Codes>
  static void integer_tile(const integer_call& call, std::size_t m, Codes codes,
                           [[maybe_unused]] std::size_t run) noexcept {
    constexpr std::size_t rows = static_cast<std::size_t>(Rows);
    if constexpr (resident(Kind)) {
      resident_tile<Kind, rows>(call, m, codes);
    } else {
      const integer_call c = call;  // a copy, which no store can change
      const std::int8_t* x = c.x + m * c.x_stride;
      float* const acc = c.acc + m * nr;
      for (group_walk group(c); !group.done(); group.next()) {
        const std::size_t units = (group.stop - group.k + 3) / 4,
                          count = Codes::blocks ? round_up(units, std::size_t{8}) : units;
        if constexpr (Kind == simd::dot_kind::pairs)
          pair_sums<Kind, rows>(c, call, m, group, count, run, codes, x + group.k, acc);
        else quad_sums<Kind, rows>(c, call, m, group, count, codes, x + group.k, acc);
        codes.skip(count);
      }
    }
  }

  /// A tile whose accumulators stay in registers from group to group, beside the sums. These begin with what x_sums holds.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void resident_tile(const integer_call& call, std::size_t m, Codes codes) noexcept {
    using dot = simd::byte_dot<Kind>;
    constexpr std::size_t chains = simd::chains_of(Kind, rows);
    const integer_call c = call;  // a copy, which no store can change
    const panel_params& p = c.params;
    float* const own = c.acc + m * nr;
    std::int32_t* const state = c.state + m * nr;
    const std::int8_t* x[rows];
    vf acc[rows];
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      x[i] = c.x + (m + i) * c.x_stride + c.k0;
      acc[i] = simd::load(own + i * nr);
    }
    vi all[chains][rows][regs];
    auto& sum = all[0];
    std::size_t left = 0;  // units of the group
    group_walk group(c);
    const auto x_sum = [&](std::size_t i)
                           NIBBLE_LAMBDA_INLINE { return vi(c.x_sums[(m + i) * c.sum_stride + group.g]); };
    const auto begin = [&]() NIBBLE_LAMBDA_INLINE {
      left = (group.stop - group.k + 3) / 4;
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) sum[i][0] = x_sum(i);
      clear_rest(all);
    };
    const auto multiply = [&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
      const auto w = dot::weights(codes.template get<U>(0));
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) dot::template add_from<U * 4>(all[U % chains][i][0], w, x[i]);
    };
    const auto skip = [&](std::size_t units) NIBBLE_LAMBDA_INLINE {
      left = left > units ? left - units : 0;
      codes.skip(units);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) x[i] += units * 4;
    };
    begin();
    if (!group.begins) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows; ++i) sum[i][0] = sum[i][0] + simd::load(state + i * nr);
    }
    for (;;) {
      // Not a loop of its own: of two, one in the other, gcc keeps the rows' pointers in memory.
      if (Codes::blocks || left >= 8) {
        codes.prefetch();
        for_each_unit(multiply);
        skip(8);
      } else if (left >= 4) {  // groups of 16
        multiply.template operator()<0>();
        multiply.template operator()<1>();
        multiply.template operator()<2>();
        multiply.template operator()<3>();
        skip(4);
      } else {
        multiply.template operator()<0>();
        skip(1);
      }
      if (left > 0) continue;
      gather_rest(all);
      if (!group.ends) {
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) (sum[i][0] - x_sum(i)).store_unaligned(state + i * nr);
      } else if (started(c)) {
        const vf scale = scales_of(p, group.g)[0];
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i] = with_sum(sum[i][0], scale, acc[i]);
      } else if (constant_zero(c)) {
        const vf scale = scales_of(p, group.g)[0];
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i)
          acc[i] =
              with_half_or_offset<simd::bias_of(Kind)>(p, group.g, 0, sum[i][0] - x_sum(i), x_sum(i), scale, acc[i]);
      } else if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr) {
        const vf scale = scales_of(p, group.g)[0];
        const vi zero = simd::load(p.zeros + group.g * p.zero_stride) - vi(simd::bias_of(Kind) - 1);
        prefetch_scales(p, group.g);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i)
          acc[i] = folded<false>(c, m + i, group.g, 0, sum[i][0], scale, zero, acc[i]);
      } else [[unlikely]] {
        std::int32_t sums[rows * nr];
        keep<rows>(sums, [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return sum[i][r]; });
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i].store_unaligned(own + i * nr);
        fold_kept<simd::bias_of(Kind) - 1>(call, m, rows, group.g, sums, own);
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < rows; ++i) acc[i] = simd::load(own + i * nr);
      }
      group.next();
      if (group.done()) break;
      begin();
    }
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) acc[i].store_unaligned(own + i * nr);
  }

  /// A group of `count` units by way of int16 sums, which fill the registers: of eight units, or four or two where int16 holds
  /// no more (`run`) or no more are left. What came before lies in memory as int32 sums. Straight code, for in a loop gcc
  /// copies the sums from register to register.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void pair_sums(const integer_call& c, const integer_call& call, std::size_t m,
                                             const group_walk& group, std::size_t count, std::size_t run, Codes codes,
                                             const std::int8_t* x, float* acc) noexcept {
    std::int32_t own[rows * nr];
    std::int32_t* const sums = group.begins && group.ends ? own : c.state + m * nr;
    bool fresh = group.begins;  // nothing lies in `sums`
    const bool folds = group.ends && started(c);
    const auto part = [&]<std::size_t Units>() NIBBLE_LAMBDA_INLINE {
      using dot = simd::byte_dot<Kind>;
      typename dot::native pairs[rows][regs];
      multiply_units<dot, Units, true>(pairs, codes, x, c.x_stride);
      count -= Units;
      codes.skip(Units);
      x += Units * 4;
      const auto widened = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return dot::widened(pairs[i][r]); };
      const auto with_sums = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE {
        return dot::widened(pairs[i][r]) + simd::load(sums + i * nr + r * lanes);
      };
      if (count == 0 && folds) {
        if (fresh) fold_started<rows, true>(c, m, group.g, acc, widened);
        else fold_started<rows, true>(c, m, group.g, acc, with_sums);
      } else if (fresh) {
        keep<rows>(sums, widened);
      } else {
        keep<rows>(sums, with_sums);
      }
      fresh = false;
    };
    if (Codes::blocks || run >= 8)
      while (count >= 8) part.template operator()<8>();
    if constexpr (!Codes::blocks) {
      if (run >= 4)
        while (count >= 4) part.template operator()<4>();
      while (count >= 2) part.template operator()<2>();
      if (count > 0) part.template operator()<1>();
    }
    if (group.ends && !folds) fold_kept<0>(call, m, rows, group.g, sums, acc);
  }

  /// A group of `count` units in int32 sums.
  template <simd::dot_kind Kind, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void quad_sums(const integer_call& c, const integer_call& call, std::size_t m,
                                             const group_walk& group, std::size_t count, Codes codes,
                                             const std::int8_t* x, float* acc) noexcept {
    using dot = simd::byte_dot<Kind>;
    constexpr std::size_t chains = simd::chains_of(Kind, rows * regs);
    constexpr std::size_t step = Codes::blocks ? 8 : (chains > 2 ? chains : 2);
    vi all[chains][rows][regs];
    auto& sum = all[0];
    const bool folds = group.ends && started(c);
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      const vi first(folds ? c.x_sums[(m + i) * c.sum_stride + group.g] : 0);
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) sum[i][r] = first;
    }
    if (!group.begins) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i)
        sum[i / regs][i % regs] = sum[i / regs][i % regs] + simd::load(c.state + m * nr + i * lanes);
    }
    clear_rest(all);
    for (; count >= step; count -= step, codes.skip(step), x += step * 4) {
      [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE {
        (multiply_one<dot, false, U>(all[U % chains], codes, x + U * 4, c.x_stride), ...);
      }
      (std::make_index_sequence<step>{});
    }
    if constexpr (!Codes::blocks)
      for (; count > 0; --count, codes.skip(1), x += 4) multiply_one<dot, false, 0>(sum, codes, x, c.x_stride);
    gather_rest(all);
    const auto value = [&](std::size_t i, std::size_t r) NIBBLE_LAMBDA_INLINE { return sum[i][r]; };
    if (folds) return fold_started<rows, false>(c, m, group.g, acc, value);
    std::int32_t own[rows * nr];
    std::int32_t* const sums = group.ends ? own : c.state + m * nr;
    keep<rows>(sums, value);
    if (group.ends) fold_kept<simd::bias_of(Kind)>(call, m, rows, group.g, sums, acc);
  }

  /// sums[i][column] = value(i, r).
  template <std::size_t rows, class Value>
  static NIBBLE_ALWAYS_INLINE void keep(std::int32_t* sums, const Value& value) noexcept {
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) value(i, r).store_unaligned(sums + i * nr + r * lanes);
    }
  }

  /// Folds a group whose sums value(i, r) lack but (bias - z) X, which stands in x_sums. Lacks: whether they do.
  template <std::size_t rows, bool Lacks, class Value>
  static NIBBLE_ALWAYS_INLINE void fold_started(const integer_call& c, std::size_t m, std::size_t g, float* acc,
                                                const Value& value) noexcept {
    std::array<vf, regs> scale;
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r)
      scale[r] = simd::load(c.params.scales + g * c.params.scale_stride + r * lanes);
    const std::int32_t* rest = c.x_sums + m * c.sum_stride + g;
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i, rest += c.sum_stride) {
      const vi start(Lacks ? *rest : 0);
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        float* const at = acc + i * nr + r * lanes;
        vi exact = value(i, r);
        if constexpr (Lacks) exact = exact + start;
        with_sum(exact, scale[r], simd::load(at)).store_unaligned(at);
      }
      simd::in_order();
    }
  }

  /// Folds kept sums of `rows` rows from m on, whatever the parameters are. sums, acc: those of row m.
  template <std::int32_t Bias>
  [[gnu::noinline]] static void fold_kept(const integer_call& call, std::size_t m, std::size_t rows, std::size_t g,
                                          const std::int32_t* sums, float* acc) noexcept {
    const integer_call c = call;  // a copy, which no store can change
    const panel_params& p = c.params;
    const std::array<vf, regs> scale = scales_of(p, g);
    const auto each = [&](const auto& fold) NIBBLE_LAMBDA_INLINE {
      for (std::size_t i = 0; i < rows; ++i, sums += nr, acc += nr) {
        NIBBLE_UNROLL
        for (std::size_t r = 0; r < regs; ++r)
          fold(m + i, r, simd::load(sums + r * lanes), simd::load(acc + r * lanes)).store_unaligned(acc + r * lanes);
      }
    };
    if (started(c)) {
      each([&](std::size_t row, std::size_t r, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return with_sum(sum + vi(c.x_sums[row * c.sum_stride + g]), scale[r], from); });
      return;
    }
    if (constant_zero(c)) {
      each([&](std::size_t row, std::size_t r, vi sum, vf from) NIBBLE_LAMBDA_INLINE {
        return with_half_or_offset<Bias>(p, g, r, sum, vi(c.x_sums[row * c.sum_stride + g]), scale[r], from);
      });
      return;
    }
    std::array<vi, regs> zero;
    for (std::size_t r = 0; r < regs; ++r)
      zero[r] = simd::load(p.zeros + g * p.zero_stride + r * lanes) - vi(Bias << p.shift);
    const auto with = [&]<bool General>() NIBBLE_LAMBDA_INLINE {
      each([&](std::size_t row, std::size_t r, vi sum, vf from)
               NIBBLE_LAMBDA_INLINE { return folded<General>(c, row, g, r, sum, scale[r], zero[r], from); });
    };
    if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr) with.template operator()<false>();
    else with.template operator()<true>();
  }

  /// All chains but the first begin at 0 ...
  template <std::size_t chains, std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void clear_rest(vi (&sum)[chains][rows][regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t c = 1; c < chains; ++c) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i) sum[c][i / regs][i % regs] = vi(0);
    }
  }

  /// ... and end in the first.
  template <std::size_t chains, std::size_t rows>
  static NIBBLE_ALWAYS_INLINE void gather_rest(vi (&sum)[chains][rows][regs]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t c = 1; c < chains; ++c) {
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < rows * regs; ++i)
        sum[0][i / regs][i % regs] = sum[0][i / regs][i % regs] + sum[c][i / regs][i % regs];
    }
  }

  /// Units of weights against `rows` rows of x. First: the sums begin with them.
  template <class Dot, std::size_t Units, bool First, class Sum, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void multiply_units(Sum (&sum)[rows][regs], const Codes& codes, const std::int8_t* x,
                                                  std::size_t x_stride) noexcept {
    [&]<std::size_t... U>(std::index_sequence<U...>) NIBBLE_LAMBDA_INLINE {
      (multiply_one<Dot, (First && U == 0), U>(sum, codes, x + U * 4, x_stride), ...);
    }
    (std::make_index_sequence<Units>{});
  }

  /// Unit U of them, with x its four activations of the first row.
  template <class Dot, bool First, std::size_t U, class Sum, std::size_t rows, class Codes>
  static NIBBLE_ALWAYS_INLINE void multiply_one(Sum (&sum)[rows][regs], const Codes& codes, const std::int8_t* x,
                                                std::size_t x_stride) noexcept {
    typename Dot::operand w[regs];
    NIBBLE_UNROLL
    for (std::size_t r = 0; r < regs; ++r) w[r] = Dot::weights(codes.template get<U>(r));
    NIBBLE_UNROLL
    for (std::size_t i = 0; i < rows; ++i) {
      const auto v = Dot::activations(four_of(x + i * x_stride));
      NIBBLE_UNROLL
      for (std::size_t r = 0; r < regs; ++r) {
        if constexpr (First) sum[i][r] = Dot::product(w[r], v);
        else Dot::add(sum[i][r], w[r], v);
      }
    }
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
