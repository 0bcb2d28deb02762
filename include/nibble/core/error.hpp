// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The one error type of the library and the one function that raises it.

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {

/// What went wrong. `ok` is only ever returned by questions such as `can_multiply`, never thrown.
enum class errc : int {
  ok = 0,
  bad_shape,           ///< an extent, stride or count is outside its limits or does not match another one
  bad_value,           ///< NaN, infinity or a parameter outside its range
  scale_overflow,      ///< a scale does not fit its storage type
  unsupported_format,  ///< this kernel or function has no code for the number format
  unsupported_layout,  ///< this kernel has no code for the packed layout
  unsupported_isa,     ///< this CPU or this build lacks the instructions
  scratch_too_small,   ///< the caller's scratch memory is smaller than scratch_bytes() asked for
  bad_alignment,       ///< a pointer is not aligned as documented
  aliasing,            ///< an output overlaps an input
  bad_file,            ///< a file is damaged or breaks a rule of its format
  io_failed,           ///< the operating system refused to read or write
  out_of_memory,       ///< an allocation failed
};

#if defined(__cpp_exceptions)
/// Thrown by public functions on bad arguments and hostile files; the message holds the numbers and the place.
class error : public std::runtime_error {
 public:
  error(errc code, const std::string& message) : std::runtime_error(message), code_(code) {}
  errc code() const noexcept { return code_; }

 private:
  errc code_;
};
#endif

inline namespace NIBBLE_ABI {

/// The stable name of an error code, for example "bad_shape".
constexpr const char* name_of(errc code) noexcept {
  switch (code) {
    case errc::ok: return "ok";
    case errc::bad_shape: return "bad_shape";
    case errc::bad_value: return "bad_value";
    case errc::scale_overflow: return "scale_overflow";
    case errc::unsupported_format: return "unsupported_format";
    case errc::unsupported_layout: return "unsupported_layout";
    case errc::unsupported_isa: return "unsupported_isa";
    case errc::scratch_too_small: return "scratch_too_small";
    case errc::bad_alignment: return "bad_alignment";
    case errc::aliasing: return "aliasing";
    case errc::bad_file: return "bad_file";
    case errc::io_failed: return "io_failed";
    case errc::out_of_memory: return "out_of_memory";
  }
  return "unknown";
}

namespace core {

inline void append_piece(std::string& s, std::string_view v) { s.append(v); }
template <class T>
  requires std::is_arithmetic_v<T>
void append_piece(std::string& s, T v) {
  if constexpr (std::is_same_v<T, char>) {
    s.push_back(v);
  } else if constexpr (std::is_floating_point_v<T>) {
    char text[40];
    std::snprintf(text, sizeof text, "%.9g", static_cast<double>(v));
    s.append(text);
  } else {
    s.append(std::to_string(v));
  }
}

/// Text from pieces: strings, characters, integers, floats (9 significant digits).
template <class... Pieces>
std::string message(const Pieces&... pieces) {
  std::string s;
  (append_piece(s, pieces), ...);
  return s;
}

/// Called by `fail` when exceptions are disabled; must not return (if it does, or if none is set, fail aborts).
using fail_handler = void (*)(errc code, const char* message);

#if !defined(__cpp_exceptions)
inline fail_handler& current_fail_handler() noexcept {
  static fail_handler handler = nullptr;
  return handler;
}
/// Sets the handler of translation units compiled with the same flags and -fno-exceptions. Returns the previous one.
inline fail_handler set_fail_handler(fail_handler handler) noexcept {
  const fail_handler old = current_fail_handler();
  current_fail_handler() = handler;
  return old;
}
#endif

/// The only place of the library that raises an error: throws `error`, or calls the handler in units without exceptions.
template <class... Pieces>
[[noreturn]] void fail(errc code, const Pieces&... pieces) {
  const std::string text = message("nibble: ", pieces..., " [", name_of(code), "]");
#if defined(__cpp_exceptions)
  throw error(code, text);
#else
  if (const fail_handler handler = current_fail_handler()) handler(code, text.c_str());
  std::abort();
#endif
}

}  // namespace core
}  // namespace NIBBLE_ABI
}  // namespace nibble
