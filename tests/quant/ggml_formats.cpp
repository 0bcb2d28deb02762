// SPDX-License-Identifier: MIT
// The block formats of GGUF files one block at a time; tests/tensor/ggml_rows.cpp compares them with ggml's bytes.
#include <doctest/doctest.h>

#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/policy.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/refusal.hpp"

using namespace nibble;
using test::refusal_of;
namespace g = nibble::quant::ggml;

namespace {

template <class... Formats>
struct list {
  template <class F>
  static void for_each(F&& f) {
    (f(Formats{}), ...);
  }
};
using all = list<g::q8_0, g::q4_0, g::q4_1, g::q5_0, g::q5_1, g::iq4_nl, g::mxfp4, g::q2_k, g::q3_k, g::q4_k, g::q5_k,
                 g::q6_k, g::iq4_xs>;

static_assert(quant::block_codec<g::q8_0> && quant::block_codec<g::q2_k> && quant::block_codec<g::bf16>);

template <class Format>
std::vector<float> values_of(const typename Format::block& b) {
  std::vector<float> y(Format::block_elements);
  Format::decode_block(b, y);
  return y;
}
template <class Format>
typename Format::block block_of(const std::vector<float>& x) {
  typename Format::block b;
  Format::encode_block(x, b);
  return b;
}
template <class Format>
std::vector<float> round_trip(const std::vector<float>& x) {
  return values_of<Format>(block_of<Format>(x));
}
unsigned byte(std::byte b) { return std::to_integer<unsigned>(b); }
void put_half(std::byte* p, float x) { g::detail::store_half(x, p); }

}  // namespace

TEST_CASE("ggml_formats: normal values come back with the error that the width allows") {
  // Root mean square error relative to that of the values, over 64 blocks of Gaussian values.
  const struct {
    ggml_type type;
    double least, most;
  } bounds[] = {
      {ggml_type::q8_0, 0.003, 0.006}, {ggml_type::q4_0, 0.07, 0.10},   {ggml_type::q4_1, 0.06, 0.09},
      {ggml_type::q5_0, 0.03, 0.05},   {ggml_type::q5_1, 0.03, 0.045},  {ggml_type::iq4_nl, 0.06, 0.09},
      {ggml_type::q2_k, 0.20, 0.36},   {ggml_type::q3_k, 0.10, 0.19},   {ggml_type::q4_k, 0.05, 0.085},
      {ggml_type::q5_k, 0.02, 0.045},  {ggml_type::q6_k, 0.012, 0.024}, {ggml_type::iq4_xs, 0.06, 0.09},
      {ggml_type::mxfp4, 0.09, 0.14},
  };
  all::for_each([&]<class Format>(Format) {
    double error = 0, power = 0;
    for (std::uint64_t seed = 0; seed < 64; ++seed) {
      const auto x = test::gaussian(Format::block_elements, seed + 1);
      const auto y = round_trip<Format>(x);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
        error += d * d;
        power += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      }
    }
    const double relative = std::sqrt(error / power);
    const auto* const b =
        std::find_if(std::begin(bounds), std::end(bounds), [](auto& v) { return v.type == Format::type; });
    REQUIRE(b != std::end(bounds));
    CAPTURE(quant::name_of(Format::type));
    CAPTURE(relative);
    CHECK(relative > b->least);
    CHECK(relative < b->most);
  });
}

TEST_CASE("ggml_formats: zeros of either sign come back as zeros") {
  all::for_each([]<class Format>(Format) {
    for (const float zero : {0.0f, -0.0f}) {
      const auto y = round_trip<Format>(std::vector<float>(Format::block_elements, zero));
      CAPTURE(quant::name_of(Format::type));
      CHECK(std::all_of(y.begin(), y.end(), [](float v) { return v == 0.0f; }));
    }
  });
}

TEST_CASE("ggml_formats: values below what a half scale can say come back as small or zero, never as NaN") {
  all::for_each([]<class Format>(Format) {
    for (const float scale : {1e-6f, 1e-12f, 1e-20f, 1e-37f, 1e-40f, 1e-45f}) {
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        auto x = test::gaussian(Format::block_elements, seed, scale);
        x[seed] = 0.0f;
        const auto y = round_trip<Format>(x);
        CAPTURE(quant::name_of(Format::type));
        CAPTURE(scale);
        CHECK(std::all_of(y.begin(), y.end(), [&](float v) { return std::fabs(v) <= 8.0f * scale; }));
      }
    }
  });
}

