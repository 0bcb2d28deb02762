// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a conformance run found.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// Floats apart, counting every representable one between a and b; -1 when either is NaN.
inline std::int64_t ulps_between(float a, float b) noexcept {
  if (std::isnan(a) || std::isnan(b)) return -1;
  const auto place = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return bits >= 0 ? std::int64_t{bits} : -std::int64_t{bits & 0x7fffffff};
  };
  const std::int64_t d = place(a) - place(b);
  return d < 0 ? -d : d;
}

/// One case that failed, with its first wrong element.
struct failure {
  std::string function;   ///< what was called: multiply, quantize_row, quantize, unpack
  std::string format;     ///< for example "4-bit symmetric, groups of 32, half scales"
  std::string arguments;  ///< shape, strides, computation, bias, where the buffers lie
  std::string operands;   ///< the pattern of the operands
  std::string place;      ///< what is wrong: an element of an output, or a buffer
  bool has_values = false;
  double got = 0.0, want = 0.0;
  std::uint32_t got_bits = 0, want_bits = 0;
  std::int64_t ulps = 0;     ///< floats apart, or codes apart; -1 when one is NaN
  double bound = 0.0;        ///< a stated error bound that was exceeded; 0: bits were compared
  std::size_t wrong = 0;     ///< elements of this case that are wrong
  std::size_t compared = 0;  ///< elements of this case
  std::string cause;         ///< the likely one; empty when none is known
};

inline std::string to_string(const failure& f) {
  std::string s = f.function + ": " + f.format + ", " + f.arguments + ", operands " + f.operands + ": " + f.place;
  if (f.has_values) {
    char values[160];
    std::snprintf(values, sizeof values, " is %.9g (%08x), should be %.9g (%08x)", f.got, f.got_bits, f.want,
                  f.want_bits);
    s += values;
    if (f.ulps >= 0) s += ", " + std::to_string(f.ulps) + " ulps";
    if (f.bound > 0.0) {
      std::snprintf(values, sizeof values, ", error %.3g above the bound %.3g", std::fabs(f.got - f.want), f.bound);
      s += values;
    }
    s += "; wrong: " + std::to_string(f.wrong) + " of " + std::to_string(f.compared);
  }
  return f.cause.empty() ? s : s + "; likely cause: " + f.cause;
}

/// All that a run compared. A run in which nothing was compared has not passed.
struct report {
  std::size_t cases = 0;          ///< calls whose results were compared
  std::size_t refused = 0;        ///< calls that the engine answered with an errc other than ok
  std::size_t elements = 0;       ///< values compared
  std::size_t failed = 0;         ///< cases with a failure
  std::vector<failure> failures;  ///< the first of them, options.max_failures at most

  bool passed() const noexcept { return failed == 0 && cases != 0; }
  /// A line of totals, then one line for each failure.
  std::string text() const {
    std::string s = std::to_string(cases) + " cases, " + std::to_string(elements) + " values compared, " +
                    std::to_string(refused) + " calls refused, " + std::to_string(failed) + " cases failed\n";
    if (cases == 0) s += "nothing was compared: every call was refused\n";
    for (const failure& f : failures) s += to_string(f) + '\n';
    if (failures.size() < failed) s += "... and " + std::to_string(failed - failures.size()) + " more\n";
    return s;
  }
};

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
