// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How far quantized values are from the original ones. Sums are kept in double, so metrics of parts can be merged and
/// no metric depends on the order of magnitude of the data.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// The sums behind every metric, for original values w and quantized values q of one tensor or a part of it.
struct error_sums {
  std::uint64_t count = 0;
  double ww = 0.0;       ///< sum of w^2
  double qq = 0.0;       ///< sum of q^2
  double wq = 0.0;       ///< sum of w q
  double ee = 0.0;       ///< sum of (w - q)^2, summed on its own: ww - 2 wq + qq cancels at 8 bits
  double largest = 0.0;  ///< max |w - q|

  /// Adds w[i], q[i]. Throws bad_shape when the lengths differ.
  void add(std::span<const float> w, std::span<const float> q) {
    if (w.size() != q.size()) core::fail(errc::bad_shape, "error_sums: ", w.size(), " values against ", q.size());
    count += w.size();
    // Element i goes to lane i % 32: no sum waits for the one before, and loops of 32 become vectors.
    constexpr std::size_t lanes = 32;
    double xx[lanes] = {}, yy[lanes] = {}, xy[lanes] = {}, dd[lanes] = {}, most[lanes] = {};
    const auto add_one = [&](std::size_t lane, float original, float quantized) {
      const double x = static_cast<double>(original), y = static_cast<double>(quantized), e = x - y;
      xx[lane] = std::fma(x, x, xx[lane]);
      yy[lane] = std::fma(y, y, yy[lane]);
      xy[lane] = std::fma(x, y, xy[lane]);
      dd[lane] = std::fma(e, e, dd[lane]);
      const double a = std::fabs(e);
      most[lane] = a > most[lane] ? a : most[lane];
    };
    const std::size_t rest = w.size() % lanes, whole = w.size() - rest;
    for (std::size_t i = 0; i < whole; i += lanes)
      for (std::size_t j = 0; j < lanes; ++j) add_one(j, w[i + j], q[i + j]);
    for (std::size_t j = 0; j < rest; ++j) add_one(j, w[whole + j], q[whole + j]);
    double added = 0.0;
    for (std::size_t j = 0; j < lanes; ++j) {
      ww += xx[j];
      qq += yy[j];
      wq += xy[j];
      added += dd[j];
      if (most[j] > largest) largest = most[j];
    }
    ee += added;
    if (added != added) largest = added;  // a NaN stays
  }

  /// Joins the sums of two disjoint parts.
  void merge(const error_sums& other) noexcept {
    count += other.count;
    ww += other.ww;
    qq += other.qq;
    wq += other.wq;
    ee += other.ee;
    if (other.largest > largest || other.largest != other.largest) largest = other.largest;
  }

  /// Mean squared error.
  double mse() const noexcept { return ee / static_cast<double>(count); }
  /// D = |w - q|^2 / |w|^2; 0 for 0/0, so that an exactly kept zero tensor has no error.
  double distortion() const noexcept { return ee == 0.0 ? 0.0 : ee / ww; }
  /// -10 log10 D in dB; infinity when every value is exact.
  double sqnr_db() const noexcept { return -10.0 * std::log10(distortion()); }
  /// <w, q> / (|w| |q|); 1 when the values are exact, 0 when only one of the two is zero.
  double cosine() const noexcept {
    if (ee == 0.0) return 1.0;
    const double norms = std::sqrt(ww) * std::sqrt(qq);
    return norms == 0.0 ? 0.0 : wq / norms;
  }
};

/// 10 log10(D 4^R): how many dB the distortion D at R bits per weight lies above D = 4^-R, the least a Gaussian source
/// allows (Shannon). Only for Gaussian weights can it not be negative.
inline double gap_to_shannon_db(double distortion, double bits_per_weight) noexcept {
  return 10.0 * (std::log10(distortion) + bits_per_weight * std::log10(4.0));
}

/// The cosine no code of R bits per weight exceeds on Gaussian weights: sqrt(1 - 4^-R).
inline double shannon_cosine(double bits_per_weight) noexcept {
  return std::sqrt(1.0 - std::pow(4.0, -bits_per_weight));
}

/// |Y - Yq| / |Y|: relative output error of a layer, from the sums over its outputs.
inline double relative_output_error(const error_sums& outputs) noexcept { return std::sqrt(outputs.distortion()); }

/// Minimum and element-weighted mean of the weight cosine over tensors, and the pooled error. Only weight matrices belong
/// in here: biases and norms that are kept exactly would lift the mean without saying anything about the codes.
class metric_summary {
 public:
  void add(const error_sums& tensor) {
    const double c = tensor.cosine();
    least_cosine_ = tensors_ == 0 ? c : std::fmin(least_cosine_, c);
    weighted_cosine_ = std::fma(c, static_cast<double>(tensor.count), weighted_cosine_);
    plain_cosine_ += c;
    total_.merge(tensor);
    ++tensors_;
  }
  std::size_t tensors() const noexcept { return tensors_; }
  double least_cosine() const noexcept { return least_cosine_; }
  /// Weighted by the number of elements.
  double mean_cosine() const noexcept { return weighted_cosine_ / static_cast<double>(total_.count); }
  /// Every tensor counts once, however small: the weighting R2 uses.
  double unweighted_mean_cosine() const noexcept { return plain_cosine_ / static_cast<double>(tensors_); }
  const error_sums& pooled() const noexcept { return total_; }

 private:
  std::size_t tensors_ = 0;
  double least_cosine_ = 1.0;
  double weighted_cosine_ = 0.0;
  double plain_cosine_ = 0.0;
  error_sums total_;
};

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
