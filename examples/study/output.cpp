// SPDX-License-Identifier: MIT
// Writes the report: Markdown, JSON, and the plots through gnuplot where it is installed.

#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <nibble/core/error.hpp>

#include "study.hpp"

namespace study_program {
namespace fs = std::filesystem;
namespace study = nibble::study;

namespace {

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) nibble::core::fail(nibble::errc::io_failed, "cannot write '", path.string(), "': ", std::strerror(errno));
}

/// The first executable `name` on PATH, or an empty path.
fs::path find_program(const std::string& name) {
  const char* const path = std::getenv("PATH");
  if (path == nullptr) return {};
  const std::string all = path;
  for (std::size_t begin = 0; begin <= all.size();) {
    const std::size_t end = std::min(all.find(':', begin), all.size());
    const fs::path candidate = fs::path(all.substr(begin, end - begin)) / name;
    if (end > begin && access(candidate.c_str(), X_OK) == 0 && fs::is_regular_file(candidate)) return candidate;
    begin = end + 1;
  }
  return {};
}

/// Runs `program script` inside `folder` (no shell sees either name); true when it exits with 0.
bool run_in(const fs::path& folder, const fs::path& program, const std::string& script) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    if (chdir(folder.c_str()) == 0)
      execl(program.c_str(), program.c_str(), script.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return false;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

std::vector<std::string> write_report(const options& o, const std::vector<study::study_table>& tables) {
  const fs::path out = o.out_dir;
  std::error_code ec;
  fs::create_directories(out, ec);
  if (!fs::is_directory(out))
    nibble::core::fail(nibble::errc::io_failed, "cannot create the folder '", o.out_dir, "': ", ec.message());

  std::vector<std::string> notes;
  const fs::path gnuplot = find_program("gnuplot");
  bool drawn = !gnuplot.empty();
  std::size_t plots = 0;
  for (const study::study_table& t : tables)
    for (const study::plot& p : t.plots) {
      ++plots;
      write_file(out / (p.name + ".dat"), study::gnuplot_data(p));
      write_file(out / (p.name + ".gp"), study::gnuplot_script(p));
      if (!gnuplot.empty() && !run_in(out, gnuplot, p.name + ".gp")) {
        notes.push_back("gnuplot failed on " + (out / (p.name + ".gp")).string());
        drawn = false;
      }
    }
  if (gnuplot.empty() && plots != 0)
    notes.push_back("gnuplot was not found on PATH: the plots' .dat and .gp files are written, not the SVGs");

  std::string md =
      "# nibble study\n\nReported figures of the reference reports R0..R4 against ours. A verdict is computed from "
      "difference and tolerance; the same rows, with reasons, are in [report.json](report.json).\n\n";
  study::text_grid summary{"", {"table", "rows", "reproduced", "differs", "contradicted", "not testable"}, {}};
  for (const study::study_table& t : tables) {
    std::vector<std::string> row{"[" + t.id + "](#" + t.id + ")",
                                 t.missing.empty() ? std::to_string(t.rows.size()) : "missing"};
    for (const nibble::verdict v : {nibble::verdict::reproduced, nibble::verdict::differs,
                                    nibble::verdict::contradicted, nibble::verdict::not_testable})
      row.push_back(t.missing.empty() ? std::to_string(t.count(v)) : "");
    summary.cells.push_back(std::move(row));
  }
  md += study::to_markdown(summary);
  for (const study::study_table& t : tables) md += "\n<a id=\"" + t.id + "\"></a>\n" + study::to_markdown(t, drawn);
  write_file(out / "report.md", md);
  write_file(out / "report.json", study::to_json(tables).dump(1) + "\n");
  notes.push_back("report: " + (out / "report.md").string() + ", " + (out / "report.json").string() +
                  (plots != 0 && drawn ? ", " + std::to_string(plots) + " plots (SVG)" : ""));
  return notes;
}

}  // namespace study_program
