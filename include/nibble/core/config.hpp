// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Version, platform requirements and the one inline namespace that holds every function body of the library.
///
/// The namespace law: a function compiled with AVX-512 must never be picked by the linker for a translation unit that
/// was compiled for SSE2. Inline functions and templates are weak symbols, so equal names from units with different -m
/// flags are merged, whichever comes first. Therefore everything with a function body lives in the inline namespace
/// NIBBLE_ABI, whose name is made from the API version, the ISA macros and the assert mode. Only enums, `error`,
/// `context` and trivially copyable views without member functions stand outside it and may cross such units.

#define NIBBLE_VERSION_MAJOR 0
#define NIBBLE_VERSION_MINOR 1
#define NIBBLE_VERSION_PATCH 0
#define NIBBLE_VERSION (NIBBLE_VERSION_MAJOR * 10000 + NIBBLE_VERSION_MINOR * 100 + NIBBLE_VERSION_PATCH)

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "nibble needs C++20: compile with -std=c++20 or later"
#endif

// Value-changing float options break the numeric law (explicit fused multiply-adds in a fixed order) and the tests for
// NaN. -ffp-contract=fast and off are both fine: no product feeds an add unguarded.
// (clang has no macro for its -fassociative-math and -freciprocal-math alone: there they are the user's to leave out.)
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error \
    "nibble: -ffast-math / -ffinite-math-only / -fassociative-math / -freciprocal-math / -Ofast change results and remove NaN checks; compile the units that include nibble without them (for example -O3 -fno-fast-math)"
#endif

#include <bit>
#include <climits>
#include <cstddef>

static_assert(std::endian::native == std::endian::little,
              "nibble supports little-endian platforms only: packed codes and model files are little-endian");
static_assert(sizeof(std::size_t) == 8, "nibble supports 64-bit platforms only: matrices are indexed with 64 bits");
static_assert(CHAR_BIT == 8 && sizeof(float) == 4, "nibble needs 8-bit bytes and IEEE binary32 floats");

/// 1 in a unit that leaves the kernels to another one: see gemm/instantiate.hpp.
#ifndef NIBBLE_EXTERN_KERNELS
#define NIBBLE_EXTERN_KERNELS 0
#endif

/// Debug checks inside kernels: on unless NDEBUG is defined; define NIBBLE_ENABLE_ASSERT to 0 or 1 to choose.
#ifndef NIBBLE_ENABLE_ASSERT
#ifdef NDEBUG
#define NIBBLE_ENABLE_ASSERT 0
#else
#define NIBBLE_ENABLE_ASSERT 1
#endif
#endif

// The name of the inline namespace: one piece for each macro that lets compilers emit other instructions in the code of
// this library. (Features that only intrinsics reach, such as AES, have none.)
#define NIBBLE_DETAIL_CAT_(a, b) a##b
#define NIBBLE_DETAIL_CAT(a, b) NIBBLE_DETAIL_CAT_(a, b)

