# SPDX-License-Identifier: MIT
#
# The instruction sets that nibble's own tests and nibble::dispatch are compiled for, named like the tags of isa/tags.hpp.
# Installed with the library. nibble::nibble never sets a flag: these reach test and check targets, and the objects of
# nibble::dispatch.
#
#   NIBBLE_ISAS                names known on this platform, weakest first
#   NIBBLE_ISA_FLAGS_<name>    the compiler's flags, from the platform's baseline on
#   NIBBLE_ISA_LAYERS_<name>   the test layers compiled for it where a CPU runs it and a stronger one, or none; not set: all
#   NIBBLE_ISA_OWN_<name>      the kernels that differ from those of every other set, for CPUs without it; not set: all
#   NIBBLE_ISA_TIERS           those with kernels of their own: the test isa-coverage wants each that this CPU has
#   NIBBLE_ISA_NEEDS_<name>    features a test asks for (tests/support/cpu.hpp) before it runs any of that code

# GCC 12 takes the deliberately undefined operand inside its own AVX-512 intrinsics for a mistake (GCC bug 105593), once for
# each of some thousand calls.
set(NIBBLE_AVX512_FLAGS)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  set(NIBBLE_AVX512_FLAGS -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(NIBBLE_ISAS sse2 avx2 avx_vnni avx512bw avx512_vnni amx_int8 amx_bf16)
  set(NIBBLE_ISA_TIERS ${NIBBLE_ISAS})
  set(NIBBLE_ISA_FLAGS_sse2 -march=x86-64)
  set(NIBBLE_ISA_NEEDS_sse2 sse2)
  set(NIBBLE_ISA_FLAGS_avx2 -march=x86-64 -mavx2 -mfma -mf16c)
  set(NIBBLE_ISA_NEEDS_avx2 avx2 fma)  # every CPU with AVX2 has F16C; compilers have no name for it here
  set(NIBBLE_ISA_FLAGS_avx_vnni ${NIBBLE_ISA_FLAGS_avx2} -mavxvnni)
  set(NIBBLE_ISA_NEEDS_avx_vnni ${NIBBLE_ISA_NEEDS_avx2} avxvnni)
  set(NIBBLE_ISA_FLAGS_avx512bw -march=x86-64-v4 ${NIBBLE_AVX512_FLAGS})
  set(NIBBLE_ISA_NEEDS_avx512bw ${NIBBLE_ISA_NEEDS_avx2} bmi2 avx512f avx512cd avx512dq avx512bw avx512vl)
  set(NIBBLE_ISA_FLAGS_avx512_vnni -march=x86-64-v4 -mavx512vnni ${NIBBLE_AVX512_FLAGS})
  set(NIBBLE_ISA_NEEDS_avx512_vnni ${NIBBLE_ISA_NEEDS_avx512bw} avx512vnni)
  set(NIBBLE_ISA_FLAGS_amx_int8 -march=x86-64-v4 -mavx512vnni -mavx512vbmi -mamx-tile -mamx-int8 ${NIBBLE_AVX512_FLAGS})
  set(NIBBLE_ISA_NEEDS_amx_int8 ${NIBBLE_ISA_NEEDS_avx512_vnni} avx512vbmi amx-int8)
  set(NIBBLE_ISA_FLAGS_amx_bf16 ${NIBBLE_ISA_FLAGS_amx_int8} -mamx-bf16 -mavx512bf16)
  set(NIBBLE_ISA_NEEDS_amx_bf16 ${NIBBLE_ISA_NEEDS_amx_int8} amx-bf16 avx512bf16)
  # A CPU's strongest set is tested in all layers, and these two in some; the products of the others are avx2's or those of
  # amx_bf16 but for few kernels, and the tests of nibble::dispatch compare every tier with the reference and with digests.
  set(NIBBLE_ISA_LAYERS_sse2 isa kernels tensor)
  set(NIBBLE_ISA_LAYERS_avx2 isa kernels)
  foreach(isa avx_vnni avx512bw avx512_vnni amx_int8)
    set(NIBBLE_ISA_LAYERS_${isa} none)
  endforeach()
  # These are avx2 and avx512_vnni but for the panels' products, and what VBMI unpacks.
  set(NIBBLE_ISA_OWN_avx_vnni gemm_panel)
  set(NIBBLE_ISA_OWN_avx512bw gemm_panel)
  set(NIBBLE_ISA_OWN_amx_int8 "gemm_panel|codes|panel_codes")
  set(NIBBLE_ISA_OWN_amx_bf16 "gemm_panel|float_panel")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(NIBBLE_ISAS neon neon_dotprod neon_i8mm)
  set(NIBBLE_ISA_TIERS ${NIBBLE_ISAS})
  set(NIBBLE_ISA_FLAGS_neon -march=armv8-a)
  set(NIBBLE_ISA_NEEDS_neon asimd)
  set(NIBBLE_ISA_FLAGS_neon_dotprod -march=armv8.2-a+dotprod)
  set(NIBBLE_ISA_NEEDS_neon_dotprod ${NIBBLE_ISA_NEEDS_neon} asimddp)
  set(NIBBLE_ISA_FLAGS_neon_i8mm -march=armv8.2-a+dotprod+i8mm)
  set(NIBBLE_ISA_NEEDS_neon_i8mm ${NIBBLE_ISA_NEEDS_neon_dotprod} i8mm)
  # These differ from neon in the dot product of bytes alone.
  set(NIBBLE_ISA_LAYERS_neon_dotprod isa kernels gemm)
  set(NIBBLE_ISA_LAYERS_neon_i8mm isa kernels gemm)
else()
  set(NIBBLE_ISAS native)
  set(NIBBLE_ISA_TIERS)
  set(NIBBLE_ISA_FLAGS_native "")
  set(NIBBLE_ISA_NEEDS_native "")
endif()
