// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/study/verdict.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("verdict: a measured figure flips from reproduced to differs when ours leaves the tolerance") {
  finding f{.name = "x", .reported = 10.0, .ours = 10.5, .tolerance = 0.5};
  CHECK(f.result() == verdict::reproduced);
  CHECK(*f.difference() == 0.5);
  f.ours = 10.5000001;
  CHECK(f.result() == verdict::differs);
  f.ours = 9.4;
  CHECK(f.result() == verdict::differs);
}

TEST_CASE("verdict: a derived figure off its premises is contradicted, not merely different") {
  finding f{.name = "x", .how = comparison::derived, .reported = 0.002456, .ours = 0.000456, .tolerance = 1e-9};
  CHECK(f.result() == verdict::contradicted);
  f.ours = 0.002456;
  CHECK(f.result() == verdict::reproduced);
}

TEST_CASE("verdict: one-sided claims look at their side only") {
  finding f{.name = "x", .how = comparison::at_least, .reported = 8.12, .ours = 7.77, .tolerance = 0.005};
  CHECK(f.result() == verdict::contradicted);
  f.ours = 100.0;
  CHECK(f.result() == verdict::reproduced);
  f.how = comparison::at_most;
  CHECK(f.result() == verdict::contradicted);
  f.ours = 8.124;
  CHECK(f.result() == verdict::reproduced);
}

TEST_CASE("verdict: a missing side, NaN or a negative tolerance cannot be tested") {
  finding f{.name = "x", .reported = 1.0};
  CHECK(f.result() == verdict::not_testable);
  CHECK(!f.difference().has_value());
  f.ours = std::nan("");
  CHECK(f.result() == verdict::not_testable);
  f.ours = 1.0;
  CHECK(f.result() == verdict::reproduced);
  f.tolerance = -1.0;
  CHECK(f.result() == verdict::not_testable);
}

TEST_CASE("verdict: the reason names the cause only when something is off") {
  finding f{.name = "x", .reported = 1.0, .ours = 1.0, .basis = "basis", .explanation = "cause"};
  CHECK(f.reason() == "basis");
  f.ours = 2.0;
  CHECK(f.reason() == "basis; cause");
}
