// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Tables of findings and how they are written: aligned text for a terminal, Markdown, JSON, and data and scripts for
/// gnuplot. Needs nlohmann/json.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/config.hpp>
#include <nibble/study/verdict.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// x with `decimals` places, in exponent form when that would show nothing but zeros.
inline std::string format_number(double x, int decimals) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x > 0 ? "inf" : "-inf";
  char text[64];
  const bool tiny = x != 0.0 && decimals > 0 && std::fabs(x) < 0.5 * std::pow(10.0, -decimals);
  if (tiny) std::snprintf(text, sizeof text, "%.1e", x);
  else std::snprintf(text, sizeof text, "%.*f", decimals, x);
  return text;
}

/// x with exactly `decimals` places.
inline std::string format_fixed(double x, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, x);
  return text;
}

/// A grid of strings with headings: what the reader sees of a table.
struct text_grid {
  std::string caption;
  std::vector<std::string> headings;
  std::vector<std::vector<std::string>> cells;  ///< rows; short rows are filled with empty cells
};

/// One curve or set of points of a plot; y_error empty: none.
struct plot_series {
  std::string label;  ///< empty: not in the key, and in the colour of the series before
  bool line = true;   ///< false: points
  std::vector<double> x, y, y_error;
};

/// One figure, drawn by gnuplot from data and script files.
struct plot {
  std::string name;  ///< file name without extension
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<plot_series> series;
  std::string extra{};  ///< further gnuplot lines
};

/// One table of the study.
struct study_table {
  std::string id;
  std::string title;
  std::string introduction;  ///< what is compared and how, one paragraph
  std::vector<finding> rows;
  std::vector<text_grid> grids{};      ///< empty: the findings themselves are printed
  std::vector<std::string> remarks{};  ///< computed answers, printed after the table
  std::vector<plot> plots{};
  std::string missing{};  ///< why the table does not exist; empty: it does

  std::size_t count(verdict v) const noexcept {
    std::size_t n = 0;
    for (const finding& f : rows) n += f.result() == v ? 1 : 0;
    return n;
  }
};

/// The findings as a grid: name, reported, ours, difference, tolerance, verdict.
inline text_grid findings_grid(const std::vector<finding>& rows) {
  text_grid g{"", {"", "reported", "ours", "difference", "tolerance", "unit", "verdict"}, {}};
  for (const finding& f : rows) {
    const auto number = [&](const std::optional<double>& x) {
      return x ? format_number(*x, f.decimals) : std::string("-");
    };
    std::string tolerance = f.result() == verdict::not_testable ? "-" : format_number(f.tolerance, f.decimals);
    if (f.how == comparison::at_least) tolerance = "claim: >=";
    if (f.how == comparison::at_most) tolerance = "claim: <=";
    g.cells.push_back(
        {f.name, number(f.reported), number(f.ours), number(f.difference()), tolerance, f.unit, name_of(f.result())});
  }
  return g;
}

/// Number of code points of UTF-8 text: the width of the characters used here.
inline std::size_t text_width(std::string_view s) noexcept {
  std::size_t n = 0;
  for (const char c : s) n += (static_cast<unsigned char>(c) & 0xc0u) != 0x80u ? 1 : 0;
  return n;
}

/// `s` broken at spaces into lines of at most `width` characters: the first after `indent` spaces, the others after
/// `hanging`.
inline std::string wrapped(std::string_view s, std::size_t width, std::size_t indent, std::size_t hanging) {
  std::string out, line(indent, ' ');
  std::size_t used = indent;
  bool empty = true;
  while (!s.empty()) {
    const std::size_t end = std::min(s.find(' '), s.size());
    const std::string_view word = s.substr(0, end);
    const std::size_t w = text_width(word);
    if (!empty && used + 1 + w > width) {
      out += line + "\n";
      line.assign(hanging, ' ');
      used = hanging;
      empty = true;
    }
    if (!empty) {
      line += ' ';
      ++used;
    }
    line += word;
    used += w;
    empty = false;
    s.remove_prefix(std::min(s.size(), end + 1));
  }
  return out + line + "\n";
}

