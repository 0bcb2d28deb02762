// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/pack/panel16.hpp>

#include <algorithm>
#include <vector>

#include "support/guard_page.hpp"
#include "support/random.hpp"

using namespace nibble;

TEST_CASE("panel16: rows to a panel and back follow the definition for every width, behind guard pages") {
  for (int bits = 2; bits <= 8; ++bits)
    for (const std::size_t columns : {1u, 7u, 16u})
      for (const std::size_t K : {1u, 2u, 7u, 8u, 31u, 32u, 33u, 199u, 255u, 256u, 257u, 264u, 700u}) {
        CAPTURE(bits);
        CAPTURE(columns);
        CAPTURE(K);
        // Rows of random bytes: the padding bits at their ends, too, are not 0. Between the rows lies a gap.
        const std::size_t used = pack::packed_bytes(K, bits), stride = used + 3;
        const test::guarded<std::byte> rows((columns - 1) * stride + used), back(rows.size());
        const auto random = test::codes(rows.size(), K, 8);
        std::transform(random.begin(), random.end(), rows.begin(), [](std::uint8_t b) { return std::byte{b}; });
        const test::guarded<std::byte> panel(pack::panel16::panel_bytes(K, bits));
        std::fill(panel.begin(), panel.end(), std::byte{0xa5});
        pack::pack_panel16(rows.data(), stride, columns, K, bits, panel.data());

        std::vector<std::byte> want(panel.size());
        for (std::size_t n = 0; n < columns; ++n)
          for (std::size_t k = 0; k < K; ++k)
            pack::put_panel16(want.data(), bits, n, k, pack::get(rows.data() + n * stride, k, bits));
        CHECK(std::equal(want.begin(), want.end(), panel.begin()));

        std::fill(back.begin(), back.end(), std::byte{0x5a});
        pack::unpack_panel16(panel.data(), columns, K, bits, back.data(), stride);
        std::vector<std::byte> again(back.size(), std::byte{0x5a});  // gaps stay as they were, padding bits become 0
        for (std::size_t n = 0; n < columns; ++n) {
          std::fill_n(again.begin() + static_cast<std::ptrdiff_t>(n * stride), used, std::byte{0});
          for (std::size_t k = 0; k < K; ++k)
            pack::put(again.data() + n * stride, k, bits, pack::get(rows.data() + n * stride, k, bits));
        }
        CHECK(std::equal(again.begin(), again.end(), back.begin()));
      }
}
