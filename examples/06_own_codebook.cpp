// SPDX-License-Identifier: MIT
// A number format of your own: eight levels learned from the weights, one scale for each 32 of them.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <random>
#include <string_view>
#include <vector>

#include <nibble/nibble.hpp>
#include <nibble/study/error_metrics.hpp>

namespace {

constexpr std::size_t N = 64, K = 4096, group = 32;

double distortion(std::string_view name, const nibble::any_qmatrix& q, const std::vector<float>& w) {
  std::vector<float> values(w.size());
  nibble::dequantize(q.view(), nibble::make_span2d(values.data(), N, K));
  nibble::study::error_sums sums;
  sums.add(w, values);
  std::printf("%-28.*s %.3f bits  %.2f dB\n", static_cast<int>(name.size()), name.data(),
              nibble::bits_per_weight(q.ledger(), N, K), sums.sqnr_db());
  return sums.distortion();
}

/// Lloyd's algorithm on x / (the greatest magnitude of its group), the numbers that the table is to represent.
std::array<float, 8> learn_levels(const std::vector<float>& w) {
  std::vector<float> x(w);
  for (std::size_t g = 0; g < x.size(); g += group) {
    float greatest = 0.0f;
    for (std::size_t i = g; i < g + group; ++i) greatest = std::max(greatest, std::fabs(x[i]));
    for (std::size_t i = g; i < g + group; ++i) x[i] /= greatest;
  }
  std::array<float, 8> levels{-1.0f, -0.7f, -0.4f, -0.1f, 0.1f, 0.4f, 0.7f, 1.0f};
  for (int pass = 0; pass < 30; ++pass) {
    std::array<double, 8> sum{}, count{};
    for (const float v : x) {
      std::size_t nearest = 0;
      for (std::size_t i = 1; i < 8; ++i)
        if (std::fabs(v - levels[i]) < std::fabs(v - levels[nearest])) nearest = i;
      sum[nearest] += static_cast<double>(v);
      ++count[nearest];
    }
    for (std::size_t i = 0; i < 8; ++i)
      if (count[i] > 0.0) levels[i] = static_cast<float>(sum[i] / count[i]);
  }
  return levels;
}

/// The same thing known at compile time: a table type makes a format like those of quant/qtype.hpp.
struct eighths {
  static constexpr int bits = 3;
  static constexpr nibble::quant::sorted_table<3> table{{-1.0f, -0.5f, -0.25f, -0.125f, 0.0f, 0.125f, 0.25f, 0.5f}};
  static constexpr nibble::codebook_desc desc() noexcept { return table.desc(nibble::codebook_scaling::absmax); }
};
using eighths_g32 = nibble::quant::codebook<eighths, nibble::quant::grouped<32>, nibble::half>;
static_assert(nibble::quant::policy<eighths_g32>);

}  // namespace

int main() {
  // Heavy tails, as trained weights have: a Laplace distribution.
  std::vector<float> w(N * K);
  std::mt19937 rng(1);
  std::exponential_distribution<float> tail;
  for (float& v : w) v = (rng() & 1u ? 1.0f : -1.0f) * tail(rng);
  const auto W = nibble::make_span2d<const float>(w.data(), N, K);

  const double uniform = distortion("w3_g32", nibble::quantize<nibble::quant::w3_g32>(W).erased(), w);
  distortion("powers of two", nibble::quantize<eighths_g32>(W).erased(), w);

  // A table known only when the program runs: the format is data, and the matrix keeps a copy of the table.
  const std::array<float, 8> levels = learn_levels(w);
  const nibble::format_desc format{nibble::code_rule::codebook, 3, nibble::granularity_kind::grouped,
                                   nibble::scale_storage::f16, group};
  nibble::quantize_options options;
  options.table = levels.data();
  const nibble::any_qmatrix learned = nibble::quantize(format, W, options);
  const double own = distortion("learned levels", learned, w);
  options.fit.method = nibble::fitter::least_squares;
  const nibble::any_qmatrix fitted_matrix = nibble::quantize(format, W, options);
  const double fitted = distortion("learned, scales fitted too", fitted_matrix, w);

  // Kernels take any table: pack and multiply as ever.
  std::vector<float> x(K, 1.0f), y(N);
  nibble::multiply(nibble::make_span2d(x.data(), 1, K), nibble::pack_matrix(fitted_matrix.view()),
                   nibble::make_span2d(y.data(), 1, N));
  double sum = 0.0;  // of the values of row 0
  for (std::size_t k = 0; k < K; ++k) sum += static_cast<double>(nibble::decode_at(fitted_matrix.view(), 0, k));
  std::printf("sum of row 0: %.4f, as a product: %.4f\n", sum, static_cast<double>(y[0]));
  const bool exact = std::fabs(sum - static_cast<double>(y[0])) < 1e-2;

  // In integers the table's values are taken as whole numbers of one step: faster, and the options say how closely.
  nibble::gemm_options integers{.computation = nibble::computation::integer};
  integers.image = nibble::table_image::one_plane;
  nibble::multiply(nibble::make_span2d(x.data(), 1, K), nibble::pack_matrix(fitted_matrix.view()),
                   nibble::make_span2d(y.data(), 1, N), integers);
  std::printf("as a product of integers: %.4f\n", static_cast<double>(y[0]));
  double scale = 0.0;  // the bound: sum |x| * greatest value / 254
  for (std::size_t k = 0; k < K; ++k)
    scale = std::fmax(scale, std::fabs(static_cast<double>(nibble::decode_at(fitted_matrix.view(), 0, k))));
  const bool close = std::fabs(sum - static_cast<double>(y[0])) < static_cast<double>(K) * scale / 254.0;

  return own < 0.8 * uniform && fitted < own && exact && close ? 0 : 1;
}