/// A grid as aligned text: the first column to the left, numbers to the right.
inline std::string to_text(const text_grid& g) {
  std::vector<std::size_t> width;
  std::vector<bool> right;
  const std::size_t columns = g.headings.size();
  for (std::size_t c = 0; c < columns; ++c) {
    std::size_t w = text_width(g.headings[c]);
    std::size_t numbers = 0, words = 0;
    for (const auto& row : g.cells) {
      if (c >= row.size()) continue;
      w = std::max(w, text_width(row[c]));
      if (row[c].empty() || row[c] == "-") continue;
      const char first = row[c][0];
      ((first >= '0' && first <= '9') || first == '-' || first == '+' || first == '.' ? numbers : words) += 1;
    }
    width.push_back(w);
    right.push_back(c > 0 && numbers > words);
  }
  const auto line = [&](const std::vector<std::string>& row) {
    std::string s;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string& cell = c < row.size() ? row[c] : std::string();
      const std::string pad(width[c] - text_width(cell), ' ');
      s += "  " + (right[c] ? pad + cell : cell + pad);
    }
    while (!s.empty() && s.back() == ' ') s.pop_back();
    return s + "\n";
  };
  std::string s;
  if (!g.caption.empty()) s += "  " + g.caption + "\n";
  s += line(g.headings);
  std::size_t total = 0;
  for (const std::size_t w : width) total += w + 2;
  s += "  " + std::string(total - 2, '-') + "\n";
  for (const auto& row : g.cells) s += line(row);
  return s;
}

/// A grid as a Markdown table.
inline std::string to_markdown(const text_grid& g) {
  const auto escaped = [](const std::string& cell) {
    std::string s;
    for (const char c : cell) s += c == '|' ? std::string("\\|") : std::string(1, c);
    return s;
  };
  const auto line = [&](const std::vector<std::string>& row) {
    std::string s = "|";
    // Appended piece by piece: gcc 12 warns, wrongly, of overlapping memory in " " + a temporary (GCC bug 105651).
    for (std::size_t c = 0; c < g.headings.size(); ++c)
      s.append(" ").append(escaped(c < row.size() ? row[c] : "")).append(" |");
    return s + "\n";
  };
  std::string s = g.caption.empty() ? "" : "**" + g.caption + "**\n\n";
  s += line(g.headings) + "|";
  for (std::size_t c = 0; c < g.headings.size(); ++c) s += c == 0 ? "---|" : "---:|";
  s += "\n";
  for (const auto& row : g.cells) s += line(row);
  return s;
}

/// "12 reproduced, 1 differs": the verdicts of a table, those that occur.
inline std::string verdict_counts(const study_table& t) {
  std::string s;
  for (const verdict v : {verdict::reproduced, verdict::differs, verdict::contradicted, verdict::not_testable})
    if (const std::size_t n = t.count(v); n != 0) s += (s.empty() ? "" : ", ") + std::to_string(n) + " " + name_of(v);
  return s.empty() ? "no rows" : s;
}

/// The whole table as terminal text, at most 140 columns wide where cells allow.
inline std::string to_text(const study_table& t) {
  std::string s = "\n== " + t.id + ": " + t.title + "\n";
  if (!t.missing.empty()) return s + wrapped("missing: " + t.missing, 118, 2, 4);
  if (!t.introduction.empty()) s += wrapped(t.introduction, 118, 2, 2);
  s += "\n";
  if (t.grids.empty()) s += to_text(findings_grid(t.rows));
  for (const text_grid& g : t.grids) s += to_text(g) + "\n";
  s += "  " + verdict_counts(t) + "\n";
  std::string last;
  for (const finding& f : t.rows) {
    if (f.result() == verdict::reproduced || f.explanation.empty()) continue;
    const std::string why = std::string(name_of(f.result())) + ": " + f.explanation;
    s += wrapped("- " + f.name + " " + (why == last ? "likewise" : why), 118, 2, 6);
    last = why;
  }
  if (!t.remarks.empty()) s += "\n";
  for (const std::string& r : t.remarks) s += wrapped("* " + r, 118, 2, 4);
  return s;
}

/// The whole table as a Markdown section; plots are linked as SVG where `with_plots`.
inline std::string to_markdown(const study_table& t, bool with_plots) {
  std::string s = "\n## " + t.title + " (`" + t.id + "`)\n\n";
  if (!t.missing.empty()) return s + "Missing: " + t.missing + "\n";
  if (!t.introduction.empty()) s += t.introduction + "\n\n";
  for (const std::string& r : t.remarks) s += "- " + r + "\n";
  if (!t.remarks.empty()) s += "\n";
  if (with_plots)
    for (const plot& p : t.plots) s += "![" + p.title + "](" + p.name + ".svg)\n\n";
  if (t.grids.empty()) s += to_markdown(findings_grid(t.rows)) + "\n";
  for (const text_grid& g : t.grids) s += to_markdown(g) + "\n";
  s += "Verdicts: " + verdict_counts(t) + ".\n";
  std::string reasons;
  for (const finding& f : t.rows)
    if (f.result() != verdict::reproduced && !f.explanation.empty())
      reasons += "- **" + f.name + "** " + name_of(f.result()) + ": " + f.explanation + ".\n";
  if (!reasons.empty()) s += "\n" + reasons;
  return s;
}

