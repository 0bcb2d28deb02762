// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The program nibble, called as its users do.

#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "support/temporary_file.hpp"

namespace nibble::test {

struct tool_result {
  int code;
  std::string out, err;
  bool says(std::string_view part) const { return err.find(part) != std::string::npos; }
};

/// Runs the program behind `before`, which is a shell's.
inline tool_result run_tool(const std::string& arguments, const std::string& before = "") {
  const temporary_file out{"out"}, err{"err"};
  const int status = std::system(
      (before + " '" NIBBLE_TOOL "' " + arguments + " >'" + out.path + "' 2>'" + err.path + "' </dev/null").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(out.path), text_of(err.path)};
}

}  // namespace nibble::test
