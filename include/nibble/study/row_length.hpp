// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The cosine of quantized Gaussian rows against their length: measured through nibble::quantize, predicted by the closed
/// forms, compared in standard errors.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/study/closed_forms.hpp>
#include <nibble/study/error_metrics.hpp>
#include <nibble/study/gaussian.hpp>
#include <nibble/study/parallel.hpp>
#include <nibble/study/report.hpp>
#include <nibble/study/statistics.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// Error sums of independent batches of rows of normals.
struct batched_errors {
  std::vector<error_sums> batches;

  /// The cosine of all batches together, jackknifed over them: its bias of order 1 / rows is removed.
  estimate cosine() const {
    return jackknife(batches.size(), [&](std::size_t leave_out) {
      error_sums sum;
      for (std::size_t b = 0; b < batches.size(); ++b)
        if (b != leave_out) sum.merge(batches[b]);
      return sum.cosine();
    });
  }
  /// D = |w - q|^2 / |w|^2 in the same way.
  estimate distortion() const {
    return jackknife(batches.size(), [&](std::size_t leave_out) {
      error_sums sum;
      for (std::size_t b = 0; b < batches.size(); ++b)
        if (b != leave_out) sum.merge(batches[b]);
      return sum.distortion();
    });
  }
};

/// What is measured: n = 2^first_log2 .. 2^last_log2, `batches` independent batches of about `weights` weights each.
struct row_length_options {
  int first_log2 = 5, last_log2 = 14;
  std::size_t batches = 32;
  std::size_t weights = std::size_t{1} << 17;
  std::uint64_t seed = 20'261;
};

/// The grids of the table.
enum class row_grid { absmax_symmetric, min_max_integer, min_max_offset };

inline constexpr std::array<row_grid, 3> row_grids{row_grid::absmax_symmetric, row_grid::min_max_integer,
                                                   row_grid::min_max_offset};

constexpr const char* name_of(row_grid g) noexcept {
  switch (g) {
    case row_grid::absmax_symmetric: return "absmax symmetric";
    case row_grid::min_max_integer: return "min-max, integer zero point";
    case row_grid::min_max_offset: return "min-max, float offset";
  }
  return "unknown";
}

constexpr format_desc format_of(row_grid g, int bits) noexcept {
  const code_rule rule = g == row_grid::absmax_symmetric  ? code_rule::symmetric
                         : g == row_grid::min_max_integer ? code_rule::asymmetric
                                                          : code_rule::asymmetric_offset;
  return {rule, static_cast<std::uint8_t>(bits), granularity_kind::per_channel, scale_storage::f32, 0};
}

/// The prediction for rows of n normals.
inline expected_error predicted(row_grid g, std::size_t n, int bits) {
  if (g == row_grid::absmax_symmetric) return absmax_row_error(n, symmetric_levels(bits));
  return range_row_error(n, bits,
                         g == row_grid::min_max_integer ? zero_kind::integer_zero_point : zero_kind::float_offset);
}

/// The reference table's cosine for n = 1024 (0: none) and, for c(n), at 2 bits.
inline double reference_row_cosine(row_grid g, std::size_t n, int bits) noexcept {
  constexpr std::array<double, 9> absmax{0, 0, 0, .9489, .9901, .99780, .99948, 0, .999969};
  constexpr std::array<double, 9> min_max{0, 0, .8517, .9660, .99223, .99816, .99955, 0, .999973};
  if (g == row_grid::absmax_symmetric && bits == 2) switch (n) {
      case 32: return .8201;
      case 64: return .7811;
      case 128: return .7416;
      case 256: return .7021;
      case 512: return .6630;
      case 1024: return .6246;
      case 2048: return .587;
      case 4096: return .551;
      default: return 0.0;
    }
  if (n != 1024) return 0.0;
  if (g == row_grid::absmax_symmetric) return absmax[static_cast<std::size_t>(bits)];
  return g == row_grid::min_max_offset ? min_max[static_cast<std::size_t>(bits)] : 0.0;
}

