# SPDX-License-Identifier: MIT
#
# Options and flags of nibble's own programs and tests. Users of nibble::nibble see none of this.

option(NIBBLE_NATIVE "Build nibble's own programs for this machine's CPU" OFF)
option(NIBBLE_WERROR "Treat warnings in nibble's own programs and tests as errors" OFF)
set(NIBBLE_SANITIZE "" CACHE STRING "Sanitizers of nibble's own programs and tests, for example address,undefined")

include(isa)
# What is tested once is compiled for the platform's baseline. With its flags written out the kernels of that set's tests serve.
list(GET NIBBLE_ISAS 0 baseline)
set(NIBBLE_BASELINE_FLAGS ${NIBBLE_ISA_FLAGS_${baseline}})
set(NIBBLE_TEST_ISAS ${NIBBLE_ISAS} CACHE STRING "Instruction sets the tests are compiled for: ${NIBBLE_ISAS}")
# NIBBLE_HOST_ISAS: those that this CPU runs; when cross-compiling all, for nobody knows.
set(NIBBLE_HOST_ISAS)
foreach(isa IN LISTS NIBBLE_ISAS)
  if(NIBBLE_BUILD_TESTS AND NOT CMAKE_CROSSCOMPILING AND NOT DEFINED NIBBLE_CPU_LACKS_${isa})
    list(JOIN NIBBLE_ISA_NEEDS_${isa} "," needs)
    try_run(NIBBLE_CPU_LACKS_${isa} compiled ${PROJECT_BINARY_DIR}/cpu_has SOURCES ${PROJECT_SOURCE_DIR}/tests/support/cpu_has.cpp
      COMPILE_DEFINITIONS -DNIBBLE_TEST_NEEDS="${needs}" CXX_STANDARD 20)
  endif()
  if(NOT NIBBLE_CPU_LACKS_${isa})
    list(APPEND NIBBLE_HOST_ISAS ${isa})
  endif()
endforeach()

# nibble_covered_by_next(<isa> <out>): whether a later one of the tests' sets compiles the same code and some more: AMX comes on
# top of AVX-512 VNNI.
function(nibble_covered_by_next isa out)
  set(${out} FALSE PARENT_SCOPE)
  if((isa STREQUAL "avx512_vnni" AND NIBBLE_TEST_ISAS MATCHES "amx_")
     OR (isa STREQUAL "amx_int8" AND "amx_bf16" IN_LIST NIBBLE_TEST_ISAS))
    set(${out} TRUE PARENT_SCOPE)
  endif()
endfunction()

# nibble's own tests compile nibble::dispatch for the baseline and what of the tests' sets this CPU runs; package/dispatch
# compiles it for all sets, as users do.
if(NOT NIBBLE_DISPATCH_ISAS)
  list(GET NIBBLE_ISAS 0 NIBBLE_DISPATCH_ISAS)
  foreach(isa IN LISTS NIBBLE_TEST_ISAS)
    if(isa IN_LIST NIBBLE_HOST_ISAS AND NOT isa IN_LIST NIBBLE_DISPATCH_ISAS)
      list(APPEND NIBBLE_DISPATCH_ISAS ${isa})
    endif()
  endforeach()
endif()

set(NIBBLE_DISPATCH_LEVEL -O1)  # of debug builds

find_package(Threads REQUIRED)

# GCC collects its garbage from 128 MB on: a tenth of its time. From 512 MB on a unit with all kernels takes 0.95 GB, not 0.5.
#
# Where pointers may point is a question that GCC 12 spends half of its time on in units full of kernels (the tests of all panel
# kernels at -O1, commit 09c481e, a busy Intel Xeon: 113 s of processor time, without it 49), and the answer makes them no faster: tests are built without.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_compile_options(--param=ggc-min-expand=100 --param=ggc-min-heapsize=524288 $<$<CONFIG:Debug>:-fno-tree-pta>)
endif()

add_library(nibble_own_flags INTERFACE)
target_compile_options(nibble_own_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
# Below -O2 GCC 12 calls libm with the upper halves of registers in use, which Intel's CPUs pay for: with this flag it clears
# them, and references in double take a fraction of the time. All units: what is inline is taken from any of them.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(nibble_own_flags INTERFACE $<$<CONFIG:Debug>:-fexpensive-optimizations>)
endif()
if(NIBBLE_SANITIZE)
  target_compile_options(nibble_own_flags INTERFACE
    -fsanitize=${NIBBLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(nibble_own_flags INTERFACE -fsanitize=${NIBBLE_SANITIZE})
endif()

# The undefined behaviour sanitizer makes clang spend five times as long on an object with all kernels. It sees them in the
# tests of layers kernels and tensor; other objects of kernels have the address sanitizer alone. (The last flag wins: link
# this last.)
#
# Of its time for those tests, too, pointer arithmetic that might wrap takes a quarter and more (clang 14 on Zen 3, seconds of
# processor time: gemm_panel 193, without it 100; group_codec 53 and 39): left out there. The address sanitizer sees what such a pointer would read.
add_library(nibble_kernel_objects INTERFACE)
add_library(nibble_sanitized_kernels INTERFACE)
if(NIBBLE_SANITIZE MATCHES "undefined")
  target_compile_options(nibble_kernel_objects INTERFACE -fno-sanitize=undefined)
  target_compile_options(nibble_sanitized_kernels INTERFACE -fno-sanitize=pointer-overflow)
endif()

# nibble_link_kernels(<target> [<flag>...]): the kernels compiled once for these flags, and left to that object by the
# target's own units. Sets nibble_kernels to the name of its target.
function(nibble_link_kernels target)
  string(MAKE_C_IDENTIFIER "nibble_kernels${ARGN}" kernels)
  if(NOT TARGET ${kernels})
    add_library(${kernels} OBJECT ${PROJECT_SOURCE_DIR}/cmake/kernels.cpp)
    target_compile_options(${kernels} PRIVATE ${ARGN})
    target_compile_definitions(${kernels} INTERFACE NIBBLE_EXTERN_KERNELS=1)
    target_link_libraries(${kernels} PRIVATE nibble::nibble nibble_own_flags nibble_kernel_objects)
  endif()
  target_link_libraries(${target} PRIVATE ${kernels})
  set(nibble_kernels ${kernels} PARENT_SCOPE)
endfunction()

# nibble_program(<name> <source>...): a program in <build>/bin, for the CPU of this machine where NIBBLE_NATIVE says so. Beside
# tests it is one of them.
function(nibble_program name)
  set(flags)
  if(NIBBLE_NATIVE)
    set(flags -march=native ${NIBBLE_AVX512_FLAGS})
  elseif(NIBBLE_BUILD_TESTS)
    set(flags ${NIBBLE_BASELINE_FLAGS})
  endif()
  add_executable(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  target_compile_options(${name} PRIVATE ${flags})
  target_link_libraries(${name} PRIVATE nibble::nibble nibble_own_flags Threads::Threads)
  nibble_link_kernels(${name} ${flags})
endfunction()
