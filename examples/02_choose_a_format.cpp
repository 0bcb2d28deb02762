// SPDX-License-Identifier: MIT
// Which format? Bits and errors of several on one matrix. Formats have names, so the choice can come from a file.

#include <cstdio>
#include <random>
#include <string_view>
#include <vector>

#include <nibble/nibble.hpp>
#include <nibble/study/error_metrics.hpp>

namespace {

struct result {
  double bits;        // stored bits per weight, scales and zero points included
  double distortion;  // |w - q|^2 / |w|^2
};

const char* name_of(nibble::fitter f) {
  switch (f) {
    case nibble::fitter::min_max: return "own rule";
    case nibble::fitter::percentile: return "percentile";
    case nibble::fitter::mse_search: return "mse search";
    case nibble::fitter::least_squares: return "least squares";
  }
  return "";
}

result try_format(nibble::span2d<const float> W, std::string_view name, nibble::fitter fitter) {
  nibble::quantize_options options;
  options.fit.method = fitter;
  const nibble::any_qmatrix q = nibble::quantize(nibble::quant::qtype_from_name(name).value(), W, options);

  std::vector<float> values(W.rows * W.cols);
  nibble::dequantize(q.view(), nibble::make_span2d(values.data(), W.rows, W.cols));
  nibble::study::error_sums sums;
  sums.add({W.data, values.size()}, values);
  const result r{nibble::bits_per_weight(q.ledger(), W.rows, W.cols), sums.distortion()};
  std::printf("%-13.*s  %-13s  %6.3f  %8.6f  %5.2f dB  %5.2f dB\n", static_cast<int>(name.size()), name.data(),
              name_of(fitter), r.bits, sums.cosine(), sums.sqnr_db(),
              nibble::study::gap_to_shannon_db(r.distortion, r.bits));
  return r;
}

}  // namespace

int main() {
  const std::size_t N = 64, K = 4096;
  std::vector<float> w(N * K);
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (float& v : w) v = normal(rng);
  const auto W = nibble::make_span2d<const float>(w.data(), N, K);
  using nibble::fitter;

  std::printf("format         scale by         bits    cosine      SQNR  above Shannon\n");
  try_format(W, "w8_channel", fitter::min_max);
  const result w6 = try_format(W, "w6_g128", fitter::min_max);
  try_format(W, "w4_channel", fitter::min_max);  // one scale for 4096 weights: the greatest of them sets the step
  const result w4 = try_format(W, "w4_g128", fitter::min_max);
  const result w4_g32 = try_format(W, "w4_g32", fitter::min_max);
  try_format(W, "w4a_g128", fitter::min_max);
  try_format(W, "nf4_g64", fitter::min_max);
  try_format(W, "nf4_flat64_dq", fitter::min_max);  // QLoRA's own
  try_format(W, "lloyd4_g128", fitter::min_max);
  // With few codes the greatest value is a bad guide: fit the scale to all of them.
  const result w2 = try_format(W, "w2m_g128", fitter::min_max);
  const result w2_fitted = try_format(W, "w2m_g128", fitter::mse_search);
  const result lloyd2 = try_format(W, "lloyd2_g128", fitter::least_squares);

  // Fidelity costs bits: 6 dB each. Below that, smaller groups and better fits buy some.
  const bool as_expected = w6.distortion < w4_g32.distortion && w4_g32.distortion < w4.distortion &&
                           w2_fitted.distortion < 0.7 * w2.distortion && lloyd2.distortion < w2_fitted.distortion;
  return as_expected ? 0 : 1;
}
