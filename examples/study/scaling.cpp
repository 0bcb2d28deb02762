// SPDX-License-Identifier: MIT
// The table scaling: trained models of three widths and one of equal size but more depth, every block matrix quantized.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nibble/core/error.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/nn/load_model.hpp>
#include <nibble/study/byte_ledger.hpp>
#include <nibble/study/parallel.hpp>
#include <nibble/study/r2_answered.hpp>
#include <nibble/study/r2_exact.hpp>
#include <nibble/study/scaling.hpp>

#include "study.hpp"

namespace study_program {
namespace {

using namespace nibble;
using namespace nibble::study;

constexpr std::array<const char*, 4> model_names{"small", "medium", "large", "deep"};

/// The formats of the table; R2's INT2 and INT8 are w2f_channel and w8f_channel, equal to w2_ and w8_channel at min-max.
std::vector<measured_format> scaling_formats() {
  std::vector<measured_format> f;
  for (const char* name : {"w8_channel", "w7_channel", "w6_channel", "w5_g32", "w4_channel", "w4_g128", "w4_g32",
                           "w4a_g32", "nf4_flat64_dq", "w3_g32", "lloyd3_g128", "w2f_channel", "w2_g32", "w2a_channel"})
    f.push_back(format_by_name(name));
  f.push_back(format_by_name("w2m_channel", fitter::mse_search));
  f.push_back(format_by_name("lloyd2_channel", fitter::least_squares));
  return f;
}

/// One format on one model.
struct cell {
  block_weights_error weights;
  fidelity sampled;
  std::optional<fidelity> on_text;
  double distortion() const { return weights.metrics.pooled().distortion(); }
  estimate kl() const { return sampled.mean(sampled.kl); }
  /// Nats a token on the text beyond the float model: paired, so far more precise than the two losses themselves.
  estimate text_loss() const { return on_text->mean(on_text->log_ratio); }
};

struct model_result {
  std::string name;
  std::size_t d_model = 0, n_layers = 0;
  estimate entropy, nll;             ///< float model on its own samples, nats a token
  double surprise_error = 0.0;       ///< standard error of nll - entropy
  std::optional<estimate> text_nll;  ///< float model on --text
  std::vector<cell> cells;           ///< one a format
};

model_result measure(const std::string& name, const std::string& path, const std::vector<measured_format>& formats,
                     const options& o, progress& say) {
  say("scaling: " + name + ", sampling from the float model");
  const nn::model m = nn::load_model(path);
  model_result r;
  r.name = name;
  r.d_model = m.config.d_model;
  r.n_layers = m.config.n_layers;
  const std::size_t length = std::min<std::size_t>(256, m.config.max_seq_len), sequences = o.quick ? 8 : 64;
  constexpr std::array<nn::token, 4> first{' ', '\n', 'T', 'a'};
  const token_sequences text = sample_sequences(m, sequences, length, first, 1, o.ctx);
  nn::transformer<> float_model(m, {}, o.ctx);
  const reference_run reference = run_reference(float_model, text);
  const std::vector<double> count(sequences, static_cast<double>(length));
  r.entropy = bootstrap_ratio(reference.entropy, count);
  r.nll = bootstrap_ratio(reference.nll, count);
  r.surprise_error = reference.surprise_error();

  token_sequences held_out;
  reference_run held_out_reference;
  if (!o.text_file.empty()) {
    const io::mapped_file file(o.text_file);
    held_out = cut_sequences(file.bytes(), length, o.quick ? 8 : 64);
    if (held_out.sequences < 2)
      core::fail(errc::bad_file, "--text: '", o.text_file, "' has ", file.bytes().size(), " bytes; at least ",
                 2 * length + 1, " are needed");
    held_out_reference = run_reference(float_model, held_out);
    r.text_nll =
        bootstrap_ratio(held_out_reference.nll, std::vector<double>(held_out.sequences, static_cast<double>(length)));
  }
  say("scaling: " + name + ", " + std::to_string(formats.size()) + " formats on " + std::to_string(text.positions()) +
      " positions");
  // One thread a format: passes of several threads over one sequence would wait for each other at every layer.
  r.cells.resize(formats.size());
  std::atomic<std::size_t> done{0};
  parallel_items(o.ctx, formats.size(), [&](std::size_t i) {
    const measured_format& f = formats[i];
    cell& c = r.cells[i];
    c.weights = measure_blocks(m, f.type, f.options, {});
    nn::linear_options linear;
    linear.blocks.weights = f.type;
    linear.blocks.quantize = f.options;
    nn::transformer<> t(m, linear);
    c.sampled = compare(t, text, reference, {});
    if (held_out.sequences != 0) c.on_text = compare(t, held_out, held_out_reference, {});
    const std::size_t finished = ++done;
    if (finished % 4 == 0)
      say("scaling: " + name + ", " + std::to_string(finished) + " of " + std::to_string(formats.size()) + " formats");
  });
  return r;
}

struct timing {
  std::string name;
  std::vector<double> weights, seconds;
  line_fit fit;
};

/// Seconds to quantize R2's three matrices, one thread, widths 32 to 1024.
timing time_quantize(const std::string& format, bool quick) {
  timing t;
  t.name = format;
  const measured_format f = format_by_name(format);
  for (const std::size_t h : {16u, 32u, 64u, 128u, 256u, 512u, 1024u}) {
    if (quick && h > 512) break;
    std::vector<std::vector<float>> matrices;
    normal_source normals(h);
    for (const auto& [N, K] : r2_shapes(h)) {
      matrices.emplace_back(N * K);
      normals.fill(matrices.back());
    }
    const auto shapes = r2_shapes(h);
    t.weights.push_back(10.5 * static_cast<double>(h * h));
    t.seconds.push_back(least_time([&] {
      for (std::size_t i = 0; i < 3; ++i)
        (void)quantize(f.type, make_span2d<const float>(matrices[i].data(), shapes[i][0], shapes[i][1]), f.options);
    }));
  }
  std::vector<double> inverse_variance;  // timing errors are relative
  for (const double s : t.seconds) inverse_variance.push_back(1.0 / (s * s));
  t.fit = fit_line(t.weights, t.seconds, inverse_variance);
  return t;
}

std::string percent(double x) { return format_fixed(100.0 * x, 1) + " %"; }

std::string exponent(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2e", x);
  return text;
}

}  // namespace

nibble::study::study_table scaling(const options& o, progress& say) {
  study_table t{
      "scaling",
      "Trained models: compression against fidelity",
      "Byte-level language models whose blocks have R2's parameter counts (small, medium, large: one block; deep: more blocks, "
      "about the parameters of large). The matrices inside the blocks are quantized and run by nibble's own kernels; "
      "embedding, head, norms and biases are not. KL is exact over all 256 bytes at each position of text sampled from the "
      "float model, its error a bootstrap over sequences.",
      {}};
  std::vector<model_result> models;
  const std::vector<measured_format> formats = scaling_formats();
  for (const char* name : model_names) {
    const std::string path = (std::filesystem::path(o.models_dir) / (std::string(name) + ".safetensors")).string();
    if (!std::filesystem::exists(path)) {
      t.missing = "'" + path + "' does not exist; --models names the folder of the trained models";
      return t;
    }
    models.push_back(measure(name, path, formats, o, say));
  }

  const auto index_of = [&](const std::string& format) {
    for (std::size_t f = 0; f < formats.size(); ++f)
      if (formats[f].name == format) return f;
    return formats.size();
  };
  plot kl_plot{"scaling_kl",
               "Every format on every model: KL from the float model against size",
               "bits per weight (codes, scales, zero points)",
               "KL, nats per token",
               false,
               true,
               {}};
  plot law_plot{"scaling_kl_distortion",
                "KL is proportional to the weight error",
                "D = |w - q|^2 / |w|^2 of the block matrices",
                "KL, nats per token",
                false,
                true,
                {}};
  law_plot.extra = "set logscale x 10\nset format x '10^{%T}'\n";
  for (const model_result& m : models) {
    text_grid g{m.name + ": d = " + std::to_string(m.d_model) + ", " + std::to_string(m.n_layers) +
                    (m.n_layers == 1 ? " block, " : " blocks, ") +
                    std::to_string(m.cells[0].weights.ledger.parameters()) + " block parameters, " +
                    format_fixed(m.nll.value, 4) + " nats per byte on its own samples" +
                    (m.text_nll ? ", " + format_fixed(m.text_nll->value, 4) + " (perplexity " +
                                      format_fixed(std::exp(m.text_nll->value), 3) + ") on the text"
                                : ""),
                {"format", "bits/weight", "bytes", "ratio", "cos mean", "cos least", "SQNR dB", "output error",
                 "KL nats", "+-", "top-1"},
                {}};
    plot_series curve{m.name, false, {}, {}, {}}, law{m.name, false, {}, {}, {}}, slope_one{"", true, {}, {}, {}};
    std::vector<double> log_sensitivity;
    for (std::size_t f = 0; f < formats.size(); ++f) {
      const cell& c = m.cells[f];
      const estimate kl = c.kl(), agree = c.sampled.mean(c.sampled.agree);
      const double D = c.distortion();
      std::vector<std::string> row{formats[f].name,
                                   format_fixed(c.weights.ledger.bits_per_weight(), 3),
                                   std::to_string(c.weights.ledger.bytes()),
                                   format_fixed(c.weights.ledger.ratio_to_fp16(), 2),
                                   format_fixed(c.weights.metrics.mean_cosine(), 5),
                                   format_fixed(c.weights.metrics.least_cosine(), 5),
                                   format_fixed(-10.0 * std::log10(D), 2),
                                   format_fixed(c.sampled.relative_output_error(), 4),
                                   exponent(kl.value),
                                   exponent(kl.standard_error),
                                   percent(agree.value)};
      finding row_finding{.name = m.name + ", " + formats[f].name,
                          .ours = kl.value,
                          .unit = "nats",
                          .decimals = 6,
                          .basis = "measured: KL of the quantized from the float model; R2 measured no trained model"};
      row_finding.labels = {{"model", m.name}, {"format", formats[f].name}};
      row_finding.details = {{"parameters", static_cast<double>(c.weights.ledger.parameters())},
                             {"bytes", static_cast<double>(c.weights.ledger.bytes())},
                             {"bits_per_weight", c.weights.ledger.bits_per_weight()},
                             {"ratio_to_fp16", c.weights.ledger.ratio_to_fp16()},
                             {"theoretical_ratio", theoretical_ratio(formats[f].format())},
                             {"weight_cosine", c.weights.metrics.mean_cosine()},
                             {"least_weight_cosine", c.weights.metrics.least_cosine()},
                             {"distortion", D},
                             {"relative_output_error", c.sampled.relative_output_error()},
                             {"kl", kl.value},
                             {"kl_standard_error", kl.standard_error},
                             {"top1_agreement", agree.value},
                             {"top1_standard_error", agree.standard_error},
                             {"positions", static_cast<double>(c.sampled.positions)},
                             {"identity_z", c.sampled.identity_z()},
                             {"log_ratio_variance_over_2kl", c.sampled.variance_ratio()}};
      if (c.on_text) {
        const estimate nll = c.on_text->mean(c.on_text->nll), more = c.text_loss();
        row_finding.details.push_back({"text_nats", nll.value});
        row_finding.details.push_back({"text_nats_over_float", more.value});
        row_finding.details.push_back({"text_nats_over_float_standard_error", more.standard_error});
        row_finding.details.push_back({"text_perplexity", std::exp(nll.value)});
      }
      t.rows.push_back(std::move(row_finding));
      g.cells.push_back(std::move(row));
      curve.x.push_back(c.weights.ledger.bits_per_weight());
      curve.y.push_back(kl.value);
      curve.y_error.push_back(kl.standard_error);
      law.x.push_back(D);
      law.y.push_back(kl.value);
      law.y_error.push_back(kl.standard_error);
      if (D < 3e-3) log_sensitivity.push_back(std::log(kl.value / D));
    }
    for (const double D : {3e-5, 1.0}) {
      slope_one.x.push_back(D);
      slope_one.y.push_back(D * std::exp(mean_of(log_sensitivity).value));
    }
    t.grids.push_back(std::move(g));
    kl_plot.series.push_back(std::move(curve));
    law_plot.series.push_back(std::move(law));
    law_plot.series.push_back(std::move(slope_one));
  }
  if (models[0].text_nll) {
    text_grid g{"loss on the text '" + o.text_file +
                    "': float model, then nats per byte that each format adds (paired standard error)",
                {"format"},
                {}};
    std::vector<std::string> base{"float"};
    for (const model_result& m : models) {
      g.headings.insert(g.headings.end(), {m.name, "+-", "perplexity"});
      base.insert(base.end(), {format_fixed(m.text_nll->value, 4), format_fixed(m.text_nll->standard_error, 4),
                               format_fixed(std::exp(m.text_nll->value), 3)});
    }
    g.cells.push_back(std::move(base));
    for (std::size_t f = 0; f < formats.size(); ++f) {
      std::vector<std::string> row{formats[f].name};
      for (const model_result& m : models) {
        const estimate more = m.cells[f].text_loss();
        row.insert(row.end(), {format_fixed(more.value, 5), format_fixed(more.standard_error, 5),
                               format_fixed(std::exp(m.text_nll->value + more.value), 3)});
      }
      g.cells.push_back(std::move(row));
    }
    t.grids.push_back(std::move(g));
  }
  t.plots.push_back(std::move(kl_plot));
  t.plots.push_back(std::move(law_plot));

  // Checks of the evaluation itself.
  std::vector<finding> checks;
  double worst_identity = 0.0;
  for (const model_result& m : models) {
    checks.push_back(
        {.name = "check: NLL on own samples = mean entropy, " + m.name,
         .reported = m.entropy.value,
         .ours = m.nll.value,
         .tolerance = 4.0 * m.surprise_error,
         .unit = "nats",
         .decimals = 4,
         .basis =
             "reported = mean entropy of the float model's distributions; tolerance 4 standard errors of the difference",
         .explanation = "the samples are not drawn from the model that is evaluated"});
    double variance = 0.0;
    std::size_t near = 0;
    for (const cell& c : m.cells) {
      worst_identity = std::max(worst_identity, std::fabs(c.sampled.identity_z()));
      if (c.kl().value < 0.01) {
        variance += c.sampled.variance_ratio();
        ++near;
      }
    }
    if (near != 0)
      checks.push_back({.name = "check: variance of log p/q = 2 KL, " + m.name,
                        .reported = 1.0,
                        .ours = variance / static_cast<double>(near),
                        .tolerance = o.quick ? 0.5 : 0.25,
                        .decimals = 3,
                        .basis = "mean ratio over formats with KL < 0.01, where the identity holds to first order",
                        .explanation = "heavy tails or a wrong evaluation"});
    // KL against D for formats below D = 3e-3.
    std::vector<double> x, y;
    for (const cell& c : m.cells)
      if (c.distortion() < 3e-3) {
        x.push_back(std::log(c.distortion()));
        y.push_back(std::log(c.kl().value));
      }
    const line_fit fit = fit_line(x, y);
    checks.push_back(
        {.name = "check: KL is proportional to D, " + m.name,
         .reported = 1.0,
         .ours = fit.slope,
         .tolerance = 0.1 + 2.0 * fit.slope_error,
         .decimals = 3,
         .basis = "log-log slope over the formats with D < 3e-3; tolerance 0.1 and 2 standard errors of the fit",
         .explanation = "the formats' errors are not spread over the layers alike"});
  }
  checks.push_back(
      {.name = "check: E[log p - log q] = KL",
       .how = comparison::at_most,
       .reported = 4.0,
       .ours = worst_identity,
       .tolerance = 0.0,
       .unit = "z",
       .decimals = 2,
       .basis =
           "largest difference of the sampled and the exact figure over all models and formats, in standard errors",
       .explanation = "the evaluation contradicts itself"});

  // R2's questions.
  std::vector<finding> answers;
  const std::size_t ternary = index_of("w2f_channel"), ternary_g32 = index_of("w2_g32"), int8 = index_of("w8_channel"),
                    clipped = index_of("w2m_channel+mse");
  const auto cosine = [&](std::size_t model, std::size_t f) {
    return models[model].cells[f].weights.metrics.mean_cosine();
  };
  const auto ratio = [&](std::size_t model, std::size_t f) {
    return models[model].cells[f].weights.ledger.ratio_to_fp16();
  };
  for (std::size_t s = 0; s < 3; ++s) {
    answers.push_back({.name = std::string("ratio of INT2, ") + r2_reports[s].name,
                       .reported = r2_reports[s].ratio2,
                       .ours = ratio(s, ternary),
                       .tolerance = 0.05,
                       .unit = "x",
                       .decimals = 2,
                       .basis = "bytes of the block: packed codes, FP32 row scales, FP16 biases and norms",
                       .explanation = s == 2
                                          ? "packed codes stay below 8.00x; R2's file passed it by lossless compression"
                                          : "R2's small files are mostly container"});
    answers.push_back({.name = std::string("INT2 accuracy on trained weights, ") + r2_reports[s].name,
                       .reported = r2_reports[s].accuracy2,
                       .ours = cosine(s, ternary),
                       .tolerance = 0.01,
                       .decimals = 4,
                       .basis = "element-weighted cosine of the block matrices, no bias averaged in",
                       .explanation = "R2 averages three unquantized biases into its figure"});
  }
  const double fall_channel = cosine(0, ternary) - cosine(2, ternary),
               fall_g32 = cosine(0, ternary_g32) - cosine(2, ternary_g32),
               fall_clipped = cosine(0, clipped) - cosine(2, clipped);
  answers.push_back(
      {.name = "size itself costs 2-bit cosine",
       .how = comparison::at_least,
       .reported = fall_channel,
       .ours = fall_g32,
       .tolerance = 0.1 * fall_channel,
       .decimals = 4,
       .basis =
           "claim tested: the fall from small to large with one scale a row (reported side) stays when groups have 32 weights in every model",
       .explanation =
           "with equal group length the fall is gone: it is the row maximum, which grows with the row, not the model"});
  const cell &large = models[2].cells[ternary_g32], &deep = models[3].cells[ternary_g32];
  answers.push_back({.name = "weight cosine of deep against large",
                     .reported = large.weights.metrics.mean_cosine(),
                     .ours = deep.weights.metrics.mean_cosine(),
                     .tolerance = 0.01,
                     .decimals = 4,
                     .basis = "groups of 32, 2 bits, equal parameters: depth does not enter a weight metric",
                     .explanation = "the two models' weights are distributed differently"});
  // KL per unit of weight error, from the formats of small error, each weighted alike.
  const auto sensitivity = [&](const model_result& m) {
    std::vector<double> logs;
    for (const cell& c : m.cells)
      if (c.distortion() < 2e-2) logs.push_back(std::log(c.kl().value / c.distortion()));
    return mean_of(logs);
  };
  std::array<estimate, 4> sensitivities;
  for (std::size_t i = 0; i < 4; ++i) sensitivities[i] = sensitivity(models[i]);
  const double depth_log = sensitivities[3].value - sensitivities[2].value;
  const double depth_error = std::hypot(sensitivities[3].standard_error, sensitivities[2].standard_error);
  answers.push_back(
      {.name = "depth amplifies weight error",
       .how = comparison::at_least,
       .reported = 2.0,
       .ours = depth_log / depth_error,
       .tolerance = 0.0,
       .unit = "z",
       .decimals = 2,
       .basis =
           "claim tested: KL per unit of weight error is larger for deep than for large, by at least 2 standard errors over formats; ratio " +
           format_fixed(std::exp(depth_log), 2),
       .explanation = "four blocks lose no more than one block of the same parameters"});

  text_grid times{"time to quantize R2's three matrices, one thread", {"weights"}, {}};
  std::vector<timing> timings;
  say("scaling: quantize time");
  for (const char* f : {"w8f_channel", "w2f_channel", "w4_g128"}) timings.push_back(time_quantize(f, o.quick));
  for (const timing& tm : timings) {
    times.headings.push_back(tm.name + " us");
    times.headings.push_back("ns/weight");
  }
  for (std::size_t i = 0; i < timings[0].weights.size(); ++i) {
    std::vector<std::string> row{format_fixed(timings[0].weights[i], 0)};
    for (const timing& tm : timings) {
      row.push_back(format_fixed(1e6 * tm.seconds[i], 1));
      row.push_back(format_fixed(1e9 * tm.seconds[i] / tm.weights[i], 2));
    }
    times.cells.push_back(std::move(row));
  }
  t.grids.push_back(std::move(times));
  constexpr std::array<double, 2> r2_slopes{185.0, 100.0};
  for (std::size_t i = 0; i < 2; ++i) {
    const line_fit& fit = timings[i].fit;
    finding f{.name = std::string("time of ") + (i == 0 ? "INT8" : "INT2") + ", ns per weight",
              .reported = r2_slopes[i],
              .ours = 1e9 * fit.slope,
              .tolerance = 0.1 * r2_slopes[i],
              .unit = "ns",
              .decimals = 2,
              .basis = "affine fit over seven sizes; reported = fit through R2's three times",
              .explanation = "another implementation on another machine"};
    f.details = {{"fixed_seconds", fit.intercept},
                 {"fixed_seconds_error", fit.intercept_error},
                 {"slope_error", 1e9 * fit.slope_error},
                 {"r_squared", fit.r_squared}};
    answers.push_back(std::move(f));
  }

  plot cosine_plot{"scaling_two_bit",
                   "2-bit weight cosine against the size of the model (trained weights)",
                   "block parameters",
                   "cosine",
                   true,
                   false,
                   {}};
  cosine_plot.extra = "set logscale x 10\nset format x '10^{%T}'\n";
  for (const auto& [format, label] : {std::pair{ternary, "ternary absmax, row (R2)"},
                                      {ternary_g32, "ternary absmax, groups of 32"},
                                      {clipped, "four levels, MSE clip, row"}}) {
    plot_series line{label, true, {}, {}, {}}, points{"", false, {}, {}, {}};
    for (std::size_t s = 0; s < 3; ++s) {
      line.x.push_back(static_cast<double>(models[s].cells[format].weights.ledger.parameters()));
      line.y.push_back(cosine(s, format));
    }
    points.x = line.x;
    points.y = line.y;
    cosine_plot.series.push_back(std::move(line));
    cosine_plot.series.push_back(std::move(points));
  }
  t.plots.push_back(std::move(cosine_plot));

  text_grid check_grid = findings_grid(checks), answer_grid = findings_grid(answers);
  check_grid.caption = "checks of the evaluation itself";
  answer_grid.caption = "what R2 asks";
  t.grids.push_back(std::move(check_grid));
  t.grids.push_back(std::move(answer_grid));
  t.rows.insert(t.rows.end(), checks.begin(), checks.end());
  t.rows.insert(t.rows.end(), answers.begin(), answers.end());

  const auto three = [&](auto&& value, int decimals) {
    return format_fixed(value(0), decimals) + " / " + format_fixed(value(1), decimals) + " / " +
           format_fixed(value(2), decimals);
  };
  const bool rising = ratio(0, ternary) < ratio(1, ternary) && ratio(1, ternary) < ratio(2, ternary);
  const bool below = ratio_is_possible(ratio(2, ternary), formats[ternary].format()) &&
                     ratio_is_possible(ratio(2, int8), formats[int8].format());
  t.remarks.push_back(
      std::string("Does compression approach the theoretical ratio? ") +
      (rising && below ? "Yes, from below." : "No.") +
      " 2-bit codes with one scale a row: " + three([&](std::size_t s) { return ratio(s, ternary); }, 2) +
      "x of 8; 8-bit: " + three([&](std::size_t s) { return ratio(s, int8); }, 3) +
      "x of 2. What is missing are scales (32 / K bits a weight), biases and norms, whose share shrinks with width.");
  const bool row_maximum = fall_g32 < 0.1 * fall_channel && fall_clipped < 0.1 * fall_channel;
  t.remarks.push_back(
      std::string("Why does 2-bit accuracy fall with size? ") +
      (row_maximum ? "The row maximum, which grows with the row's length." : "The row maximum explains only a part.") +
      " Cosine small / medium / large with one scale a row: " +
      three([&](std::size_t s) { return cosine(s, ternary); }, 3) +
      "; in groups of 32: " + three([&](std::size_t s) { return cosine(s, ternary_g32); }, 3) +
      "; one scale a row, but four levels and a searched clip: " +
      three([&](std::size_t s) { return cosine(s, clipped); }, 3) + ". Falls: " + format_fixed(fall_channel, 3) + ", " +
      format_fixed(fall_g32, 3) + ", " + format_fixed(fall_clipped, 3) + ".");
  const double weights_apart = std::fabs(deep.weights.metrics.mean_cosine() - large.weights.metrics.mean_cosine());
  const double depth_z = depth_log / depth_error;
  t.remarks.push_back(std::string("Is it depth? ") +
                      (weights_apart < 0.01 ? "Not in the weights" : "The weights differ") +
                      ": deep and large have cosine " + format_fixed(deep.weights.metrics.mean_cosine(), 3) + " and " +
                      format_fixed(large.weights.metrics.mean_cosine(), 3) + " in groups of 32. In the output " +
                      (depth_z > 2.0    ? "yes"
                       : depth_z < -2.0 ? "the other way round"
                                        : "not measurably") +
                      ": KL per unit of weight error is " + format_fixed(std::exp(sensitivities[3].value), 3) +
                      " (deep) against " + format_fixed(std::exp(sensitivities[2].value), 3) + " (large), a factor " +
                      format_fixed(std::exp(depth_log), 2) + " (" + format_fixed(depth_z, 1) +
                      " standard errors over formats; one trained model each). Width matters more: small has " +
                      format_fixed(std::exp(sensitivities[0].value), 2) + ", medium " +
                      format_fixed(std::exp(sensitivities[1].value), 2) + ".");
  const line_fit& f8 = timings[0].fit;
  const bool affine = f8.intercept > 2.0 * f8.intercept_error;
  t.remarks.push_back(
      std::string("Is time linear or affine? ") + (affine ? "Affine" : "Linear within the error of the fit") + ": " +
      format_fixed(1e6 * f8.intercept, 1) + " +- " + format_fixed(1e6 * f8.intercept_error, 1) + " us fixed and " +
      format_fixed(1e9 * f8.slope, 2) + " ns a weight (8 bits, one thread). The fixed part equals " +
      format_fixed(f8.intercept / f8.slope / 1000.0, 0) + " thousand weights; R2's 0.11 s equals " +
      format_fixed(0.11 / 185e-9 / 1000.0, 0) + " thousand: its framework's overhead, not quantization.");
  return t;
}

}  // namespace study_program
