// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The target's intrinsics in one include.

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
