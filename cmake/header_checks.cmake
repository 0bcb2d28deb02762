# SPDX-License-Identifier: MIT
#
# Every header compiles alone, and twice in one unit, with nibble's own warnings: target `nibble-check-headers`, not part of
# `all`. With the baseline's flags all of them, those of nibble::nibble as its users have it: no other include path, no other
# definition. With the flags of the last set those that ask for the instruction set. Optional headers are checked where the
# library that they need was found.

set(optional)
foreach(header IN LISTS nibble_optional_headers)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
  nibble_reachable_from(${PROJECT_SOURCE_DIR}/include ${name} reached)
  if((reached MATCHES "(^|;)Eigen/" AND NOT TARGET Eigen3::Eigen)
     OR (reached MATCHES "(^|;)nlohmann/" AND NOT TARGET nlohmann_json::nlohmann_json)
     OR (reached MATCHES "(^|;)omp\\.h" AND NOT TARGET OpenMP::OpenMP_CXX)
     OR (reached MATCHES "(^|;)tbb/" AND NOT TARGET TBB::tbb)
     OR (reached MATCHES "(^|;)(arrow|parquet)/" AND NOT TARGET nibble_parquet))
    message(STATUS "nibble: ${name} will not be checked: a dependency was not found")
  else()
    list(APPEND optional ${header})
  endif()
endforeach()

add_custom_target(nibble-check-headers)

# check_headers(<name> <isa> <header>...)
function(check_headers check isa)
  set(units)
  foreach(header IN LISTS ARGN)
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
    set(unit ${PROJECT_BINARY_DIR}/header_units/${name}.cpp)
    file(CONFIGURE OUTPUT ${unit} CONTENT "#include <@name@>\n#include <@name@>\n" @ONLY)
    list(APPEND units ${unit})
  endforeach()
  add_library(${check} OBJECT EXCLUDE_FROM_ALL ${units})
  # A template that nobody uses generates no code, and -O0 -g0 does the rest: a unit costs what parsing it costs.
  target_compile_options(${check} PRIVATE ${NIBBLE_ISA_FLAGS_${isa}} -O0 -g0 -Werror)
  target_link_libraries(${check} PRIVATE nibble::nibble nibble_own_flags)
  add_dependencies(nibble-check-headers ${check})
endfunction()

list(GET NIBBLE_ISAS 0 baseline)
check_headers(nibble_headers_${baseline} ${baseline} ${nibble_headers})
if(optional)
  check_headers(nibble_headers_optional ${baseline} ${optional})
  foreach(dependency Eigen3::Eigen nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX TBB::tbb nibble_parquet)
    if(TARGET ${dependency})
      target_link_libraries(nibble_headers_optional PRIVATE ${dependency})
    endif()
  endforeach()
endif()

set(asking ${nibble_headers})
list(FILTER asking INCLUDE REGEX "/nibble/((isa|kernels)/|core/(config|round)\\.hpp|nibble\\.hpp)")
list(GET NIBBLE_TEST_ISAS -1 strongest)
if(NOT strongest STREQUAL baseline)
  check_headers(nibble_headers_${strongest} ${strongest} ${asking})
endif()
