// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values on their way to the panel kernels, in plain C++.

#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/kernels/attention.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <>
struct rotate_pairs<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
    for (std::size_t i = 0; i < half; ++i) pair(head[i], head[i + half], cosines[i], sines[i]);
  }
  static void pair(float& low, float& high, float cosine, float sine) noexcept {
    const float a = low, b = high;
    low = multiply_add(-b, sine, a * cosine);
    high = multiply_add(a, sine, b * cosine);
  }
};

template <>
struct load_cached<isa::scalar> {
  using isa_type = isa::scalar;

  static void halves(const half* h, std::size_t n, float* x) noexcept {
    for (std::size_t i = 0; i < n; ++i) x[i] = to_float(h[i]);
  }
  static void bytes(const std::uint8_t* codes, std::size_t n, int bias, float scale, float zero, float* x) noexcept {
    for (std::size_t i = 0; i < n; ++i)
      x[i] = multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
  }
};

template <>
struct store_cached<isa::scalar> {
  using isa_type = isa::scalar;

  static void halves(const float* x, std::size_t n, half* h) noexcept {
    for (std::size_t i = 0; i < n; ++i) h[i] = to_half(x[i]);
  }
  static void bytes(const float* x, std::size_t n, float scale, float zero, std::uint8_t* codes) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      float place = (x[i] - zero) / scale + 128.0f;
      place = place < 0.0f ? 0.0f : place;
      codes[i] = static_cast<std::uint8_t>(round_half_even(place > 255.0f ? 255.0f : place));
    }
  }
};

template <>
struct score_keys<isa::scalar> {
  using isa_type = isa::scalar;

  static void floats(const score_call& c, const float* f) noexcept {
    run(c, [=](std::size_t i) { return f[i]; });
  }
  static void halves(const score_call& c, const half* h) noexcept {
    run(c, [=](std::size_t i) { return to_float(h[i]); });
  }
  static void bytes(const score_call& c, const std::uint8_t* codes, int bias, float scale, float zero) noexcept {
    run(c, [=](std::size_t i) {
      return multiply_add(static_cast<float>(static_cast<int>(codes[i]) - bias), scale, zero);
    });
  }
  static void columns(const score_call& c, const std::uint8_t* codes, const float* scales,
                      const float* zeros) noexcept {
    run(c, [=](std::size_t i) { return multiply_add(static_cast<float>(codes[i]), scales[i % 16], zeros[i % 16]); });
  }

 private:
  template <class Key>
  static void run(const score_call& c, Key key) noexcept {
    for (std::size_t i = 0; i < c.pairs; ++i) {
      for (std::size_t j = 0; j < 16; ++j) {
        float &low = c.work[i * 16 + j], &high = c.work[(i + c.pairs) * 16 + j];
        low = key(i * 16 + j), high = key((i + c.pairs) * 16 + j);
        rotate_pairs<isa::scalar>::pair(low, high, c.angles[i * 32 + j], c.angles[i * 32 + 16 + j]);
      }
    }
    for (std::size_t i = 32 * c.pairs; i < 16 * c.K; ++i) c.work[i] = key(i);
    for (std::size_t m = 0; m < c.M; ++m) {
      const float* const q = c.queries + m * c.query_stride;
      float* const s = c.scores + m * c.score_stride;
      for (std::size_t j = 0; j < 16; ++j) s[j] = 0.0f;
      const auto add = [&](std::size_t d) {
        for (std::size_t j = 0; j < 16; ++j) s[j] = multiply_add(q[d], c.work[d * 16 + j], s[j]);
      };
      for (std::size_t i = 0; i < c.pairs; ++i) add(i), add(i + c.pairs);
      for (std::size_t d = 2 * c.pairs; d < c.K; ++d) add(d);
    }
  }
};

template <>
struct weigh_rows<isa::scalar> {
  using isa_type = isa::scalar;

  template <class T>
  static void run(const float* x, std::size_t x_stride, std::size_t M, const T* const* rows, std::size_t count,
                  std::size_t columns, float* sums, std::size_t sum_stride) noexcept {
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t c = 0; c < columns; ++c) {
        const std::size_t at = c / 16 * 16 * value_slots + c % 16;
        float p = 0.0f;
        for (std::size_t j = 0; j < count; ++j) p = multiply_add(x[m * x_stride + j], value(rows[j][at]), p);
        sums[m * sum_stride + c] += p;
      }
  }

 private:
  static float value(float v) noexcept { return v; }
  static float value(half v) noexcept { return to_float(v); }
  static float value(std::uint8_t code) noexcept { return static_cast<float>(code); }
};

template <>
struct scale_weights<isa::scalar> {
  using isa_type = isa::scalar;

  static void run(float* w, std::size_t n, const float* scales, const float* zeros, float* lanes) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      lanes[i] = multiply_add(w[i], zeros[i], lanes[i]);
      w[i] *= scales[i];
    }
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
