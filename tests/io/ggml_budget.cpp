// SPDX-License-Identifier: MIT
#include <nibble/io/ggml_budget.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/random.hpp"
#include "support/refusal.hpp"

namespace {

using namespace nibble::io;
using nibble::errc;
using nibble::ggml_type;
using nibble::test::refusal_of;

using tensors = std::vector<std::vector<size_option>>;

/// `count` tensors of up to six options of any bytes and costs.
tensors random_tensors(std::size_t count, std::uint64_t seed) {
  nibble::test::generator random(seed);
  tensors all(count);
  for (auto& options : all)
    for (std::size_t n = 1 + random.next() % 6; n > 0; --n)
      options.push_back({ggml_type::q4_k, 1 + random.next() % 100, static_cast<double>(random.next() % 1000)});
  return all;
}
/// The least cost within the budget by trying everything; negative where nothing fits.
double least_cost(const tensors& all, std::size_t budget, std::size_t t = 0) {
  if (t == all.size()) return 0.0;
  double least = -1.0;
  for (const size_option& o : all[t]) {
    if (o.bytes > budget) continue;
    const double rest = least_cost(all, budget - o.bytes, t + 1);
    if (rest >= 0.0 && (least < 0.0 || o.cost + rest < least)) least = o.cost + rest;
  }
  return least;
}

}  // namespace

TEST_CASE("ggml_budget: never more than the budget, never less than the bound, and the bound is below the optimum") {
  std::size_t exact = 0, tried = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const tensors all = random_tensors(6, seed);
    for (std::size_t budget = 20; budget <= 500; budget += 60) {
      CAPTURE(seed);
      CAPTURE(budget);
      const double least = least_cost(all, budget);
      if (least < 0.0) {
        CHECK(refusal_of([&] { allocate_sizes(all, budget); }).code == errc::bad_value);
        continue;
      }
      const size_allocation got = allocate_sizes(all, budget);
      std::size_t bytes = 0;
      double cost = 0.0;
      for (std::size_t t = 0; t < all.size(); ++t) {
        bytes += all[t][got.chosen[t]].bytes;
        cost += all[t][got.chosen[t]].cost;
      }
      CHECK(bytes == got.bytes);
      CHECK(cost == doctest::Approx(got.cost));
      CHECK(got.bytes <= budget);
      CHECK(got.bound <= least + 1e-9);
      CHECK(least <= got.cost + 1e-9);
      exact += got.cost == doctest::Approx(least) ? 1 : 0;
      ++tried;
    }
  }
  CHECK(exact > tried / 2);
}

TEST_CASE("ggml_budget: with many tensors the cost is within a thousandth of the bound") {
  const tensors all = random_tensors(2000, 7);
  for (const std::size_t budget : {std::size_t{60'000}, std::size_t{80'000}, std::size_t{100'000}}) {
    const size_allocation got = allocate_sizes(all, budget);
    CHECK(got.bytes <= budget);
    CHECK(got.cost <= 1.001 * got.bound + 1e-9);
  }
}

TEST_CASE("ggml_budget: a budget for everything gives each tensor its least cost") {
  const tensors all = random_tensors(50, 3);
  const size_allocation got = allocate_sizes(all, 1'000'000);
  for (std::size_t t = 0; t < all.size(); ++t)
    for (const size_option& o : all[t]) CHECK(all[t][got.chosen[t]].cost <= o.cost);
  CHECK(got.cost == doctest::Approx(got.bound));
}

TEST_CASE("ggml_budget: a budget that nothing fits into names the least size") {
  const tensors all = {{{ggml_type::q2_k, 84, 2.0}, {ggml_type::q4_k, 144, 1.0}}, {{ggml_type::f16, 100, 0.0}}};
  CHECK(refusal_of([&] { allocate_sizes(all, 183); }).says("183 bytes are too few; the least is 184"));
  CHECK(allocate_sizes(all, 184).chosen == std::vector<std::size_t>{0, 0});
  CHECK(allocate_sizes(all, 243).chosen == std::vector<std::size_t>{0, 0});
  CHECK(allocate_sizes(all, 244).chosen == std::vector<std::size_t>{1, 0});
}

TEST_CASE("ggml_budget: no tensor is an empty choice; a tensor without options is refused") {
  CHECK(allocate_sizes(tensors{}, 0).chosen.empty());
  CHECK(refusal_of([&] { allocate_sizes(tensors{{}}, 10); }).says("tensor 0 has no option"));
}

TEST_CASE("ggml_budget: types for rows are those whose blocks divide them") {
  const auto of_odd = types_of_rows(96), of_none = types_of_rows(7), of_all = types_of_rows(512);
  const auto has = [](const std::vector<ggml_type>& types, ggml_type type) {
    return std::find(types.begin(), types.end(), type) != types.end();
  };
  CHECK(has(of_odd, ggml_type::q4_0));
  CHECK(has(of_odd, ggml_type::mxfp4));
  CHECK_FALSE(has(of_odd, ggml_type::q4_k));
  CHECK(of_none == std::vector{ggml_type::f16});
  CHECK(has(of_all, ggml_type::q2_k));
  CHECK(has(of_all, ggml_type::iq4_xs));
  CHECK_FALSE(has(of_all, ggml_type::iq1_s));  // not written
}

TEST_CASE("ggml_budget: sizes as people write them") {
  CHECK(parse_bytes("400MiB") == std::size_t{400} << 20);
  CHECK(parse_bytes("1.5 GB") == 1'500'000'000);
  CHECK(parse_bytes("0.1MB") == 100'000);
  CHECK(parse_bytes("4096") == 4096);
  CHECK(parse_bytes("2.5KiB") == 2560);
  for (const std::string_view bad : {"", "MiB", "4 mib", "-1", "1e9", "1..5", "4 MiB x", "99999999999 GB"})
    CHECK(refusal_of([&] { parse_bytes(bad); }).code == errc::bad_value);
}
