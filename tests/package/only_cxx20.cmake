# SPDX-License-Identifier: MIT

# check_only_cxx20(<target>): the target asks for C++20 and nothing else: no flag, no definition, no library.
function(check_only_cxx20 target)
  get_target_property(aliased ${target} ALIASED_TARGET)
  if(aliased)
    set(target ${aliased})
  endif()
  get_target_property(features ${target} INTERFACE_COMPILE_FEATURES)
  if(NOT features STREQUAL "cxx_std_20")
    message(FATAL_ERROR "INTERFACE_COMPILE_FEATURES of ${target}: ${features}")
  endif()
  foreach(property COMPILE_OPTIONS COMPILE_DEFINITIONS LINK_OPTIONS LINK_LIBRARIES LINK_DIRECTORIES PRECOMPILE_HEADERS)
    get_target_property(value ${target} INTERFACE_${property})
    if(value)
      message(FATAL_ERROR "INTERFACE_${property} of ${target}: ${value}")
    endif()
  endforeach()
endfunction()
