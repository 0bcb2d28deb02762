// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// R2's question put properly: its three chains with true normal weights, many seeds, every number format, and for each
/// the closed form or reference value it has to meet.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/fit.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/qtype.hpp>
#include <nibble/study/byte_ledger.hpp>
#include <nibble/study/closed_forms.hpp>
#include <nibble/study/error_metrics.hpp>
#include <nibble/study/gaussian.hpp>
#include <nibble/study/parallel.hpp>
#include <nibble/study/r2_inputs.hpp>
#include <nibble/study/report.hpp>
#include <nibble/study/row_length.hpp>
#include <nibble/study/statistics.hpp>
#include <nibble/tensor/ledger.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// A number format together with the way its scales are found.
struct measured_format {
  std::string name;  ///< qtype name, "+mse" or "+ls" for the fitters that search
  qtype type{};
  quantize_options options{};
  bool searched() const noexcept { return options.fit.method != fitter::min_max; }
  const format_desc& format() const noexcept { return quant::info_of(type).format; }
  const codebook_desc& book() const noexcept { return quant::info_of(type).book; }
};

/// A qtype by name with a fitter. Throws unsupported_format for an unknown name.
inline measured_format format_by_name(const std::string& name, fitter method = fitter::min_max) {
  const std::optional<qtype> type = quant::qtype_from_name(name);
  if (!type) core::fail(errc::unsupported_format, "study: no number format is called '", name, "'");
  measured_format f{name, *type, {}};
  f.options.fit.method = method;
  if (method == fitter::mse_search) f.name += "+mse";
  if (method == fitter::least_squares) f.name += "+ls";
  if (method == fitter::percentile) f.name += "+percentile";
  return f;
}

/// Every qtype, and the searched variants of the per-channel grids of each width and of the common 4-bit formats.
inline std::vector<measured_format> all_measured_formats() {
  std::vector<measured_format> all;
  for (std::size_t i = 0; i < quant::qtype_count; ++i)
    all.push_back({std::string(quant::name_of(static_cast<qtype>(i))), static_cast<qtype>(i), {}});
  for (int b = 2; b <= 8; ++b) {
    const std::string bits = std::to_string(b);
    all.push_back(format_by_name("w" + bits + "_channel", fitter::mse_search));
    all.push_back(format_by_name("w" + bits + "m_channel", fitter::mse_search));
    all.push_back(format_by_name("w" + bits + "o_channel", fitter::mse_search));
    all.push_back(format_by_name("lloyd" + bits + "_channel", fitter::least_squares));
  }
  all.push_back(format_by_name("w4_g32", fitter::mse_search));
  all.push_back(format_by_name("w4_g128", fitter::mse_search));
  all.push_back(format_by_name("nf4_flat64", fitter::least_squares));
  return all;
}

/// What theory says of a format on rows of normals, and how far it may be off on its own account (in D).
struct format_prediction {
  double cosine = 0.0;
  double distortion = 0.0;
  double model_error = 0.0;
};

/// How many weights of W[N, K] share a scale; 0 when that is not one number.
inline std::size_t group_length(const format_desc& d, std::size_t N, std::size_t K) noexcept {
  switch (d.granularity) {
    case granularity_kind::per_tensor: return N * K;
    case granularity_kind::per_channel: return K;
    case granularity_kind::flat: return N * K % d.group_size == 0 ? d.group_size : 0;
    case granularity_kind::grouped: break;
  }
  if (K <= d.group_size) return K;
  return K % d.group_size == 0 ? d.group_size : 0;
}

