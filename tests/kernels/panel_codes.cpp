// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using native = kernels::panel_codes<isa::native>;
using scalar = kernels::panel_codes<isa::scalar>;

constexpr std::size_t lengths[] = {1,   31,  32,  33,  63,  64,  100, 127,  128, 129,
                                   255, 256, 300, 511, 512, 513, 545, 1024, 1100};

/// Calls f(bits, K, columns, bytes from row to row) for all widths, lengths around every step of the kernels, and numbers of
/// columns.
template <class F>
void for_each_panel(F&& f) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const std::size_t K : lengths)
      for (const std::size_t columns : {std::size_t{1}, std::size_t{7}, std::size_t{15}, std::size_t{16}}) {
        CAPTURE(bits);
        CAPTURE(K);
        CAPTURE(columns);
        f(bits, K, columns, pack::packed_bytes(K, bits) + K % 3);
      }
}

}  // namespace

TEST_CASE("panel_codes: the scalar kernels take part") { CHECK(test::covers<scalar, isa::scalar>()); }

TEST_CASE(
    "panel_codes: native panels are those of the scalar kernels, whatever the padding bits, and no row is overread") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_panel([](int bits, std::size_t K, std::size_t columns, std::size_t stride) {
    test::generator random(K * columns);
    const test::guarded<std::byte> rows((columns - 1) * stride + pack::packed_bytes(K, bits));
    for (std::byte& b : rows) b = static_cast<std::byte>(random.below(256));
    const test::guarded<std::byte> panel(pack::panel16::panel_bytes(K, bits));
    std::vector<std::byte> want(panel.size());
    native::pack(rows.data(), stride, columns, K, bits, panel.data());
    scalar::pack(rows.data(), stride, columns, K, bits, want.data());
    CHECK(std::equal(want.begin(), want.end(), panel.begin()));
  });
}

TEST_CASE("panel_codes: native rows are those of the scalar kernels, and what lies between rows is left alone") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_panel([](int bits, std::size_t K, std::size_t columns, std::size_t stride) {
    test::generator random(K * columns + 1);
    const test::guarded<std::byte> panel(pack::panel16::panel_bytes(K, bits));
    for (std::byte& b : panel) b = static_cast<std::byte>(random.below(256));
    const test::guarded<std::byte> rows((columns - 1) * stride + pack::packed_bytes(K, bits));
    std::vector<std::byte> want(rows.size(), std::byte{0x5a});
    std::fill(rows.begin(), rows.end(), std::byte{0x5a});
    native::unpack(panel.data(), columns, K, bits, rows.data(), stride);
    scalar::unpack(panel.data(), columns, K, bits, want.data(), stride);
    CHECK(std::equal(want.begin(), want.end(), rows.begin()));
  });
}
