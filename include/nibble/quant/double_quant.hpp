// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Double quantization (QLoRA; Dettmers et al. 2023, section 3): the scales of a matrix, minus their mean, as 8-bit codes
/// into the signed dynamic map, one float absmax for each 256 of them.
///
///   scale[g] = f32(map[code[g]] * absmax[g / 256]) + offset
///
/// A scale so rebuilt is near the fitted one, not equal: off by at most 0.00705 absmax, half the widest gap of the map and
/// the distance from -1 to its first value. Where scales of very different size share a block it may be zero or negative. A
/// scale of 0 in particular comes back as a small number, which harms no grid that has a zero level: its codes are those
/// of 0. For the others `zero_scale::exact` gives up the offset: code 127 then means 0 and nothing else.

#include <array>
#include <cstddef>
#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {

/// Scales that share one absmax.
inline constexpr std::size_t double_quant_block = 256;

/// The positive half of the dynamic map: for i = 0..6 the midpoints of 2^i + 1 points linear in [0.1, 1], times
/// 10^(i-6), and 1. Data, because the last bit depends on how the original's linspace rounds; the tests derive it again.
inline constexpr std::array<float, 128> dynamic_map_positive = {
    5.5000004e-7f,  3.2500002e-6f, 7.75e-6f,      2.1249998e-5f, 4.375e-5f,     6.625e-5f,     8.875e-5f,
    1.5625001e-4f,  2.6875004e-4f, 3.8125002e-4f, 4.9375003e-4f, 6.062501e-4f,  7.1875006e-4f, 8.3125e-4f,
    9.437501e-4f,   1.2812499e-3f, 1.84375e-3f,   2.40625e-3f,   2.96875e-3f,   3.5312497e-3f, 4.09375e-3f,
    4.6562497e-3f,  5.2187503e-3f, 5.78125e-3f,   6.34375e-3f,   6.90625e-3f,   7.46875e-3f,   8.03125e-3f,
    8.59375e-3f,    9.156249e-3f,  9.71875e-3f,   1.140625e-2f,  1.421875e-2f,  1.703125e-2f,  1.9843752e-2f,
    2.265625e-2f,   2.546875e-2f,  2.8281251e-2f, 3.109375e-2f,  3.390625e-2f,  3.6718752e-2f, 3.953125e-2f,
    4.2343747e-2f,  4.515625e-2f,  4.796875e-2f,  5.078125e-2f,  5.359375e-2f,  5.640625e-2f,  5.9218753e-2f,
    6.203125e-2f,   6.484375e-2f,  6.7656256e-2f, 7.0468746e-2f, 7.328125e-2f,  7.609375e-2f,  7.890625e-2f,
    8.171876e-2f,   8.453125e-2f,  8.734375e-2f,  9.015625e-2f,  9.2968754e-2f, 9.578126e-2f,  9.859375e-2f,
    1.07031256e-1f, 1.2109375e-1f, 1.3515624e-1f, 1.4921875e-1f, 1.6328125e-1f, 1.7734376e-1f, 1.9140625e-1f,
    2.0546874e-1f,  2.1953125e-1f, 2.3359375e-1f, 2.4765624e-1f, 2.6171875e-1f, 2.7578127e-1f, 2.8984374e-1f,
    3.0390626e-1f,  3.1796873e-1f, 3.3203125e-1f, 3.4609374e-1f, 3.6015624e-1f, 3.7421876e-1f, 3.8828123e-1f,
    4.0234375e-1f,  4.1640624e-1f, 4.3046874e-1f, 4.4453126e-1f, 4.5859373e-1f, 4.7265625e-1f, 4.867187e-1f,
    5.0078124e-1f,  5.148437e-1f,  5.289062e-1f,  5.4296875e-1f, 5.570313e-1f,  5.710938e-1f,  5.8515626e-1f,
    5.992187e-1f,   6.1328125e-1f, 6.273438e-1f,  6.414063e-1f,  6.5546876e-1f, 6.695312e-1f,  6.8359375e-1f,
    6.976563e-1f,   7.117188e-1f,  7.2578126e-1f, 7.398437e-1f,  7.5390625e-1f, 7.679688e-1f,  7.8203124e-1f,
    7.9609376e-1f,  8.101562e-1f,  8.2421875e-1f, 8.382813e-1f,  8.5234374e-1f, 8.6640626e-1f, 8.804687e-1f,
    8.9453125e-1f,  9.085938e-1f,  9.2265624e-1f, 9.3671876e-1f, 9.507812e-1f,  9.6484375e-1f, 9.789063e-1f,
    9.9296874e-1f,  1.0f};

