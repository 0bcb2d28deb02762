// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What this CPU and its operating system offer, from cpuid and xgetbv (Intel SDM vol. 1, 13.2 and 14.3; vol. 2A, CPUID), on
/// 64-bit Arm from Linux (Documentation/arch/arm64/elf_hwcaps.rst). Compilers' own feature tests lag behind: clang 14 knows
/// neither AMX nor AVX-VNNI, gcc 12 nothing of Arm.

#include <cstdint>
#include <string>

#include <nibble/core/config.hpp>
#include <nibble/isa/tags.hpp>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace nibble {
inline namespace NIBBLE_ABI {
namespace isa {

/// Usable features: present in the CPU and, for registers the kernel must save, enabled by the operating system.
struct cpu_features {
  bool sse2 = false, avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512cd = false, avx512dq = false, avx512bw = false, avx512vl = false;
  bool avx512vnni = false, avx512vbmi = false, avx512bf16 = false, avx512fp16 = false, avxvnni = false;
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;
  bool neon = false, neon_dotprod = false, neon_i8mm = false;
};

/// Asks the CPU; costs some hundred nanoseconds (cpuid traps under virtualization), so callers keep the answer.
inline cpu_features detect() noexcept {
  cpu_features f;
#if defined(__x86_64__)
  f.sse2 = true;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = c >> 27 & 1u, avx = c >> 28 & 1u;
  std::uint32_t xcr0_low = 0, xcr0_high = 0;
  if (osxsave) __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
  const bool os_avx = avx && (xcr0_low & 0x6u) == 0x6u;          // XMM and upper YMM state
  const bool os_avx512 = os_avx && (xcr0_low & 0xe0u) == 0xe0u;  // opmask, upper ZMM, ZMM16-31
  const bool os_amx = (xcr0_low & 0x60000u) == 0x60000u;         // TILECFG and TILEDATA
  f.fma = os_avx && (c >> 12 & 1u);
  f.f16c = os_avx && (c >> 29 & 1u);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const std::uint32_t max_subleaf = a;
  f.avx2 = os_avx && (b >> 5 & 1u);
  f.avx512f = os_avx512 && (b >> 16 & 1u);
  f.avx512dq = os_avx512 && (b >> 17 & 1u);
  f.avx512cd = os_avx512 && (b >> 28 & 1u);
  f.avx512bw = os_avx512 && (b >> 30 & 1u);
  f.avx512vl = os_avx512 && (b >> 31 & 1u);
  f.avx512vbmi = os_avx512 && (c >> 1 & 1u);
  f.avx512vnni = os_avx512 && (c >> 11 & 1u);
  f.avx512fp16 = os_avx512 && (d >> 23 & 1u);
  f.amx_bf16 = os_amx && (d >> 22 & 1u);
  f.amx_tile = os_amx && (d >> 24 & 1u);
  f.amx_int8 = os_amx && (d >> 25 & 1u);
  if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    f.avxvnni = os_avx && (a >> 4 & 1u);
    f.avx512bf16 = os_avx512 && (a >> 5 & 1u);
  }
#elif defined(__aarch64__)
  f.neon = true;                                                  // Advanced SIMD is part of the AArch64 base profile
#if defined(__linux__)
  constexpr unsigned long asimddp = 1ul << 20, i8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM: asm/hwcap.h
  f.neon_dotprod = (getauxval(AT_HWCAP) & asimddp) != 0;
  f.neon_i8mm = (getauxval(AT_HWCAP2) & i8mm) != 0;
#else  // no way to ask: what the unit's flags promise
#if defined(__ARM_FEATURE_DOTPROD)
  f.neon_dotprod = true;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
  f.neon_i8mm = true;
#endif
#endif
#endif
  return f;
}

/// True when this CPU runs code compiled for `Isa`.
template <class Isa>
bool runs_on(const cpu_features& f) noexcept {
  if constexpr (std::is_same_v<Isa, scalar>) return true;
  else if constexpr (std::is_same_v<Isa, sse2>) return f.sse2;
  else if constexpr (std::is_same_v<Isa, avx2>) return f.avx2 && f.fma && f.f16c;
  else if constexpr (std::is_same_v<Isa, avx_vnni>) return runs_on<avx2>(f) && f.avxvnni;
  else if constexpr (std::is_same_v<Isa, avx512bw>)
    return runs_on<avx2>(f) && f.avx512f && f.avx512cd && f.avx512dq && f.avx512bw && f.avx512vl;
  else if constexpr (std::is_same_v<Isa, avx512_vnni>) return runs_on<avx512bw>(f) && f.avx512vnni;
  else if constexpr (std::is_same_v<Isa, amx_int8>)
    return runs_on<avx512_vnni>(f) && f.avx512vbmi && f.amx_tile && f.amx_int8;
  else if constexpr (std::is_same_v<Isa, amx_bf16>) return runs_on<amx_int8>(f) && f.amx_bf16 && f.avx512bf16;
  else if constexpr (std::is_same_v<Isa, neon_dotprod>) return f.neon && f.neon_dotprod;
  else if constexpr (std::is_same_v<Isa, neon_i8mm>) return runs_on<neon_dotprod>(f) && f.neon_i8mm;
  else {
    static_assert(std::is_same_v<Isa, neon>, "unknown ISA tag: add its features here");
    return f.neon;
  }
}

/// Asks the system for the tile registers' state, for the whole process and those that it forks: Linux (5.16 on) gives it
/// only to who asks (Documentation/arch/x86/xstate.rst), because it makes signal frames 8 KiB larger. Asking again, also
/// after somebody else did, changes nothing. False when the system refuses or is not known.
inline bool permit_tiles() noexcept {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

/// True when this translation unit may emit `Isa` and this CPU runs it. The first call asks the CPU, for AMX the system too.
template <class Isa>
bool runs_here() noexcept {
  static const bool answer =
      compiled_in<Isa> && runs_on<Isa>(detect()) && (!falls_back_to<Isa, amx_int8>() || permit_tiles());
  return answer;
}

}  // namespace isa
}  // namespace NIBBLE_ABI
}  // namespace nibble
