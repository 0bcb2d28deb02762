// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The target's intrinsics in one include. Without AVX the small headers do: immintrin.h alone costs a compiler half a
/// second.

#if defined(__x86_64__) && defined(__AVX__)
#include <immintrin.h>
#elif defined(__x86_64__) && defined(__SSE4_1__)
#include <nmmintrin.h>
#elif defined(__x86_64__) && defined(__SSSE3__)
#include <tmmintrin.h>
#elif defined(__x86_64__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
