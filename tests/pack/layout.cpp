// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <nibble/pack/layout.hpp>

#include "support/random.hpp"

using namespace nibble;

TEST_CASE("layout: a panel gives back every code at every place, every width") {
  for (int bits = 2; bits <= 8; ++bits) {
    const std::size_t K = 70;
    std::vector<std::byte> panel(pack::panel16::panel_bytes(K, bits));
    const auto codes = test::codes(16 * K, 5, bits);
    for (std::size_t n = 0; n < 16; ++n)
      for (std::size_t k = 0; k < K; ++k) pack::put_panel16(panel.data(), bits, n, k, codes[n * K + k]);
    CAPTURE(bits);
    bool all = true;
    for (std::size_t n = 0; n < 16; ++n)
      for (std::size_t k = 0; k < K; ++k) all = all && pack::get_panel16(panel.data(), bits, n, k) == codes[n * K + k];
    CHECK(all);
  }
}

TEST_CASE("layout: the codes of a block fill its bytes without gap or overlap") {
  for (int bits = 2; bits <= 8; ++bits) {
    std::vector<std::byte> block(pack::panel16::block_bytes(bits));
    for (std::size_t n = 0; n < 16; ++n)
      for (std::size_t k = 0; k < 32; ++k) pack::put_panel16(block.data(), bits, n, k, (1u << bits) - 1u);
    CAPTURE(bits);
    CHECK(std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{255}; }));
  }
}

TEST_CASE("layout: 8-bit units are in VNNI order, four k of a column in each 32-bit lane") {
  std::vector<std::byte> block(pack::panel16::block_bytes(8));
  pack::put_panel16(block.data(), 8, /*n=*/3, /*k=*/6, 0xab);
  CHECK(block[64 + 4 * 3 + 2] == std::byte{0xab});
}

TEST_CASE("layout: two 4-bit units share 64 bytes, the first in the low nibbles") {
  std::vector<std::byte> block(pack::panel16::block_bytes(4));
  pack::put_panel16(block.data(), 4, 5, 8 + 1, 0x7);
  pack::put_panel16(block.data(), 4, 5, 12 + 1, 0xc);
  CHECK(block[64 + 4 * 5 + 1] == std::byte{0xc7});
}