/// A table as JSON: id, title, rows of {name, reported, ours, difference, tolerance, verdict, reason, ...}. Missing
/// numbers and numbers JSON cannot hold are null.
inline nlohmann::ordered_json to_json(const study_table& t) {
  using json = nlohmann::ordered_json;
  const auto number = [](std::optional<double> x) { return x && std::isfinite(*x) ? json(*x) : json(nullptr); };
  json out = json::object();
  out["id"] = t.id;
  out["title"] = t.title;
  out["status"] = t.missing.empty() ? "present" : "missing";
  if (!t.missing.empty()) out["missing"] = t.missing;
  out["remarks"] = t.remarks;
  out["rows"] = json::array();
  for (const finding& f : t.rows) {
    json row = json::object();
    row["name"] = f.name;
    row["reported"] = number(f.reported);
    row["ours"] = number(f.ours);
    row["difference"] = number(f.difference());
    row["tolerance"] = number(f.tolerance);
    row["verdict"] = name_of(f.result());
    row["reason"] = f.reason();
    row["comparison"] = name_of(f.how);
    row["unit"] = f.unit;
    for (const auto& [key, value] : f.labels) row[key] = value;
    for (const detail& d : f.details) row[d.key] = number(d.value);
    out["rows"].push_back(std::move(row));
  }
  return out;
}

/// The whole report: {"tables": [...]}.
inline nlohmann::ordered_json to_json(const std::vector<study_table>& tables) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  out["tables"] = nlohmann::ordered_json::array();
  for (const study_table& t : tables) out["tables"].push_back(to_json(t));
  return out;
}

/// The data file of a plot: one block a series, blocks separated by two empty lines (gnuplot's `index`).
inline std::string gnuplot_data(const plot& p) {
  std::string s;
  char line[128];
  for (const plot_series& series : p.series) {
    s += "# " + series.label + "\n";
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      std::snprintf(line, sizeof line, "%.9g %.9g %.9g\n", series.x[i], series.y[i],
                    i < series.y_error.size() ? series.y_error[i] : 0.0);
      s += line;
    }
    s += "\n\n";
  }
  return s;
}

/// The gnuplot script that draws `name`.svg from `name`.dat in its own folder.
inline std::string gnuplot_script(const plot& p) {
  const auto quoted = [](const std::string& text) {
    std::string s = "'";
    for (const char c : text) s += c == '\'' ? std::string("''") : std::string(1, c);
    return s + "'";
  };
  static constexpr std::array<const char*, 8> colours{"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                      "#e69f00", "#56b4e9", "#000000", "#999999"};
  std::string s = "set terminal svg size 860,520 dynamic font 'Helvetica,14' background '#ffffff'\n";
  s += "set output " + quoted(p.name + ".svg") + "\n";
  s += "set title " + quoted(p.title) + " noenhanced\nset xlabel " + quoted(p.x_label) + " noenhanced\nset ylabel " +
       quoted(p.y_label) + " noenhanced\n";
  if (p.log_x) s += "set logscale x 2\nset format x '%.0f'\n";
  if (p.log_y) s += "set logscale y\nset format y '10^{%T}'\n";
  s += "set grid lc rgb '#dddddd'\nset border lc rgb '#666666'\nset key outside right top noenhanced spacing 1.1\n";
  s += "set offsets graph 0.02, graph 0.02, graph 0.02, graph 0.02\n" + p.extra + "plot ";
  std::size_t labels = 0;
  for (std::size_t i = 0; i < p.series.size(); ++i) {
    const plot_series& series = p.series[i];
    labels += series.label.empty() && i != 0 ? 0 : 1;
    const std::string colour = colours[(labels - 1) % colours.size()];
    s += (i == 0 ? "" : ", \\\n     ") + quoted(p.name + ".dat") + " index " + std::to_string(i) + " using 1:2" +
         (series.y_error.empty() ? "" : ":3") + " with " +
         (series.line              ? "lines lw 2"
          : series.y_error.empty() ? "points pt 7 ps 0.7"
                                   : "yerrorbars pt 7 ps 0.6 lw 1.5") +
         " lc rgb '" + colour + "' " + (series.label.empty() ? "notitle" : "title " + quoted(series.label));
  }
  return s + "\n";
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
