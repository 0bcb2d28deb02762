# SPDX-License-Identifier: MIT
#
# cmake -D SOURCE_DIR=<repository> -D WORK_DIR=<scratch folder> -D CXX=<compiler> -P fetch.cmake
#
# NIBBLE_FETCH_DEPS=ON without a network: each dependency is replaced by a local tree with its layout, find_package is
# switched off, and a program is built through the targets that result.

cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

# Full commit ids only: tags and branches move.
file(STRINGS ${SOURCE_DIR}/cmake/dependencies.cmake pins REGEX " COMMIT [0-9a-zA-Z]")
list(LENGTH pins count)
if(NOT count EQUAL 6)
  message(FATAL_ERROR "cmake/dependencies.cmake pins ${count} dependencies, this test knows 6")
endif()
foreach(pin IN LISTS pins)
  if(NOT pin MATCHES "RELEASE [^ ]+ COMMIT [0-9a-f]+\\)$" OR NOT pin MATCHES "COMMIT ........................................\\)$")
    message(FATAL_ERROR "not a full commit id: ${pin}")
  endif()
endforeach()

file(REMOVE_RECURSE ${WORK_DIR})
set(arguments)
# <package>:<include directory in its tree>:<folder of its headers>
foreach(dependency xsimd:include:xsimd doctest:.:doctest Eigen3:.:Eigen nlohmann_json:include:nlohmann CLI11:include:CLI
                   benchmark:include:benchmark)
  string(REPLACE ":" ";" parts ${dependency})
  list(GET parts 0 package)
  list(GET parts 1 include_dir)
  list(GET parts 2 folder)
  set(tree ${WORK_DIR}/${package})
  file(WRITE ${tree}/${include_dir}/${folder}/nibble_marker.hpp
    "#pragma once\n[[maybe_unused]] static const int nibble_marker_${folder} = 1;\n")
  # The tree's own build must stay out, except for the one dependency that is a compiled library.
  file(WRITE ${tree}/CMakeLists.txt "message(FATAL_ERROR \"the build of ${package} was entered\")\n")
  string(TOUPPER ${package} upper)
  list(APPEND arguments -DFETCHCONTENT_SOURCE_DIR_${upper}=${tree} -DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON)
endforeach()
file(WRITE ${WORK_DIR}/xsimd/include/xsimd/xsimd.hpp "#pragma once\n")
file(WRITE ${WORK_DIR}/benchmark/CMakeLists.txt [[
add_library(benchmark INTERFACE)
add_library(benchmark::benchmark ALIAS benchmark)
target_include_directories(benchmark INTERFACE ${CMAKE_CURRENT_SOURCE_DIR}/include)
if(BENCHMARK_ENABLE_TESTING)
  message(FATAL_ERROR "BENCHMARK_ENABLE_TESTING is on")
endif()
]])

run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK_DIR}/build -G Ninja -DCMAKE_CXX_COMPILER=${CXX}
  -DNIBBLE_FETCH_DEPS=ON -DFETCHCONTENT_FULLY_DISCONNECTED=ON ${arguments}
  -DCMAKE_PROJECT_nibble_INCLUDE=${CMAKE_CURRENT_LIST_DIR}/fetch/consumer.cmake
  -DFETCH_CONSUMER_SOURCE=${CMAKE_CURRENT_LIST_DIR}/fetch/consumer.cpp)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build --target fetch-consumer)
run(${WORK_DIR}/build/fetch-consumer)