/// The table `row_length`. `say(text)` hears of progress.
template <class Say>
study_table row_length_table(const row_length_options& o, const context& ctx, Say&& say) {
  study_table t{
      "row_length",
      "Cosine against row length",
      "Rows of n true normals, one scale a row: measured with nibble::quantize against integrals over the distribution of "
      "the row's maximum (or minimum and maximum). Differences are in standard errors (jackknife over " +
          std::to_string(o.batches) + " batches); a row differs beyond four.",
      {}};
  constexpr int bits_first = 2, bits_last = 8;
  struct cell {
    row_grid grid;
    std::size_t n;
    int bits;
    batched_errors measured;
    expected_error expected;
  };
  std::vector<cell> cells;
  for (int log2 = o.first_log2; log2 <= o.last_log2; ++log2)
    for (const row_grid g : row_grids)
      for (int b = bits_first; b <= bits_last; ++b)
        cells.push_back({g, std::size_t{1} << log2, b, {std::vector<error_sums>(o.batches)}, {}});
  say("row_length: " + std::to_string(cells.size()) + " predictions");
  parallel_items(ctx, cells.size(),
                 [&](std::size_t i) { cells[i].expected = predicted(cells[i].grid, cells[i].n, cells[i].bits); });

  const std::size_t in_length = row_grids.size() * (bits_last - bits_first + 1);
  for (int log2 = o.first_log2; log2 <= o.last_log2; ++log2) {
    const std::size_t n = std::size_t{1} << log2, rows = std::max<std::size_t>(1, o.weights / n);
    say("row_length: measuring n = " + std::to_string(n));
    cell* const first = cells.data() + static_cast<std::size_t>(log2 - o.first_log2) * in_length;
    parallel_items(ctx, o.batches, [&](std::size_t batch) {
      std::vector<float> w(rows * n), q(rows * n);
      normal_source(o.seed + 1000 * static_cast<std::uint64_t>(log2) + batch).fill(w);
      for (cell* c = first; c != first + in_length; ++c) {
        const any_qmatrix m = quantize(format_of(c->grid, c->bits), make_span2d<const float>(w.data(), rows, n));
        dequantize(m.view(), make_span2d(q.data(), rows, n));
        c->measured.batches[batch].add(w, q);
      }
    });
  }

  double worst = 0.0, squares = 0.0;
  for (const row_grid g : row_grids) {
    text_grid grid{name_of(g), {"n"}, {}};
    for (int b = bits_first; b <= bits_last; ++b) {
      grid.headings.push_back(std::to_string(b) + " bit");
      grid.headings.push_back("z");
    }
    for (const cell& c : cells) {
      if (c.grid != g) continue;
      const estimate e = c.measured.cosine();
      const double expected = c.expected.cosine(), z = e.errors_from(expected),
                   reference = reference_row_cosine(g, c.n, c.bits);
      worst = std::max(worst, std::fabs(z));
      squares += z * z;
      finding f{
          .name = std::string(name_of(g)) + ", n = " + std::to_string(c.n) + ", " + std::to_string(c.bits) + " bit",
          .reported = expected,
          .ours = e.value,
          .tolerance = 4.0 * e.standard_error,
          .decimals = 7,
          .basis = "reported = closed form; ours = measured; tolerance = 4 standard errors",
          .explanation = "more than four standard errors from the closed form"};
      f.labels = {{"grid", name_of(g)}};
      f.details = {{"n", static_cast<double>(c.n)},
                   {"bits", static_cast<double>(c.bits)},
                   {"standard_error", e.standard_error},
                   {"standard_errors_off", z},
                   {"distortion_predicted", c.expected.distortion()}};
      if (reference != 0.0) f.details.push_back({"reference", reference});
      t.rows.push_back(std::move(f));
      if (c.bits == bits_first) grid.cells.push_back({std::to_string(c.n)});
      // As many digits as tell 1 - cosine apart.
      grid.cells.back().push_back(format_number(e.value, c.bits <= 3 ? 4 : c.bits <= 5 ? 5 : c.bits <= 7 ? 6 : 7));
      grid.cells.back().push_back((std::fabs(z) > 4.0 ? "!" : "") + format_fixed(z, 1));
    }
    t.grids.push_back(std::move(grid));
  }
  // The reference table's values, against the closed forms: they are rounded, and some were simulated.
  std::vector<finding> references;
  for (const cell& c : cells) {
    const double reference = reference_row_cosine(c.grid, c.n, c.bits);
    if (reference == 0.0) continue;
    const int decimals = c.bits <= 2   ? (c.n >= 2048 ? 3 : 4)
                         : c.bits <= 4 ? (c.grid == row_grid::min_max_offset && c.bits == 4 ? 5 : 4)
                         : c.bits <= 6 ? 5
                                       : 6;
    references.push_back({.name = "reference: " + std::string(name_of(c.grid)) + ", n = " + std::to_string(c.n) + ", " +
                                  std::to_string(c.bits) + " bit",
                          .reported = reference,
                          .ours = c.expected.cosine(),
                          .tolerance = 2.0 * std::pow(10.0, -decimals),
                          .decimals = decimals + 1,
                          .basis = "ours = closed form; tolerance = two units of the last printed digit"});
  }
  struct moments {
    std::size_t n;
    double absmax, range;
  };
  constexpr std::array<moments, 8> reference_moments{{{32, 5.70, 17.58},
                                                      {64, 6.89, 22.32},
                                                      {128, 8.13, 27.22},
                                                      {256, 9.39, 32.23},
                                                      {512, 10.66, 37.36},
                                                      {1024, 11.84, 42.13},
                                                      {2048, 13.22, 47.33},
                                                      {4096, 14.3, 52.1}}};
  const char* const simulated = "the reference figure was simulated with few rows; the integral is exact";
  for (const moments& m : reference_moments) {
    references.push_back({.name = "reference: E[A^2], n = " + std::to_string(m.n),
                          .reported = m.absmax,
                          .ours = expected_absmax_squared(m.n),
                          .tolerance = 0.01 * m.absmax,
                          .decimals = 3,
                          .basis = "mean square of the row's absolute maximum; tolerance 1 %",
                          .explanation = simulated});
    references.push_back({.name = "reference: E[R^2], n = " + std::to_string(m.n),
                          .reported = m.range,
                          .ours = expected_range_squared(m.n),
                          .tolerance = 0.01 * m.range,
                          .decimals = 3,
                          .basis = "mean square of the row's range; tolerance 1 %",
                          .explanation = simulated});
  }
  text_grid reference_grid = findings_grid(references);
  reference_grid.caption = "the reference table's values against the closed forms";
  t.grids.push_back(std::move(reference_grid));
  const double cells_count = static_cast<double>(cells.size());
  t.rows.insert(t.rows.end(), references.begin(), references.end());
  t.remarks.push_back("Over " + std::to_string(cells.size()) +
                      " cells the largest deviation from the closed forms is " + format_number(worst, 1) +
                      " standard errors and the root mean square " +
                      format_number(std::sqrt(squares / cells_count), 2) + " (1.03 expected for jackknife errors of " +
                      std::to_string(o.batches) + " batches; cells of one length share their rows).");

  for (const row_grid g : {row_grid::absmax_symmetric, row_grid::min_max_offset}) {
    plot p{g == row_grid::absmax_symmetric ? "row_length_absmax" : "row_length_min_max",
           std::string("1 - cosine against row length: ") + name_of(g),
           "row length n",
           "1 - cosine",
           true,
           true,
           {}};
    for (int b = bits_first; b <= bits_last; ++b) {
      plot_series line{std::to_string(b) + " bit", true, {}, {}, {}}, points{"", false, {}, {}, {}};
      for (const cell& c : cells) {
        if (c.grid != g || c.bits != b) continue;
        const estimate e = c.measured.cosine();
        line.x.push_back(static_cast<double>(c.n));
        line.y.push_back(1.0 - c.expected.cosine());
        points.x.push_back(static_cast<double>(c.n));
        points.y.push_back(1.0 - e.value);
        points.y_error.push_back(e.standard_error);
      }
      p.series.push_back(std::move(line));
      p.series.push_back(std::move(points));
    }
    t.plots.push_back(std::move(p));
  }
  return t;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