/// The closed form of a format for groups of n weights, where there is one: min-max and root-mean-square rules with float
/// or half scales; and for searched scales the expansion in 1/n, where groups are long enough for it and the group's
/// maximum never binds.
inline std::optional<format_prediction> predict(const measured_format& f, std::size_t n) {
  const format_desc& d = f.format();
  if (n == 0 || (d.scale != scale_storage::f32 && d.scale != scale_storage::f16)) return std::nullopt;
  std::vector<double> levels;  // ascending; of a unit row maximum, or of a unit Gaussian
  const bool gaussian_table = d.rule == code_rule::codebook && f.book().scaling == codebook_scaling::rms;
  switch (d.rule) {
    case code_rule::symmetric:
    case code_rule::symmetric_full: levels = symmetric_levels(d.bits); break;  // -h never comes up at scale A / (h - 1)
    case code_rule::mid_rise: levels = mid_rise_levels(d.bits); break;
    case code_rule::codebook:
      for (int u = 0; u < 1 << d.bits; ++u) {
        const double v = static_cast<double>(f.book().values[u]);
        levels.push_back(gaussian_table ? v : v / static_cast<double>(f.book().greatest));
      }
      std::sort(levels.begin(), levels.end());
      break;
    case code_rule::asymmetric:
    case code_rule::asymmetric_offset: break;
  }
  // A half scale is off by 1e-4 (rms): squared, that is what a scale error adds to D.
  const double storage_error = d.scale == scale_storage::f16 ? 2e-8 : 0.0;
  if (f.searched()) {
    const bool scale_only = d.rule == code_rule::symmetric || d.rule == code_rule::mid_rise ||
                            (gaussian_table && f.options.fit.method == fitter::least_squares);
    if (!scale_only) return std::nullopt;
    const scaled_levels best = best_scale(levels);
    const double gain = best.gain_per_row / static_cast<double>(n);
    // The search never widens the grid beyond the row maximum: the optimum must lie inside it almost always.
    const double reach = best.scale * (d.rule == code_rule::mid_rise ? 1.0 : levels.back());
    const double binds = std::pow(1.0 - 2.0 * normal_distribution(-reach), static_cast<double>(n));
    if (gain > 0.05 * best.distortion || (!gaussian_table && binds > 1e-4)) return std::nullopt;
    const double D = best.distortion - gain;
    return format_prediction{std::sqrt(1.0 - D), D, gain * gain / best.distortion * 2.0 + storage_error};
  }
  expected_error e;
  if (d.rule == code_rule::asymmetric) e = range_row_error(n, d.bits, zero_kind::integer_zero_point);
  else if (d.rule == code_rule::asymmetric_offset) e = range_row_error(n, d.bits, zero_kind::float_offset);
  else if (gaussian_table) e = rms_row_error(n, levels);
  else e = absmax_row_error(n, levels);
  return format_prediction{e.cosine(), e.distortion(), storage_error};
}

/// The closed forms of all formats on the three chains (means over the three matrices), result[size][format]. Formats that
/// differ only in how they are stored share one integral.
inline std::vector<std::vector<std::optional<format_prediction>>> predict_chains(
    const std::vector<measured_format>& formats, const context& ctx) {
  struct task {
    const measured_format* format;
    std::size_t n;
    std::optional<format_prediction> result;
  };
  std::vector<task> tasks;
  const auto task_of = [&](const measured_format& f, std::size_t n) {
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const measured_format& g = *tasks[i].format;
      if (tasks[i].n == n && g.format().rule == f.format().rule && g.format().bits == f.format().bits &&
          g.format().scale == f.format().scale && g.book().values == f.book().values &&
          g.options.fit.method == f.options.fit.method)
        return i;
    }
    tasks.push_back({&f, n, {}});
    return tasks.size() - 1;
  };
  std::vector<std::vector<std::array<std::size_t, 3>>> index(r2_widths.size());
  for (std::size_t s = 0; s < r2_widths.size(); ++s)
    for (const measured_format& f : formats) {
      std::array<std::size_t, 3> of{};
      const auto shapes = r2_shapes(r2_widths[s]);
      for (std::size_t i = 0; i < 3; ++i) of[i] = task_of(f, group_length(f.format(), shapes[i][0], shapes[i][1]));
      index[s].push_back(of);
    }
  parallel_items(ctx, tasks.size(), [&](std::size_t i) { tasks[i].result = predict(*tasks[i].format, tasks[i].n); });
  std::vector<std::vector<std::optional<format_prediction>>> chains(r2_widths.size());
  for (std::size_t s = 0; s < r2_widths.size(); ++s)
    for (const auto& of : index[s]) {
      std::optional<format_prediction> mean = format_prediction{};
      for (const std::size_t i : of) {
        if (!tasks[i].result) {
          mean.reset();
          break;
        }
        mean->cosine += tasks[i].result->cosine / 3.0;
        mean->distortion += tasks[i].result->distortion / 3.0;
        mean->model_error += tasks[i].result->model_error / 3.0;
      }
      chains[s].push_back(mean);
    }
  return chains;
}

struct r2_answered_options {
  std::size_t seeds = 16;
  std::size_t large_rows = 1;     ///< measure one row of this many of the Large chain
  std::size_t searched_rows = 8;  ///< the same for formats that search their scales, which take 50 times as long
  std::vector<measured_format> formats = all_measured_formats();
};

/// The figures of one format on one chain.
struct chain_measurement {
  std::array<batched_errors, 3>
      matrices;         ///< batches: seeds, times four row blocks where scales are not shared by rows
  model_ledger ledger;  ///< of the three matrices together

