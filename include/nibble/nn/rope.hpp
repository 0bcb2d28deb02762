// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Rotary position embedding. Source: Su et al. 2021 (RoFormer), with the rotate-half pairing of LLaMA and GPT-NeoX.

#include <cmath>
#include <cstddef>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// Rotates the pairs (i, i + dims/2) of a head's first `dims` values by position * theta^(-2 i / dims). The angles'
/// cosines and sines are computed in double once and stored as float.
class rope {
 public:
  rope(std::size_t dims, double theta) : half_(dims / 2), theta_(theta) {}

  /// Makes positions [0, positions) available; keeps what is there. Allocates only when the table grows.
  void reserve(std::size_t positions) {
    if (positions <= positions_) return;
    cos_.resize(positions * half_);
    sin_.resize(positions * half_);
    for (std::size_t p = positions_; p < positions; ++p) {
      for (std::size_t i = 0; i < half_; ++i) {
        const double frequency = std::pow(theta_, -static_cast<double>(i) / static_cast<double>(half_));
        cos_[p * half_ + i] = static_cast<float>(std::cos(static_cast<double>(p) * frequency));
        sin_[p * half_ + i] = static_cast<float>(std::sin(static_cast<double>(p) * frequency));
      }
    }
    positions_ = positions;
  }
  std::size_t positions() const noexcept { return positions_; }

  /// Cosines and sines of a position < positions().
  kernels::rotation at(std::size_t position) const noexcept {
    return {half_, cos_.data() + position * half_, sin_.data() + position * half_};
  }
  /// Rotates one head in place; position < positions().
  void rotate(float* head, std::size_t position) const noexcept {
    const kernels::rotation turn = at(position);
    kernels::rotate_pairs<isa::native>::run(head, turn.half, turn.cosines, turn.sines);
  }

 private:
  std::size_t half_;
  double theta_;
  std::size_t positions_ = 0;
  aligned_vector<float> cos_, sin_;  // [positions][dims / 2]
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
