# SPDX-License-Identifier: MIT

# run(<command> [arguments...]): stops with the whole output when the command fails. ${run_output} holds the output.
macro(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE run_result OUTPUT_VARIABLE run_output ERROR_VARIABLE run_output)
  if(NOT run_result EQUAL 0)
    string(REPLACE ";" " " run_command "${ARGN}")
    message(FATAL_ERROR "${run_command}\nended with ${run_result}:\n${run_output}")
  endif()
endmacro()
