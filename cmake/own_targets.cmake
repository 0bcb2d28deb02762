# SPDX-License-Identifier: MIT
#
# Flags of nibble's own programs and tests. Users of nibble::nibble see none of this.

set(NIBBLE_WARNING_FLAGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)

add_library(nibble_own_flags INTERFACE)
target_compile_options(nibble_own_flags INTERFACE ${NIBBLE_WARNING_FLAGS} $<$<BOOL:${NIBBLE_WERROR}>:-Werror>)
if(NIBBLE_SANITIZE)
  target_compile_options(nibble_own_flags INTERFACE
    -fsanitize=${NIBBLE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(nibble_own_flags INTERFACE -fsanitize=${NIBBLE_SANITIZE})
endif()

# The CPU of this machine, for programs that are built and run here.
add_library(nibble_native INTERFACE)
if(NIBBLE_NATIVE)
  target_compile_options(nibble_native INTERFACE -march=native)
endif()

find_package(Threads REQUIRED)

# nibble_program(<name> <source>...): a program of nibble's own, in <build>/bin, for the native CPU where
# NIBBLE_NATIVE says so.
function(nibble_program name)
  add_executable(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
  target_link_libraries(${name} PRIVATE nibble::nibble nibble_own_flags nibble_native Threads::Threads)
endfunction()
