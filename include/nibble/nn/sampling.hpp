// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// From logits to log-probabilities and to the next token.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/nn/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// out[i] = log of softmax(logits)[i], in double. Throws bad_shape when the sizes differ.
inline void log_softmax(std::span<const float> logits, std::span<double> out) {
  if (logits.size() != out.size())
    core::fail(errc::bad_shape, "log_softmax: ", logits.size(), " logits, ", out.size(), " results");
  if (logits.empty()) return;
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - largest);
  const double shift = largest + std::log(sum);
  for (std::size_t i = 0; i < logits.size(); ++i) out[i] = static_cast<double>(logits[i]) - shift;
}

struct sampler_options {
  double temperature = 0.0;  ///< 0: greedy. Else logits are divided by it.
  std::size_t top_k =
      0;  ///< 0: all. Else only the k largest logits can be drawn; of equal ones the lower index counts.
  std::uint64_t seed = 0;
};

/// Draws tokens. The same seed, options and logits give the same tokens on every platform whose exp agrees: the generator
/// is std::mt19937_64, whose sequence the standard fixes, and the draw is made by hand.
class sampler {
 public:
  /// Throws bad_value for a temperature that is negative or not finite.
  explicit sampler(const sampler_options& options = {}) : options_(options), random_(options.seed) {
    if (!(options.temperature >= 0.0 && std::isfinite(options.temperature)))
      core::fail(errc::bad_value, "sampler: temperature ", options.temperature, "; it must be >= 0 and finite");
  }

  /// The next token. Greedy takes the lowest index of the largest logit and draws no random number; otherwise exactly one
  /// is drawn. Throws bad_value, naming the index, for NaN or +infinity; -infinity excludes a token, but not all of them.
  token operator()(std::span<const float> logits) {
    if (logits.empty()) core::fail(errc::bad_shape, "sampler: no logits");
    for (std::size_t i = 0; i < logits.size(); ++i)
      if (!is_finite(logits[i]) && !(logits[i] < 0.0f))
        core::fail(errc::bad_value, "sampler: logit ", i, " is ", logits[i]);
    const auto best = std::max_element(logits.begin(), logits.end());
    if (!is_finite(*best)) core::fail(errc::bad_value, "sampler: all ", logits.size(), " logits are -infinity");
    if (options_.temperature == 0.0 || options_.top_k == 1) return static_cast<token>(best - logits.begin());

    candidates_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) candidates_[i] = {logits[i], static_cast<token>(i)};
    if (options_.top_k != 0 && options_.top_k < candidates_.size()) {
      const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(options_.top_k);
      std::nth_element(candidates_.begin(), end - 1, candidates_.end(), [](const candidate& a, const candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
      });
      candidates_.erase(end, candidates_.end());
      // nth_element leaves an order that the library chooses; the draw below walks by index.
      std::sort(candidates_.begin(), candidates_.end(),
                [](const candidate& a, const candidate& b) { return a.id < b.id; });
    }
    const auto largest = static_cast<double>(*best);
    double sum = 0.0;
    for (candidate& c : candidates_) {
      c.weight = std::exp((static_cast<double>(c.logit) - largest) / options_.temperature);
      sum += c.weight;
    }
    // 53 bits of the generator: uniform in [0, 1).
    double left = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
    for (const candidate& c : candidates_) {
      if (left < c.weight) return c.id;
      left -= c.weight;
    }
    // Rounding in the subtractions can leave a crumb; the likeliest token takes it.
    return static_cast<token>(best - logits.begin());
  }

 private:
  struct candidate {
    float logit = 0.0f;
    token id = 0;
    double weight = 0.0;
  };

  sampler_options options_;
  std::mt19937_64 random_;
  std::vector<candidate> candidates_;
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
