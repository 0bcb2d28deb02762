// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Rotary position embedding. Source: Su et al. 2021 (RoFormer), with the rotate-half pairing of LLaMA and GPT-NeoX.

#include <cmath>
#include <cstddef>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// Rotates the pairs (i, i + dims/2) of a head's first `dims` values by position * theta^(-2 i / dims). The angles'
/// cosines and sines are computed in double once and stored as float, in the order in which the keys of a cache lie: panels
/// of 16 positions, [position / 16][pair][cosine, sine][position % 16].
class rope {
 public:
  static constexpr std::size_t panel_positions = 16;

  rope(std::size_t dims, double theta) : half_(dims / 2), theta_(theta) {}

  /// Makes positions [0, positions) available; keeps what is there. Allocates only when the table grows.
  void reserve(std::size_t positions) {
    if (positions <= positions_) return;
    angles_.resize(ceil_div(positions, panel_positions) * panel_angles());
    for (std::size_t p = positions_; p < positions; ++p) {
      for (std::size_t i = 0; i < half_; ++i) {
        const double frequency = std::pow(theta_, -static_cast<double>(i) / static_cast<double>(half_));
        angles_[index(p, i, 0)] = static_cast<float>(std::cos(static_cast<double>(p) * frequency));
        angles_[index(p, i, 1)] = static_cast<float>(std::sin(static_cast<double>(p) * frequency));
      }
    }
    positions_ = positions;
  }
  std::size_t positions() const noexcept { return positions_; }
  /// Pairs that rotate.
  std::size_t pairs() const noexcept { return half_; }

  /// The angles [pairs()][cosine, sine][16] of positions 16 * n to 16 * n + 15; 16 * n < positions(). Those of positions
  /// beyond positions() are there, but without meaning.
  const float* panel(std::size_t n) const noexcept { return angles_.data() + n * panel_angles(); }
  /// Floats of a panel.
  std::size_t panel_angles() const noexcept { return half_ * 2 * panel_positions; }
  /// Copies the angles of a position < positions() to a column of a panel of the same form.
  void copy_column(std::size_t position, float* column) const noexcept {
    const float* const from = angles_.data() + index(position, 0, 0);
    for (std::size_t i = 0; i < 2 * half_; ++i) column[i * panel_positions] = from[i * panel_positions];
  }
  /// Copies cosines and sines [pairs()] of a position < positions().
  void copy(std::size_t position, float* cosines, float* sines) const noexcept {
    for (std::size_t i = 0; i < half_; ++i) {
      cosines[i] = angles_[index(position, i, 0)];
      sines[i] = angles_[index(position, i, 1)];
    }
  }
  /// Rotates one head in place; position < positions(). Who has many heads copies the angles once and takes
  /// kernels::rotate_pairs: the bits are the same.
  void rotate(float* head, std::size_t position) const noexcept {
    for (std::size_t i = 0; i < half_; ++i) {
      const float cosine = angles_[index(position, i, 0)], sine = angles_[index(position, i, 1)];
      kernels::rotate_pairs<isa::scalar>::pair(head[i], head[i + half_], cosine, sine);
    }
  }

 private:
  std::size_t index(std::size_t position, std::size_t pair, std::size_t which) const noexcept {
    return position / panel_positions * panel_angles() + (2 * pair + which) * panel_positions +
           position % panel_positions;
  }

  std::size_t half_;
  double theta_;
  std::size_t positions_ = 0;
  aligned_vector<float> angles_;
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
