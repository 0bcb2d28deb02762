# SPDX-License-Identifier: MIT
#
# cmake -D BUILD_DIR=<build folder of nibble> -D PREFIX=<folder> -P install.cmake

cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)

file(REMOVE_RECURSE ${PREFIX} ${PREFIX}.first)
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${PREFIX}.first)
file(RENAME ${PREFIX}.first ${PREFIX})
file(GLOB_RECURSE files ${PREFIX}/*.cmake)
foreach(file IN LISTS files)
  file(READ ${file} text)
  string(FIND "${text}" ${PREFIX} place)
  if(NOT place EQUAL -1)
    message(FATAL_ERROR "${file} holds the path it was installed to")
  endif()
endforeach()
