// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/qtype.hpp>

#include <bit>
#include <span>
#include <vector>

#include "support/guard_page.hpp"
#include "support/random.hpp"

using namespace nibble;

namespace {

/// A policy's functions as pointers, so that the checks below are compiled once and not for each of the formats.
struct functions {
  int (*encode)(float, quant::group_params) noexcept;
  float (*decode)(int, quant::group_params) noexcept;
  quant::group_params (*fit)(std::span<const float>) noexcept;
};

template <class F>
void for_each_policy(F f) {
  quant::for_each_qtype([&]<class P>(qtype type) {
    f(quant::info_of(type), functions{&P::encode, &P::decode, &P::fit});
  });
}

void check_arrays(const quant::qtype_info& info, const functions& policy) {
  CAPTURE(info.name);
  const quant::group_codec codec{info.format, info.book};
  for (std::size_t n : {1u, 4u, 31u, 32u, 33u, 75u, 200u})
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const auto x = seed % 2 == 0 ? test::gaussian(n, seed + n) : test::adversarial(n, seed + n);
      test::guarded<float> in(n), out(n);
      test::guarded<std::uint8_t> codes(n);
      std::copy(x.begin(), x.end(), in.begin());
      quant::group_params p = policy.fit(x);
      if (seed == 2) p.scale *= 0.25f;  // clipping
      if (seed == 3) p.scale = 0.0f;
      quant::encode_group(codec, p, in.data(), n, codes.data());
      quant::decode_group(codec, p, codes.data(), n, out.data());
      for (std::size_t i = 0; i < n; ++i) {
        CAPTURE(x[i]);
        REQUIRE(int{codes[i]} == policy.encode(x[i], p));
        REQUIRE(std::bit_cast<std::uint32_t>(out[i]) == std::bit_cast<std::uint32_t>(policy.decode(codes[i], p)));
      }
    }
  // All codes decode, also those that encode never gives.
  std::vector<std::uint8_t> all(std::size_t{1} << info.format.bits);
  for (std::size_t u = 0; u < all.size(); ++u) all[u] = static_cast<std::uint8_t>(u);
  std::vector<float> values(all.size());
  const quant::group_params p{0.3f, info.format.rule == code_rule::asymmetric ? 1.0f : 0.0f};
  quant::decode_group(codec, p, all.data(), all.size(), values.data());
  for (std::size_t u = 0; u < all.size(); ++u) REQUIRE(values[u] == policy.decode(static_cast<int>(u), p));
}

void check_squared_error(const quant::qtype_info& info, const functions& policy) {
  CAPTURE(info.name);
  const quant::group_codec codec{info.format, info.book};
  const auto x = test::gaussian(700, 5);
  const quant::group_params p = policy.fit(x);
  quant::lane_sum sum;
  quant::add_squared_error(codec, p, x.data(), x.size(), sum);
  double expected = 0.0;
  for (const float v : x) {
    const double e = static_cast<double>(v) - static_cast<double>(policy.decode(policy.encode(v, p), p));
    expected += e * e;
  }
  CHECK(sum.total() == doctest::Approx(expected).epsilon(1e-4));
}

}  // namespace

TEST_CASE("group_codec: arrays are encoded and decoded as the policies do it, for every format of the list") {
  for_each_policy(check_arrays);
}

TEST_CASE("group_codec: the squared error is that of the decoded values, to rounding") {
  for_each_policy(check_squared_error);
}
