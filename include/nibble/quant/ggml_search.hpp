// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How the block formats of GGUF files find their scales. Every product is rounded before it is added and every sum is
/// taken in element order, so that the bytes are those of the original built without contraction, whatever the flags.

#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {
namespace detail {

/// x, a value that no contraction can reach into (a quotient, or a rounded_product), rounded half to even and clamped; NaN,
/// which only sums below the normal range give, becomes lo.
inline int nearest(float x, int lo, int hi) noexcept {
  const float r = round_half_even_f(x);
  if (!(r > static_cast<float>(lo))) return lo;
  return r < static_cast<float>(hi) ? static_cast<int>(r) : hi;
}

/// The first element of greatest magnitude, with its sign.
inline float first_extreme(const float* x, std::size_t n) noexcept {
  float v = 0.0f, greatest = 0.0f;
  for (std::size_t i = 0; i < n; ++i) {
    const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
    if (magnitude > greatest) {
      greatest = magnitude;
      v = x[i];
    }
  }
  return v;
}
/// Sub-blocks without a greater magnitude are zero to the searches.
inline constexpr float least_magnitude = 1e-15f;
inline bool is_tiny(float v) noexcept { return v < least_magnitude && v > -least_magnitude; }

/// 1 / d, or 0 where that is no finite number: then d is 0 as a half, too, and all codes are those of 0.
inline float inverse(float d) noexcept {
  if (d == 0.0f) return 0.0f;
  const float id = 1.0f / d;
  return is_finite(id) ? id : 0.0f;
}

struct affine_scale {
  float scale = 0.0f;
  float min = 0.0f;  ///< what is subtracted: 0 or more
};
/// The steps of search_affine.
struct affine_steps {
  float first, step;
  int count;
};

/// x ~ scale * code - min with codes 0 .. Max and least sum of w times the squared or absolute error, over trial steps
/// each of which is followed by a least squares fit. Used by Q2_K, Q4_K and Q5_K.
template <std::size_t N, int Max, bool Squared>
inline affine_scale search_affine(const float* x, const float* w, affine_steps steps, std::uint8_t* codes) noexcept {
  float lo = x[0], hi = x[0], sum_w = w[0], sum_x = rounded_product(w[0], x[0]);
  for (std::size_t i = 1; i < N; ++i) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
    sum_w += w[i];
    sum_x += rounded_product(w[i], x[i]);
  }
  if (lo > 0.0f) lo = 0.0f;
  if (hi == lo) {
    for (std::size_t i = 0; i < N; ++i) codes[i] = 0;
    return {0.0f, -lo};
  }
  const auto encode = [x](float iscale, float min, std::uint8_t* out) {
    for (std::size_t i = 0; i < N; ++i)
      out[i] = static_cast<std::uint8_t>(nearest(rounded_product(iscale, x[i] - min), 0, Max));
  };
  const auto error_of = [x, w](float scale, float min, const std::uint8_t* c) {
    float sum = 0.0f;
    for (std::size_t i = 0; i < N; ++i) {
      const float e = rounded_product(scale, static_cast<float>(c[i])) + min - x[i];
      sum += rounded_product(w[i], Squared ? rounded_product(e, e) : e < 0.0f ? -e : e);
    }
    return sum;
  };
  const float whole = static_cast<float>(Max) / (hi - lo);
  float scale = 1.0f / whole;
  encode(whole, lo, codes);
  float best = error_of(scale, lo, codes);
  for (int trial = 0; trial <= steps.count; ++trial) {
    const float levels = steps.first + rounded_product(steps.step, static_cast<float>(trial)) + static_cast<float>(Max);
    std::uint8_t c[N];
    encode(levels / (hi - lo), lo, c);
    float sum_l = 0.0f, sum_l2 = 0.0f, sum_xl = 0.0f;
    for (std::size_t i = 0; i < N; ++i) {
      const float l = static_cast<float>(c[i]), wl = rounded_product(w[i], l);
      sum_l += wl;
      sum_l2 += rounded_product(wl, l);
      sum_xl += rounded_product(wl, x[i]);
    }
    const float d = rounded_product(sum_w, sum_l2) - rounded_product(sum_l, sum_l);
    if (!(d > 0.0f)) continue;
    float s = (rounded_product(sum_w, sum_xl) - rounded_product(sum_x, sum_l)) / d;
    float m = (rounded_product(sum_l2, sum_x) - rounded_product(sum_l, sum_xl)) / d;
    if (m > 0.0f) {
      m = 0.0f;
      s = sum_xl / sum_l2;
    }
    if (const float error = error_of(s, m, c); error < best) {
      for (std::size_t i = 0; i < N; ++i) codes[i] = c[i];
      best = error;
      scale = s;
      lo = m;
    }
  }
  return {scale, -lo};
}

