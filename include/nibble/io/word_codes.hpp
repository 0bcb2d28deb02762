// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Codes in 32-bit words, as checkpoints of other tools store them, least significant bits first.
///
/// GPTQ's columns are rows of pack/bits.hpp and need nothing of this file.

#include <cstddef>
#include <cstdint>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/tensor_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// Where codes of 3, 5, 6 and 7 bits lie in 32-bit words. Codes of 2, 4 and 8 bits lie in the same places in both ways.
enum class word_packing : std::uint8_t {
  whole,   ///< 32 / bits codes in each word, the bits above are 0
  stream,  ///< code i from bit i * bits of all words on: codes may straddle two
};

namespace detail {

/// Words of `count` codes, whose bits can be counted.
constexpr std::size_t words_of(std::size_t count, int bits, word_packing packing) noexcept {
  const auto width = static_cast<std::size_t>(bits);
  return packing == word_packing::whole ? ceil_div(count, 32 / width) : ceil_div(count * width, std::size_t{32});
}

/// codes[i] = code i of `count`; word w stands at words[w * stride]. False when a bit that belongs to no code is not 0.
inline bool unpack_words(std::span<const std::byte> words, std::size_t stride, std::size_t count, int bits,
                         word_packing packing, std::uint8_t* codes) noexcept {
  const std::uint64_t mask = (1u << bits) - 1u;
  std::uint64_t ahead = 0;  // bits that were read and not yet taken, the next one lowest
  int have = 0;
  for (std::size_t i = 0, w = 0; i < count; ++i, have -= bits, ahead >>= bits) {
    if (have < bits) {
      if (packing == word_packing::whole) {
        if (ahead != 0) return false;
        have = 0;
      }
      ahead |= std::uint64_t{word_at(words, w++ * stride)} << have;
      have += 32;
    }
    codes[i] = static_cast<std::uint8_t>(ahead & mask);
  }
  return ahead == 0;
}

/// The reverse.
inline void pack_words(const std::uint8_t* codes, std::size_t count, int bits, word_packing packing,
                       std::span<std::byte> words, std::size_t stride) noexcept {
  std::uint64_t behind = 0;  // bits that no word has yet
  int have = 0;
  std::size_t w = 0;
  for (std::size_t i = 0; i < count; ++i) {
    behind |= std::uint64_t{codes[i]} << have;
    have += bits;
    if (have < 32 && (packing == word_packing::stream || have + bits <= 32)) continue;
    put_word(words, w++ * stride, static_cast<std::uint32_t>(behind));
    behind >>= 32;
    have = packing == word_packing::stream ? have - 32 : 0;
  }
  if (have > 0) put_word(words, w * stride, static_cast<std::uint32_t>(behind));
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
