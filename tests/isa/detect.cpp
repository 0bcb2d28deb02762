// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>

#include <nibble/isa/detect.hpp>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

using namespace nibble;

TEST_CASE("detect: agrees with the compiler's own word where it knows the feature, on Arm with the CPU's registers") {
  const isa::cpu_features f = isa::detect();
#if defined(__x86_64__)
  __builtin_cpu_init();
  CHECK(f.sse2 == (__builtin_cpu_supports("sse2") != 0));
  CHECK(f.avx2 == (__builtin_cpu_supports("avx2") != 0));
  CHECK(f.fma == (__builtin_cpu_supports("fma") != 0));
  CHECK(f.avx512f == (__builtin_cpu_supports("avx512f") != 0));
  CHECK(f.avx512bw == (__builtin_cpu_supports("avx512bw") != 0));
  CHECK(f.avx512vl == (__builtin_cpu_supports("avx512vl") != 0));
  CHECK(f.avx512vnni == (__builtin_cpu_supports("avx512vnni") != 0));
  CHECK(f.avx512vbmi == (__builtin_cpu_supports("avx512vbmi") != 0));
#else
  CHECK(f.sse2 == false);
#endif
#if defined(__aarch64__) && defined(__linux__)
  CHECK(f.neon);
  if ((getauxval(AT_HWCAP) & HWCAP_CPUID) != 0) {  // Linux reads the registers for programs
    std::uint64_t isar0 = 0, isar1 = 0;
    __asm__("mrs %0, ID_AA64ISAR0_EL1" : "=r"(isar0));
    __asm__("mrs %0, ID_AA64ISAR1_EL1" : "=r"(isar1));
    CHECK(f.neon_dotprod == ((isar0 >> 44 & 15u) != 0));  // field DP
    CHECK(f.neon_i8mm == ((isar1 >> 52 & 15u) != 0));     // field I8MM
  }
#endif
}

TEST_CASE("detect: this program runs on this CPU with the native tag") { CHECK(isa::runs_here<isa::native>()); }

TEST_CASE("detect: a tag that this build lacks does not run here") {
  if (!isa::compiled_in<isa::avx512_vnni>) CHECK_FALSE(isa::runs_here<isa::avx512_vnni>());
  CHECK(isa::runs_here<isa::scalar>());
}

TEST_CASE("detect: a CPU without a feature of a tier does not run that tier") {
  isa::cpu_features f;
  f.sse2 = f.avx2 = f.fma = f.f16c = true;
  CHECK(isa::runs_on<isa::avx2>(f));
  f.f16c = false;
  CHECK_FALSE(isa::runs_on<isa::avx2>(f));
  f.f16c = f.avx512f = f.avx512cd = f.avx512dq = f.avx512bw = f.avx512vl = f.avx512vnni = f.amx_tile = f.amx_bf16 =
      f.avx512bf16 = f.avx512vbmi = true;
  CHECK_FALSE(isa::runs_on<isa::amx_bf16>(f));
  f.amx_int8 = true;
  CHECK(isa::runs_on<isa::amx_bf16>(f));
  f.avx512vbmi = false;
  CHECK_FALSE(isa::runs_on<isa::amx_int8>(f));
  f.avx512vbmi = true;
  f.avx512bf16 = false;
  CHECK_FALSE(isa::runs_on<isa::amx_bf16>(f));
  f.avx512bf16 = true;
  f.amx_bf16 = false;
  CHECK_FALSE(isa::runs_on<isa::amx_bf16>(f));
  CHECK(isa::runs_on<isa::amx_int8>(f));
  f = {};
  f.neon = f.neon_i8mm = true;
  CHECK(isa::runs_on<isa::neon>(f));
  CHECK_FALSE(isa::runs_on<isa::neon_i8mm>(f));
  f.neon_dotprod = true;
  CHECK(isa::runs_on<isa::neon_i8mm>(f));
}

TEST_CASE("tags: the fallback lattice ends at scalar") {
  CHECK(isa::falls_back_to<isa::avx512_vnni, isa::avx2>());
  CHECK(isa::falls_back_to<isa::amx_bf16, isa::amx_int8>());
  CHECK(isa::falls_back_to<isa::neon_i8mm, isa::neon_dotprod>());
  CHECK(isa::falls_back_to<isa::neon_dotprod, isa::neon>());
  CHECK(isa::falls_back_to<isa::neon, isa::scalar>());
  CHECK_FALSE(isa::falls_back_to<isa::sse2, isa::avx2>());
}
