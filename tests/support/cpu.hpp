// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The compiler's own word on the CPU (on Arm Linux's), independent of isa/detect.hpp. For units without -m flags.

#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace nibble::test {

/// On x86 asks __builtin_cpu_supports, which takes literals only. An unknown name is a mistake in cmake/isa.cmake: false.
inline bool cpu_has(std::string_view feature) {
#if defined(__x86_64__)
#define NIBBLE_TEST_FEATURE(name) \
  if (feature == name) return __builtin_cpu_supports(name) != 0
  NIBBLE_TEST_FEATURE("sse2");
  NIBBLE_TEST_FEATURE("avx2");
  NIBBLE_TEST_FEATURE("fma");
  NIBBLE_TEST_FEATURE("bmi2");
  NIBBLE_TEST_FEATURE("avx512f");
  NIBBLE_TEST_FEATURE("avx512cd");
  NIBBLE_TEST_FEATURE("avx512dq");
  NIBBLE_TEST_FEATURE("avx512bw");
  NIBBLE_TEST_FEATURE("avx512vl");
  NIBBLE_TEST_FEATURE("avx512vnni");
  NIBBLE_TEST_FEATURE("avx512vbmi");
  // clang 14 has no name for it: leaf 7, subleaf 1, EAX bit 4.
  if (unsigned a = 0, b = 0, c = 0, d = 0; feature == "avxvnni")
    return cpu_has("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1u) != 0;
  if (unsigned a = 0, b = 0, c = 0, d = 0; feature == "avx512bf16")
    return cpu_has("avx512bw") && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1u) != 0;
  // Nor for AMX: leaf 7, EDX bits 24 (tiles) and 25 (int8). Whether the system lends the tiles is what the tests find out.
  if (unsigned a = 0, b = 0, c = 0, d = 0; feature == "amx-int8")
    return cpu_has("avx512vnni") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 3u) == 3u;
  if (unsigned a = 0, b = 0, c = 0, d = 0; feature == "amx-bf16")
    return cpu_has("amx-int8") && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1u) != 0;
#undef NIBBLE_TEST_FEATURE
#elif defined(__aarch64__) && defined(__linux__)  // gcc 12 and clang 14 have no word on it: Linux's
  if (feature == "asimd") return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
  if (feature == "asimddp") return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  if (feature == "i8mm") return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#endif
  return feature.empty();
}

/// The first of the comma-separated features that this CPU lacks; empty when it has them all.
inline std::string_view missing_feature(std::string_view list) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  while (!list.empty()) {
    const std::string_view feature = list.substr(0, list.find(','));
    if (!cpu_has(feature)) return feature;
    list.remove_prefix(feature.size() < list.size() ? feature.size() + 1 : feature.size());
  }
  return {};
}

}  // namespace nibble::test
