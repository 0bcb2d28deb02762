// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <string>

#include <nibble/study/claims.hpp>
#include <nibble/study/memory_table.hpp>
#include <nibble/study/report.hpp>

using namespace nibble;
using namespace nibble::study;

namespace {
study_table example() {
  study_table t{"memory", "Title", "Intro.", {}};
  t.rows.push_back({.name = "a",
                    .reported = 1.0,
                    .ours = 1.5,
                    .tolerance = 0.1,
                    .unit = "MiB",
                    .basis = "basis",
                    .explanation = "cause",
                    .details = {{"bits", 2.0}, {"bad", std::nan("")}},
                    .labels = {{"grid", "absmax"}}});
  t.rows.push_back({.name = "b | c", .basis = "nothing to compare"});
  return t;
}
}  // namespace

TEST_CASE("report: JSON rows carry the required keys and the computed verdict") {
  const auto json = to_json(std::vector<study_table>{example()});
  REQUIRE(json.at("tables").size() == 1);
  const auto& table = json["tables"][0];
  CHECK(table["id"] == "memory");
  const auto& row = table["rows"][0];
  for (const char* key : {"name", "reported", "ours", "difference", "tolerance", "verdict", "reason"})
    CHECK_MESSAGE(row.contains(key), key);
  CHECK(row["difference"] == 0.5);
  CHECK(row["verdict"] == "differs");
  CHECK(row["reason"] == "basis; cause");
  CHECK(row["grid"] == "absmax");
  CHECK(row["bits"] == 2.0);
  CHECK(row["bad"].is_null());
  CHECK(table["rows"][1]["reported"].is_null());
  CHECK(table["rows"][1]["verdict"] == "not testable");
}

TEST_CASE("report: perturbing ours flips the verdict in JSON, text and Markdown") {
  study_table t = example();
  CHECK(to_text(t).find("1 differs") != std::string::npos);
  t.rows[0].ours = 1.05;
  CHECK(to_json(t)["rows"][0]["verdict"] == "reproduced");
  CHECK(to_text(t).find("1 reproduced") != std::string::npos);
  CHECK(to_markdown(t, false).find("1 reproduced") != std::string::npos);
  CHECK(to_markdown(t, false).find("cause") == std::string::npos);
}

TEST_CASE(
    "report: no row of the memory and claims tables keeps its verdict when ours is perturbed across the tolerance") {
  for (const auto& rows : {memory_findings(), claims_findings()})
    for (finding f : rows) {
      CAPTURE(f.name);
      if (f.result() == verdict::not_testable) continue;
      const double beyond = 1.5 * f.tolerance + 1e-6 * std::fabs(*f.reported) + 1e-12;
      f.ours = *f.reported;
      CHECK(f.result() == verdict::reproduced);
      f.ours = *f.reported + beyond;
      CHECK((f.result() == verdict::reproduced) == (f.how == comparison::at_least));
      f.ours = *f.reported - beyond;
      CHECK((f.result() == verdict::reproduced) == (f.how == comparison::at_most));
    }
}

TEST_CASE("report: a missing table says so everywhere") {
  study_table t;
  t.id = "scaling";
  t.title = "Scaling";
  t.missing = "no models";
  CHECK(to_text(t).find("missing: no models") != std::string::npos);
  CHECK(to_markdown(t, true).find("Missing: no models") != std::string::npos);
  CHECK(to_json(t)["status"] == "missing");
  CHECK(to_json(t)["rows"].empty());
}

TEST_CASE("report: columns are aligned and Markdown cells are escaped") {
  const std::string text = to_text(findings_grid(example().rows));
  std::size_t width = 0, lines = 0;
  for (std::size_t at = 0; at < text.size(); ++lines) {
    const std::size_t end = text.find('\n', at);
    width = std::max(width, end - at);
    at = end + 1;
  }
  CHECK(lines == 4);
  CHECK(width <= 140);
  CHECK(to_markdown(findings_grid(example().rows)).find("b \\| c") != std::string::npos);
}

TEST_CASE("report: small numbers are not printed as zeros") {
  CHECK(format_number(0.25, 2) == "0.25");
  CHECK(format_number(0.0, 2) == "0.00");
  CHECK(format_number(-0.00004, 2) == "-4.0e-05");
  CHECK(format_number(std::nan(""), 2) == "nan");
}

TEST_CASE("report: text breaks at spaces and keeps its indentation") {
  CHECK(wrapped("aa bb cc", 7, 2, 4) == "  aa bb\n    cc\n");
  CHECK(wrapped("abcdefgh ij", 4, 0, 1) == "abcdefgh\n ij\n");
}

TEST_CASE("report: a plot becomes data blocks and a script over them") {
  plot p{"p", "it's", "x", "y", true, false, {{"line", true, {1, 2}, {3, 4}, {}}, {"points", false, {1}, {2}, {0.5}}}};
  CHECK(gnuplot_data(p) == "# line\n1 3 0\n2 4 0\n\n\n# points\n1 2 0.5\n\n\n");
  const std::string script = gnuplot_script(p);
  CHECK(script.find("set title 'it''s'") != std::string::npos);
  CHECK(script.find("'p.dat' index 1 using 1:2:3 with yerrorbars") != std::string::npos);
}

TEST_CASE("report: every claim and memory row has a unique name, and every contradiction its cause") {
  std::set<std::string> names;
  for (const auto& rows : {memory_findings(), claims_findings()})
    for (const finding& f : rows) {
      CAPTURE(f.name);
      CHECK(names.insert(f.name).second);
      CHECK(!f.basis.empty());
      if (f.result() != verdict::reproduced && f.result() != verdict::not_testable) CHECK(!f.explanation.empty());
    }
}

TEST_CASE("report: the claims that statistics and arithmetic decide") {
  std::size_t seen = 0;
  for (const finding& f : claims_findings()) {
    CAPTURE(f.name);
    const auto expect = [&](const char* name, verdict v) {
      if (f.name != name) return;
      ++seen;
      CHECK(f.result() == v);
    };
    expect("R4 int8 improves slightly", verdict::contradicted);
    expect("R4 score change of int8", verdict::reproduced);
    expect("R0 success rate differs", verdict::contradicted);
    expect("R0 one bandwidth explains both models", verdict::reproduced);
    expect("R3 truncation example, error", verdict::contradicted);
    expect("R3 outlier example, relative error", verdict::reproduced);
    expect("R2 Large INT2 is \"acceptable\"", verdict::contradicted);
  }
  CHECK(seen == 7);
}
