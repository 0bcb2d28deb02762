# SPDX-License-Identifier: MIT
#
# The target nibble::dispatch: one binary for many CPUs. A static library, compiled from dispatch/*.cpp.in once for each
# instruction set of isa.cmake; this file is installed with those, because objects belong to the user's compiler and flags.
#
#   NIBBLE_DISPATCH_ISAS   which of them, weakest first, separated by ; or ,; empty: all. The first one must run wherever
#                          the binary goes.
#   NIBBLE_DISPATCH_LEVEL  the optimization of debug builds, not -O0; empty: -O2, as that of all others

set(NIBBLE_DISPATCH_ISAS "" CACHE STRING "Instruction sets of nibble::dispatch; empty: all")

# nibble_add_dispatch([<target>...]): defines nibble::dispatch where that is not done yet, and links each target with it.
function(nibble_add_dispatch)
  if(NOT TARGET nibble::dispatch)
    include(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/isa.cmake)
    string(REPLACE "," ";" isas "${NIBBLE_DISPATCH_ISAS}")
    if(NOT isas)
      set(isas ${NIBBLE_ISAS})
    endif()
    list(GET isas 0 baseline)
    set(build_dir ${CMAKE_CURRENT_BINARY_DIR}/nibble_dispatch)
    set(templates ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/dispatch)
    set(tiers)
    set(sources)
    # Debug builds are optimized, too: at -O0 templates of the standard library are emitted, compiled for the tier.
    set(level -O2)
    if(NIBBLE_DISPATCH_LEVEL)
      set(level $<IF:$<CONFIG:Debug>,${NIBBLE_DISPATCH_LEVEL},-O2>)
    endif()
    foreach(tier IN LISTS isas)
      if(NOT tier IN_LIST NIBBLE_ISAS)
        message(FATAL_ERROR "nibble: NIBBLE_DISPATCH_ISAS names ${tier}; known here: ${NIBBLE_ISAS}")
      endif()
      string(APPEND tiers " X(${tier})")
      set(source ${build_dir}/${tier}.cpp)
      configure_file(${templates}/instance.cpp.in ${source} @ONLY)
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${level};${NIBBLE_ISA_FLAGS_${tier}}")
      list(APPEND sources ${source})
    endforeach()
    configure_file(${templates}/choose.cpp.in ${build_dir}/choose.cpp @ONLY)
    set_source_files_properties(${build_dir}/choose.cpp PROPERTIES
      COMPILE_OPTIONS "${level};${NIBBLE_ISA_FLAGS_${baseline}}")

    add_library(nibble_dispatch STATIC EXCLUDE_FROM_ALL ${build_dir}/choose.cpp ${sources})
    add_library(nibble::dispatch ALIAS nibble_dispatch)
    target_compile_definitions(nibble_dispatch PRIVATE NIBBLE_DISPATCH_OBJECT)
    target_link_libraries(nibble_dispatch PUBLIC nibble::nibble)
    set_target_properties(nibble_dispatch PROPERTIES
      POSITION_INDEPENDENT_CODE ON UNITY_BUILD OFF NIBBLE_TIERS "${isas}")
  endif()
  foreach(target IN LISTS ARGV)
    target_link_libraries(${target} PRIVATE nibble::dispatch)
  endforeach()
endfunction()
