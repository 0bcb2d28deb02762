# SPDX-License-Identifier: MIT
#
# cmake -D PROJECT=<consumer> -D WORK_DIR=<scratch folder> -D CXX=<compiler> [-D ARGUMENTS=<argument>|<argument>...]
#       [-D EXPECT=<regular expression>] -P consume.cmake
#
# Configures and builds a consumer as its author would, runs it, and looks for EXPECT in what it prints.

cmake_minimum_required(VERSION 3.25)
include(${CMAKE_CURRENT_LIST_DIR}/run.cmake)
string(REPLACE "|" ";" arguments "${ARGUMENTS}")

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK_DIR} -G Ninja -DCMAKE_CXX_COMPILER=${CXX} ${arguments})
run(${CMAKE_COMMAND} --build ${WORK_DIR})
run(${WORK_DIR}/consumer)
if(NOT run_output MATCHES "${EXPECT}")
  message(FATAL_ERROR "'${EXPECT}' is not in the output:\n${run_output}")
endif()
message(STATUS "${run_output}")
