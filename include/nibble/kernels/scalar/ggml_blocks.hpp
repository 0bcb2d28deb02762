// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The block formats of GGUF files in plain C++: block by block as the format says.

#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/quant/ggml_codec.hpp>
#include <nibble/quant/ggml_fit.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace kernels {

template <class Format>
struct decode_ggml_blocks<isa::scalar, Format> {
  using isa_type = isa::scalar;

  static void run(const std::byte* blocks, std::size_t count, float* y) noexcept {
    for (std::size_t i = 0; i < count; ++i)
      Format::decode(blocks + i * Format::block_bytes, y + i * Format::block_elements);
  }
};

template <class Format>
struct encode_ggml_blocks<isa::scalar, Format> {
  using isa_type = isa::scalar;

  static void run(const float* x, std::size_t count, std::byte* blocks) noexcept {
    for (std::size_t i = 0; i < count; ++i)
      Format::encode(x + i * Format::block_elements, blocks + i * Format::block_bytes);
  }
  static void run(const float* x, std::size_t count, const ggml_importance& importance,
                  std::byte* blocks) noexcept requires quant::ggml::weighted_block<Format> {
    if (importance.values == nullptr) return run(x, count, blocks);
    for (std::size_t i = 0; i < count; ++i)
      Format::encode(x + i * Format::block_elements, importance.of_block(i, Format::block_elements),
                     blocks + i * Format::block_bytes);
  }
};

template <quant::ggml::fitted_block Format>
struct fit_ggml_blocks<isa::scalar, Format> {
  using isa_type = isa::scalar;

  static void run(const float* x, std::size_t count, ggml_importance importance, std::byte* blocks) noexcept {
    for (std::size_t i = 0; i < count; ++i, x += 256, blocks += Format::block_bytes) {
      if (importance.values == nullptr) {
        fit<false>(x, nullptr, blocks);
        continue;
      }
      float weights[256];
      quant::ggml::detail::fit_weights(importance.of_block(i, Format::block_elements), weights);
      fit<true>(x, weights, blocks);
    }
  }

 private:
  template <bool Weighted>
  static void fit(const float* x, const float* weights, std::byte* block) noexcept {
    using fit_of = quant::ggml::block_fit<Format>;
    using search = typename fit_of::template search<quant::ggml::detail::one_lane, Weighted>;
    const search found(x, weights, fit_of::steps);
    quant::ggml::super_block_parts parts;
    found.store_lanes(&parts);
    for (std::size_t i = 0; i < 256; ++i) parts.codes[i] = static_cast<std::uint8_t>(found.final_code(i));
    fit_of::store(parts, block);
  }
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