#if defined(__AVX512F__)
#define NIBBLE_DETAIL_ABI_SIMD _avx512f
#elif defined(__AVX2__)
#define NIBBLE_DETAIL_ABI_SIMD _avx2
#elif defined(__AVX__)
#define NIBBLE_DETAIL_ABI_SIMD _avx
#elif defined(__SSE4_2__)
#define NIBBLE_DETAIL_ABI_SIMD _sse42
#elif defined(__SSE4_1__)
#define NIBBLE_DETAIL_ABI_SIMD _sse41
#elif defined(__SSSE3__)
#define NIBBLE_DETAIL_ABI_SIMD _ssse3
#elif defined(__SSE3__)
#define NIBBLE_DETAIL_ABI_SIMD _sse3
#elif defined(__SSE2__)
#define NIBBLE_DETAIL_ABI_SIMD _sse2
#elif defined(__ARM_FEATURE_MATMUL_INT8) && defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_DETAIL_ABI_SIMD _neon_i8mm
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define NIBBLE_DETAIL_ABI_SIMD _neon_i8mm_alone
#elif defined(__ARM_FEATURE_DOTPROD)
#define NIBBLE_DETAIL_ABI_SIMD _neon_dotprod
#elif defined(__ARM_NEON)
#define NIBBLE_DETAIL_ABI_SIMD _neon
#else
#define NIBBLE_DETAIL_ABI_SIMD _generic
#endif
#ifdef __FMA__
#define NIBBLE_DETAIL_ABI_FMA _fma
#else
#define NIBBLE_DETAIL_ABI_FMA
#endif
#ifdef __F16C__
#define NIBBLE_DETAIL_ABI_F16C _f16c
#else
#define NIBBLE_DETAIL_ABI_F16C
#endif
#ifdef __BMI2__
#define NIBBLE_DETAIL_ABI_BMI _bmi2
#elif defined(__BMI__)
#define NIBBLE_DETAIL_ABI_BMI _bmi
#else
#define NIBBLE_DETAIL_ABI_BMI
#endif
#ifdef __AVX512BW__
#define NIBBLE_DETAIL_ABI_BW _bw
#else
#define NIBBLE_DETAIL_ABI_BW
#endif
#ifdef __AVX512DQ__
#define NIBBLE_DETAIL_ABI_DQ _dq
#else
#define NIBBLE_DETAIL_ABI_DQ
#endif
#ifdef __AVX512VL__
#define NIBBLE_DETAIL_ABI_VL _vl
#else
#define NIBBLE_DETAIL_ABI_VL
#endif
#ifdef __AVX512VBMI__
#define NIBBLE_DETAIL_ABI_VBMI _vbmi
#else
#define NIBBLE_DETAIL_ABI_VBMI
#endif
#ifdef __AVX512VNNI__
#define NIBBLE_DETAIL_ABI_VNNI _vnni
#else
#define NIBBLE_DETAIL_ABI_VNNI
#endif
#ifdef __AVX512BF16__
#define NIBBLE_DETAIL_ABI_BF16 _bf16
#else
#define NIBBLE_DETAIL_ABI_BF16
#endif
#ifdef __AVX512FP16__
#define NIBBLE_DETAIL_ABI_FP16 _fp16
#else
#define NIBBLE_DETAIL_ABI_FP16
#endif
#ifdef __AVXVNNI__
#define NIBBLE_DETAIL_ABI_AVXVNNI _avxvnni
#else
#define NIBBLE_DETAIL_ABI_AVXVNNI
#endif
// clang before 16 spells these without the inner underscore.
#if (defined(__AMX_TILE__) && defined(__AMX_INT8__)) || (defined(__AMXTILE__) && defined(__AMXINT8__))
#define NIBBLE_HAS_AMX_INT8 1
#else
#define NIBBLE_HAS_AMX_INT8 0
#endif
#if NIBBLE_HAS_AMX_INT8 && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__)
#define NIBBLE_HAS_AMX_BF16 1
#else
#define NIBBLE_HAS_AMX_BF16 0
#endif
#if NIBBLE_HAS_AMX_BF16
#define NIBBLE_DETAIL_ABI_AMX _amx_int8_bf16
#elif NIBBLE_HAS_AMX_INT8
#define NIBBLE_DETAIL_ABI_AMX _amx_int8
#elif defined(__AMX_BF16__) || defined(__AMXBF16__)
#define NIBBLE_DETAIL_ABI_AMX _amx_bf16
#else
#define NIBBLE_DETAIL_ABI_AMX
#endif
// Bit counting and moves that compilers emit for plain integer code.
#ifdef __POPCNT__
#define NIBBLE_DETAIL_ABI_POPCNT _popcnt
#else
#define NIBBLE_DETAIL_ABI_POPCNT
#endif
#ifdef __LZCNT__
#define NIBBLE_DETAIL_ABI_LZCNT _lzcnt
#else
#define NIBBLE_DETAIL_ABI_LZCNT
#endif
#ifdef __MOVBE__
#define NIBBLE_DETAIL_ABI_MOVBE _movbe
#else
#define NIBBLE_DETAIL_ABI_MOVBE
#endif
#ifdef __XOP__
#define NIBBLE_DETAIL_ABI_XOP _xop
#else
#define NIBBLE_DETAIL_ABI_XOP
#endif
#ifdef __FMA4__
#define NIBBLE_DETAIL_ABI_FMA4 _fma4
#else
#define NIBBLE_DETAIL_ABI_FMA4
#endif
#ifdef __TBM__
#define NIBBLE_DETAIL_ABI_TBM _tbm
#else
#define NIBBLE_DETAIL_ABI_TBM
#endif
#ifdef __GFNI__
#define NIBBLE_DETAIL_ABI_GFNI _gfni
#else
#define NIBBLE_DETAIL_ABI_GFNI
#endif
#ifdef __AVX512CD__
#define NIBBLE_DETAIL_ABI_CD _cd
#else
#define NIBBLE_DETAIL_ABI_CD
#endif
#ifdef __AVX512VBMI2__
#define NIBBLE_DETAIL_ABI_VBMI2 _vbmi2
#else
#define NIBBLE_DETAIL_ABI_VBMI2
#endif
#ifdef __AVX512BITALG__
#define NIBBLE_DETAIL_ABI_BITALG _bitalg
#else
#define NIBBLE_DETAIL_ABI_BITALG
#endif
#ifdef __AVX512VPOPCNTDQ__
#define NIBBLE_DETAIL_ABI_VPOPCNT _vpopcnt
#else
#define NIBBLE_DETAIL_ABI_VPOPCNT
#endif
#ifdef __AVX512IFMA__
#define NIBBLE_DETAIL_ABI_IFMA _ifma
#else
#define NIBBLE_DETAIL_ABI_IFMA
#endif
#ifdef __ARM_FEATURE_SVE
#define NIBBLE_DETAIL_ABI_SVE _sve
#else
#define NIBBLE_DETAIL_ABI_SVE
#endif
#ifdef __ARM_FEATURE_ATOMICS
#define NIBBLE_DETAIL_ABI_LSE _lse
#else
#define NIBBLE_DETAIL_ABI_LSE
#endif
#if NIBBLE_ENABLE_ASSERT
#define NIBBLE_DETAIL_ABI_ASSERT _assert
#else
#define NIBBLE_DETAIL_ABI_ASSERT
#endif
// A unit without exceptions compiles another body of core::fail: not the same function.
#if defined(__cpp_exceptions)
#define NIBBLE_DETAIL_ABI_EXCEPTIONS
#else
#define NIBBLE_DETAIL_ABI_EXCEPTIONS _noexc
#endif
// xsimd found or not decides which kernels a unit holds.
#ifndef NIBBLE_HAS_XSIMD
#if defined(__has_include)
#if __has_include(<xsimd/xsimd.hpp>)
#define NIBBLE_HAS_XSIMD 1
#endif
#endif
#endif
#ifndef NIBBLE_HAS_XSIMD
#define NIBBLE_HAS_XSIMD 0
#endif
#if NIBBLE_HAS_XSIMD
#define NIBBLE_DETAIL_ABI_XSIMD _xsimd
#else
#define NIBBLE_DETAIL_ABI_XSIMD
#endif
// The objects of nibble::dispatch are always optimized; a debug unit with the same flags must not lend them its kernels.
#ifdef NIBBLE_DISPATCH_OBJECT
#define NIBBLE_DETAIL_ABI_DISPATCH _dispatch
#else
#define NIBBLE_DETAIL_ABI_DISPATCH
#endif