TEST_CASE("ggml_formats: a single value in a block of zeros is kept, whatever its place and sign") {
  all::for_each([]<class Format>(Format) {
    for (std::size_t at = 0; at < Format::block_elements; ++at) {
      for (const float v : {1.0f, -1.0f, 1000.0f}) {
        std::vector<float> x(Format::block_elements);
        x[at] = v;
        const auto y = round_trip<Format>(x);
        CAPTURE(quant::name_of(Format::type));
        CAPTURE(at);
        CHECK(std::fabs(y[at] - v) <= 0.25f * std::fabs(v));
        for (std::size_t i = 0; i < x.size(); ++i)
          if (i != at) CHECK(std::fabs(y[i]) <= 0.05f * std::fabs(v));
      }
    }
  });
}

TEST_CASE("ggml_formats: finite values below the limit of a format are refused or kept, whatever they are") {
  all::for_each([]<class Format>(Format) {
    for (int exponent = 10; exponent < 128; ++exponent) {
      std::vector<float> x = test::gaussian(Format::block_elements, 3);
      for (std::size_t i = 0; i < x.size(); i += 7) x[i] = std::ldexp(i % 2 == 0 ? 1.0f : -1.0f, exponent);
      try {
        for (const float v : round_trip<Format>(x)) CHECK(is_finite(v));
      } catch (const error& e) {
        CHECK(e.code() == errc::scale_overflow);
        CHECK(exponent >= 16);
      }
    }
  });
}

TEST_CASE("ggml_formats: NaN, infinities and wrong sizes are refused") {
  all::for_each([]<class Format>(Format) {
    typename Format::block b;
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> x(Format::block_elements);
      x.back() = bad;
      CHECK(refusal_of([&] { Format::encode_block(x, b); }).code == errc::bad_value);
    }
    std::vector<float> x(Format::block_elements, std::numeric_limits<float>::max());
    if (Format::type != ggml_type::mxfp4)  // it has a scale for every float
      CHECK(refusal_of([&] { Format::encode_block(x, b); }).code == errc::scale_overflow);
    x.pop_back();
    CHECK(refusal_of([&] { Format::encode_block(x, b); }).code == errc::bad_shape);
    CHECK(refusal_of([&] { Format::decode_block(b, x); }).code == errc::bad_shape);
  });
}

