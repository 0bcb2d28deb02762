# SPDX-License-Identifier: MIT
#
# Given to nibble's own configuration as CMAKE_PROJECT_nibble_INCLUDE. When everything is configured, a program is added
# that uses each dependency through its target; the marker headers exist in the trees of fetch.cmake only.

function(add_fetch_consumer)
  add_executable(fetch-consumer ${FETCH_CONSUMER_SOURCE})
  target_link_libraries(fetch-consumer PRIVATE nibble::nibble doctest::doctest Eigen3::Eigen
    nlohmann_json::nlohmann_json CLI11::CLI11 benchmark::benchmark)
endfunction()
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL add_fetch_consumer)
