// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// quant::ggml::detail::search_by_codes of many sub-blocks, one a lane. Most find nothing to change after the first codes (four of
/// five of Gaussian values), so the search has two parts: `begin` tells which are done for certain, without a division and without
/// one element waiting for another; the others alone take the steps of the scalar function, and after each pass those that go on
/// move together.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <nibble/kernels/simd/ggml_lanes.hpp>
#include <nibble/kernels/simd/params_lanes.hpp>
#include <nibble/kernels/simd/vec.hpp>
#include <nibble/quant/ggml_search.hpp>

#if NIBBLE_SIMD_KERNELS
namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels::simd {

#if NIBBLE_SIMD_WIDTH == 256 && !NIBBLE_SIMD_NEON
/// For each set of lanes their numbers, one after the other.
inline constexpr std::array<std::uint64_t, 256> set_lanes = [] {
  std::array<std::uint64_t, 256> of{};
  for (unsigned set = 0; set < 256; ++set)
    for (std::uint64_t lane = 0, at = 0; lane < 8; ++lane)
      if ((set >> lane & 1u) != 0) of[set] |= lane << 8 * at++;
  return of;
}();
#endif

/// The lanes of v whose bit is set, side by side from lane 0 on. What the others hold does not count.
class lane_packer {
 public:
#if NIBBLE_SIMD_NEON || NIBBLE_SIMD_WIDTH == 128
  NIBBLE_ALWAYS_INLINE explicit lane_packer(std::uint32_t set) noexcept {
    for (std::uint32_t lane = 0, at = 0; lane < lanes; ++lane) {
      from_[at] = lane;
      at += set >> lane & 1u;
    }
  }
  NIBBLE_ALWAYS_INLINE vf operator()(vf v) const noexcept {
    alignas(64) float each[lanes], to[lanes];
    v.store_aligned(each);
    for (std::size_t i = 0; i < lanes; ++i) to[i] = each[from_[i]];
    return vf::load_aligned(to);
  }

 private:
  std::uint32_t from_[lanes] = {};
#elif NIBBLE_SIMD_WIDTH == 256
  NIBBLE_ALWAYS_INLINE explicit lane_packer(std::uint32_t set) noexcept
      : from_(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(set_lanes[set])))) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vf v) const noexcept {
    return vf(_mm256_permutevar8x32_ps(static_cast<__m256>(v), from_));
  }

 private:
  __m256i from_;
#else
  NIBBLE_ALWAYS_INLINE explicit lane_packer(std::uint32_t set) noexcept : set_(static_cast<__mmask16>(set)) {}
  NIBBLE_ALWAYS_INLINE vf operator()(vf v) const noexcept {
    return vf(_mm512_mask_compress_ps(static_cast<__m512>(v), set_, static_cast<__m512>(v)));
  }

 private:
  __mmask16 set_;
#endif
};

/// The search of up to Count sub-blocks of N values, which have numbers: codes -Max .. Max - 1.
template <std::size_t N, int Max, std::size_t Count>
class code_search {
 public:
  /// Takes the sub-blocks of x, whose numbers begin with `first`. `values` has all sub-blocks one after the other, `scales` room
  /// for the scale of each; those of sub-blocks that must wait are there after finish.
  template <std::size_t R>
  void begin(const sub_blocks<N, R>& x, std::size_t first, const float* values, float* scales) noexcept {
    for (std::size_t r = 0; r < R; ++r) {
      begin_register(x, r, first + r * lanes, scales);
      if (waiting_ > capacity - lanes) search(values, scales, nullptr);
    }
  }
  void finish(const float* values, float* scales) noexcept { search(values, scales, nullptr); }

  /// The codes that were found, Max added, of the values x of sub-blocks from a number on that did not wait.
  NIBBLE_ALWAYS_INLINE vf first_code(std::size_t number, vf x) const noexcept {
    const vf step = vf::load_aligned(step_ + number);
    const vf code = first_code(step, x) + vf(static_cast<float>(Max));
    return simd::select(step == vf(0.0f), vf(0.0f), code);
  }
  /// Those of sub-blocks that did wait, where the scale is 0 now, among the first n: whole registers of them.
  void find_codes(const float* values, const float* scales, std::size_t n, std::uint8_t* codes) noexcept {
    float found[Count];
    for (std::size_t number = 0; number < n; number += lanes) {
      const vf zero = simd::select(vf::load_aligned(scales + number) == vf(0.0f), vf(-1.0f), vf(0.0f));
      wait(number, sign_bits(bits_of(zero)) & searched_[number / lanes]);
      if (waiting_ > capacity - lanes) search(values, found, codes);
    }
    search(values, found, codes);
  }