#define NIBBLE_DETAIL_ABI_0 NIBBLE_DETAIL_CAT(v0_1, NIBBLE_DETAIL_ABI_SIMD)
#define NIBBLE_DETAIL_ABI_1 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_0, NIBBLE_DETAIL_ABI_BW)
#define NIBBLE_DETAIL_ABI_2 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_1, NIBBLE_DETAIL_ABI_CD)
#define NIBBLE_DETAIL_ABI_3 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_2, NIBBLE_DETAIL_ABI_DQ)
#define NIBBLE_DETAIL_ABI_4 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_3, NIBBLE_DETAIL_ABI_VL)
#define NIBBLE_DETAIL_ABI_5 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_4, NIBBLE_DETAIL_ABI_VBMI)
#define NIBBLE_DETAIL_ABI_6 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_5, NIBBLE_DETAIL_ABI_VBMI2)
#define NIBBLE_DETAIL_ABI_7 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_6, NIBBLE_DETAIL_ABI_BITALG)
#define NIBBLE_DETAIL_ABI_8 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_7, NIBBLE_DETAIL_ABI_VPOPCNT)
#define NIBBLE_DETAIL_ABI_9 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_8, NIBBLE_DETAIL_ABI_IFMA)
#define NIBBLE_DETAIL_ABI_10 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_9, NIBBLE_DETAIL_ABI_VNNI)
#define NIBBLE_DETAIL_ABI_11 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_10, NIBBLE_DETAIL_ABI_BF16)
#define NIBBLE_DETAIL_ABI_12 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_11, NIBBLE_DETAIL_ABI_FP16)
#define NIBBLE_DETAIL_ABI_13 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_12, NIBBLE_DETAIL_ABI_GFNI)
#define NIBBLE_DETAIL_ABI_14 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_13, NIBBLE_DETAIL_ABI_AVXVNNI)
#define NIBBLE_DETAIL_ABI_15 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_14, NIBBLE_DETAIL_ABI_AMX)
#define NIBBLE_DETAIL_ABI_16 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_15, NIBBLE_DETAIL_ABI_FMA)
#define NIBBLE_DETAIL_ABI_17 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_16, NIBBLE_DETAIL_ABI_FMA4)
#define NIBBLE_DETAIL_ABI_18 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_17, NIBBLE_DETAIL_ABI_XOP)
#define NIBBLE_DETAIL_ABI_19 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_18, NIBBLE_DETAIL_ABI_TBM)
#define NIBBLE_DETAIL_ABI_20 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_19, NIBBLE_DETAIL_ABI_F16C)
#define NIBBLE_DETAIL_ABI_21 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_20, NIBBLE_DETAIL_ABI_BMI)
#define NIBBLE_DETAIL_ABI_22 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_21, NIBBLE_DETAIL_ABI_LZCNT)
#define NIBBLE_DETAIL_ABI_23 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_22, NIBBLE_DETAIL_ABI_POPCNT)
#define NIBBLE_DETAIL_ABI_24 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_23, NIBBLE_DETAIL_ABI_MOVBE)
#define NIBBLE_DETAIL_ABI_25 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_24, NIBBLE_DETAIL_ABI_SVE)
#define NIBBLE_DETAIL_ABI_26 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_25, NIBBLE_DETAIL_ABI_LSE)
#define NIBBLE_DETAIL_ABI_27 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_26, NIBBLE_DETAIL_ABI_XSIMD)
#define NIBBLE_DETAIL_ABI_28 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_27, NIBBLE_DETAIL_ABI_ASSERT)
#define NIBBLE_DETAIL_ABI_29 NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_28, NIBBLE_DETAIL_ABI_DISPATCH)
/// The inline namespace of this translation unit, for example v0_1_avx2_fma_f16c_xsimd.
#define NIBBLE_ABI NIBBLE_DETAIL_CAT(NIBBLE_DETAIL_ABI_29, NIBBLE_DETAIL_ABI_EXCEPTIONS)

#define NIBBLE_DETAIL_STR_(x) #x
#define NIBBLE_DETAIL_STR(x) NIBBLE_DETAIL_STR_(x)
/// NIBBLE_ABI as a string literal.
#define NIBBLE_ABI_NAME NIBBLE_DETAIL_STR(NIBBLE_ABI)

#if defined(__GNUC__)
#define NIBBLE_ALWAYS_INLINE inline __attribute__((always_inline))
/// After the parameter list of a lambda that must vanish into its caller.
#define NIBBLE_LAMBDA_INLINE __attribute__((always_inline))
#else
#define NIBBLE_ALWAYS_INLINE inline
#define NIBBLE_LAMBDA_INLINE
#endif

/// Before a loop over a register tile: its sums live in registers only when the loop is gone, at -O2, too. Not under the
/// address sanitizer, which takes minutes for the unrolled form.
#if defined(__SANITIZE_ADDRESS__)
#define NIBBLE_UNROLL
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_UNROLL
#endif
#endif
#if !defined(NIBBLE_UNROLL) && defined(__GNUC__)
#define NIBBLE_UNROLL _Pragma("GCC unroll 16")
#elif !defined(NIBBLE_UNROLL)
#define NIBBLE_UNROLL
#endif
