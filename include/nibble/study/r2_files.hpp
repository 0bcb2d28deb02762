// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What R2's quantized matrices take in a columnar file, by codec, beside the byte ledger.

#include <array>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/quant/affine.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/study/r2_inputs.hpp>
#include <nibble/study/report.hpp>
#include <nibble/tensor/ledger.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// Bytes of a Parquet file of these matrices; `codec` is one of r2_codecs. Empty in a build that cannot write such files.
using r2_file_bytes =
    std::function<std::size_t(std::span<const quantized_view> layers, std::string_view codec, bool byte_codes)>;
inline constexpr std::array<std::string_view, 3> r2_codecs{"none", "snappy", "zstd"};

/// Adds the lines of one chain at one width.
template <int Bits>
void add_r2_files(text_grid& grid, const char* name, std::size_t h, const r2_file_bytes& file_bytes,
                  const context& ctx) {
  using format = quant::affine<Bits, code_rule::symmetric_full, quant::per_channel>;
  std::vector<qmatrix<format>> layers;
  std::vector<quantized_view> views;
  byte_ledger ledger;
  for (const r2_layer& layer : r2_chain(h)) {
    layers.push_back(quantize<format>(make_span2d(layer.weight.data(), layer.out, layer.in), {}, ctx));
    const byte_ledger l = layers.back().ledger();
    ledger.payload += l.payload;
    ledger.scales += l.scales;
  }
  for (const auto& layer : layers) views.push_back(layer.view());
  for (const bool byte_codes : {false, true}) {
    if (byte_codes && Bits == 8) continue;  // they are bytes
    std::vector<std::string> cells{std::string{name} + " INT" + std::to_string(Bits),
                                   byte_codes ? "a byte each" : "packed",
                                   format_number(static_cast<double>(ledger.payload + ledger.scales), 0)};
    for (const std::string_view codec : r2_codecs)
      cells.push_back(file_bytes ? format_number(static_cast<double>(file_bytes(views, codec, byte_codes)), 0)
                                 : std::string{"absent"});
    grid.cells.push_back(std::move(cells));
  }
}

/// Codes and scales of the three chains: what the ledger says, and files without a codec, with snappy, with zstd.
inline text_grid r2_files_grid(const r2_file_bytes& file_bytes, const context& ctx = {}) {
  text_grid grid{std::string{"bytes of the weight matrices in Parquet files by codec (V2 pages), without biases"} +
                     (file_bytes ? "" : "; absent: built without Arrow's C++ libraries"),
                 {"", "codes", "ledger", "none", "snappy", "zstd"},
                 {}};
  const auto both = [&](const char* name, std::size_t h) {
    add_r2_files<8>(grid, name, h, file_bytes, ctx);
    add_r2_files<2>(grid, name, h, file_bytes, ctx);
  };
  both("Small", 32);
  both("Medium", 128);
  both("Large", 512);
  return grid;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