 private:
  static constexpr std::size_t capacity = 192;           // that wait: twice what Gaussian values leave of 512
  static constexpr std::size_t room = capacity + lanes;  // whole registers are written from any lane on

  static NIBBLE_ALWAYS_INLINE vf first_code(vf step, vf x) noexcept {
    // The extreme has the product -Max, and no other is less.
    const vf shift(rounding_shift), most(static_cast<float>(Max - 1));
    return simd::min((rounded_products(step, x) + shift) - shift, most);
  }
  static NIBBLE_ALWAYS_INLINE vf scale_of(vf xl, vf l2) noexcept {
    return simd::select(l2 > vf(0.0f), xl / l2, vf(0.0f));
  }

  template <std::size_t R>
  NIBBLE_ALWAYS_INLINE void begin_register(const sub_blocks<N, R>& x, std::size_t r, std::size_t number,
                                           float* scales) noexcept {
    const vf none(0.0f), extreme = first_extreme(x, r), step = vf(static_cast<float>(-Max)) / extreme;
    vf of_xl[N], of_l2[N], code[N], sum_xl = none, sum_l2 = none;
    for (std::size_t i = 0; i < N; ++i) {
      const vf xi = x.get(i, r), w = rounded_products(xi, xi);
      code[i] = first_code(step, xi);
      of_xl[i] = rounded_products(rounded_products(w, xi), code[i]);
      of_l2[i] = rounded_products(rounded_products(w, code[i]), code[i]);
      sum_xl = sum_xl + of_xl[i];
      sum_l2 = sum_l2 + of_l2[i];
    }
    // A pass keeps a code where xl, the sum without the element, is not above 0, or x l2 / xl within 1/2 of the code. Where all are
    // kept by a margin of xl / 1000 and of 2^-100, which no rounding of these lines comes near, the first pass ends the search.
    vf least(1.0f);
    for (std::size_t i = 0; i < N; ++i) {
      const vf below = of_xl[i] - sum_xl, l2 = sum_l2 - of_l2[i];  // below: -xl
      const vf t = simd::min(simd::max(x.get(i, r) * l2, below * vf(static_cast<float>(Max))),
                             below * vf(static_cast<float>(1 - Max)));
      const vf margin = below * vf(-0.499f) - magnitude(t + code[i] * below);
      least = simd::min(simd::max(margin, below), least);
    }
    const auto tiny = is_tiny(extreme);
    const auto done = tiny | (least > vf(0x1p-100f));
    simd::select(tiny, none, step).store_aligned(step_ + number);
    simd::select(tiny, none, scale_of(sum_xl, sum_l2)).store_aligned(scales + number);
    const std::uint32_t rest = sign_bits(bits_of(simd::select(done, none, vf(-1.0f))));
    searched_[number / lanes] = static_cast<std::uint16_t>(rest);
    wait(number, rest);
  }
  /// Those of a register from `number` on that are in the set wait.
  NIBBLE_ALWAYS_INLINE void wait(std::size_t number, std::uint32_t set) noexcept {
    std::int32_t numbers[lanes];
    for (std::size_t lane = 0; lane < lanes; ++lane) numbers[lane] = static_cast<std::int32_t>(number + lane);
    bits_of(lane_packer(set)(float_of_bits(load(numbers)))).store_unaligned(waits_ + waiting_);
    waiting_ += static_cast<std::size_t>(std::popcount(set));
  }

  /// The passes over the sub-blocks that wait, with the scalar function's sums; then none waits. Codes are stored where they are
  /// asked for.
  void search(const float* values, float* scales, std::uint8_t* codes) noexcept {
    const vf none(0.0f);
    std::size_t n = waiting_;
    waiting_ = 0;
    for (std::size_t j = n; j % lanes != 0; ++j) waits_[j] = waits_[n - 1];
    for (std::size_t k = 0; k < n; k += lanes) {
      alignas(64) float steps[lanes];
      vi rows[lanes];
      for (std::size_t j = 0; j < lanes; ++j) steps[j] = step_[waits_[k + j]];
      const vf step = vf::load_aligned(steps);
      vf sum_xl = none, sum_l2 = none;
      for (std::size_t first = 0; first < N; first += lanes) {
        NIBBLE_UNROLL
        for (std::size_t j = 0; j < lanes; ++j) {
          const float* const row = values + static_cast<std::size_t>(waits_[k + j]) * N;
          rows[j] = load(reinterpret_cast<const std::int32_t*>(row + first));
        }
        transpose(rows);
        for (std::size_t j = 0; j < lanes; ++j) {
          const vf xi = float_of_bits(rows[j]), w = rounded_products(xi, xi), l = first_code(step, xi);
          xi.store_unaligned(x_[first + j] + k);
          l.store_unaligned(code_[first + j] + k);
          sum_xl = sum_xl + rounded_products(rounded_products(w, xi), l);
          sum_l2 = sum_l2 + rounded_products(rounded_products(w, l), l);
        }
      }
      sum_xl.store_unaligned(sum_xl_ + k);
      sum_l2.store_unaligned(sum_l2_ + k);
    }
    for (int pass = 0; pass < 5 && n != 0; ++pass) {
      for (std::size_t k = 0; k < n; k += lanes) none.store_unaligned(changed_ + k);
      for (std::size_t i = 0; i < N; ++i)
        for (std::size_t k = 0; k < n; k += lanes) change(i, k);
      n = pack(n, scales, codes, pass == 4);
    }
  }

