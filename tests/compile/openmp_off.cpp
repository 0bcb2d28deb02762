// expect: needs OpenMP: compile with -fopenmp
// SPDX-License-Identifier: MIT
#include <nibble/core/openmp.hpp>
