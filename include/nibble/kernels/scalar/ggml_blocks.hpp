// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The block formats of GGUF files in plain C++: block by block as the format says.

#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/quant/ggml_codec.hpp>

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
};

}  // namespace kernels
}  // namespace NIBBLE_ABI
}  // namespace nibble
