// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Byte ledgers of many matrices added up, and shown: bytes by purpose, bits per weight, the ratio to FP16 beside the one
/// that the code width allows at most.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/study/report.hpp>
#include <nibble/tensor/ledger.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// The ledger of several matrices in one format, and the parameters beside them that stay in FP16 (biases, norms).
struct model_ledger {
  byte_ledger matrices;
  std::size_t weights = 0;          ///< elements of the matrices
  std::size_t fp16_parameters = 0;  ///< kept, 2 bytes each

  void add(const byte_ledger& one, std::size_t elements) noexcept {
    matrices.payload += one.payload;
    matrices.scales += one.scales;
    matrices.zero_points += one.zero_points;
    matrices.padding += one.padding;
    matrices.container += one.container;
    weights += elements;
  }
  std::size_t parameters() const noexcept { return weights + fp16_parameters; }
  std::size_t bytes() const noexcept { return total_bytes(matrices) + 2 * fp16_parameters; }
  /// Of the matrices alone: codes, scales, zero points, padding.
  double bits_per_weight() const noexcept {
    return 8.0 * static_cast<double>(total_bytes(matrices)) / static_cast<double>(weights);
  }
  /// FP16 bytes of all parameters over theirs.
  double ratio_to_fp16() const noexcept {
    return 2.0 * static_cast<double>(parameters()) / static_cast<double>(bytes());
  }
};

/// True when codes of this width can give the ratio to FP16: at most 16 / bits, unless an entropy codec is named.
constexpr bool ratio_is_possible(double ratio, const format_desc& format, std::string_view codec = {}) noexcept {
  return !codec.empty() || ratio <= theoretical_ratio(format);
}

/// One line of ledger_grid.
struct named_ledger {
  std::string name;
  format_desc format;
  model_ledger ledger;
};

/// Bytes by purpose, bits per weight, ratio and theoretical ratio.
inline text_grid ledger_grid(std::string caption, const std::vector<named_ledger>& rows) {
  text_grid g{std::move(caption),
              {"", "codes", "scales", "zero points", "padding", "container", "FP16 kept", "total bytes", "bits/weight",
               "ratio", "16 / bits"},
              {}};
  for (const named_ledger& r : rows) {
    const byte_ledger& l = r.ledger.matrices;
    std::vector<std::string> cells{r.name};
    for (const std::size_t bytes :
         {l.payload, l.scales, l.zero_points, l.padding, l.container, 2 * r.ledger.fp16_parameters, r.ledger.bytes()})
      cells.push_back(std::to_string(bytes));
    cells.push_back(format_fixed(r.ledger.bits_per_weight(), 3));
    cells.push_back(format_fixed(r.ledger.ratio_to_fp16(), 2));
    cells.push_back(format_fixed(theoretical_ratio(r.format), 2));
    g.cells.push_back(std::move(cells));
  }
  return g;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