/// All 256 values, ascending: index 127 is 0, index 255 is 1, index 0 is -0.99296874 (there is no -1).
inline constexpr std::array<float, 256> dynamic_map = [] {
  std::array<float, 256> map{};
  for (std::size_t i = 0; i < 128; ++i) map[128 + i] = dynamic_map_positive[i];
  for (std::size_t i = 0; i < 127; ++i) map[126 - i] = -dynamic_map_positive[i];
  return map;
}();

/// Midpoints between neighbours, in float as the original computes them.
inline constexpr std::array<float, 255> dynamic_map_thresholds = [] {
  std::array<float, 255> t{};
  for (std::size_t i = 0; i < 255; ++i) t[i] = (dynamic_map[i] + dynamic_map[i + 1]) * 0.5f;
  return t;
}();

/// The code of the nearest map value; a tie goes to the lower one.
constexpr std::uint8_t dynamic_code(float v) noexcept {
  std::size_t rank = 0;  // thresholds strictly below v
  for (std::size_t step = 128; step != 0; step /= 2)
    if (dynamic_map_thresholds[rank + step - 1] < v) rank += step;
  return static_cast<std::uint8_t>(rank);
}

/// The scale that code, absmax and offset stand for: two roundings, as the original.
constexpr float double_quant_scale(std::uint8_t code, float absmax, float offset) noexcept {
  return rounded_product(dynamic_map[code], absmax) + offset;
}

/// Floats beside a plane of scale codes: the greatest magnitude of each 256 scales, then the offset.
constexpr std::size_t super_scale_count(std::size_t scales) noexcept {
  return (scales + double_quant_block - 1) / double_quant_block + 1;
}

/// What a scale of 0 among the others must come back as. Below 2.75e-7 of the greatest of its block (half of the map's least
/// value) a scale underflows: it counts as 0.
enum class zero_scale : std::uint8_t {
  nearest,  ///< whatever its code gives, as the original has it
  exact,  ///< 0: where there is one, the offset of all scales is 0. Decoders need not know. The other scales lose up to
          ///< two bits of precision, because all have one sign then.
};

namespace detail {

inline bool any_zero_scale(const float* scales, std::size_t count) noexcept {
  const auto magnitude = [&](std::size_t g) { return scales[g] < 0.0f ? -scales[g] : scales[g]; };
  for (std::size_t first = 0; first < count; first += double_quant_block) {
    const std::size_t end = count - first < double_quant_block ? count : first + double_quant_block;
    float greatest = 0.0f;
    for (std::size_t g = first; g < end; ++g) greatest = magnitude(g) > greatest ? magnitude(g) : greatest;
    for (std::size_t g = first; g < end; ++g)
      if (magnitude(g) <= dynamic_map_thresholds[127] * greatest) return true;
  }
  return false;
}

}  // namespace detail

/// Quantizes `count` scales to codes[count] and super_scales[super_scale_count(count)], of which the last is the offset: the
/// mean of all scales, summed in double, rounded to float. Codes: v = f32((scale - offset) * f32(1 / absmax)),
/// nearest map value. A block whose scales all equal the offset has absmax 0 and codes of value 0.
inline void quantize_scales(const float* scales, std::size_t count, std::uint8_t* codes, float* super_scales,
                            zero_scale zeros = zero_scale::nearest) noexcept {
  double sum = 0.0;
  for (std::size_t g = 0; g < count; ++g) sum += static_cast<double>(scales[g]);
  const bool without_offset = zeros == zero_scale::exact && detail::any_zero_scale(scales, count);
  const float offset = without_offset ? 0.0f : static_cast<float>(sum / static_cast<double>(count));
  std::size_t block = 0;
  for (std::size_t first = 0; first < count; first += double_quant_block, ++block) {
    const std::size_t end = count - first < double_quant_block ? count : first + double_quant_block;
    float absmax = 0.0f;
    for (std::size_t g = first; g < end; ++g) {
      const float d = scales[g] - offset, a = d < 0.0f ? -d : d;
      absmax = a > absmax ? a : absmax;
    }
    super_scales[block] = absmax;
    const float inverse = 1.0f / absmax;
    for (std::size_t g = first; g < end; ++g) {
      const float d = scales[g] - offset;
      // A subnormal absmax has no finite reciprocal.
      codes[g] = absmax == 0.0f ? std::uint8_t{127} : dynamic_code(inverse <= 0x1p127f ? d * inverse : d / absmax);
    }
  }
  super_scales[block] = offset;
}

static_assert(dynamic_map[127] == 0.0f && dynamic_map[255] == 1.0f && dynamic_map[0] == -0.99296874f);
static_assert(dynamic_code(0.0f) == 127 && dynamic_code(2.0f) == 255 && dynamic_code(-2.0f) == 0);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
