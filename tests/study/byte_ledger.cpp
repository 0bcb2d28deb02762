// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include <nibble/quant/qtype.hpp>
#include <nibble/study/byte_ledger.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("byte_ledger: ledgers of matrices add up, kept parameters cost two bytes") {
  const format_desc f = quant::w2f_channel::format();
  model_ledger l;
  l.add(canonical_ledger(f, 128, 64), 128 * 64);
  l.add(canonical_ledger(f, 64, 32), 64 * 32);
  l.add(canonical_ledger(f, 32, 16), 32 * 16);
  l.fp16_parameters = 224;
  CHECK(l.weights == 10'752);
  CHECK(l.parameters() == 10'976);
  CHECK(l.matrices.payload == 10'752 / 4);
  CHECK(l.bytes() == 2688 + 224 * 4 + 448);
  CHECK(l.bits_per_weight() == doctest::Approx(8.0 * (2688 + 896) / 10'752));
  CHECK(l.ratio_to_fp16() == doctest::Approx(21'952.0 / 4032.0));
}

TEST_CASE("byte_ledger: a ratio above 16 / bits needs a named codec") {
  const format_desc f = quant::w2f_channel::format();
  CHECK(ratio_is_possible(7.77, f));
  CHECK(ratio_is_possible(8.0, f));
  CHECK(!ratio_is_possible(8.12, f));
  CHECK(ratio_is_possible(8.12, f, "LZ"));
}

TEST_CASE("byte_ledger: the grid shows every purpose") {
  model_ledger l;
  l.add(canonical_ledger(quant::w3_g32::format(), 4, 36), 4 * 36);
  const text_grid g = ledger_grid("caption", {{"w3_g32", quant::w3_g32::format(), l}});
  REQUIRE(g.cells.size() == 1);
  REQUIRE(g.cells[0].size() == g.headings.size());
  CHECK(g.cells[0][1] == "54");  // 4 * 36 * 3 / 8
  CHECK(g.cells[0][2] == "16");  // two groups a row, half scales
  CHECK(g.cells[0][4] == "2");   // rows of 13.5 bytes are padded to 14
  CHECK(g.cells[0][10] == "5.33");
}
