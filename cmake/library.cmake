# SPDX-License-Identifier: MIT
#
# The target nibble::nibble: headers and C++20. It never adds a flag, a definition or a library to its users.

include(include_graph)

add_library(nibble INTERFACE)
add_library(nibble::nibble ALIAS nibble)
target_compile_features(nibble INTERFACE cxx_std_20)

# Headers that reach a library beyond the standard one are a set of their own: they are installed as well, and whoever
# includes one of them by name brings the library.
file(GLOB_RECURSE nibble_all_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/nibble/*.hpp)
set(nibble_headers)
set(nibble_optional_headers)
foreach(header IN LISTS nibble_all_headers)
  file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR}/include ${header})
  nibble_reachable_from(${PROJECT_SOURCE_DIR}/include ${name} reached)
  if(reached MATCHES "(^|;)((Eigen|nlohmann|tbb|arrow|parquet)/|omp\\.h)")
    list(APPEND nibble_optional_headers ${header})
  else()
    list(APPEND nibble_headers ${header})
  endif()
endforeach()
target_sources(nibble INTERFACE
  FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${nibble_headers}
  FILE_SET optional TYPE HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR}/include FILES ${nibble_optional_headers})
# CMAKE_VERIFY_INTERFACE_HEADER_SETS compiles each header as a user of nibble::nibble alone does.
set_target_properties(nibble PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)

# xsimd is used where it is found. Only its include path is taken: its own target may ask for more (Debian's links xtl).
set(nibble_xsimd_include_dirs)
if(TARGET xsimd)
  get_target_property(nibble_xsimd_include_dirs xsimd INTERFACE_INCLUDE_DIRECTORIES)
  target_include_directories(nibble SYSTEM INTERFACE "$<BUILD_INTERFACE:${nibble_xsimd_include_dirs}>")
endif()
