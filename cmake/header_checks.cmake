# SPDX-License-Identifier: MIT
#
# Every header compiles alone, twice in one unit, with every ISA's flags: target `nibble-check-headers`, not part of `all`.
# CMAKE_VERIFY_INTERFACE_HEADER_SETS does it once more as a user of nibble::nibble sees it, without nibble's own warnings.

if(NOT NIBBLE_BUILD_TESTS)
  return()
endif()

add_custom_target(nibble-check-headers)

# Optional headers are checked where what they include is there.
set(absent)
if(NOT TARGET Eigen3::Eigen)
  list(APPEND absent "^Eigen/")
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  list(APPEND absent "^nlohmann/")
endif()
list(JOIN absent "|" absent)

set(nibble_header_units)
foreach(header IN LISTS nibble_headers)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
  if(absent)
    nibble_reachable_from(${PROJECT_SOURCE_DIR}/include ${name} reached)
    list(FILTER reached INCLUDE REGEX "${absent}")
    if(reached)
      message(STATUS "nibble: ${name} not checked: ${reached} not found")
      continue()
    endif()
  endif()
  set(unit ${PROJECT_BINARY_DIR}/header_units/${name}.cpp)
  file(CONFIGURE OUTPUT ${unit} CONTENT "#include <@name@>\n#include <@name@>\n" @ONLY)
  list(APPEND nibble_header_units ${unit})
endforeach()

foreach(isa IN LISTS NIBBLE_ISAS)
  add_library(nibble_headers_${isa} OBJECT EXCLUDE_FROM_ALL ${nibble_header_units})
  # Unused templates generate no code and -O0 -g0 does the rest: a unit costs what parsing it costs.
  target_compile_options(nibble_headers_${isa} PRIVATE ${NIBBLE_ISA_FLAGS_${isa}} -O0 -g0 -Werror)
  target_link_libraries(nibble_headers_${isa} PRIVATE nibble::nibble nibble_own_flags)
  foreach(dependency Eigen3::Eigen nlohmann_json::nlohmann_json)
    if(TARGET ${dependency})
      target_link_libraries(nibble_headers_${isa} PRIVATE ${dependency})
    endif()
  endforeach()
  add_dependencies(nibble-check-headers nibble_headers_${isa})
endforeach()