  /// One element of the sub-blocks from lane k on.
  NIBBLE_ALWAYS_INLINE void change(std::size_t i, std::size_t k) noexcept {
    const vf none(0.0f), least(static_cast<float>(-Max)), most(static_cast<float>(Max - 1));
    const vf xi = vf::load_unaligned(x_[i] + k), l = vf::load_unaligned(code_[i] + k);
    const vf sum_xl = vf::load_unaligned(sum_xl_ + k), sum_l2 = vf::load_unaligned(sum_l2_ + k);
    const vf w = rounded_products(xi, xi), wx = rounded_products(w, xi);
    const vf xl = sum_xl - rounded_products(wx, l), l2 = sum_l2 - rounded_products(rounded_products(w, l), l);
    const vf other = nearest(rounded_products(xi, l2) / xl, least, most);
    const vf new_xl = xl + rounded_products(wx, other);
    const vf new_l2 = l2 + rounded_products(rounded_products(w, other), other);
    const auto better = (xl > none) & ((other < l) | (other > l)) & (new_l2 > none) &
                        (rounded_products(rounded_products(new_xl, new_xl), sum_l2) >
                         rounded_products(rounded_products(sum_xl, sum_xl), new_l2));
    simd::select(better, other, l).store_unaligned(code_[i] + k);
    simd::select(better, new_xl, sum_xl).store_unaligned(sum_xl_ + k);
    simd::select(better, new_l2, sum_l2).store_unaligned(sum_l2_ + k);
    simd::select(better, vf(-1.0f), vf::load_unaligned(changed_ + k)).store_unaligned(changed_ + k);
  }

  /// Puts the sub-blocks that a pass changed side by side, and the results of the others, or of all after the last pass, where
  /// they belong. Returns how many go on.
  std::size_t pack(std::size_t n, float* scales, std::uint8_t* codes, bool last) noexcept {
    std::size_t to = 0;
    for (std::size_t k = 0; k < n; k += lanes) {
      const std::size_t here = n - k < lanes ? n - k : lanes;
      const std::uint32_t all = (std::uint32_t{1} << here) - 1;
      const std::uint32_t on = last ? 0 : sign_bits(bits_of(vf::load_unaligned(changed_ + k))) & all;
      const vf xl = vf::load_unaligned(sum_xl_ + k), l2 = vf::load_unaligned(sum_l2_ + k);
      alignas(64) float found[lanes];
      scale_of(xl, l2).store_aligned(found);
      for (std::size_t j = 0; j < here; ++j) scales[waits_[k + j]] = found[j];
      if (codes != nullptr)
        for (std::size_t j = 0; j < here; ++j)
          for (std::size_t i = 0; i < N; ++i)
            codes[static_cast<std::size_t>(waits_[k + j]) * N + i] =
                static_cast<std::uint8_t>(static_cast<int>(code_[i][k + j]) + Max);
      if (on == 0) continue;
      const lane_packer packed(on);
      for (std::size_t i = 0; i < N; ++i) {
        packed(vf::load_unaligned(x_[i] + k)).store_unaligned(x_[i] + to);
        packed(vf::load_unaligned(code_[i] + k)).store_unaligned(code_[i] + to);
      }
      packed(xl).store_unaligned(sum_xl_ + to);
      packed(l2).store_unaligned(sum_l2_ + to);
      bits_of(packed(float_of_bits(load(waits_ + k)))).store_unaligned(waits_ + to);
      to += static_cast<std::size_t>(std::popcount(on));
    }
    return to;
  }

  alignas(64) float x_[N][room], code_[N][room];  ///< of those that wait, value after value
  float sum_xl_[room], sum_l2_[room], changed_[room];
  std::int32_t waits_[room];  ///< their numbers
  std::size_t waiting_ = 0;
  alignas(64) float step_[Count];          ///< of all: what gives the first codes; 0 where all values are tiny
  std::uint16_t searched_[Count / lanes];  ///< a bit for each: whether it waited
};

}  // namespace kernels::simd
}  // namespace NIBBLE_ABI
}  // namespace nibble
#endif