  /// Mean over the three matrices of the cosine of all batches, jackknifed over them.
  estimate mean_cosine() const {
    return jackknifed([](const error_sums& s) { return s.cosine(); });
  }
  /// Mean of D over the three matrices.
  estimate mean_distortion() const {
    return jackknifed([](const error_sums& s) { return s.distortion(); });
  }

 private:
  template <class Metric>
  estimate jackknifed(Metric&& metric) const {
    const std::size_t batches = matrices[0].batches.size();
    return jackknife(batches, [&](std::size_t leave_out) {
      double mean = 0.0;
      for (const batched_errors& m : matrices) {
        error_sums sum;
        for (std::size_t b = 0; b < batches; ++b)
          if (b != leave_out) sum.merge(m.batches[b]);
        mean += metric(sum) / 3.0;
      }
      return mean;
    });
  }
};

/// Quantizes the chain of width h with every format for `seeds` seeds. result[format].
template <class Say>
std::vector<chain_measurement> measure_chain(std::size_t h, const r2_answered_options& o, const context& ctx,
                                             Say&& say) {
  constexpr std::size_t blocks = 4;
  const auto shapes = r2_shapes(h);
  std::vector<chain_measurement> result(o.formats.size());
  for (std::size_t f = 0; f < result.size(); ++f) {
    const bool shared = o.formats[f].format().granularity == granularity_kind::per_tensor;
    for (batched_errors& m : result[f].matrices) m.batches.resize(o.seeds * (shared ? 1 : blocks));
    for (const auto& [N, K] : shapes) result[f].ledger.add(canonical_ledger(o.formats[f].format(), N, K), N * K);
  }
  say("r2_answered: h = " + std::to_string(h) + ", " + std::to_string(o.seeds) + " seeds, " +
      std::to_string(o.formats.size()) + " formats");
  parallel_items(ctx, o.seeds, [&](std::size_t seed) {
    normal_source normals(7'000'000 + 1000 * h + seed);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto [N, K] = shapes[i];
      std::vector<float> w(N * K), q(N * K);
      normals.fill(w);
      for (std::size_t f = 0; f < o.formats.size(); ++f) {
        const measured_format& format = o.formats[f];
        const bool shared = format.format().granularity == granularity_kind::per_tensor;
        const std::size_t share = h < r2_widths.back() || shared ? 1
                                  : format.searched()            ? o.searched_rows
                                                                 : o.large_rows;
        const std::size_t rows = std::max(blocks, N / share);
        const any_qmatrix m = quantize(format.type, make_span2d<const float>(w.data(), rows, K), format.options);
        dequantize(m.view(), make_span2d(q.data(), rows, K));
        const std::size_t parts = shared ? 1 : blocks;
        for (std::size_t b = 0; b < parts; ++b) {
          const std::size_t first = rows * b / parts * K, last = rows * (b + 1) / parts * K;
          result[f].matrices[i].batches[seed * parts + b].add(std::span(w).subspan(first, last - first),
                                                              std::span(q).subspan(first, last - first));
        }
      }
    }
  });
  return result;
}

/// A row of the reference table "what other 2-bit grids give": mean cosine for Small, Medium, Large.
struct two_bit_reference {
  const char* grid;
  const char* format;
  std::array<double, 3> cosine;
};
inline constexpr std::array<two_bit_reference, 5> two_bit_references{{
    {"ternary absmax (R2)", "w2f_channel", {.8197, .7414, .6629}},
    {"asymmetric min-max, integer zero point", "w2a_channel", {.9268, .8923, .8585}},
    {"asymmetric min-max, float offset", "w2o_channel", {.9327, .8965, .8656}},
    {"symmetric mid-rise, MSE-clipped", "w2m_channel+mse", {.9456, .9405, .9391}},
    {"Lloyd-Max, least-squares scale", "lloyd2_channel+ls", {.9463, .9413, .9399}},
}};

/// The distortion that the reference table gives a format on a Gaussian source, 0 where it gives none. Those of formats
/// with one scale a row hold for endless rows.
inline double reference_distortion(const std::string& format) noexcept {
  if (format == "nf4_flat64") return reference::nf4_block64;
  if (format == "w8_g32") return reference::q8_0_block32;
  for (std::size_t b = 2; b <= 8; ++b) {
    const std::string bits = std::to_string(b);
    if (format == "lloyd" + bits + "_channel") return reference::lloyd_max[b];
    if (format == "w" + bits + "m_channel+mse") return reference::uniform[b];
  }
  return 0.0;
}

