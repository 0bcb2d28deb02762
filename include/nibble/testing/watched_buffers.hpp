// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The buffers of one call of an engine's kernel: guarded copies of its inputs, the number that stands in what it must not
/// touch, and the verdict on all of them afterwards.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/testing/guard_page.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing::detail {

/// A signalling NaN: whatever computes with it makes a quiet one, so that what was left alone keeps these bits.
inline constexpr std::uint32_t poison_bits = 0x7fa5a5a5u;
inline float poison() noexcept { return std::bit_cast<float>(poison_bits); }

inline bool same_float(float a, float b) noexcept {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

/// A guarded copy of an input. `check` finds it changed.
template <class T>
class input {
 public:
  input(std::span<const T> from, placement where, std::size_t alignment, const char* name)
      : name_(name), original_(from.begin(), from.end()), copy_(from.size(), where, std::max(alignment, alignof(T))) {
    if (!original_.empty()) std::memcpy(copy_.data(), original_.data(), from.size_bytes());
  }
  const T* data() const noexcept { return copy_.data(); }
  const guarded_bytes& bytes() const noexcept { return copy_.bytes(); }
  const char* name() const noexcept { return name_; }
  bool unchanged() const noexcept {
    return original_.empty() || std::memcmp(copy_.data(), original_.data(), original_.size() * sizeof(T)) == 0;
  }

 private:
  const char* name_;
  std::vector<T> original_;
  guarded<T> copy_;
};

/// The watch of one call and its verdict on the buffers.
class buffer_check {
 public:
  explicit buffer_check(fault_watch& watch) : watch_(watch) { watch_.clear(); }
  ~buffer_check() { watch_.clear(); }
  buffer_check(const buffer_check&) = delete;
  buffer_check& operator=(const buffer_check&) = delete;

  template <class T>
  void watch(const input<T>& in) {
    watch(in.bytes(), in.name());
    unchanged_.push_back({in.name(), [&in] { return in.unchanged(); }});
  }
  void watch(const guarded_bytes& buffer, const char* name) {
    watch_.add(buffer, name);
    intact_.push_back({&buffer, name});
  }

  /// What happened to the buffers, or an empty string. `cause` says more.
  std::string verdict(std::string& cause) const {
    if (const auto touch = watch_.take()) {
      const bool before = touch->offset < 0;
      cause = touch->written ? "a write past the end of an output or into an input" : "an over-read";
      if (before) cause = touch->written ? "a write in front of a buffer" : "a read in front of a buffer";
      return std::string(touch->name) + (touch->written ? " were written " : " were read ") +
             (before ? std::to_string(-touch->offset) + " bytes before their begin"
                     : "at byte " + std::to_string(touch->offset) + " past their end");
    }
    for (const auto& [buffer, name] : intact_) {
      if (buffer->intact()) continue;
      cause = "a write outside of a buffer";
      return std::string("the memory around ") + name + " was written";
    }
    for (const auto& [name, same] : unchanged_) {
      if (same()) continue;
      cause = "an input is used as scratch memory";
      return std::string(name) + " were changed";
    }
    return {};
  }

 private:
  fault_watch& watch_;
  std::vector<std::pair<const guarded_bytes*, const char*>> intact_;
  std::vector<std::pair<const char*, std::function<bool()>>> unchanged_;
};

}  // namespace testing::detail
}  // namespace NIBBLE_ABI
}  // namespace nibble
