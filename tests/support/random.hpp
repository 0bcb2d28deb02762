// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Seeded test data with the same values on every standard library, and sizes that leave every kind of rest.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

namespace nibble::test {

/// splitmix64 (Steele, Lea, Flood 2014): small, and good enough for test data.
class generator {
 public:
  explicit generator(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  /// In (0, 1).
  double unit() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double gaussian() { return std::sqrt(-2.0 * std::log(unit())) * std::cos(2.0 * std::numbers::pi * unit()); }
  /// In [0, n).
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(next() % n); }

 private:
  std::uint64_t state_;
};

/// n values of a normal distribution with mean 0.
inline std::vector<float> gaussian(std::size_t n, std::uint64_t seed, float sigma = 1.0f) {
  generator g(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(g.gaussian() * static_cast<double>(sigma));
  return x;
}

/// n values evenly distributed over (lo, hi).
inline std::vector<float> uniform(std::size_t n, std::uint64_t seed, float lo = -1.0f, float hi = 1.0f) {
  generator g(seed);
  std::vector<float> x(n);
  for (float& v : x)
    v = static_cast<float>(static_cast<double>(lo) + (static_cast<double>(hi) - static_cast<double>(lo)) * g.unit());
  return x;
}

/// n random codes of `bits` bits.
inline std::vector<std::uint8_t> codes(std::size_t n, std::uint64_t seed, int bits = 8) {
  generator g(seed);
  std::vector<std::uint8_t> u(n);
  for (std::uint8_t& v : u) v = static_cast<std::uint8_t>(g.next() & ((1u << bits) - 1u));
  return u;
}

/// n finite values meant to break things, none above 101: runs of equal values, both zeros, subnormals, halves (ties),
/// one-sided and constant stretches, single outliers.
inline std::vector<float> adversarial(std::size_t n, std::uint64_t seed) {
  generator g(seed);
  std::vector<float> x;
  x.reserve(n);
  const auto sign = [&] { return g.next() & 1 ? 1.0f : -1.0f; };
  while (x.size() < n) {
    const std::size_t kind = g.below(9), run = 1 + g.below(40);
    const float constant = static_cast<float>(g.gaussian());
    for (std::size_t i = 0; i < run && x.size() < n; ++i) {
      switch (kind) {
        case 0: x.push_back(0.0f); break;
        case 1: x.push_back(-0.0f); break;
        case 2:
          x.push_back(sign() * static_cast<float>(g.below(1000)) * std::numeric_limits<float>::denorm_min());
          break;
        case 3: x.push_back(static_cast<float>(g.below(64)) * 0.5f - 16.0f); break;
        case 4: x.push_back(constant); break;
        case 5: x.push_back(static_cast<float>(100.0 + g.unit())); break;
        case 6: x.push_back(static_cast<float>(-1.0 - g.unit())); break;
        case 7: x.push_back(static_cast<float>(g.gaussian())); break;
        default: x.push_back(i == 0 ? sign() * 30.0f : static_cast<float>(0.01 * g.gaussian())); break;
      }
    }
  }
  return x;
}

/// Sizes around multiples of `step`: every rest and both neighbours.
inline std::vector<std::size_t> ragged_sizes(std::size_t step) {
  return {1, step - 1, step, step + 1, 2 * step - 1, 2 * step, 2 * step + 1, 3 * step + step / 2 + 1};
}

}  // namespace nibble::test
