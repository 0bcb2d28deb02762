// expect: encode
// SPDX-License-Identifier: MIT
#include <nibble/quant/codebook.hpp>

#ifdef NIBBLE_MUST_COMPILE
#include <nibble/quant/lloyd_max.hpp>
int f(float x) {
  return nibble::quant::codebook<nibble::quant::lloyd_max_table<4>, nibble::quant::per_channel>::encode(x, {});
}
#else
int f(float x) {
  return nibble::quant::codebook<nibble::quant::user_table<4>, nibble::quant::per_channel>::encode(x, {});
}
#endif
