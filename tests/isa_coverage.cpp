// SPDX-License-Identifier: MIT
//
// isa_coverage <directory> <tier>=<feature>,<feature>... ...
//
// Fails when the CPU has the features of a tier and no test program noted in <directory> that a kernel of that tier ran.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <string>
#include <string_view>

#include "support/cpu.hpp"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: isa_coverage <directory> <tier>=<feature>,... ...\n";
    return EXIT_FAILURE;
  }
  std::set<std::string, std::less<>> covered;
  if (std::filesystem::is_directory(argv[1])) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
      std::ifstream file(entry.path());
      for (std::string name; std::getline(file, name);) covered.insert(name);
    }
  }
  std::cout << "kernels ran for:";
  for (const std::string& name : covered) std::cout << ' ' << name;
  std::cout << '\n';

  int tiers_here = 0;
  int missing = 0;
  for (int i = 2; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const std::size_t equals = argument.find('=');
    if (equals == std::string_view::npos) {
      std::cerr << "not <tier>=<features>: " << argument << '\n';
      return EXIT_FAILURE;
    }
    const std::string_view tier = argument.substr(0, equals);
    if (const auto feature = nibble::test::missing_feature(argument.substr(equals + 1)); !feature.empty()) {
      std::cout << tier << ": not on this CPU (" << feature << ")\n";
      continue;
    }
    ++tiers_here;
    if (covered.contains(tier)) {
      std::cout << tier << ": covered\n";
    } else {
      ++missing;
      std::cout << tier << ": NOT covered although this CPU has it. Run the whole suite; if it did run, add the set to "
                << "NIBBLE_TEST_ISAS.\n";
    }
  }
  if (tiers_here == 0) std::cerr << "no tier of this machine is known: nothing was checked\n";
  return missing == 0 && tiers_here > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
