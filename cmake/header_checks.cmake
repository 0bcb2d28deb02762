# SPDX-License-Identifier: MIT
#
# Every header compiles alone, and twice in one unit, with the flags of every ISA and nibble's own warnings: target
# `nibble-check-headers`, not part of `all`. Optional headers are checked where the library that they need was found.

set(checked ${nibble_headers})
foreach(header IN LISTS nibble_optional_headers)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
  nibble_reachable_from(${PROJECT_SOURCE_DIR}/include ${name} reached)
  if(reached MATCHES "(^|;)Eigen/" AND NOT TARGET Eigen3::Eigen
     OR reached MATCHES "(^|;)nlohmann/" AND NOT TARGET nlohmann_json::nlohmann_json
     OR reached MATCHES "(^|;)omp\\.h" AND NOT TARGET OpenMP::OpenMP_CXX
     OR reached MATCHES "(^|;)tbb/" AND NOT TARGET TBB::tbb)
    message(STATUS "nibble: ${name} will not be checked: a dependency was not found")
  else()
    list(APPEND checked ${header})
  endif()
endforeach()

set(units)
foreach(header IN LISTS checked)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
  set(unit ${PROJECT_BINARY_DIR}/header_units/${name}.cpp)
  file(CONFIGURE OUTPUT ${unit} CONTENT "#include <@name@>\n#include <@name@>\n" @ONLY)
  list(APPEND units ${unit})
endforeach()

add_custom_target(nibble-check-headers)
foreach(isa IN LISTS NIBBLE_TEST_ISAS)
  set(isa_units ${units})
  if(DEFINED NIBBLE_ISA_LAYERS_${isa} OR isa MATCHES "avx512")  # what lies above the kernels differs no more
    list(FILTER isa_units INCLUDE REGEX "/nibble/(isa|kernels)/|/nibble/nibble\\.hpp")
  endif()
  add_library(nibble_headers_${isa} OBJECT EXCLUDE_FROM_ALL ${isa_units})
  # A template that nobody uses generates no code, and -O0 -g0 does the rest: a unit costs what parsing it costs.
  target_compile_options(nibble_headers_${isa} PRIVATE ${NIBBLE_ISA_FLAGS_${isa}} -O0 -g0 -Werror)
  target_link_libraries(nibble_headers_${isa} PRIVATE nibble::nibble nibble_own_flags)
  foreach(dependency Eigen3::Eigen nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX TBB::tbb)
    if(TARGET ${dependency})
      target_link_libraries(nibble_headers_${isa} PRIVATE ${dependency})
    endif()
  endforeach()
  add_dependencies(nibble-check-headers nibble_headers_${isa})
endforeach()
