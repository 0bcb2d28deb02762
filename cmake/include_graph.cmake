# SPDX-License-Identifier: MIT
#
# Who includes whom, read from the text of the headers: conditions of the preprocessor do not matter here.

# nibble_includes_of(<file> <out>): the names between the brackets of all its #include lines.
function(nibble_includes_of file out)
  file(STRINGS ${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
  list(TRANSFORM lines REPLACE "^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]*)[>\"].*" "\\1")
  set(${out} ${lines} PARENT_SCOPE)
endfunction()

# nibble_reachable_from(<include dir> <name> <out>): <name> and everything it includes, directly or not, by name.
function(nibble_reachable_from include_dir name out)
  set(seen ${name})
  set(todo ${name})
  while(todo)
    list(POP_FRONT todo next)
    if(EXISTS ${include_dir}/${next})
      nibble_includes_of(${include_dir}/${next} includes)
      foreach(include IN LISTS includes)
        if(NOT include IN_LIST seen)
          list(APPEND seen ${include})
          list(APPEND todo ${include})
        endif()
      endforeach()
    endif()
  endwhile()
  set(${out} ${seen} PARENT_SCOPE)
endfunction()
