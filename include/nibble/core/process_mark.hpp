// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Whether this is still the process that made an object: a forked child has none of its threads.

#include <nibble/core/config.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace core {

/// Remembers the process that made it. Asking is one system call, about a tenth of a microsecond, where waking a thread
/// takes several; a handler for fork would be global state and miss children made without the C library.
class process_mark {
 public:
#if defined(__unix__) || defined(__APPLE__)
  bool forked() const noexcept { return getpid() != maker_; }

 private:
  pid_t maker_ = getpid();
#else
  bool forked() const noexcept { return false; }
#endif
};

}  // namespace core
}  // namespace NIBBLE_ABI
}  // namespace nibble
