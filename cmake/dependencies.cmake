# SPDX-License-Identifier: MIT
#
# The dependencies; the library itself needs none, xsimd makes its kernels faster. find_package comes first. What it does
# not find is fetched only when NIBBLE_FETCH_DEPS is ON, from the full commit ids of releases below;
# -DFETCHCONTENT_SOURCE_DIR_<PACKAGE>=<dir> points at a local copy instead.

include(FetchContent)

# nibble_dependency(<package> TARGET <target> REPOSITORY <url> RELEASE <tag> COMMIT <id> [INCLUDE_DIR <dir>])
#
# Afterwards <target> exists, or the package was not found. INCLUDE_DIR (relative to the fetched tree) marks a header-only
# dependency: its own build stays out and <target> carries the include path alone.
function(nibble_dependency package)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TARGET;REPOSITORY;RELEASE;COMMIT;INCLUDE_DIR" "")
  find_package(${package} QUIET)
  if(TARGET ${arg_TARGET})
    message(STATUS "nibble: ${package} ${${package}_VERSION} found")
    return()
  endif()
  if(NOT NIBBLE_FETCH_DEPS)
    message(STATUS "nibble: ${package} not found")
    return()
  endif()
  message(STATUS "nibble: ${package} ${arg_RELEASE} fetched")
  set(where GIT_REPOSITORY ${arg_REPOSITORY} GIT_TAG ${arg_COMMIT})
  if(DEFINED arg_INCLUDE_DIR)
    list(APPEND where SOURCE_SUBDIR no-build)  # a folder that does not exist: FetchContent then adds nothing
  endif()
  FetchContent_Declare(${package} ${where} SYSTEM)
  FetchContent_MakeAvailable(${package})
  if(DEFINED arg_INCLUDE_DIR)
    string(TOLOWER ${package} lower)
    add_library(nibble_fetched_${lower} INTERFACE)
    add_library(${arg_TARGET} ALIAS nibble_fetched_${lower})
    target_include_directories(nibble_fetched_${lower} SYSTEM INTERFACE ${${lower}_SOURCE_DIR}/${arg_INCLUDE_DIR})
  endif()
endfunction()

nibble_dependency(xsimd TARGET xsimd INCLUDE_DIR include
  REPOSITORY https://github.com/xtensor-stack/xsimd.git
  RELEASE 13.2.0 COMMIT 1f8dd9c8e162968d9b4ff0251c56d431b8777f36)

if(NIBBLE_BUILD_TESTS)
  nibble_dependency(doctest TARGET doctest::doctest INCLUDE_DIR .
    REPOSITORY https://github.com/doctest/doctest.git
    RELEASE v2.4.12 COMMIT 1da23a3e8119ec5cce4f9388e91b065e20bf06f5)
  if(NOT TARGET doctest::doctest)
    message(FATAL_ERROR "nibble: the tests need doctest (Debian: apt-get install doctest-dev); "
      "-DNIBBLE_FETCH_DEPS=ON fetches it, -DNIBBLE_BUILD_TESTS=OFF does without")
  endif()
  # What the adaptors for threads stand on; without them these are not tested.
  find_package(OpenMP QUIET COMPONENTS CXX)
  find_package(TBB QUIET)
  foreach(target OpenMP::OpenMP_CXX TBB::tbb)
    if(NOT TARGET ${target})
      message(STATUS "nibble: ${target} not found")
    endif()
  endforeach()
endif()

if(NIBBLE_BUILD_TESTS OR NIBBLE_BUILD_BENCHMARKS OR NIBBLE_BUILD_EXAMPLES)
  nibble_dependency(Eigen3 TARGET Eigen3::Eigen INCLUDE_DIR .
    REPOSITORY https://gitlab.com/libeigen/eigen.git
    RELEASE 3.4.0 COMMIT 3147391d946bb4b6c68edd901f2add6ac1f31f8c)
endif()

if(NIBBLE_BUILD_TESTS OR NIBBLE_BUILD_EXAMPLES OR NIBBLE_BUILD_STUDY OR NIBBLE_BUILD_TOOL)
  nibble_dependency(nlohmann_json TARGET nlohmann_json::nlohmann_json INCLUDE_DIR include
    REPOSITORY https://github.com/nlohmann/json.git
    RELEASE v3.11.3 COMMIT 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03)
endif()

if(NIBBLE_BUILD_EXAMPLES OR NIBBLE_BUILD_STUDY OR NIBBLE_BUILD_TOOL)
  nibble_dependency(CLI11 TARGET CLI11::CLI11 INCLUDE_DIR include
    REPOSITORY https://github.com/CLIUtils/CLI11.git
    RELEASE v2.5.0 COMMIT 4160d259d961cd393fd8d67590a8c7d210207348)
