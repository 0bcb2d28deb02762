// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Blocks of GGUF files taken apart into codes and parameters, and put together again: what facts_of(type) describes.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/ggml_codec.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/quant/policy.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace quant {
namespace ggml {

namespace detail {

/// codes[j] of the 32 codes of 4 bits in 16 bytes.
inline void split_nibbles(const std::byte* b, std::uint8_t* codes) noexcept {
  for (std::size_t j = 0; j < 16; ++j) {
    codes[j] = static_cast<std::uint8_t>(load_u8(b + j) & 15u);
    codes[j + 16] = static_cast<std::uint8_t>(load_u8(b + j) >> 4);
  }
}
inline void split_fifth_bits(const std::byte* b, std::uint8_t* codes) noexcept {
  const std::uint32_t high = load_u32(b);
  for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | (high >> i & 1u) << 4);
}

}  // namespace detail

/// Codes (one a byte) and parameters of the groups of one block; parameters as floats, exactly. The type is one that
/// facts_of knows. No product here feeds a sum, so contraction changes nothing.
inline void split_block(ggml_type type, const std::byte* b, std::uint8_t* codes, group_params* params) noexcept {
  using detail::load_half;
  using detail::load_u8;
  switch (type) {
    case ggml_type::q8_0:
      params[0] = {load_half(b), 0.0f};
      for (std::size_t i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(load_u8(b + 2 + i) ^ 128u);
      return;
    case ggml_type::q4_0:
    case ggml_type::iq4_nl: params[0] = {load_half(b), 0.0f}; return detail::split_nibbles(b + 2, codes);
    case ggml_type::q4_1: params[0] = {load_half(b), load_half(b + 2)}; return detail::split_nibbles(b + 4, codes);
    case ggml_type::q5_0:
      params[0] = {load_half(b), 0.0f};
      detail::split_nibbles(b + 6, codes);
      return detail::split_fifth_bits(b + 2, codes);
    case ggml_type::q5_1:
      params[0] = {load_half(b), load_half(b + 2)};
      detail::split_nibbles(b + 8, codes);
      return detail::split_fifth_bits(b + 4, codes);
    case ggml_type::mxfp4: {
      const std::uint32_t e = load_u8(b);  // 2^(e - 128)
      params[0] = {std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23), 0.0f};
      return detail::split_nibbles(b + 1, codes);
    }
    case ggml_type::q2_k: {
      const float d = load_half(b + 80), dmin = load_half(b + 82);
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned s = load_u8(b + j);
        params[j] = {d * static_cast<float>(s & 15u), -(dmin * static_cast<float>(s >> 4))};
      }
      for (std::size_t e = 0; e < 256; ++e) codes[e] = static_cast<std::uint8_t>(detail::two_bits(b + 16, e));
      return;
    }
    case ggml_type::q3_k: {
      const float d = load_half(b + 108);
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned low = load_u8(b + 96 + j % 8) >> (j / 8 * 4) & 15u;
        const unsigned high = load_u8(b + 104 + j % 4) >> (j / 4 * 2) & 3u;
        params[j] = {d * (static_cast<float>(low | high << 4) - 32.0f), 0.0f};
      }
      for (std::size_t e = 0; e < 256; ++e) {
        const unsigned third = load_u8(b + e % 32) >> (e / 32) & 1u;
        codes[e] = static_cast<std::uint8_t>(detail::two_bits(b + 32, e) | third << 2);
      }
      return;
    }
    case ggml_type::q4_k:
    case ggml_type::q5_k: {
      const bool fifth = type == ggml_type::q5_k;
      const float d = load_half(b), dmin = load_half(b + 2);
      for (std::size_t j = 0; j < 8; ++j) {
        params[j] = {d * static_cast<float>(detail::packed_scales::scale(b + 4, j)),
                     -(dmin * static_cast<float>(detail::packed_scales::min(b + 4, j)))};
        const std::byte* const nibbles = b + (fifth ? 48 : 16) + j / 2 * 32;
        for (std::size_t l = 0; l < 32; ++l) {
          const unsigned low = load_u8(nibbles + l) >> (j % 2 * 4) & 15u;
          const unsigned high = fifth ? load_u8(b + 16 + l) >> j & 1u : 0u;
          codes[32 * j + l] = static_cast<std::uint8_t>(low | high << 4);
        }
      }
      return;
    }
    case ggml_type::q6_k: {
      const float d = load_half(b + 208);
      for (std::size_t j = 0; j < 16; ++j)
        params[j] = {d * static_cast<float>(static_cast<std::int8_t>(load_u8(b + 192 + j))), 0.0f};
      for (std::size_t e = 0; e < 256; ++e) {
        const unsigned low = load_u8(b + e / 128 * 64 + e % 64) >> (e % 128 / 64 * 4) & 15u;
        codes[e] = static_cast<std::uint8_t>(low | detail::two_bits(b + 128, e) << 4);
      }
      return;
    }
    case ggml_type::iq4_xs: {
      const float d = load_half(b);
      const unsigned upper = load_u8(b + 2) | load_u8(b + 3) << 8;
      for (std::size_t j = 0; j < 8; ++j) {
        const unsigned low = load_u8(b + 4 + j / 2) >> (j % 2 * 4) & 15u, high = upper >> 2 * j & 3u;
        params[j] = {d * (static_cast<float>(low | high << 4) - 32.0f), 0.0f};
        detail::split_nibbles(b + 8 + 16 * j, codes + 32 * j);
      }
      return;
    }
    default: return;
  }
}

/// The reverse for types of has_plain_blocks: the bytes of 32 codes with their half precision scale and offset.
inline void join_block(ggml_type type, const std::uint8_t* codes, half scale, half zero, std::byte* b) noexcept {
  const auto put_half = [&](half h, std::size_t at) { std::memcpy(b + at, &h, sizeof h); };
  put_half(scale, 0);
  std::size_t at = 2;
  if (type == ggml_type::q4_1 || type == ggml_type::q5_1) {
    put_half(zero, at);
    at += 2;
  }
  if (type == ggml_type::q8_0) {
    for (std::size_t i = 0; i < 32; ++i) b[at + i] = static_cast<std::byte>(codes[i] ^ 128u);
    return;
  }
  if (type == ggml_type::q5_0 || type == ggml_type::q5_1) {
    detail::store_fifth_bits(codes, b + at);
    at += 4;
  }
  detail::store_nibbles(codes, b + at);
}

}  // namespace ggml
}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
