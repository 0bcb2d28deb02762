// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The exact inputs of the R2 scaling report: three chains of dense layers whose FP16 weights come from one 32-bit
/// Mersenne Twister. The report never says that its "normal" weights are made from 11-bit uniforms; the construction
/// was recovered from its seven-digit results and reproduces them.

#include <array>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <random>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// One dense layer: weight [out, in] row-major and bias [out], both FP16 values held as float.
struct r2_layer {
  std::size_t out = 0;
  std::size_t in = 0;
  std::vector<float> weight;
  std::vector<float> bias;
};

/// (out, in) of the three layers of a chain of width h.
constexpr std::array<std::array<std::size_t, 2>, 3> r2_shapes(std::size_t h) noexcept {
  return {{{4 * h, 2 * h}, {2 * h, h}, {h, h / 2}}};
}

/// Parameters of a chain of width h, biases included: 10.5 h^2 + 7 h.
constexpr std::size_t r2_parameters(std::size_t h) noexcept { return (21 * h * h) / 2 + 7 * h; }

/// The widths the report calls Small, Medium and Large.
inline constexpr std::array<std::size_t, 3> r2_widths{32, 128, 512};
static_assert(r2_parameters(32) == 10'976 && r2_parameters(128) == 172'928 && r2_parameters(512) == 2'756'096);

/// The generator of the report: approximate normals in binary16, 16 at a time.
class r2_generator {
 public:
  explicit r2_generator(std::uint32_t seed = 42) : engine_(seed) {}

  /// Fills `out` (length a multiple of 16) with the next values of the stream. Throws bad_shape for other lengths.
  void fill(std::span<float> out) {
    if (out.size() % 16 != 0)
      core::fail(errc::bad_shape, "r2_generator::fill: length ", out.size(), " is no multiple of 16");
    for (float& u : out) u = static_cast<float>(engine_() % 2048u) / 2048.0f;  // exact in binary16: 11 bits
    for (std::size_t block = 0; block < out.size(); block += 16) {
      for (std::size_t j = block; j < block + 8; ++j) {
        // Elementary functions in double, so that no libm's last bit decides a binary16 rounding.
        const double u1 = rounded(1.0 - static_cast<double>(out[j]));
        const double u2 = static_cast<double>(out[j + 8]);
        const double r = rounded(std::sqrt(-2.0 * std::log(u1)));
        const double t = rounded(2.0 * std::numbers::pi * u2);
        out[j] = static_cast<float>(rounded(r * rounded(std::cos(t))));
        out[j + 8] = static_cast<float>(rounded(r * rounded(std::sin(t))));
      }
    }
  }

  /// The largest absolute value the stream can hold: r of u1 = 1/2048.
  static double largest() { return rounded(std::sqrt(2.0 * 11.0 * std::numbers::ln2)); }

 private:
  static double rounded(double x) { return static_cast<double>(to_float(to_half(static_cast<float>(x)))); }
  std::mt19937 engine_;
};

/// The chain of width h: weight, bias, weight, bias, ... from one stream.
inline std::vector<r2_layer> r2_chain(std::size_t h) {
  r2_generator generator;
  std::vector<r2_layer> layers;
  for (const auto& [out, in] : r2_shapes(h)) {
    r2_layer layer{out, in, std::vector<float>(out * in), std::vector<float>(out)};
    generator.fill(layer.weight);
    generator.fill(layer.bias);
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