TEST_CASE("ggml_formats: every bit pattern is a block, and a bit of a code changes one element") {
  all::for_each([]<class Format>(Format) {
    test::generator random(static_cast<std::uint64_t>(Format::type));
    typename Format::block b;
    for (int round = 0; round < 200; ++round) {
      for (std::byte& v : b) v = static_cast<std::byte>(random.below(256));
      values_of<Format>(b);
    }
    // With finite scales other than 0 every bit changes one element, or several: those are scales.
    std::size_t single = 0;
    for (std::byte& v : b) v = std::byte{0x65};
    const auto y = values_of<Format>(b);
    for (std::size_t bit = 0; bit < b.size() * 8; ++bit) {
      auto c = b;
      c[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
      const auto z = values_of<Format>(c);
      std::size_t changed = 0;
      for (std::size_t i = 0; i < y.size(); ++i)
        changed += std::bit_cast<std::uint32_t>(y[i]) != std::bit_cast<std::uint32_t>(z[i]);
      single += changed == 1;
      CAPTURE(quant::name_of(Format::type));
      CAPTURE(bit);
      CHECK(changed >= 1);
    }
    const std::size_t per_element = single / Format::block_elements;
    CAPTURE(quant::name_of(Format::type));
    CHECK(single % Format::block_elements == 0);
    CHECK(per_element >= 2);
  });
}

TEST_CASE("ggml_formats: Q8_0 rounds halves away from zero") {
  std::vector<float> x(32);
  x[0] = 127.0f;
  x[1] = 2.5f;
  x[2] = -2.5f;
  x[3] = 0.49999997f;
  x[4] = -127.0f;
  const auto b = block_of<g::q8_0>(x);
  CHECK(byte(b[0]) == 0x00);
  CHECK(byte(b[1]) == 0x3c);
  CHECK(byte(b[2]) == 127);
  CHECK(byte(b[3]) == 3);
  CHECK(byte(b[4]) == 253);
  CHECK(byte(b[5]) == 0);
  CHECK(byte(b[6]) == 129);
}

TEST_CASE("ggml_formats: Q4_0 gives code 0 to the first extreme and clamps its opposite to 15") {
  std::vector<float> x(32);
  x[0] = 8.0f;
  x[1] = -8.0f;
  x[16] = 1.0f;
  const auto b = block_of<g::q4_0>(x);
  CHECK(byte(b[1]) == 0xbc);  // d = -1
  CHECK(byte(b[2]) == 0x70);  // element 0: 0; element 16: -1 / d + 8
  CHECK(byte(b[3]) == 0x8f);  // element 1: 16 clamped; element 17: 8
}

TEST_CASE("ggml_formats: Q4_0 and Q5_0 store a block of zeros with the scale -0") {
  CHECK(byte(block_of<g::q4_0>(std::vector<float>(32))[1]) == 0x80);
  CHECK(byte(block_of<g::q4_0>(std::vector<float>(32))[2]) == 0x88);
  CHECK(byte(block_of<g::q5_0>(std::vector<float>(32))[1]) == 0x80);
}

TEST_CASE("ggml_formats: IQ4_NL takes the upper of two levels as near, and code 8 for a block of zeros") {
  // 7 is in the middle of 1 and 13, -115.5 of -127 and -104.
  const std::vector<float> ends{7.0f, 6.9999995f, -115.5f, -115.50001f, -1000.0f, 1000.0f};
  const std::vector<unsigned> expected{9, 8, 1, 0, 0, 15};
  std::vector<float> x(32);
  std::copy(ends.begin(), ends.end(), x.begin());
  for (std::size_t i = 0; i < 16; ++i) x[16 + i] = static_cast<float>(g::iq4_table[i]);
  std::uint8_t codes[32];
  g::detail::nearest_iq4(x.data(), codes);
  for (std::size_t i = 0; i < ends.size(); ++i) CHECK(codes[i] == expected[i]);
  for (std::size_t i = 0; i < 16; ++i) CHECK(codes[16 + i] == i);
  CHECK(byte(block_of<g::iq4_nl>(std::vector<float>(32))[17]) == 0x88);
}

TEST_CASE("ggml_formats: 6-bit scales and minima come back from their 12 bytes") {
  test::generator random(9);
  for (int round = 0; round < 1000; ++round) {
    int scales[8], mins[8];
    for (int j = 0; j < 8; ++j) {
      scales[j] = static_cast<int>(random.below(64));
      mins[j] = static_cast<int>(random.below(64));
    }
    std::byte packed[12];
    g::detail::packed_scales::store(scales, mins, packed);
    for (std::size_t j = 0; j < 8; ++j) {
      CHECK(g::detail::packed_scales::scale(packed, j) == static_cast<unsigned>(scales[j]));
      CHECK(g::detail::packed_scales::min(packed, j) == static_cast<unsigned>(mins[j]));
    }
  }
}

TEST_CASE("ggml_formats: Q2_K, Q4_K and Q5_K keep a constant negative block by its minimum") {
  const std::vector<float> x(256, -0.75f);
  for (const float v : round_trip<g::q4_k>(x)) CHECK(std::fabs(v + 0.75f) < 0.001f);
  for (const float v : round_trip<g::q5_k>(x)) CHECK(std::fabs(v + 0.75f) < 0.001f);
  for (const float v : round_trip<g::q2_k>(x)) CHECK(std::fabs(v + 0.75f) < 0.001f);
}

TEST_CASE("ggml_formats: a bit of Q3_K's mask that is set subtracts nothing") {
  g::q3_k::block b{};
  put_half(b.data() + 108, 1.0f);
  b[96] = std::byte{0x01};  // scale 0: 1 + 16 * 2 = 33 after the upper bits
  b[104] = std::byte{0x02};
  b[0] = std::byte{0x01};   // third bit of element 0
  b[32] = std::byte{0x03};  // lower bits of element 0
  const auto y = values_of<g::q3_k>(b);
  CHECK(y[0] == 3.0f);
  CHECK(y[1] == -4.0f);
}

TEST_CASE("ggml_formats: MXFP4 has the powers of two of its scale, subnormal ones too") {
  g::mxfp4::block b{};
  b[1] = std::byte{0x71};  // element 0: code 1, 0.5; element 16: code 7, 6
  for (int e = 0; e < 256; ++e) {
    b[0] = static_cast<std::byte>(e);
    const auto y = values_of<g::mxfp4>(b);
    CHECK(static_cast<double>(y[0]) == std::ldexp(1.0, e - 128));
    if (e < 252) CHECK(static_cast<double>(y[16]) == std::ldexp(12.0, e - 128));
  }
}

TEST_CASE("ggml_formats: MXFP4 takes the lower of two levels as near, clamps to 12, and gives zeros no sign") {
  std::vector<float> x(32);  // 8 is the least greatest magnitude of d = 1: e = 128
  const float at[] = {15.0f, 12.5f, 10.0f, 10.000001f, 7.0f, 5.0f, 5.0000005f, 3.5f, 2.5f, 1.5f, 0.5f, 0.50000006f};
  const unsigned expected[] = {7, 7, 6, 7, 5, 4, 5, 3, 2, 1, 0, 1};
  for (const float sign : {1.0f, -1.0f}) {
    for (std::size_t i = 0; i < std::size(at); ++i) x[i] = sign * at[i];
    const auto b = block_of<g::mxfp4>(x);
    CHECK(byte(b[0]) == 128);
    for (std::size_t i = 0; i < std::size(at); ++i) {
      CAPTURE(at[i]);
      CHECK((byte(b[1 + i]) & 15u) == (expected[i] != 0 && sign < 0.0f ? expected[i] + 8 : expected[i]));
    }
  }
}

TEST_CASE("ggml_formats: MXFP4 keeps every float with a finite value, the greatest as 6 times 2^125") {
  for (const float v : {std::numeric_limits<float>::max(), 0x1.fffffp127f, 0x1p127f, 0x1p-125f, -0x1.8p100f}) {
    std::vector<float> x(32);
    x[3] = v;
    const auto y = round_trip<g::mxfp4>(x);
    CAPTURE(v);
    CHECK(std::fabs(y[3] - v) <= 0.25f * std::fabs(v));
    CHECK(std::count(y.begin(), y.end(), 0.0f) == 31);
  }
  std::vector<float> x(32, std::numeric_limits<float>::max());
  CHECK(byte(block_of<g::mxfp4>(x)[0]) == 253);
  CHECK(round_trip<g::mxfp4>(x)[0] == 0x1.8p127f);
}

TEST_CASE("ggml_formats: the exponent of MXFP4 rises one float below a power of two where log2 in float says so") {
  CHECK(g::mxfp4::exponent_of(1.0f) == 125);
  CHECK(g::mxfp4::exponent_of(std::nextafter(1.0f, 0.0f)) == 124);
  CHECK(g::mxfp4::exponent_of(std::nextafter(8.0f, 0.0f)) == 128);
  CHECK(g::mxfp4::exponent_of(std::nextafter(std::nextafter(8.0f, 0.0f), 0.0f)) == 127);
  CHECK(g::mxfp4::exponent_of(std::nextafter(0.25f, 0.0f)) == 123);
  CHECK(g::mxfp4::exponent_of(0.0f) == 0);
  CHECK(g::mxfp4::exponent_of(0x1p-125f) == 0);
  CHECK(g::mxfp4::exponent_of(0x1p-126f) == 255);
  CHECK(g::mxfp4::exponent_of(0x1p-149f) == 232);
}

TEST_CASE("ggml_formats: IQ4_NL and IQ4_XS leave less error where importance is greater") {
  const auto x = test::gaussian(256, 21);
  std::vector<float> importance(256, 1.0f);
  for (std::size_t i = 0; i < 256; i += 4) importance[i] = 1000.0f;
  const auto error_of = [&]<class Format>(Format, const float* weights) {
    double sum = 0.0;
    for (std::size_t first = 0; first < 256; first += Format::block_elements) {
      typename Format::block b;
      Format::encode(x.data() + first, weights == nullptr ? nullptr : weights + first, b.data());
      const auto y = values_of<Format>(b);
      for (std::size_t i = 0; i < y.size(); i += 4) sum += std::pow(double{x[first + i]} - y[i], 2);
    }
    return sum;
  };
  CHECK(error_of(g::iq4_nl{}, importance.data()) < 0.8 * error_of(g::iq4_nl{}, nullptr));
  CHECK(error_of(g::iq4_xs{}, importance.data()) < 0.8 * error_of(g::iq4_xs{}, nullptr));
}
