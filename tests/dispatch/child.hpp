// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// NIBBLE_FORCE_ISA is read at the first use, once for the life of a process: a tier is chosen in a child of its own, and
/// the parent never chooses.

#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

namespace nibble::test {

/// What f() returns in a child whose environment has NIBBLE_FORCE_ISA=`value` (nullptr: not at all); text about its end
/// when it did not get that far.
template <class F>
std::string in_child(const char* value, F&& f) {
  int ends[2] = {};
  REQUIRE(pipe(ends) == 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[0]);
    if (value == nullptr) unsetenv("NIBBLE_FORCE_ISA");
    else setenv("NIBBLE_FORCE_ISA", value, 1);
    std::string answer;
    try {
      answer = f();
    } catch (const std::exception& e) {
      answer = std::string("unexpected exception: ") + e.what();
    }
    const ssize_t written = write(ends[1], answer.data(), answer.size());
    std::_Exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 3);
  }
  close(ends[1]);
  std::string answer;
  char buffer[512];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    answer += " (child ended with status " + std::to_string(status) + ")";
  return answer;
}

}  // namespace nibble::test
