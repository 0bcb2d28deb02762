// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What readers and writers of model files share: names made fit for messages, UTF-8, products of extents.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

/// "[2, 3]"
inline std::string shape_text(std::span<const std::size_t> shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return s + "]";
}

/// A name from a file, fit for a message: control and non-ASCII bytes as \xNN, cut after 120 characters.
inline std::string printable(std::string_view name) {
  std::string s;
  for (const char c : name) {
    if (s.size() >= 120) return s + "...";
    if (c >= 0x20 && c < 0x7f) {
      s.push_back(c);
    } else {
      char text[8];
      std::snprintf(text, sizeof text, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      s += text;
    }
  }
  return s;
}

namespace detail {

/// A name that becomes printable where a message is made of it, for places that most files pass without one.
struct shown {
  std::string_view name;
};
inline void append_piece(std::string& s, shown v) { s += printable(v.name); }

/// a * b, or false when it does not fit.
constexpr bool checked_multiply(std::size_t a, std::size_t b, std::size_t& product) noexcept {
  if (b != 0 && a > static_cast<std::size_t>(-1) / b) return false;
  product = a * b;
  return true;
}

/// Where the first byte stands that is not part of well-formed UTF-8 (Unicode 15, table 3-7: no overlong form, no
/// surrogate, nothing above U+10FFFF), or s.size().
constexpr std::size_t find_ill_formed_utf8(std::string_view s) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(s[i])); };
  for (std::size_t i = 0; i < s.size();) {
    if (!std::is_constant_evaluated() && s.size() - i >= 8) {  // most names are ASCII
      std::uint64_t eight;
      std::memcpy(&eight, s.data() + i, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t tail = lead >= 0xc2 && lead <= 0xdf   ? 1
                             : (lead & 0xf0u) == 0xe0       ? 2
                             : lead >= 0xf0 && lead <= 0xf4 ? 3
                                                            : 0;
    if (tail == 0 || s.size() - i <= tail) return i;
    // The second byte has narrower bounds after four of the leads.
    const unsigned lo = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned hi = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (byte(i + 1) < lo || byte(i + 1) > hi) return i;
    for (std::size_t k = 2; k <= tail; ++k)
      if ((byte(i + k) & 0xc0u) != 0x80) return i;
    i += tail + 1;
  }
  return s.size();
}
static_assert(find_ill_formed_utf8("a\xc3\xa9\xed\x9f\xbf\xf0\x90\x80\x80") == 10 &&
              find_ill_formed_utf8("a\xed\xa0\x80") == 1);

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
