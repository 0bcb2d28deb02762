// SPDX-License-Identifier: MIT
//
// The main function of every test program: doctest, a failure when no test ran, and a note of the kernels that ran for
// the test `isa-coverage`. Compiled without any -m flag.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <string>
#include <string_view>

// Declared in support/coverage.hpp, which units without -m flags need not include.
void nibble_test_record_covered(std::string_view isa_name);

namespace {

std::set<std::string, std::less<>>& covered_names() {
  static std::set<std::string, std::less<>> names;
  return names;
}

unsigned test_cases_run = 0;

struct run_counter : doctest::IReporter {
  explicit run_counter(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override { test_cases_run = stats.numTestCasesPassingFilters; }
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
DOCTEST_REGISTER_LISTENER("run_counter", 1, run_counter);

}  // namespace

void nibble_test_record_covered(std::string_view isa_name) { covered_names().emplace(isa_name); }

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int result = context.run();
  if (context.shouldExit()) return result;  // --help, --list-test-cases and the like
  if (test_cases_run == 0) {
    std::cerr << "no test case ran: the filter matches none\n";
    return EXIT_FAILURE;
  }
  if (const char* path = std::getenv("NIBBLE_TEST_COVERAGE_FILE"); path != nullptr && !covered_names().empty()) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream file(path);
    for (const std::string& name : covered_names()) file << name << '\n';
    if (!file.flush()) {
      std::cerr << "cannot write " << path << '\n';
      return EXIT_FAILURE;
    }
  }
  return result;
}
