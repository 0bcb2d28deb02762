// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <nibble/study/r2_answered.hpp>

using namespace nibble;
using namespace nibble::study;

TEST_CASE("r2_answered: every format of the list is measured, under names that differ") {
  const std::vector<measured_format> all = all_measured_formats();
  std::set<std::string> names;
  for (const measured_format& f : all) names.insert(f.name);
  CHECK(names.size() == all.size());
  for (std::size_t i = 0; i < quant::qtype_count; ++i)
    CHECK(names.contains(std::string(quant::name_of(static_cast<qtype>(i)))));
  CHECK(names.contains("w2m_channel+mse"));
  CHECK_THROWS_AS(format_by_name("w9_channel"), error);
}

TEST_CASE("r2_answered: predictions of the 2-bit grids equal the reference table") {
  const auto mean = [](const char* name, std::size_t h) {
    double sum = 0.0;
    for (const auto& [N, K] : r2_shapes(h)) {
      const measured_format f = format_by_name(name);
      sum += predict(f, group_length(f.format(), N, K))->cosine / 3.0;
    }
    return sum;
  };
  for (std::size_t i = 0; i < 3; ++i) {  // the three grids with exact closed forms
    CAPTURE(two_bit_references[i].format);
    for (std::size_t s = 0; s < 3; ++s)
      CHECK(std::fabs(mean(two_bit_references[i].format, r2_widths[s]) - two_bit_references[i].cosine[s]) < 5e-4);
  }
}

TEST_CASE("r2_answered: the reference distortions of NF4 and Q8_0-like blocks") {
  CHECK(predict(format_by_name("nf4_flat64"), 64)->distortion ==
        doctest::Approx(reference::nf4_block64).epsilon(0.003));
  CHECK(predict(format_by_name("w8_g32"), 32)->distortion == doctest::Approx(2.85e-5).epsilon(0.01));
}

TEST_CASE("r2_answered: long rows of Lloyd-Max tables reach the optimal scalar quantizer, and fitting gains a little") {
  for (const int bits : {2, 3, 4}) {
    const auto D = reference::lloyd_max[static_cast<std::size_t>(bits)];
    const std::string name = "lloyd" + std::to_string(bits) + "_channel";
    CHECK(predict(format_by_name(name), 1 << 16)->distortion == doctest::Approx(D).epsilon(1e-3));
    const auto fitted = predict(format_by_name(name, fitter::least_squares), 1024);
    REQUIRE(fitted.has_value());
    CHECK(fitted->distortion < D);
    CHECK(fitted->distortion > 0.95 * D);
  }
}

TEST_CASE("r2_answered: no prediction where no closed form holds") {
  CHECK(!predict(format_by_name("nf4_flat64_dq"), 64).has_value());
  CHECK(!predict(format_by_name("w4_g128_bf16"), 128).has_value());
  CHECK(!predict(format_by_name("w2_channel", fitter::mse_search), 16).has_value());
  CHECK(group_length(format_by_name("w4_g128").format(), 8, 200) == 0);  // groups of 128 and 72
  CHECK(group_length(format_by_name("w4_g128").format(), 8, 64) == 64);
  CHECK(group_length(format_by_name("w4_tensor").format(), 8, 64) == 512);
}

TEST_CASE("r2_answered: a small run meets its closed forms, and no row passes the Shannon limit") {
  r2_answered_options o;
  o.seeds = 4;
  o.large_rows = 32;
  o.searched_rows = 64;
  o.formats = {format_by_name("w2f_channel"), format_by_name("w2a_channel"), format_by_name("w4_g32"),
               format_by_name("nf4_flat64"), format_by_name("lloyd2_channel", fitter::least_squares)};
  const study_table t = r2_answered_table(o, {}, [](const std::string&) {});
  std::size_t predicted = 0;
  for (const finding& f : t.rows) {
    CAPTURE(f.name);
    if (f.name.starts_with("least gap")) CHECK(f.result() == verdict::reproduced);
    else if (f.reported) {
      ++predicted;
      // Sixteen batches: t with 15 degrees of freedom passes 6 in 0.003 % of rows.
      CHECK(std::fabs(*f.difference()) <= 1.5 * f.tolerance);
    }
  }
  CHECK(predicted >= 13 + 9);  // four formats on three sizes, Lloyd-Max on Large, nine rows of the reference table
}
