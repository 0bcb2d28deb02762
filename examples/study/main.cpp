// SPDX-License-Identifier: MIT
// nibble-study: measures number formats, reproduces the reference reports, writes a report.

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <nibble/core/thread_pool.hpp>
#include <nibble/study/claims.hpp>
#include <nibble/study/memory_table.hpp>
#include <nibble/study/outliers.hpp>
#include <nibble/study/r2_exact.hpp>

#include "study.hpp"

namespace study_program {

void progress::operator()(const std::string& what) const {
  const std::chrono::duration<double> s = std::chrono::steady_clock::now() - start_;
  std::fprintf(stderr, "[%7.1f s] %s\n", s.count(), what.c_str());
}

nibble::study::study_table memory() {
  return {
      "memory", "Memory figures from architectures",
      "One planner adds weights, KV cache and labelled constants. Constants marked (fitted) were chosen to meet the figures: "
      "R4 has three for eight cells, R1 two for four, R0 one for two; R3 and R2 have none.",
      nibble::study::memory_findings()};
}

nibble::study::study_table claims(const options& o, progress& say) {
  std::vector<nibble::study::finding> rows = nibble::study::claims_findings();
  say("claims: R3's outlier experiment");
  for (nibble::study::finding& f : nibble::study::outlier_findings(o.ctx)) rows.push_back(std::move(f));
  return {
      "claims", "Claims that the reports' own figures, arithmetic or a bound decide",
      "Each row states its test. A claim with >= or <= gives the claimed bound under 'reported' and is contradicted when ours "
      "lies on the other side.",
      std::move(rows)};
}

namespace {

struct table_entry {
  const char* id;
  const char* what;
};
constexpr std::array<table_entry, 6> table_list{{
    {"r2_exact", "R2's three chains with its own inputs, quantizer and metric"},
    {"r2_answered", "the same shapes, true normals, every format at 2..8 bits"},
    {"scaling", "trained models: bytes, weight and output error, KL divergence, time"},
    {"row_length", "measured against predicted cosine, n = 32..16384, 2..8 bits"},
    {"memory", "memory figures of R0..R4 from architectures"},
    {"claims", "testable claims of R0..R4, each with its statistic"},
}};

int run(int argc, char** argv) {
  options o;
  std::size_t threads = nibble::available_concurrency();
  o.models_dir = NIBBLE_SOURCE_DIR "/examples/models";
  std::string ids;
  for (const table_entry& e : table_list)
    ids += std::string("\n  ") + e.id + std::string(14 - std::string(e.id).size(), ' ') + e.what;

  CLI::App app{
      "nibble-study: measures low-bit number formats and reproduces the figures of the reference reports.\n\nTables:" +
      ids};
  app.add_option("--only", o.only, "Run this table only; may be repeated")
      ->type_name("ID")
      ->check([](const std::string& id) {
        for (const table_entry& e : table_list)
          if (id == e.id) return std::string();
        return "unknown table '" + id + "'";
      });
  app.add_option("--weights", o.weights_file,
                 "Measure every 2-D tensor of this safetensors file (alone: only that table)")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
  app.add_option("--text", o.text_file, "Text for perplexity in the table scaling")
      ->type_name("FILE")
      ->check(CLI::ExistingFile);
  app.add_option("--models", o.models_dir, "Folder with small, medium, large and deep .safetensors")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--out", o.out_dir, "Folder of the report, created when missing")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_flag("--quick", o.quick, "Short version: fewer seeds, rows and positions, wider error bars");
  app.footer("Two cores take about two minutes for all tables, three with --text; progress goes to standard error.");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }

  nibble::thread_pool pool(threads);
  o.ctx = pool.context();
  const auto wanted = [&](const char* id) {
    if (!o.only.empty()) return std::find(o.only.begin(), o.only.end(), id) != o.only.end();
    return o.weights_file.empty();
  };
  progress say;
  std::vector<nibble::study::study_table> tables;
  const auto add = [&](const char* id, auto&& make) {
    if (!wanted(id)) return;
    say(std::string(id) + " ...");
    tables.push_back(make());
    std::cout << nibble::study::to_text(tables.back()) << std::flush;
  };
  add("r2_exact", [&] { return nibble::study::r2_exact_table(o.ctx, r2_parquet(o)); });
  add("r2_answered", [&] { return r2_answered(o, say); });
  add("scaling", [&] { return scaling(o, say); });
  add("row_length", [&] { return row_length(o, say); });
  add("memory", [&] { return memory(); });
  add("claims", [&] { return claims(o, say); });
  if (!o.weights_file.empty()) {
    say("weights of " + o.weights_file + " ...");
    tables.push_back(weights_file(o, say));
    std::cout << nibble::study::to_text(tables.back()) << std::flush;
  }
  std::cout << "\n";
  for (const std::string& note : write_report(o, tables)) std::cout << note << "\n";
  return 0;
}

}  // namespace
}  // namespace study_program

int main(int argc, char** argv) {
  try {
    return study_program::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "nibble-study: %s\n", e.what());
    return 1;
  }
}
