// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A codebook's values as integers: what integer computation multiplies by in their place.

#include <cstdint>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>

namespace nibble {

/// How integer computation takes the values of a codebook, which are floats.
///
/// The image of value v is t * unit, t a whole number, unit = greatest / steps, greatest = max |v|. The error of a product
/// against that of the codebook itself is at most sum over k of |x[k]| * scale * e, with x the activations as quantized and
/// e = max |v - t * unit|, to which a relative 2^-23 comes for the rounding of unit (a greatest value below 2^-100 has a
/// subnormal unit, which rounds coarser).
///
/// Up to 4 bits the steps of one plane are the number from 64 to 127 with the least e, so that tables of whole numbers up to
/// 127 (IQ4_NL, FP4 as E2M1) are met exactly; else 127. Those of two planes are 8127.
enum class table_image : unsigned char {
  none,        ///< integer computation is refused
  one_plane,   ///< |t| <= 127 in one s8 plane: e <= greatest / 254
  two_planes,  ///< t = 128 * high + low in two planes of 7 bits: e <= greatest / 16254. Twice the work
};

inline namespace NIBBLE_ABI {
namespace quant {

/// The planes of an image as tables of unsigned codes, which kernels multiply as they do symmetric ones.
struct integer_image {
  int planes = 0;                   ///< 1 or 2; the high one comes first
  int bits = 0;                     ///< of the codes in `codes`: 8 for one plane, 7 for two
  float units[2] = {};              ///< what a step of each plane is worth, before the scale of the group
  std::uint8_t codes[2][256] = {};  ///< [plane][code of the table]: step + zero()
  /// The code of step 0.
  constexpr int zero() const noexcept { return 1 << (bits - 1); }
};

namespace detail {

/// r rounded to a whole number, ties to even, for |r| < 2^51. r must not be a product that may still be contracted.
constexpr double nearest(double r) noexcept { return (r + 6755399441055744.0) - 6755399441055744.0; }

}  // namespace detail

/// The image of 2^bits finite values, not all of them 0; `kind` is not none.
constexpr integer_image make_integer_image(const float* table, int bits, table_image kind) noexcept {
  const int count = 1 << bits;
  float greatest = 0.0f;
  for (int i = 0; i < count; ++i) {
    const float a = table[i] < 0.0f ? -table[i] : table[i];
    greatest = a > greatest ? a : greatest;
  }
  double share[256] = {};
  for (int i = 0; i < count; ++i) share[i] = static_cast<double>(table[i]) / static_cast<double>(greatest);

  int steps = kind == table_image::one_plane ? 127 : 8127;
  if (kind == table_image::one_plane && bits <= 4) {
    double least = 2.0;  // e / greatest * steps of the best number so far
    for (int n = 127; n >= 64; --n) {
      double worst = 0.0;
      for (int i = 0; i < count && worst * steps < least * n; ++i) {
        const double r = rounded_product(share[i], static_cast<double>(n)), off = r - detail::nearest(r);
        const double a = off < 0.0 ? -off : off;
        worst = a > worst ? a : worst;
      }
      if (worst * steps >= least * n) continue;
      least = worst;
      steps = n;
    }
  }

  integer_image image;
  image.planes = kind == table_image::one_plane ? 1 : 2;
  image.bits = kind == table_image::one_plane ? 8 : 7;
  const float unit = greatest / static_cast<float>(steps);
  image.units[image.planes - 1] = unit;
  if (image.planes == 2) image.units[0] = unit * 128.0f;
  for (int i = 0; i < count; ++i) {
    const int t = static_cast<int>(detail::nearest(rounded_product(share[i], static_cast<double>(steps))));
    const int high = (t + 64) >> 7;
    image.codes[0][i] = static_cast<std::uint8_t>(image.zero() + (image.planes == 1 ? t : high));
    if (image.planes == 2) image.codes[1][i] = static_cast<std::uint8_t>(image.zero() + t - 128 * high);
  }
  return image;
}

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
