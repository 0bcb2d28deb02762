// expect: -ffast-math / -ffinite-math-only / -Ofast change results
// flags: -ffast-math -Wfatal-errors
// SPDX-License-Identifier: MIT
#include <nibble/nibble.hpp>
