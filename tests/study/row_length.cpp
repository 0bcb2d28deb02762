// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>

#include <nibble/study/row_length.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("row_length: measured cosines lie within four standard errors of the closed forms") {
  row_length_options o;
  o.first_log2 = 5;
  o.last_log2 = 6;
  o.batches = 8;
  o.weights = 1 << 14;
  std::size_t said = 0;
  const study_table t = row_length_table(o, {}, [&](const std::string&) { ++said; });
  CHECK(said == 3);
  std::size_t cells = 0;
  for (const finding& f : t.rows) {
    if (f.name.starts_with("reference")) continue;
    ++cells;
    CAPTURE(f.name);
    // Eight batches: t with 7 degrees of freedom exceeds 4 in 0.5 % of cells, 8 in 0.01 %.
    CHECK(std::fabs(*f.difference()) <= 2.0 * f.tolerance);
    CHECK(f.tolerance < 0.02);
  }
  CHECK(cells == 2 * 3 * 7);
}
