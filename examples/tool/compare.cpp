// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <iostream>
#include <type_traits>
#include <unordered_map>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/io/file_text.hpp>

#include "tool.hpp"

namespace tool {
namespace {

/// Of the values that are finite in both tensors, or that differ there and are not.
struct row_sums {
  long double aa = 0.0, bb = 0.0, ab = 0.0, noise = 0.0;
  std::size_t not_finite = 0;  ///< differences with a value that is not finite in a or in b
};

/// How far the values of two tensors are apart; a is the reference. Equal values are no difference, infinities too, and a NaN is
/// none where the other tensor has a NaN, whatever its bits. A difference that is not finite makes the noise infinite.
struct distance {
  row_sums all;
  double worst_sqnr = INFINITY;
  std::size_t worst_row = 0;

  static double sqnr(const row_sums& s) {
    if (s.not_finite != 0) return -INFINITY;
    return s.noise == 0.0L ? INFINITY : static_cast<double>(10.0L * std::log10(s.aa / s.noise));
  }
  double sqnr() const { return sqnr(all); }
  double mse(std::size_t elements) const {
    if (all.not_finite != 0) return INFINITY;
    return elements == 0 ? 0.0 : static_cast<double>(all.noise / static_cast<long double>(elements));
  }
  double cosine() const {
    if (all.not_finite != 0) return NAN;
    if (all.aa == 0.0L || all.bb == 0.0L) return all.noise == 0.0L ? 1.0 : 0.0;
    return static_cast<double>(all.ab / (std::sqrt(all.aa) * std::sqrt(all.bb)));
  }
};

/// `T`: float, or double where a tensor has such values; then squares may leave the range of double and sums are wider.
template <class T>
distance between(const options& o, const model_file& a, std::size_t i, const model_file& b, std::size_t j) {
  using sum = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  const tensor& t = a.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows();
  const std::size_t most =
      std::min({rows_at_once(cols), rows, std::size_t{1} << 17});  // sums of a row take memory, too
  nibble::aligned_vector<T> x(most * cols), y(most * cols);
  std::vector<row_sums> each(most);
  distance d;
  const auto read = [&](const model_file& file, std::size_t k, std::size_t first, std::span<T> out) {
    if constexpr (std::is_same_v<T, double>) {
      if (file.tensors()[k].wide) return file.read_rows(k, first, out);
      std::vector<float> values(out.size());
      file.read_rows(k, first, std::span{values});
      std::copy(values.begin(), values.end(), out.begin());
    } else {
      file.read_rows(k, first, out);
    }
  };
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    read(a, i, first, std::span{x}.first(n * cols));
    read(b, j, first, std::span{y}.first(n * cols));
    nibble::core::for_each_item(o.ctx, n, [&](std::size_t r, std::size_t) {
      sum aa = 0, bb = 0, ab = 0, noise = 0;
      std::size_t not_finite = 0;
      for (std::size_t k = r * cols; k < (r + 1) * cols; ++k) {
        const sum u = x[k], v = y[k];
        if (!std::isfinite(x[k]) || !std::isfinite(y[k])) {
          not_finite += x[k] == y[k] || (std::isnan(x[k]) && std::isnan(y[k])) ? 0 : 1;
          continue;
        }
        aa += u * u;
        bb += v * v;
        ab += u * v;
        noise += (u - v) * (u - v);
      }
      each[r] = {aa, bb, ab, noise, not_finite};
    });
    for (std::size_t r = 0; r < n; ++r) {
      d.all.aa += each[r].aa, d.all.bb += each[r].bb, d.all.ab += each[r].ab, d.all.noise += each[r].noise;
      // Without a signal a finite difference has minus infinity decibels, too: one that is not finite comes first.
      const bool first_not_finite = each[r].not_finite != 0 && d.all.not_finite == 0;
      const double own = distance::sqnr(each[r]);
      if (first_not_finite || own < d.worst_sqnr) d.worst_sqnr = own, d.worst_row = first + r;
      d.all.not_finite += each[r].not_finite;
    }
    a.release_rows(i, first, n);
    b.release_rows(j, first, n);
  }
  a.release(i);
  b.release(j);
  return d;
}

/// How many bytes of two tensors of one type and shape differ, and the first one that does.
struct byte_difference {
  std::size_t count = 0, first = 0;
};

byte_difference bytes_between(const model_file& a, std::size_t i, const model_file& b, std::size_t j) {
  const std::span<const std::byte> x = a.bytes(i), y = b.bytes(j);
  const tensor& t = a.tensors()[i];
  const std::size_t rows = t.rows(), row_bytes = rows == 0 ? 0 : t.bytes / rows, most = rows_at_once(t.cols());
  byte_difference d;
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    // Rows of 4 and 6-bit elements need not end with a byte: the last piece ends with the tensor.
    const std::size_t end = first + n == rows ? x.size() : (first + n) * row_bytes;
    for (std::size_t k = first * row_bytes; k < end; ++k)
      if (x[k] != y[k] && d.count++ == 0) d.first = k;
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
  const auto quoted = [](const tensor& t) { return nibble::core::message("'", nibble::io::printable(t.name), "'"); };
  std::vector<std::vector<std::string>> rows{
      {"tensor", "shape", "a", "b", "MSE", "SQNR dB", "cosine", "worst row", "its SQNR dB", "compared"}};
  std::size_t total = 0;
  for (const tensor& t : a.tensors()) total += t.elements;
  {
    progress say(o, "compare", total);
    for (std::size_t i = 0; i < a.tensors().size(); ++i) {
      const tensor& t = a.tensors()[i];
      say.add(t.elements, t.name);
      const auto found = of_b.find(t.name);
      if (found == of_b.end()) {
        problem(quoted(t) + " is in a only");
        continue;
      }
      const tensor& u = b.tensors()[found->second];
      const std::size_t j = found->second;
      of_b.erase(found);
      if (t.shape != u.shape) {
        problem(quoted(t) + " is " + shape_text(t.shape) + " in a and " + shape_text(u.shape) + " in b");
        continue;
      }
      if (t.type == u.type && t.bytes == u.bytes && !t.readable && !u.readable) {
        const byte_difference d = bytes_between(a, i, b, j);
        json entry{{"name", t.name},   {"shape", t.shape},    {"type_a", t.type},
                   {"type_b", u.type}, {"compared", "bytes"}, {"different_bytes", d.count}};
        if (d.count != 0) {
          entry["first_different_byte"] = d.first;
          problem(quoted(t) + " is " + t.type + " in both, compared as bytes: " + std::to_string(d.count) + " of " +
                  std::to_string(t.bytes) + " differ, the first is byte " + std::to_string(d.first));
        }
        report["tensors"].push_back(std::move(entry));
        rows.push_back({t.name, shape_text(t.shape), t.type, u.type, "", d.count == 0 ? "exact" : "different", "", "",
                        "", "bytes"});
        continue;
      }
      if (!t.readable || !u.readable) {
        const tensor& other = t.readable ? u : t;
        problem(quoted(t) + " is " + t.type + " in a and " + u.type + " in b, and of " + (t.readable ? "b" : "a") +
                " " + other.why_not());
        continue;
      }
      const distance d = t.wide || u.wide ? between<double>(o, a, i, b, j) : between<float>(o, a, i, b, j);
      const double mse = d.mse(t.elements), cosine = d.cosine();
      json entry{{"name", t.name},       {"shape", t.shape}, {"type_a", t.type}, {"type_b", u.type},
                 {"compared", "values"}, {"mse", mse},       {"cosine", cosine}};  // null where not finite
      if (d.sqnr() != INFINITY)
        entry["sqnr_db"] = d.sqnr(), entry["worst_row"] = d.worst_row, entry["worst_row_sqnr_db"] = d.worst_sqnr;
      if (d.all.not_finite != 0) {
        entry["not_finite_differences"] = d.all.not_finite;
        problem(quoted(t) + " differs in " + std::to_string(d.all.not_finite) +
                " values that are not finite in a or in b, the first in row " + std::to_string(d.worst_row));
      }
      report["tensors"].push_back(std::move(entry));
      rows.push_back({t.name, shape_text(t.shape), t.type, u.type, number_text("%.4g", mse), decibels(d.sqnr()),
                      number_text("%.8f", cosine), d.sqnr() == INFINITY ? "" : std::to_string(d.worst_row),
                      d.sqnr() == INFINITY ? "" : decibels(d.worst_sqnr), "values"});
      if (what.limited && d.all.not_finite == 0 && !(d.sqnr() >= what.least_sqnr))
        problem(quoted(t) + " has " + decibels(d.sqnr()) + " dB, less than " + number_text("%.2f", what.least_sqnr));
    }
  }
  for (const tensor& t : b.tensors())
    if (of_b.count(t.name) != 0) problem(quoted(t) + " is in b only");
  if (o.as_json) std::cout << document_text(report);
  else std::cout << table_text(rows);
  for (const json& text : report["problems"]) std::cerr << "nibble: " << text.get<std::string>() << "\n";
  return report["problems"].empty() ? done : differs;
}

}  // namespace tool
