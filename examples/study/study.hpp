// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// nibble-study: what the tables share. One function a table; main.cpp calls them in order and writes the report.

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include <nibble/core/context.hpp>
#include <nibble/study/r2_files.hpp>
#include <nibble/study/report.hpp>

namespace study_program {

/// The command line, checked.
struct options {
  std::vector<std::string> only;  ///< ids of the tables to run; empty: all
  std::string weights_file;       ///< --weights: adds the table `weights`
  std::string text_file;          ///< --text: perplexity in `scaling`
  std::string models_dir;
  std::string out_dir = "nibble-report";
  bool quick = false;   ///< fewer seeds, rows and positions
  nibble::context ctx;  ///< the threads of --threads
};

/// Progress lines on standard error, each with the seconds since the start. Several threads may call.
class progress {
 public:
  void operator()(const std::string& what) const;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

nibble::study::study_table row_length(const options& o, progress& say);
/// Writes Parquet files of R2's matrices; empty where this build has no Arrow.
nibble::study::r2_file_bytes r2_parquet(const options& o);
nibble::study::study_table r2_answered(const options& o, progress& say);
nibble::study::study_table scaling(const options& o, progress& say);
nibble::study::study_table memory();
nibble::study::study_table claims(const options& o, progress& say);
nibble::study::study_table weights_file(const options& o, progress& say);

/// Writes report.md, report.json and, for each plot, .dat, .gp and (with gnuplot) .svg into o.out_dir, which is created.
/// Returns one line for each thing the user should know. Throws nibble::error (io_failed) when a file cannot be written.
std::vector<std::string> write_report(const options& o, const std::vector<nibble::study::study_table>& tables);

}  // namespace study_program
