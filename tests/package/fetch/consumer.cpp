// SPDX-License-Identifier: MIT
//
// Compiles only when every dependency comes from the trees that tests/package/fetch.cmake made.

#include <nibble/core/config.hpp>

#include <CLI/nibble_marker.hpp>
#include <Eigen/nibble_marker.hpp>
#include <benchmark/nibble_marker.hpp>
#include <doctest/nibble_marker.hpp>
#include <nlohmann/nibble_marker.hpp>
#include <xsimd/nibble_marker.hpp>

static_assert(NIBBLE_HAS_XSIMD == 1, "core/config.hpp finds the fetched xsimd by itself");

int main() {
  return nibble_marker_xsimd + nibble_marker_doctest + nibble_marker_Eigen + nibble_marker_nlohmann +
                     nibble_marker_CLI + nibble_marker_benchmark ==
                 6
             ? 0
             : 1;
}
