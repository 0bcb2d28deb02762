// SPDX-License-Identifier: MIT
#include <cmath>
#include <iostream>
#include <unordered_map>

#include <nibble/core/aligned_vector.hpp>

#include "tool.hpp"

namespace tool {
namespace {

struct row_sums {
  double aa = 0.0, bb = 0.0, ab = 0.0, noise = 0.0;
};

/// How far the values of two tensors are apart; a is the reference.
struct distance {
  row_sums all;
  double worst_sqnr = INFINITY;
  std::size_t worst_row = 0;

  static double sqnr(double signal, double noise) {
    return noise == 0.0 ? INFINITY : 10.0 * std::log10(signal / noise);
  }
  double sqnr() const { return sqnr(all.aa, all.noise); }
  double cosine() const {
    return all.aa == 0.0 || all.bb == 0.0 ? (all.noise == 0.0 ? 1.0 : 0.0) : all.ab / std::sqrt(all.aa * all.bb);
  }
};

distance between(const options& o, const model_file& a, std::size_t i, const model_file& b, std::size_t j) {
  const tensor& t = a.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  nibble::aligned_vector<float> x(most * cols), y(most * cols);
  std::vector<row_sums> each(most);
  distance d;
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    a.read_rows(i, first, std::span{x}.first(n * cols));
    b.read_rows(j, first, std::span{y}.first(n * cols));
    nibble::core::for_each_item(o.ctx, n, [&](std::size_t r, std::size_t) {
      row_sums s;
      for (std::size_t k = r * cols; k < (r + 1) * cols; ++k) {
        const double u = x[k], v = y[k];
        s.aa += u * u;
        s.bb += v * v;
        s.ab += u * v;
        s.noise += (u - v) * (u - v);
      }
      each[r] = s;
    });
    for (std::size_t r = 0; r < n; ++r) {
      d.all.aa += each[r].aa, d.all.bb += each[r].bb, d.all.ab += each[r].ab, d.all.noise += each[r].noise;
      const double own = distance::sqnr(each[r].aa, each[r].noise);
      if (own < d.worst_sqnr) d.worst_sqnr = own, d.worst_row = first + r;
    }
    a.release_rows(i, first, n);
    b.release_rows(j, first, n);
  }
  a.release(i);
  b.release(j);
  return d;
}

std::string decibels(double v) { return v == INFINITY ? "exact" : number_text("%.2f", v); }

}  // namespace

int compare(const options& o, const compare_options& what) {
  const model_file a(what.a), b(what.b);
  std::unordered_map<std::string, std::size_t> of_b;
  for (std::size_t j = 0; j < b.tensors().size(); ++j) of_b.emplace(b.tensors()[j].name, j);

  json report{{"a", what.a}, {"b", what.b}, {"tensors", json::array()}, {"problems", json::array()}};
  const auto problem = [&](const std::string& text) { report["problems"].push_back(text); };
  std::vector<std::vector<std::string>> rows{
      {"tensor", "shape", "a", "b", "MSE", "SQNR dB", "cosine", "worst row", "its SQNR dB"}};
  std::size_t total = 0;
  for (const tensor& t : a.tensors()) total += t.elements;
  {
    progress say(o, "compare", total);
    for (std::size_t i = 0; i < a.tensors().size(); ++i) {
      const tensor& t = a.tensors()[i];
      say.add(t.elements, t.name);
      const auto found = of_b.find(t.name);
      if (found == of_b.end()) {
        problem("'" + t.name + "' is in a only");
        continue;
      }
      const tensor& u = b.tensors()[found->second];
      const std::size_t j = found->second;
      of_b.erase(found);
      if (t.shape != u.shape) {
        problem("'" + t.name + "' is " + shape_text(t.shape) + " in a and " + shape_text(u.shape) + " in b");
        continue;
      }
      if (!t.readable || !u.readable) {
        problem("'" + t.name + "' is " + t.type + " in a and " + u.type + " in b: values that nibble cannot compute");
        continue;
      }
      const distance d = between(o, a, i, b, j);
      const double mse = t.elements == 0 ? 0.0 : d.all.noise / static_cast<double>(t.elements);
      json entry{{"name", t.name},   {"shape", t.shape}, {"type_a", t.type},
                 {"type_b", u.type}, {"mse", mse},       {"cosine", d.cosine()}};
      if (d.sqnr() != INFINITY)
        entry["sqnr_db"] = d.sqnr(), entry["worst_row"] = d.worst_row, entry["worst_row_sqnr_db"] = d.worst_sqnr;
      report["tensors"].push_back(std::move(entry));
      rows.push_back({t.name, shape_text(t.shape), t.type, u.type, number_text("%.4g", mse), decibels(d.sqnr()),
                      number_text("%.8f", d.cosine()), d.sqnr() == INFINITY ? "" : std::to_string(d.worst_row),
                      d.sqnr() == INFINITY ? "" : decibels(d.worst_sqnr)});
      if (what.limited && !(d.sqnr() >= what.least_sqnr))
        problem("'" + t.name + "' has " + decibels(d.sqnr()) + " dB, less than " +
                number_text("%.2f", what.least_sqnr));
    }
  }
  for (const tensor& t : b.tensors())
    if (of_b.count(t.name) != 0) problem("'" + t.name + "' is in b only");
  if (o.as_json) std::cout << report.dump(2) << "\n";
  else std::cout << table_text(rows);
  for (const json& text : report["problems"]) std::cerr << "nibble: " << text.get<std::string>() << "\n";
  return report["problems"].empty() ? done : differs;
}

}  // namespace tool
