# SPDX-License-Identifier: MIT
#
# The instruction sets that nibble's own tests are compiled for, named like the tags of isa/tags.hpp. The library never
# sets a flag: these reach only test and check targets.
#
#   NIBBLE_ISAS                names known on this platform, weakest first
#   NIBBLE_ISA_FLAGS_<name>    the compiler's flags
#   NIBBLE_ISA_TIERS           those with kernels of their own: the test isa-coverage wants each that this CPU has
#   NIBBLE_ISA_NEEDS_<name>    features a test asks __builtin_cpu_supports for before it runs any of that code

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(NIBBLE_ISAS sse2 avx2 avx512bw avx512_vnni)
  set(NIBBLE_ISA_TIERS sse2 avx2 avx512bw)
  set(NIBBLE_ISA_FLAGS_sse2 -march=x86-64)
  set(NIBBLE_ISA_NEEDS_sse2 sse2)
  set(NIBBLE_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(NIBBLE_ISA_NEEDS_avx2 avx2 fma)  # every CPU with AVX2 has F16C; compilers have no name for it here
  set(NIBBLE_ISA_FLAGS_avx512bw -march=x86-64-v4 ${NIBBLE_AVX512_FLAGS})
  set(NIBBLE_ISA_NEEDS_avx512bw ${NIBBLE_ISA_NEEDS_avx2} bmi2 avx512f avx512cd avx512dq avx512bw avx512vl)
  set(NIBBLE_ISA_FLAGS_avx512_vnni -march=x86-64-v4 -mavx512vnni ${NIBBLE_AVX512_FLAGS})
  set(NIBBLE_ISA_NEEDS_avx512_vnni ${NIBBLE_ISA_NEEDS_avx512bw} avx512vnni)
  set(nibble_test_isas sse2 avx2 avx512_vnni)
  if(EXISTS /proc/cpuinfo)
    # Skylake-X has AVX-512 without VNNI: there the tests of the tier between are built, too, so that it is covered.
    file(STRINGS /proc/cpuinfo nibble_cpu_flags LIMIT_COUNT 1 REGEX "^flags.* avx512bw")
    if(nibble_cpu_flags AND NOT nibble_cpu_flags MATCHES " avx512_vnni")
      set(nibble_test_isas sse2 avx2 avx512bw avx512_vnni)
    endif()
  endif()
else()
  set(NIBBLE_ISAS native)
  set(NIBBLE_ISA_TIERS)
  set(NIBBLE_ISA_FLAGS_native "")
  set(NIBBLE_ISA_NEEDS_native "")
  set(nibble_test_isas native)
endif()
set(NIBBLE_TEST_ISAS ${nibble_test_isas} CACHE STRING "Instruction sets the tests are compiled for: ${NIBBLE_ISAS}")
