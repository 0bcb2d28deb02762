// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Between the units: C types only. Each unit, whatever its -m flags, does the same work with nibble's templates.

#include <cstddef>
#include <cstdint>

struct unit_report {
  char abi[128];         ///< NIBBLE_ABI_NAME of the unit
  std::uint64_t digest;  ///< of every integer-law result below
  std::size_t results;   ///< how many numbers went into it
};

extern "C" void run_baseline(unit_report* report);
extern "C" void run_v3(unit_report* report);
