// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/isa/detect.hpp>

using namespace nibble;

TEST_CASE("detect: agrees with the compiler's own word where it knows the feature") {
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
}

TEST_CASE("tags: the fallback lattice ends at scalar") {
  CHECK(isa::falls_back_to<isa::avx512_vnni, isa::avx2>());
  CHECK(isa::falls_back_to<isa::neon, isa::scalar>());
  CHECK_FALSE(isa::falls_back_to<isa::sse2, isa::avx2>());
}
