// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// 64-bit digests of results: what a build on another machine must give, in sixteen digits.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// The version of the numeric law (kernels/README.md) and of the layouts that tests/golden/digests.txt belongs to. A change
/// that alters one digest of an existing format raises it.
inline constexpr int law_version = 1;

/// FNV-1a, 64 bits, over bytes in memory order (Fowler, Noll, Vo; draft-eastlake-fnv): for each byte h = (h ^ byte) *
/// 1099511628211, from 14695981039346656037. It finds accidents; it does not resist an adversary.
class digest {
 public:
  digest& add(const void* data, std::size_t bytes) noexcept {
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) value_ = (value_ ^ p[i]) * 1099511628211u;
    return *this;
  }
  template <class T>
  digest& add(std::span<const T> values) noexcept {
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>,
                  "digest: T must have no padding bytes");
    return add(values.data(), values.size_bytes());
  }

  std::uint64_t value() const noexcept { return value_; }
  /// Sixteen hexadecimal digits.
  std::string text() const {
    std::string s(16, '0');
    for (std::size_t i = 0; i < 16; ++i) s[i] = "0123456789abcdef"[value_ >> (60 - 4 * i) & 15u];
    return s;
  }

 private:
  std::uint64_t value_ = 14695981039346656037u;
};

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