endif()

# Parquet, for nibble/io/parquet.hpp: its test, and the sizes in the study's R2 table. A package of Arrow's C++ libraries, or
# what the Python package pyarrow carries: -DNIBBLE_PYARROW_DIR=$(python3 -c "import pyarrow; print(pyarrow.__path__[0])").
if(NIBBLE_BUILD_TESTS OR NIBBLE_BUILD_STUDY)
  set(NIBBLE_PYARROW_DIR "" CACHE PATH "Folder of the Python package pyarrow, whose headers and libraries serve")
  if(NIBBLE_PYARROW_DIR)
    file(GLOB arrow_libraries ${NIBBLE_PYARROW_DIR}/libparquet.so* ${NIBBLE_PYARROW_DIR}/libarrow.so*)
    list(LENGTH arrow_libraries arrow_count)
    if(NOT arrow_count EQUAL 2 OR NOT EXISTS ${NIBBLE_PYARROW_DIR}/include/parquet/arrow/writer.h)
      message(FATAL_ERROR "nibble: NIBBLE_PYARROW_DIR (${NIBBLE_PYARROW_DIR}) has no libparquet.so, libarrow.so and headers")
    endif()
    list(SORT arrow_libraries ORDER DESCENDING)  # parquet needs arrow: it comes first
    set(arrow_version "of ${NIBBLE_PYARROW_DIR}")
  else()
    find_package(Arrow CONFIG QUIET)
    find_package(Parquet CONFIG QUIET)
    if(TARGET Parquet::parquet_shared AND TARGET Arrow::arrow_shared)
      set(arrow_libraries Parquet::parquet_shared Arrow::arrow_shared)
      set(arrow_version ${Arrow_VERSION})
    endif()
  endif()
  if(arrow_libraries)
    message(STATUS "nibble: Arrow with Parquet ${arrow_version} found")
    add_library(nibble_parquet INTERFACE)
    target_link_libraries(nibble_parquet INTERFACE ${arrow_libraries})
    target_compile_definitions(nibble_parquet INTERFACE NIBBLE_HAS_PARQUET=1)
    if(NIBBLE_PYARROW_DIR)
      target_include_directories(nibble_parquet SYSTEM INTERFACE ${NIBBLE_PYARROW_DIR}/include)
    endif()
  else()
    message(STATUS "nibble: Arrow with Parquet not found: no Parquet export in tests and study (NIBBLE_PYARROW_DIR names it)")
  endif()
endif()

if(NIBBLE_BUILD_BENCHMARKS)
  set(BENCHMARK_ENABLE_TESTING OFF)  # plain variables: only a fetched benchmark reads them (policy CMP0077)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  set(BENCHMARK_ENABLE_WERROR OFF)
  nibble_dependency(benchmark TARGET benchmark::benchmark
    REPOSITORY https://github.com/google/benchmark.git
    RELEASE v1.9.4 COMMIT eddb0241389718a23a42db6af5f0164b6e0139af)

  # Peers: each adds lines to the benchmark's tables, nothing else. The package file of Debian's oneDNN wants OpenCL's
  # headers, which nothing here needs, and those of XNNPACK and pthreadpool do not exist: they are looked for by hand.
  find_package(BLAS QUIET)
  find_package(OpenMP QUIET COMPONENTS CXX)  # where Debian's oneDNN takes its threads from
  find_package(gemmlowp CONFIG QUIET)
  find_path(NIBBLE_ONEDNN_INCLUDE oneapi/dnnl/dnnl.hpp)
  find_library(NIBBLE_ONEDNN_LIBRARY dnnl)
  find_path(NIBBLE_XNNPACK_INCLUDE xnnpack.h)
  find_library(NIBBLE_XNNPACK_LIBRARY XNNPACK)
  find_path(NIBBLE_PTHREADPOOL_INCLUDE pthreadpool.h)
  find_library(NIBBLE_PTHREADPOOL_LIBRARY pthreadpool)
  mark_as_advanced(NIBBLE_ONEDNN_INCLUDE NIBBLE_ONEDNN_LIBRARY NIBBLE_XNNPACK_INCLUDE NIBBLE_XNNPACK_LIBRARY
    NIBBLE_PTHREADPOOL_INCLUDE NIBBLE_PTHREADPOOL_LIBRARY)
endif()

if(PROJECT_IS_TOP_LEVEL AND NIBBLE_CUDA STREQUAL "AUTO")
  find_program(NIBBLE_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(NIBBLE_NVCC)
  if(NIBBLE_NVCC)
    message(STATUS "nibble: CUDA compiler found: ${NIBBLE_NVCC} (nothing in this version uses it)")
  else()
    message(STATUS "nibble: CUDA compiler not found (nothing in this version uses it)")
  endif()
endif()
