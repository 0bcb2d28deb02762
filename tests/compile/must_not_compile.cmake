# SPDX-License-Identifier: MIT
#
# cmake -D CXX=<compiler> -D CASE=<source> -D FLAGS=<flag>|<flag>... -P must_not_compile.cmake   (see CMakeLists.txt)

cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" flags "${FLAGS}")

file(READ ${CASE} text)
if(NOT text MATCHES "^// expect: ([^\n]+)\n")
  message(FATAL_ERROR "${CASE}: the first line is not '// expect: <text of the compiler's message>'")
endif()
set(expected "${CMAKE_MATCH_1}")
if(text MATCHES "\n// flags: ([^\n]+)\n")
  separate_arguments(more UNIX_COMMAND "${CMAKE_MATCH_1}")
  list(APPEND flags ${more})
endif()

if(text MATCHES "NIBBLE_MUST_COMPILE")
  execute_process(COMMAND ${CXX} ${flags} -DNIBBLE_MUST_COMPILE ${CASE}
    RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${CASE}: the control (-DNIBBLE_MUST_COMPILE) does not compile:\n${output}")
  endif()
endif()

execute_process(COMMAND ${CXX} ${flags} ${CASE} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(code EQUAL 0)
  message(FATAL_ERROR "${CASE}: compiles, but must not")
endif()
string(FIND "${output}" "${expected}" place)
if(place EQUAL -1)
  message(FATAL_ERROR "${CASE}: fails without the text '${expected}':\n${output}")
endif()
message(STATUS "refused, as it must be: ${expected}")