/// The table `r2_answered`.
template <class Say>
study_table r2_answered_table(const r2_answered_options& o, const context& ctx, Say&& say) {
  study_table t{
      "r2_answered",
      "R2's shapes, true normals, every format",
      "The three chains with " + std::to_string(o.seeds) +
          " seeds of true normals. Cosine: mean over the three weight matrices, jackknifed; z: difference to the closed form in "
          "standard errors (n/a: no closed form). Bits per weight from the byte ledger, gap to Shannon at that rate for Large. "
          "+mse: 64 clips searched, +ls: least-squares scale" +
          (o.searched_rows > 1 ? ", both on one row of " + std::to_string(o.searched_rows) + " of Large."
                               : std::string(".")),
      {}};
  constexpr std::array<const char*, 3> sizes{"Small", "Medium", "Large"};
  say("r2_answered: closed forms");
  const auto predictions = predict_chains(o.formats, ctx);
  std::array<std::vector<chain_measurement>, 3> measured;
  for (std::size_t s = 0; s < 3; ++s) measured[s] = measure_chain(r2_widths[s], o, ctx, say);

  std::vector<text_grid> grids;
  std::vector<finding> grid_rows, distortion_rows;
  double least_gap = 1e9, worst = 0.0;
  std::string least_gap_name;
  std::size_t predicted_rows = 0, marked = 0;
  plot p{"r2_answered_gap",
         "Distance to the Shannon limit, Large chain (h = 512)",
         "bits per weight (codes, scales, zero points)",
         "10 log10(D 4^R), dB",
         false,
         false,
         {}};
  struct family {
    std::string prefix, suffix;
    plot_series curve;
  };
  std::vector<family> curves;
  for (const auto& [prefix, suffix, label] : {std::array<const char*, 3>{"w", "_channel", "symmetric absmax, row"},
                                              {"w", "_g128", "symmetric absmax, 128"},
                                              {"w", "_g32", "symmetric absmax, 32"},
                                              {"w", "o_channel", "min-max offset, row"},
                                              {"w", "m_channel+mse", "mid-rise, MSE clip, row"},
                                              {"lloyd", "_channel+ls", "Lloyd-Max, row"},
                                              {"nf", "_flat64_dq", "NF4, 64, double quant"}})
    curves.push_back({prefix, suffix, {label, std::string(prefix) != "nf", {}, {}, {}}});
  for (int bits = 2; bits <= 8; ++bits) {
    text_grid grid{std::to_string(bits) + " bits",
                   {"format", "bits/weight", "cos Small", "Medium", "Large", "SQNR dB", "gap dB", "predicted Large",
                    "z Small", "Medium", "Large"},
                   {}};
    const int digits = bits <= 3 ? 4 : bits <= 5 ? 5 : bits <= 7 ? 6 : 7;
    for (std::size_t f = 0; f < o.formats.size(); ++f) {
      const measured_format& format = o.formats[f];
      if (format.format().bits != bits) continue;
      std::vector<std::string> cells{format.name}, zs;
      std::string sqnr, gap_text, expected_text = "n/a";
      for (std::size_t s = 0; s < 3; ++s) {
        const chain_measurement& m = measured[s][f];
        const estimate c = m.mean_cosine(), d = m.mean_distortion();
        const double rate = m.ledger.bits_per_weight();
        const double gap = gap_to_shannon_db(d.value, rate);
        if (gap < least_gap) least_gap = gap, least_gap_name = format.name + ", " + sizes[s];
        error_sums pooled;
        double least_cosine = 1.0;
        for (const batched_errors& matrix : m.matrices) {
          error_sums sum;
          for (const error_sums& b : matrix.batches) sum.merge(b);
          least_cosine = std::min(least_cosine, sum.cosine());
          pooled.merge(sum);
        }
        finding row{.name = format.name + ", " + sizes[s], .ours = c.value, .decimals = 7};
        row.details = {{"bits_per_weight", rate},
                       {"code_bits", static_cast<double>(bits)},
                       {"standard_error", c.standard_error},
                       {"distortion", d.value},
                       {"sqnr_db", -10.0 * std::log10(d.value)},
                       {"gap_to_shannon_db", gap},
                       {"least_cosine", least_cosine},
                       {"pooled_cosine", pooled.cosine()},
                       {"largest_error", pooled.largest},
                       {"weights_measured", static_cast<double>(pooled.count)}};
        const std::optional<format_prediction>& e = predictions[s][f];
        std::string z_text = "n/a";
        if (e) {
          const double z = c.errors_from(e->cosine);
          const double model = 0.5 * e->model_error / std::max(e->cosine, 0.1);
          row.reported = e->cosine;
          row.tolerance = 4.0 * c.standard_error + model;
          row.basis = "reported = closed form on rows of the format's group length; tolerance 4 standard errors" +
                      std::string(model > 0.0 ? " and the closed form's own error of " + format_number(model, 8) : "");
          row.explanation = "more than four standard errors from the closed form";
          row.details.push_back({"standard_errors_off", z});
          ++predicted_rows;
          const bool mark = row.result() != verdict::reproduced;
          marked += mark ? 1 : 0;
          if (model == 0.0) worst = std::max(worst, std::fabs(z));
          z_text = (mark ? "!" : "") + format_fixed(z, 1);
          if (s == 2) expected_text = format_number(e->cosine, digits);
        } else {
          row.basis = "measured only: no closed form for this format and fitter at these row lengths";
        }
        zs.push_back(z_text);
        cells.push_back(format_number(c.value, digits));
        if (s == 2) {
          cells.insert(cells.begin() + 1, format_fixed(rate, 3));
          sqnr = format_fixed(-10.0 * std::log10(d.value), 2);
          gap_text = format_fixed(gap, 2);
          for (auto& [prefix, suffix, curve] : curves)
            if (format.name == prefix + std::to_string(bits) + suffix) {
              curve.x.push_back(rate);
              curve.y.push_back(gap);
            }
        }
        for (const two_bit_reference& r : two_bit_references)
          if (r.format == format.name)
            grid_rows.push_back(
                {.name = std::string("2-bit grid: ") + r.grid + ", " + sizes[s],
                 .reported = r.cosine[s],
                 .ours = c.value,
                 .tolerance = 4.0 * c.standard_error + 5e-4,
                 .decimals = 4,
                 .basis =
                     "reported = reference table, simulated with few seeds: 0.0005 on top of our 4 standard errors",
                 .explanation = "beyond the reference table's own uncertainty"});
        if (const double reference_D = reference_distortion(format.name); s == 2 && reference_D != 0.0 && e) {
          // What rows of finite length gain or lose is known from the closed form.
          const bool by_row = format.format().granularity == granularity_kind::per_channel;
          const double length = by_row ? predict(format, std::size_t{1} << 30)->distortion - e->distortion : 0.0;
          distortion_rows.push_back(
              {.name = "reference D: " + format.name,
               .reported = reference_D,
               .ours = d.value + length,
               .tolerance = 4.0 * d.standard_error + 2e-3 * reference_D,
               .decimals = bits <= 3   ? 5
                           : bits <= 5 ? 6
                                       : 8,
               .basis = std::string("ours = measured on Large") +
                        (by_row ? ", carried to endless rows by the closed form" : "") +
                        "; tolerance 4 standard errors and 0.2 % for the reference value",
               .explanation = "beyond the reference value's own uncertainty",
               .details = {{"standard_error", d.standard_error},
                           {"standard_errors_off", (d.value + length - reference_D) / d.standard_error}}});
        }
        t.rows.push_back(std::move(row));
      }
      cells.insert(cells.end(), {sqnr, gap_text, expected_text});
      cells.insert(cells.end(), zs.begin(), zs.end());
      grid.cells.push_back(std::move(cells));
    }
    t.grids.push_back(std::move(grid));
  }
  text_grid references = findings_grid(grid_rows);
  references.caption = "the reference table of 2-bit grids";
  t.grids.push_back(std::move(references));
  t.rows.insert(t.rows.end(), grid_rows.begin(), grid_rows.end());
  if (!distortion_rows.empty()) {
    text_grid distortions = findings_grid(distortion_rows);
    distortions.caption = "the reference table's distortions of a Gaussian source";
    t.grids.push_back(std::move(distortions));
    t.rows.insert(t.rows.end(), distortion_rows.begin(), distortion_rows.end());
  }
  t.rows.push_back({.name = "least gap to Shannon over all rows",
                    .how = comparison::at_least,
                    .reported = 0.0,
                    .ours = least_gap,
                    .tolerance = 0.02,
                    .unit = "dB",
                    .decimals = 2,
                    .basis = "a code below the Gaussian rate-distortion bound would be a bug; least: " + least_gap_name,
                    .explanation = "below the bound"});
  t.remarks.push_back(
      std::to_string(predicted_rows) + " rows have a closed form; " + std::to_string(marked) +
      " lie beyond four standard errors (marked !), the largest deviation where the closed form is exact is " +
      format_fixed(worst, 1) + " standard errors.");
  for (family& f : curves) p.series.push_back(std::move(f.curve));
  t.plots.push_back(std::move(p));
  return t;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