/// Sums over codes l with weights w = x^2: of w x l, and of w l^2. Their quotient is the scale of least error.
struct code_sums {
  float xl = 0.0f, l2 = 0.0f;
  void add(float x, int code) noexcept {
    const float w = rounded_product(x, x), l = static_cast<float>(code);
    xl += rounded_product(rounded_product(w, x), l);
    l2 += rounded_product(rounded_product(w, l), l);
  }
};

/// x ~ scale * code with codes -Max .. Max - 1: start from the extreme at -Max, then change one code at a time while the
/// error falls, five passes at most. Stores codes with Max added, 0 where all values are tiny, and returns the scale. Used by
/// Q3_K.
template <std::size_t N, int Max>
inline float search_by_codes(const float* x, std::uint8_t* stored) noexcept {
  const float extreme = first_extreme(x, N);
  for (std::size_t i = 0; i < N; ++i) stored[i] = 0;
  if (is_tiny(extreme)) return 0.0f;
  const float iscale = static_cast<float>(-Max) / extreme;
  int codes[N];
  code_sums sums;
  for (std::size_t i = 0; i < N; ++i) {
    codes[i] = nearest(rounded_product(iscale, x[i]), -Max, Max - 1);
    sums.add(x[i], codes[i]);
  }
  for (int pass = 0, changes = 1; pass < 5 && changes != 0; ++pass) {
    changes = 0;
    for (std::size_t i = 0; i < N; ++i) {
      const float w = rounded_product(x[i], x[i]), wx = rounded_product(w, x[i]), l = static_cast<float>(codes[i]);
      float xl = sums.xl - rounded_product(wx, l);
      if (!(xl > 0.0f)) continue;
      float l2 = sums.l2 - rounded_product(rounded_product(w, l), l);
      const int other = nearest(rounded_product(x[i], l2) / xl, -Max, Max - 1);
      if (other == codes[i]) continue;
      const float o = static_cast<float>(other);
      xl += rounded_product(wx, o);
      l2 += rounded_product(rounded_product(w, o), o);
      if (l2 > 0.0f &&
          rounded_product(rounded_product(xl, xl), sums.l2) > rounded_product(rounded_product(sums.xl, sums.xl), l2)) {
        codes[i] = other;
        sums = {xl, l2};
        ++changes;
      }
    }
  }
  for (std::size_t i = 0; i < N; ++i) stored[i] = static_cast<std::uint8_t>(codes[i] + Max);
  return sums.l2 > 0.0f ? sums.xl / sums.l2 : 0.0f;
}

/// x ~ scale * code with codes -Max .. Max - 1: the best of 19 places of the extreme around -Max, 0.1 apart. Stores
/// codes and returns the scale as search_by_codes. Used by Q6_K.
template <std::size_t N, int Max>
inline float search_by_steps(const float* x, std::uint8_t* stored) noexcept {
  const float extreme = first_extreme(x, N);
  for (std::size_t i = 0; i < N; ++i) stored[i] = 0;
  if (is_tiny(extreme)) return 0.0f;
  float scale = 0.0f, best = 0.0f;
  for (int trial = 0; trial < 19; ++trial) {
    const int step = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;  // 0, -9 .. -1, 1 .. 9
    const float iscale = -(static_cast<float>(Max) + rounded_product(0.1f, static_cast<float>(step))) / extreme;
    std::uint8_t c[N];
    code_sums sums;
    for (std::size_t i = 0; i < N; ++i) {
      const int code = nearest(rounded_product(iscale, x[i]), -Max, Max - 1);
      c[i] = static_cast<std::uint8_t>(code + Max);
      sums.add(x[i], code);
    }
    const bool better = sums.l2 > 0.0f && rounded_product(sums.xl, sums.xl) > rounded_product(best, sums.l2);
    if (trial != 0 && !better) continue;
    for (std::size_t i = 0; i < N; ++i) stored[i] = c[i];
    scale = sums.l2 > 0.0f ? sums.xl / sums.l2 : 0.0f;
    best = rounded_product(scale, sums.xl);
  }
  return scale;
}

}  // namespace detail
}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
