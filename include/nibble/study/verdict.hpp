// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// A finding: a reported number, ours, the tolerance, and the verdict that follows from them. Nobody writes a verdict
/// down; it is computed each time it is asked for.

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>

namespace nibble {

/// What the comparison of a reported number with ours says.
enum class verdict : int {
  reproduced,    ///< within the tolerance
  differs,       ///< two measurements or models that do not agree
  contradicted,  ///< the claim fails its stated test: its own premises or a bound rule it out
  not_testable,  ///< one side is missing
};

/// How `ours` has to stand to `reported`.
enum class comparison : int {
  measured,  ///< |ours - reported| <= tolerance, else the two differ
  derived,   ///< the number follows from stated premises: beyond the tolerance it is contradicted
  at_least,  ///< claim "ours is at least `reported`": contradicted when ours < reported - tolerance
  at_most,   ///< claim "ours is at most `reported`": contradicted when ours > reported + tolerance
};

inline namespace NIBBLE_ABI {
namespace study {

/// The words of report.json.
constexpr const char* name_of(verdict v) noexcept {
  switch (v) {
    case verdict::reproduced: return "reproduced";
    case verdict::differs: return "differs";
    case verdict::contradicted: return "contradicted";
    case verdict::not_testable: return "not testable";
  }
  return "unknown";
}

constexpr const char* name_of(comparison c) noexcept {
  switch (c) {
    case comparison::measured: return "equal within tolerance";
    case comparison::derived: return "follows from its premises";
    case comparison::at_least: return "ours >= reported";
    case comparison::at_most: return "ours <= reported";
  }
  return "unknown";
}

/// The verdict of one comparison. A missing or NaN side, or a NaN tolerance, is not testable; tolerance >= 0.
inline verdict judge(comparison how, std::optional<double> reported, std::optional<double> ours,
                     double tolerance) noexcept {
  if (!reported || !ours || std::isnan(*reported) || std::isnan(*ours) || !(tolerance >= 0.0))
    return verdict::not_testable;
  const double difference = *ours - *reported;
  switch (how) {
    case comparison::measured: return std::fabs(difference) <= tolerance ? verdict::reproduced : verdict::differs;
    case comparison::derived: return std::fabs(difference) <= tolerance ? verdict::reproduced : verdict::contradicted;
    case comparison::at_least: return difference >= -tolerance ? verdict::reproduced : verdict::contradicted;
    case comparison::at_most: return difference <= tolerance ? verdict::reproduced : verdict::contradicted;
  }
  return verdict::not_testable;
}

/// One more number of a row, beside the compared ones.
struct detail {
  std::string key;
  double value = 0.0;
};

/// One row of a table.
struct finding {
  std::string name;
  comparison how = comparison::measured;
  std::optional<double> reported{};  ///< the reference report's (or reference table's) number
  std::optional<double> ours{};
  double tolerance = 0.0;
  std::string unit{};         ///< "", "MiB", "dB", ...
  int decimals = 4;           ///< for printing reported, ours and difference
  std::string basis{};        ///< how ours came about and where the tolerance comes from
  std::string explanation{};  ///< shown when the verdict is not `reproduced`: the cause, as far as it is known
  std::vector<detail> details{};
  std::vector<std::pair<std::string, std::string>> labels{};

  verdict result() const noexcept { return judge(how, reported, ours, tolerance); }
  /// ours - reported, or nothing when one is missing.
  std::optional<double> difference() const noexcept {
    if (!reported || !ours) return std::nullopt;
    return *ours - *reported;
  }
  /// The basis, and for a verdict other than `reproduced` the explanation.
  std::string reason() const {
    if (result() == verdict::reproduced || explanation.empty()) return basis;
    return basis.empty() ? explanation : basis + "; " + explanation;
  }
};

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
