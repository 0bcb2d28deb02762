# SPDX-License-Identifier: MIT
#
# cmake -D SOURCE_DIR=<repository> -P tests/layering.cmake
#
# The architecture, checked from the text: a folder includes only folders with a smaller number (and itself), nibble.hpp
# reaches the whole CPU library and nothing above it, and every header says its licence and is included once.

cmake_minimum_required(VERSION 3.25)
cmake_path(ABSOLUTE_PATH SOURCE_DIR NORMALIZE)
include(${SOURCE_DIR}/cmake/include_graph.cmake)

set(layer_core 0)
set(layer_isa 1)
set(layer_quant 1)
set(layer_pack 2)
set(layer_kernels 3)
set(layer_tensor 4)
set(layer_gemm 5)
set(layer_calib 6)
set(layer_io 6)
set(layer_cuda 6)
set(layer_eigen 6)
set(layer_dispatch 6)
set(layer_nn 7)
set(layer_study 8)
set(layer_testing 8)
# The files directly in include/nibble stand for the layers they gather.
set(layer_nibble.hpp 5.5)
set(layer_eigen.hpp 6.5)
set(layer_cuda.hpp 6.5)
set(umbrella_layers core isa quant pack kernels tensor gemm)
# Headers of these layers that are asked for by name all the same.
set(by_name core/concurrency core/process_mark core/scratch core/thread_pool core/openmp core/tbb gemm/instantiate
  quant/ggml_type quant/ggml_codec quant/ggml_search quant/ggml_block32 quant/ggml_block256
  quant/ggml_parts quant/ggml_fit quant/lossless tensor/ggml_matrix tensor/ggml_rows tensor/convert
  kernels/ggml_blocks kernels/scalar/ggml_blocks kernels/simd/ggml_lanes kernels/simd/ggml_blocks
  kernels/simd/ggml_fit kernels/simd/ggml_encode256 kernels/simd/ggml_encode32 kernels/simd/ggml_encode_iq4
  kernels/simd/ggml_code_search kernels/simd/ggml_decode)
list(TRANSFORM by_name REPLACE "(.+)" "nibble/\\1.hpp")
# What a layer may include beside nibble and the standard library.
set(third_party_core "^((sched|pthread|omp)\\.h$|tbb/)")
set(third_party_kernels "^(xsimd/|immintrin\\.h)")
set(third_party_isa "^([eint]mmintrin|arm_neon|cpuid|sys/syscall|sys/auxv|unistd)\\.h$")
set(third_party_io "^(nlohmann/|arrow/|parquet/|sys/|fcntl\\.h|unistd\\.h)")
set(third_party_eigen "^Eigen/")
set(third_party_eigen.hpp "^Eigen/")
set(third_party_study "^(nlohmann/|CLI/)")
set(third_party_testing "^(sys/mman|signal|unistd)\\.h$")

set(include_dir ${SOURCE_DIR}/include)
file(GLOB_RECURSE headers RELATIVE ${include_dir} ${include_dir}/nibble/*.hpp ${include_dir}/nibble/*.cuh)
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "layering: no headers under ${include_dir}")
endif()

set(errors 0)
macro(complain)
  message(SEND_ERROR ${ARGN})
  math(EXPR errors "${errors} + 1")
endmacro()

nibble_reachable_from(${include_dir} nibble/nibble.hpp umbrella)

foreach(header IN LISTS headers)
  string(REGEX REPLACE "^nibble/([^/]+).*" "\\1" layer ${header})
  if(NOT DEFINED layer_${layer})
    complain("${header}: the folder ${layer} has no layer number in tests/layering.cmake")
    continue()
  endif()

  file(READ ${include_dir}/${header} text)
  if(NOT text MATCHES "^// SPDX-License-Identifier: MIT\n")
    complain("${header}: the first line is not '// SPDX-License-Identifier: MIT'")
  endif()
  if(NOT text MATCHES "\n#pragma once\n")
    complain("${header}: no #pragma once")
  endif()

  nibble_includes_of(${include_dir}/${header} includes)
  foreach(include IN LISTS includes)
    if(include MATCHES "^nibble/([^/]+)")
      set(other ${CMAKE_MATCH_1})
      if(NOT EXISTS ${include_dir}/${include})
        complain("${header}: includes <${include}>, which does not exist")
      elseif(NOT DEFINED layer_${other})
        complain("${header}: includes <${include}>, whose folder has no layer number in tests/layering.cmake")
      elseif(NOT other STREQUAL layer AND NOT layer_${other} LESS layer_${layer})
        complain("${header} (layer ${layer_${layer}}) includes <${include}> (layer ${layer_${other}}): "
          "only smaller numbers are allowed")
      endif()
    elseif(NOT include MATCHES "^[a-z_]+$" AND NOT include MATCHES "^(std[a-z]+|string|math|float|limits)\\.h$")
      if(NOT DEFINED third_party_${layer} OR NOT include MATCHES "${third_party_${layer}}")
        complain("${header}: the layer ${layer} may not include <${include}> (list it in tests/layering.cmake if it may)")
      endif()
    endif()
  endforeach()

  if(layer IN_LIST umbrella_layers AND NOT header IN_LIST umbrella AND NOT header IN_LIST by_name)
    complain("nibble/nibble.hpp does not reach ${header}")
  endif()
endforeach()

foreach(name IN LISTS umbrella)
  if(name MATCHES "^nibble/([^/]+)/" AND NOT CMAKE_MATCH_1 IN_LIST umbrella_layers)
    complain("nibble/nibble.hpp reaches ${name}: it gathers the layers ${umbrella_layers} only")
  endif()
endforeach()

if(errors GREATER 0)
  message(FATAL_ERROR "layering: ${errors} errors in ${count} headers")
endif()
message(STATUS "layering: ${count} headers, no error")
