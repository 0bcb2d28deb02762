// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The integer products of one row: codes are unpacked in registers, panels side by side.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/kernels/simd/integer_folds.hpp>
#include <nibble/kernels/simd/lookup.hpp>
#include <nibble/kernels/simd/vec.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

/// A template so that only the units that call it compile it.
template <class Isa>
struct integer_one_row : integer_folds {
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
  static void integer_row(const integer_call* calls, const std::byte* const* blocks) noexcept {
    constexpr simd::dot_kind kind = simd::dot_of(Bits);
    [[maybe_unused]] const auto same = [](vu four) NIBBLE_LAMBDA_INLINE { return four; };
    if (calls[0].group != 8 && calls[0].group != 16) {
      // int16 sums of two blocks and more are worth a register each for the only panel.
      if constexpr (kind == simd::dot_kind::pairs && integer_row_panels(Bits) == 1 && simd::pair_run(Bits) >= 16)
        return pair_row<Bits, kind>(*calls, *blocks);
      else if constexpr (sums_in_registers) return register_row<Bits, kind, true>(calls, blocks, same);
      else return code_row<Bits, kind>(calls, blocks, same);
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
    const auto image_of = [lookup](vu four) NIBBLE_LAMBDA_INLINE { return lookup(four); };
    if constexpr (sums_in_registers) register_row<Bits, kind, false>(calls, blocks, image_of);
    else code_row<Bits, kind>(calls, blocks, image_of);
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
                with_half_or_offset<simd::bias_of(Kind)>(c, calls[p].params, 0, g, r, sum[r], scale[r],
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

  /// Whether registers hold what code_row leaves in memory between its panels' turns.
  static constexpr bool sums_in_registers = regs == 1 && NIBBLE_SIMD_VNNI;

  /// code_row with the accumulators and four sums, of one unit in four, of each panel in registers. vpdpbusd adds up in 32 bits
  /// whatever a byte is, so codes are multiplied times a power of two (Scaled) where that saves the instruction that moves their
  /// field down; such a sum is shifted when its group ends. (255 * 127 * exact_k fits int32.)
  template <int Bits, simd::dot_kind Kind, bool Scaled, class ImageOf>
  static NIBBLE_ALWAYS_INLINE void register_row(const integer_call* calls, const std::byte* const* blocks,
                                                const ImageOf& image_of) noexcept {
    constexpr std::size_t panels = integer_row_panels(Bits), chains = 4;
    using dot = simd::byte_dot<Kind>;
    const auto scale_of = []<std::size_t U>() { return Scaled ? resting_scale<Bits, U>() : 0; };
    const integer_call c = calls[0];  // a copy, which no store can change
    const bool simple = started(c) && c.fold;
    const std::size_t end = c.k1 < c.K ? c.k1 : c.K;
    std::size_t g = c.k0 / c.group;
    const bool continues = c.k0 != g * c.group;
    std::size_t left = (c.group - (c.k0 - g * c.group) + 31) / 32;  // blocks of the group
    const std::byte* at[panels];
    vf acc[panels];
    vi sum[panels][chains];
    const auto begin = [&]() NIBBLE_LAMBDA_INLINE {
      const vi start(simple ? c.x_sums[g] : 0);
      NIBBLE_UNROLL
      for (std::size_t i = 0; i < panels * chains; ++i) sum[i / chains][i % chains] = i % chains == 0 ? start : vi(0);
    };
    const auto total = [&](std::size_t p) NIBBLE_LAMBDA_INLINE {
      vi all = sum[p][0];
      const auto add = [&]<std::size_t I>() NIBBLE_LAMBDA_INLINE {
        constexpr int scale = scale_of.template operator()<I>();
        if constexpr (scale > 0) all = all + (sum[p][I] >> scale);
        else all = all + sum[p][I];
      };
      add.template operator()<1>();
      add.template operator()<2>();
      add.template operator()<3>();
      return all;
    };
    static_assert(resting_scale<Bits, 0>() == 0 && resting_scale<Bits, 5>() == resting_scale<Bits, 1>());
    begin();
    NIBBLE_UNROLL
    for (std::size_t p = 0; p < panels; ++p) {
      at[p] = blocks[p];
      acc[p] = simd::load(calls[p].acc);
      if (continues) sum[p][0] = sum[p][0] + simd::load(calls[p].state);
    }
    for (std::size_t k = c.k0; k < end; k += 32) {
      const std::ptrdiff_t ahead = prefetch_distance<Bits>(blocks, panels, end - k);
      NIBBLE_UNROLL
      for (std::size_t p = 0; p < panels; ++p) prefetch<Bits>(at[p], ahead);
      for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
        const auto v = dot::activations(four_of(c.x + k + 4 * U));
        NIBBLE_UNROLL
        for (std::size_t p = 0; p < panels; ++p)
          dot::add(sum[p][U % chains],
                   dot::weights(image_of(codes<Bits, U, scale_of.template operator()<U>()>(at[p], 0))), v);
      });
      NIBBLE_UNROLL
      for (std::size_t p = 0; p < panels; ++p) at[p] += pack::panel16::block_bytes(Bits);
      const bool last = k + 32 >= end;
      if (--left != 0 && !last) continue;
      if (!c.fold || (left != 0 && end != c.K)) break;  // the last block of a group that goes on
      NIBBLE_UNROLL
      for (std::size_t p = 0; p < panels; ++p) {
        if (simple) acc[p] = with_sum(total(p), scales_of(calls[p].params, g)[0], acc[p]);
        else acc[p] = with_group<simd::bias_of(Kind)>(calls[p], g, 0, total(p), acc[p]);
        prefetch_scales(calls[p].params, g);
      }
      left = c.group / 32;
      if (!last) ++g, begin();
      else return store_rows(calls, acc);
    }
    store_rows(calls, acc);
    NIBBLE_UNROLL
    for (std::size_t p = 0; p < panels; ++p) (total(p) - vi(simple ? c.x_sums[g] : 0)).store_unaligned(calls[p].state);
  }

  template <std::size_t panels>
  static NIBBLE_ALWAYS_INLINE void store_rows(const integer_call* calls, const vf (&acc)[panels]) noexcept {
    NIBBLE_UNROLL
    for (std::size_t p = 0; p < panels; ++p) acc[p].store_unaligned(calls[p].acc);
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
        if (started(c)) {
          const vi rest(c.x_sums[group.g]);
          const std::array<vf, regs> scale = scales_of(c.params, group.g);
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r) acc[r] = with_sum(sum[r] + rest, scale[r], acc[r]);
        } else {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r)
            acc[r] = with_group<simd::bias_of(Kind)>(c, group.g, r, sum[r], acc[r]);
        }
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
    const bool simple = started(c);
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
      std::int32_t kept[8 / Units][panels][nr];
      [[maybe_unused]] typename dot::native pairs[panels][regs];
      for_each_unit([&]<std::size_t U>() NIBBLE_LAMBDA_INLINE {
        if (k + 4 * (U - U % Units) >= end) return;  // behind the last group
        const std::size_t g = (k + 4 * U) / (4 * Units);
        const auto v = dot::activations(four_of(c.x + k + 4 * U));
        NIBBLE_UNROLL
        for (std::size_t i = 0; i < panels * regs; ++i) {
          const std::size_t p = i / regs, r = i % regs;
          if constexpr (U % Units == 0) sum[p][r] = vi(simple ? c.x_sums[g] : 0);
          const auto w = dot::weights(codes<Bits, U>(at[p], r));
          if constexpr (Kind == simd::dot_kind::pairs) {
            if constexpr (U % run == 0) pairs[p][r] = dot::product(w, v);
            else dot::add(pairs[p][r], w, v);
            if constexpr (U % run == run - 1) dot::widen(sum[p][r], pairs[p][r]);
          } else {
            dot::add(sum[p][r], w, v);
          }
          if constexpr (U % Units == Units - 1) {
            if (simple) acc[p][r] = with_sum(sum[p][r], scales_of(calls[p].params, g)[r], acc[p][r]);
            else sum[p][r].store_unaligned(kept[U / Units][p] + r * lanes);
          }
        }
      });
      // Not among the products: unrolled there, these steps were a quarter of a kernel's code.
      for (std::size_t i = 0; !simple && i < 8 / Units && k + 4 * Units * i < end; ++i) {
        NIBBLE_UNROLL
        for (std::size_t p = 0; p < panels; ++p) {
          NIBBLE_UNROLL
          for (std::size_t r = 0; r < regs; ++r)
            acc[p][r] = with_group<simd::bias_of(Kind)>(calls[p], k / (4 * Units) + i, r,
                                                        simd::load(kept[i][p] + r * lanes), acc[p][r]);
        }
      }
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

  /// acc with a finished group that is not `started`, for the only row and register r.
  template <std::int32_t Bias>
  static NIBBLE_ALWAYS_INLINE vf with_group(const integer_call& c, std::size_t g, std::size_t r, vi sum,
                                            vf acc) noexcept {
    const panel_params& p = c.params;
    const vf scale = scales_of(p, g)[r];
    if (constant_zero(c)) return with_half_or_offset<Bias>(c, p, 0, g, r, sum, scale, acc);
    vi zero = simd::load(p.zeros + g * p.zero_stride + r * lanes);
    if constexpr (Bias != 0) zero = zero - vi(Bias << p.shift);
    if (p.shift == 0 && p.offsets == nullptr && c.group_scales == nullptr)
      return folded<false>(c, 0, g, r, sum, scale, zero, acc);
    return folded<true>(c, 0, g, r, sum, scale, zero, acc);
  }
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
