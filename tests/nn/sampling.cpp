// SPDX-License-Identifier: MIT
#include <nibble/nn/sampling.hpp>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

const float infinity = std::numeric_limits<float>::infinity();

std::vector<nn::token> draw(const nn::sampler_options& options, const std::vector<float>& logits, int n) {
  nn::sampler sample(options);
  std::vector<nn::token> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(sample(logits));
  return tokens;
}

}  // namespace

TEST_CASE("sampling: log_softmax sums to one and keeps differences, for logits of any size") {
  const std::vector<float> logits{1000.0f, 999.0f, -1000.0f, 1000.5f};
  std::vector<double> log_p(4);
  nn::log_softmax(logits, log_p);
  double sum = 0.0;
  for (const double v : log_p) sum += std::exp(v);
  CHECK(sum == doctest::Approx(1.0).epsilon(1e-12));
  CHECK(log_p[0] - log_p[1] == doctest::Approx(1.0).epsilon(1e-9));
  CHECK(log_p[3] - log_p[0] == doctest::Approx(0.5).epsilon(1e-9));
  std::vector<double> wrong(3);
  CHECK_THROWS_WITH_AS(nn::log_softmax(logits, wrong), doctest::Contains("4 logits, 3 results"), error);
}

TEST_CASE("sampling: greedy takes the largest logit, of equal ones the first") {
  nn::sampler greedy;
  CHECK(greedy(std::vector<float>{0.0f, 3.0f, 2.0f, 3.0f}) == 1);
  CHECK(greedy(std::vector<float>{-infinity, -5.0f}) == 1);
  CHECK(draw({.temperature = 2.0, .top_k = 1}, {0.0f, 3.0f, 2.0f, 3.0f}, 20) == std::vector<nn::token>(20, 1));
}

TEST_CASE("sampling: the seed fixes the tokens") {
  std::vector<float> logits(50);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7);
  const auto a = draw({.temperature = 1.0, .seed = 1}, logits, 200);
  CHECK(a == draw({.temperature = 1.0, .seed = 1}, logits, 200));
  CHECK(a != draw({.temperature = 1.0, .seed = 2}, logits, 200));
}

TEST_CASE("sampling: the generator's words and the draw are the documented ones") {
  // The standard fixes the 10000th word of a default std::mt19937_64, so draws are the same everywhere.
  std::mt19937_64 words;
  words.discard(9999);
  CHECK(words() == 9981545732273789042ull);
  // Equal logits: token = floor(4 u), u = the upper 53 bits of each word.
  std::mt19937_64 random(123);
  nn::sampler sample({.temperature = 1.0, .seed = 123});
  for (int i = 0; i < 100; ++i)
    CHECK(sample(std::vector<float>(4, 0.5f)) ==
          static_cast<nn::token>(4.0 * (static_cast<double>(random() >> 11) * 0x1p-53)));
}

TEST_CASE("sampling: frequencies are softmax(logits / temperature)") {
  const std::vector<float> logits{1.0f, 0.0f, 2.0f, -infinity, 0.5f};
  for (const double temperature : {0.5, 1.0, 3.0}) {
    constexpr int n = 20000;
    std::map<nn::token, int> count;
    for (const nn::token t : draw({.temperature = temperature, .seed = 7}, logits, n)) ++count[t];
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(x / temperature);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(logits[i] / temperature) / sum;
      // Five standard deviations of a binomial count.
      CHECK(std::fabs(count[static_cast<nn::token>(i)] - n * p) <= 5.0 * std::sqrt(n * p * (1.0 - p)));
    }
    CHECK(count[3] == 0);
  }
}

TEST_CASE("sampling: top_k leaves the k largest, ties to the lower index, and their proportions") {
  const std::vector<float> logits{1.0f, 2.0f, 1.0f, 0.0f, 1.0f};
  std::map<nn::token, int> count;
  for (const nn::token t : draw({.temperature = 1.0, .top_k = 3, .seed = 3}, logits, 20000)) ++count[t];
  CHECK(count.size() == 3);
  CHECK(count.contains(0));
  CHECK(count.contains(1));
  CHECK(count.contains(2));
  CHECK(count[1] / static_cast<double>(count[0]) == doctest::Approx(std::exp(1.0)).epsilon(0.1));
  CHECK(draw({.temperature = 1.0, .top_k = 5, .seed = 3}, logits, 100) ==
        draw({.temperature = 1.0, .seed = 3}, logits, 100));
}

TEST_CASE("sampling: what is no distribution is refused") {
  nn::sampler sample({.temperature = 1.0});
  CHECK_THROWS_WITH_AS(sample({}), doctest::Contains("no logits"), error);
  CHECK_THROWS_WITH_AS(sample(std::vector<float>{0.0f, std::numeric_limits<float>::quiet_NaN()}),
                       doctest::Contains("logit 1 is"), error);
  CHECK_THROWS_WITH_AS(sample(std::vector<float>{infinity}), doctest::Contains("logit 0 is inf"), error);
  CHECK_THROWS_WITH_AS(sample(std::vector<float>{-infinity, -infinity}),
                       doctest::Contains("all 2 logits are -infinity"), error);
  CHECK_THROWS_WITH_AS(nn::sampler({.temperature = -1.0}), doctest::Contains("temperature -1"), error);
  CHECK_THROWS_AS(nn::sampler({.temperature = std::numeric_limits<double>::quiet_NaN()}), error);
}
