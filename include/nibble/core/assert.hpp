// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// NIBBLE_ASSERT: checks inside kernels, in debug builds only. Public functions never rely on it.

#include <nibble/core/config.hpp>

#if NIBBLE_ENABLE_ASSERT
#include <cstdio>
#include <cstdlib>
/// Stops with the condition and its place on standard error when `condition` is false. A broken contract inside a
/// noexcept kernel cannot be reported in another way.
#define NIBBLE_ASSERT(condition)                                                                                  \
  ((condition) ? static_cast<void>(0)                                                                             \
               : (static_cast<void>(                                                                              \
                      std::fprintf(stderr, "%s:%d: NIBBLE_ASSERT(%s) failed\n", __FILE__, __LINE__, #condition)), \
                  std::abort()))
#else
#define NIBBLE_ASSERT(condition) static_cast<void>(0)
#endif
