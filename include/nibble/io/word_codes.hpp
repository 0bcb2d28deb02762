// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Codes in 32-bit words, as checkpoints of other tools store them, least significant bits first.
///
///   stream     code i is the field at bit i * bits of all words together: pack/bits.hpp, for little-endian words
///   by word    32 / bits codes in each word, the bits above them 0; the same for 2, 4 and 8 bits

#include <cstddef>
#include <cstdint>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/tensor_view.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {
namespace detail {

/// Codes of `bits` bits that one word holds where none straddles two.
constexpr std::size_t codes_of_word(int bits) noexcept { return 32u / static_cast<unsigned>(bits); }

/// codes[i] = code i of `count`, by word; word w stands at words[w * stride]. False when a bit that belongs to no code is
/// not 0.
inline bool unpack_words(std::span<const std::byte> words, std::size_t stride, std::size_t count, int bits,
                         std::uint8_t* codes) noexcept {
  const std::size_t each = codes_of_word(bits);
  const std::uint32_t mask = (1u << bits) - 1u;
  for (std::size_t i = 0, w = 0; i < count; ++w) {
    std::uint32_t word = word_at(words, w * stride);
    std::size_t live = count - i < each ? count - i : each;
    for (; live != 0; --live, word >>= bits) codes[i++] = static_cast<std::uint8_t>(word & mask);
    if (word != 0) return false;
  }
  return true;
}

/// The reverse.
inline void pack_words(const std::uint8_t* codes, std::size_t count, int bits, std::span<std::byte> words,
                       std::size_t stride) noexcept {
  const std::size_t each = codes_of_word(bits);
  for (std::size_t i = 0, w = 0; i < count; ++w) {
    const std::size_t live = count - i < each ? count - i : each;
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < live; ++j, ++i)
      word |= static_cast<std::uint32_t>(codes[i]) << (j * static_cast<std::size_t>(bits));
    put_word(words, w * stride, word);
  }
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
