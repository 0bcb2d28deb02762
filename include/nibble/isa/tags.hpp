// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Instruction set tags and their fallback lattice. A kernel for a tag inherits the kernel of its fallback unless a
/// specialization overrides it, and says in `isa_type` who really does the work.

#include <concepts>
#include <string_view>
#include <type_traits>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace isa {

/// Plain C++.
struct scalar {
  using fallback = void;
  static constexpr std::string_view name = "scalar";
};
/// SSE2: every x86-64 CPU. No fused multiply-add: the float path rounds twice, the integer path calls libm's fma.
struct sse2 {
  using fallback = scalar;
  static constexpr std::string_view name = "sse2";
};
/// AVX2 with FMA3 and F16C (x86-64-v3).
struct avx2 {
  using fallback = sse2;
  static constexpr std::string_view name = "avx2";
};
/// AVX2 with AVX-VNNI: vpdpbusd without AVX-512.
struct avx_vnni {
  using fallback = avx2;
  static constexpr std::string_view name = "avx_vnni";
};
/// AVX-512 F, CD, DQ, BW, VL (x86-64-v4).
struct avx512bw {
  using fallback = avx2;
  static constexpr std::string_view name = "avx512bw";
};
/// AVX-512 with VNNI.
struct avx512_vnni {
  using fallback = avx512bw;
  static constexpr std::string_view name = "avx512_vnni";
};
/// AMX tiles of bytes, beside AVX-512 with VNNI.
struct amx_int8 {
  using fallback = avx512_vnni;
  static constexpr std::string_view name = "amx_int8";
};
/// With tiles of bfloat16.
struct amx_bf16 {
  using fallback = amx_int8;
  static constexpr std::string_view name = "amx_bf16";
};
/// 64-bit Arm Advanced SIMD: every AArch64 CPU. Fused multiply-add is part of it.
struct neon {
  using fallback = scalar;
  static constexpr std::string_view name = "neon";
};
/// With dot products of signed bytes (FEAT_DotProd).
struct neon_dotprod {
  using fallback = neon;
  static constexpr std::string_view name = "neon_dotprod";
};
/// With FEAT_I8MM as well, of which the dot product of unsigned with signed bytes is used.
struct neon_i8mm {
  using fallback = neon_dotprod;
  static constexpr std::string_view name = "neon_i8mm";
};

/// The best tag that the compiler's flags allow in this translation unit.
#if defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__FMA__) && defined(__F16C__)
#if defined(__AVX512VNNI__) && NIBBLE_HAS_AMX_BF16
using native = amx_bf16;
#elif defined(__AVX512VNNI__) && NIBBLE_HAS_AMX_INT8
using native = amx_int8;
#elif defined(__AVX512VNNI__)
using native = avx512_vnni;
#else
using native = avx512bw;
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__AVXVNNI__)
using native = avx_vnni;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
using native = avx2;
#elif defined(__SSE2__)
using native = sse2;
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD) && \
    defined(__ARM_FEATURE_MATMUL_INT8)
using native = neon_i8mm;
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD)
using native = neon_dotprod;
#elif defined(__aarch64__) && defined(__ARM_NEON)
using native = neon;
#else
using native = scalar;
#endif

/// True when `Isa` is `From` or one of its fallbacks.
template <class From, class Isa>
consteval bool falls_back_to() {
  if constexpr (std::is_same_v<From, Isa>) return true;
  else if constexpr (std::is_void_v<typename From::fallback>) return false;
  else return falls_back_to<typename From::fallback, Isa>();
}

/// True when this translation unit's flags let the compiler emit the instructions of `Isa`.
template <class Isa>
inline constexpr bool compiled_in = falls_back_to<native, Isa>();

template <class T>
concept tag = requires {
  typename T::fallback;
  { T::name } -> std::convertible_to<std::string_view>;
};
static_assert(tag<scalar> && tag<native> && compiled_in<scalar>);

}  // namespace isa
}  // namespace NIBBLE_ABI
}  // namespace nibble
