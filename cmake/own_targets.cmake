# SPDX-License-Identifier: MIT
#
# Options and flags of nibble's own programs and tests. Users of nibble::nibble see none of this.

option(NIBBLE_NATIVE "Build nibble's own programs for this machine's CPU" OFF)
option(NIBBLE_WERROR "Treat warnings in nibble's own programs and tests as errors" OFF)
set(NIBBLE_SANITIZE "" CACHE STRING "Sanitizers of nibble's own programs and tests, for example address,undefined")

include(isa)
set(NIBBLE_TEST_ISAS ${NIBBLE_ISAS} CACHE STRING "Instruction sets the tests are compiled for: ${NIBBLE_ISAS}")
# A build for chosen sets compiles nibble::dispatch for these and the baseline.
if(NOT NIBBLE_DISPATCH_ISAS AND NOT NIBBLE_TEST_ISAS STREQUAL NIBBLE_ISAS)
  list(GET NIBBLE_ISAS 0 NIBBLE_DISPATCH_ISAS)
  list(APPEND NIBBLE_DISPATCH_ISAS ${NIBBLE_TEST_ISAS})
  list(REMOVE_DUPLICATES NIBBLE_DISPATCH_ISAS)
endif()

find_package(Threads REQUIRED)

add_library(nibble_own_flags INTERFACE)
target_compile_options(nibble_own_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
if(NIBBLE_SANITIZE)
  target_compile_options(nibble_own_flags INTERFACE
    -fsanitize=${NIBBLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(nibble_own_flags INTERFACE -fsanitize=${NIBBLE_SANITIZE})
endif()

# nibble_program(<name> <source>...): a program in <build>/bin, for the CPU of this machine where NIBBLE_NATIVE says so.
function(nibble_program name)
  add_executable(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  target_compile_options(${name} PRIVATE "$<$<BOOL:${NIBBLE_NATIVE}>:-march=native;${NIBBLE_AVX512_FLAGS}>")
  target_link_libraries(${name} PRIVATE nibble::nibble nibble_own_flags Threads::Threads)
endfunction()
