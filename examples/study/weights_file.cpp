// SPDX-License-Identifier: MIT
// The table of --weights: every 2-D tensor of any safetensors file in a set of formats, one tensor in memory at a time.

#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nibble/io/safetensors.hpp>
#include <nibble/study/r2_answered.hpp>

#include "study.hpp"

namespace study_program {
namespace {

using namespace nibble;
using namespace nibble::study;

std::vector<measured_format> weights_formats(bool quick) {
  std::vector<measured_format> f;
  for (const char* name : {"w8_channel", "w4_channel", "w4_g128", "w4a_g32", "nf4_flat64_dq", "w3_g32", "w2_g32"})
    f.push_back(format_by_name(name));
  if (!quick) f.push_back(format_by_name("lloyd2_channel", fitter::least_squares));
  return f;
}

/// "w8_channel" -> "w8": the grid must fit beside long tensor names.
std::string short_name(std::string name) {
  for (const char* part : {"_channel", "_flat64"})
    if (const std::size_t at = name.find(part); at != name.npos) name.erase(at, std::string(part).size());
  return name;
}

/// The end of a long tensor name, which tells tensors apart; report.json has all of it.
std::string tail_of(const std::string& name) {
  constexpr std::size_t most = 36;
  return name.size() <= most ? name : ".." + name.substr(name.size() - (most - 2));
}

}  // namespace

nibble::study::study_table weights_file(const options& o, progress& say) {
  const io::safetensors_reader file(o.weights_file);
  const std::vector<measured_format> formats = weights_formats(o.quick);
  study_table t{
      "weights",
      "Weights of " + o.weights_file,
      "Every 2-D tensor of float type, quantized and read back: cosine by format (w8 and w4: one scale a row, nf4_dq: blocks of 64, "
      "double quantization). Excess kurtosis is 0 for Gaussian weights; the last column is the SQNR of w4 above what Gaussian "
      "rows of this length give.",
      {}};
  text_grid g{"", {"tensor", "shape", "kurtosis"}, {}};
  for (const measured_format& f : formats) g.headings.push_back(short_name(f.name));
  g.headings.push_back("w4 dB");
  text_grid skipped{"tensors without rows", {"tensor", "type", "shape", "reason"}, {}};
  std::vector<metric_summary> totals(formats.size());
  std::vector<double> bits(formats.size(), 0.0), weights(formats.size(), 0.0);
  std::vector<finding> without_rows;
  std::map<std::pair<std::size_t, std::size_t>, std::optional<format_prediction>> predictions;  // by format, group
  for (const io::tensor_info& info : file.tensors()) {
    std::string reason;
    if (!io::safetensors_reader::is_float(info)) reason = "its type is not F32, F16 or BF16";
    else if (info.shape.size() != 2)
      reason = std::to_string(info.shape.size()) + " dimensions; only matrices are quantized";
    else if (info.elements == 0) reason = "it is empty";
    if (reason.empty()) {
      say("weights: " + io::printable(info.name));
      const std::size_t N = info.shape[0], K = info.shape[1];
      const aligned_vector<float> w = file.read_f32(info);
      file.release(info);
      double mean = 0.0, second = 0.0, fourth = 0.0;
      bool finite = true;
      for (const float x : w) {
        finite = finite && is_finite(x);
        mean += static_cast<double>(x);
      }
      mean /= static_cast<double>(w.size());
      for (const float x : w) {
        const double d = static_cast<double>(x) - mean, dd = d * d;
        second += dd;
        fourth = std::fma(dd, dd, fourth);
      }
      if (!finite) {
        reason = "it holds NaN or infinities";
      } else {
        const double count = static_cast<double>(w.size());
        const double kurtosis = second == 0.0 ? 0.0 : fourth * count / (second * second) - 3.0;
        std::vector<std::string> row{tail_of(io::printable(info.name)), io::shape_text(info.shape),
                                     format_fixed(kurtosis, 2)};
        std::string gaussian_text = "n/a";
        std::vector<float> q(w.size());
        for (std::size_t f = 0; f < formats.size(); ++f) {
          std::optional<any_qmatrix> quantized;
          try {
            quantized = quantize(formats[f].type, make_span2d<const float>(w.data(), N, K), formats[f].options, o.ctx);
          } catch (const error& e) {  // a scale that its storage type cannot hold
            row.push_back("n/a");
            t.rows.push_back({.name = io::printable(info.name) + ", " + formats[f].name,
                              .basis = std::string("not measured: ") + e.what(),
                              .labels = {{"tensor", info.name}, {"format", formats[f].name}}});
            continue;
          }
          const any_qmatrix& m = *quantized;
          dequantize(m.view(), make_span2d(q.data(), N, K), o.ctx);
          error_sums sums;
          sums.add(w, q);
          totals[f].add(sums);
          const double rate = bits_per_weight(m.ledger(), N, K);
          bits[f] += rate * count;
          weights[f] += count;
          finding row_finding{.name = io::printable(info.name) + ", " + formats[f].name,
                              .ours = sums.cosine(),
                              .decimals = 6,
                              .basis = "measured on the file's weights; there is no reported figure"};
          row_finding.labels = {{"tensor", info.name}, {"format", formats[f].name}};
          row_finding.details = {{"N", static_cast<double>(N)},
                                 {"K", static_cast<double>(K)},
                                 {"bits_per_weight", rate},
                                 {"ratio_to_fp16", ratio_to_fp16(m.ledger(), N, K)},
                                 {"mse", sums.mse()},
                                 {"sqnr_db", sums.sqnr_db()},
                                 {"largest_error", sums.largest},
                                 {"distortion", sums.distortion()},
                                 {"gap_to_shannon_db", gap_to_shannon_db(sums.distortion(), rate)},
                                 {"excess_kurtosis", kurtosis}};
          const std::size_t group = K >= 4 ? group_length(formats[f].format(), N, K) : 0;
          const auto [known, is_new] = predictions.try_emplace({f, group});
          if (is_new) known->second = predict(formats[f], group);
          if (const std::optional<format_prediction>& p = known->second) {
            row_finding.details.push_back({"gaussian_cosine", p->cosine});
            if (formats[f].name == "w4_channel")
              gaussian_text = format_fixed(sums.sqnr_db() + 10.0 * std::log10(p->distortion), 2);
          }
          row.push_back(format_fixed(sums.cosine(), formats[f].format().bits >= 6 ? 6 : 4));
          t.rows.push_back(std::move(row_finding));
        }
        row.push_back(gaussian_text);
        g.cells.push_back(std::move(row));
      }
    }
    if (reason.empty()) continue;
    const std::string type(io::name_of(info.type)), shape = io::shape_text(info.shape);
    skipped.cells.push_back({io::printable(info.name), type, shape, reason});
    without_rows.push_back({.name = io::printable(info.name),
                            .basis = "not measured: " + reason,
                            .labels = {{"tensor", info.name}, {"type", type}, {"shape", shape}}});
  }
  if (!g.cells.empty()) {
    std::vector<std::string> least{"least cosine", "", ""}, mean{"element-weighted mean", "", ""},
        rate{"bits per weight", "", ""};
    for (std::size_t f = 0; f < formats.size(); ++f) {
      const int decimals = formats[f].format().bits >= 6 ? 6 : 4;
      if (totals[f].tensors() == 0) {
        for (std::vector<std::string>* line : {&least, &mean, &rate}) line->push_back("n/a");
        continue;
      }
      least.push_back(format_fixed(totals[f].least_cosine(), decimals));
      mean.push_back(format_fixed(totals[f].mean_cosine(), decimals));
      rate.push_back(format_fixed(bits[f] / weights[f], 3));
    }
    g.cells.insert(g.cells.end(), {least, mean, rate});
    t.grids.push_back(std::move(g));
  }
  if (!skipped.cells.empty()) t.grids.push_back(std::move(skipped));
  if (t.rows.empty() && without_rows.empty()) t.missing = "'" + o.weights_file + "' holds no tensor";
  t.rows.insert(t.rows.end(), without_rows.begin(), without_rows.end());
  return t;
}

}  // namespace study_program
