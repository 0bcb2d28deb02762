// expect: -ffast-math / -ffinite-math-only / -fassociative-math
// flags: -ffast-math -Wfatal-errors
// SPDX-License-Identifier: MIT
#include <nibble/nibble.hpp>
