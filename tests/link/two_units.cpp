// SPDX-License-Identifier: MIT
//
// Runs both units and compares their results.
// Ends with 77 (skipped) when this CPU cannot run the x86-64-v3 unit.

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "unit.hpp"

int main() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) {
    std::puts("skipped: this CPU has no x86-64-v3");
    return 77;
  }
  unit_report baseline = {}, v3 = {};
  run_baseline(&baseline);
  run_v3(&v3);
  std::printf("%-60s %016" PRIx64 " of %zu results\n", baseline.abi, baseline.digest, baseline.results);
  std::printf("%-60s %016" PRIx64 " of %zu results\n", v3.abi, v3.digest, v3.results);
  if (std::strcmp(baseline.abi, v3.abi) == 0) {
    std::puts("the units share one inline namespace");
    return 1;
  }
  if (baseline.digest != v3.digest || baseline.results != v3.results) {
    std::puts("the results differ");
    return 1;
  }
  return 0;
}
