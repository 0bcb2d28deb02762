// expect: pack_row<Bits>: Bits must be 2..8
// SPDX-License-Identifier: MIT
#include <nibble/pack/bits.hpp>

#ifdef NIBBLE_MUST_COMPILE
void f(const std::uint8_t* codes, std::byte* packed) { nibble::pack::pack_row<8>(codes, 3, packed); }
#else
void f(const std::uint8_t* codes, std::byte* packed) { nibble::pack::pack_row<9>(codes, 3, packed); }
#endif
