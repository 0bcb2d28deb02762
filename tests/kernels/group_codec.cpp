// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <nibble/kernels/kernels.hpp>
#include <nibble/kernels/panel_params.hpp>
#include <nibble/quant/qtype.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using fit_native = kernels::fit_groups<isa::native>;
using fit_scalar = kernels::fit_groups<isa::scalar>;
using encode_native = kernels::encode_groups<isa::native>;
using encode_scalar = kernels::encode_groups<isa::scalar>;
using decode_native = kernels::decode_groups<isa::native>;
using decode_scalar = kernels::decode_groups<isa::scalar>;
using search_native = kernels::clip_search<isa::native>;

std::vector<std::uint32_t> bits_of(const std::vector<quant::group_params>& p) {
  std::vector<std::uint32_t> bits;
  for (const quant::group_params& v : p) {
    bits.push_back(std::isnan(v.scale) ? 0x7fc00000u : std::bit_cast<std::uint32_t>(v.scale));
    bits.push_back(std::isnan(v.scale) ? 0 : std::bit_cast<std::uint32_t>(v.zero));
  }
  return bits;
}

/// Gaussian values with groups of zeros, of one sign and of one value among them.
std::vector<float> values(std::size_t n, unsigned seed, float sigma) {
  std::vector<float> x = test::gaussian(n, seed, sigma);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t run = i / 64 % 16;
    if (run == 3) x[i] = i % 2 == 0 ? 0.0f : -0.0f;
    if (run == 5) x[i] = std::abs(x[i]);
    if (run == 7) x[i] = -std::abs(x[i]);
    if (run == 9) x[i] = sigma;
  }
  return x;
}

/// Calls f(codec, name) for each format of the list, and with other storage types of the scale.
template <class F>
void for_each_codec(F f) {
  for (std::size_t i = 0; i < quant::qtype_count; ++i) {
    const quant::qtype_info& info = quant::info_of(static_cast<qtype>(i));
    for (const scale_storage s : {scale_storage::f32, scale_storage::f16, scale_storage::bf16}) {
      CAPTURE(info.name);
      CAPTURE(static_cast<int>(s));
      quant::group_codec codec{info.format, info.book};
      codec.format.scale = s;
      f(codec);
    }
  }
}

constexpr std::size_t group_sizes[] = {4, 8, 16, 24, 32, 64, 128, 256, 1000};

}  // namespace

TEST_CASE("group_codec: the scalar kernels take part") { CHECK(test::covers<fit_scalar, isa::scalar>()); }

TEST_CASE("fit_groups: native equals scalar bit for bit in every format, group size and magnitude") {
  if (!test::covers<fit_native, fit_native::isa_type>()) return;
  for_each_codec([](const quant::group_codec& codec) {
    for (const std::size_t group : group_sizes) {
      for (const float sigma : {1e-42f, 1e-30f, 1e-8f, 1e-5f, 3e-4f, 0.02f, 1.0f, 300.0f, 1e6f, 1e30f}) {
        CAPTURE(group);
        CAPTURE(sigma);
        const std::size_t count = 21;
        const auto x = values(count * group, static_cast<unsigned>(group), sigma);
        std::vector<quant::group_params> got(count), want(count);
        fit_native::run(codec, x.data(), group, count, got.data());
        fit_scalar::run(codec, x.data(), group, count, want.data());
        CHECK(bits_of(got) == bits_of(want));
      }
    }
  });
}

TEST_CASE("fit_groups: a NaN or infinity makes the scale of its group NaN and no other") {
  const quant::qtype_info& info = quant::info_of(qtype::w4a_g128);
  const quant::group_codec codec{info.format, {}};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (std::size_t place = 0; place < 8 * 32; place += 37) {
      auto x = test::gaussian(8 * 32, 1);
      x[place] = bad;
      std::vector<quant::group_params> got(8);
      fit_native::run(codec, x.data(), 32, 8, got.data());
      for (std::size_t g = 0; g < 8; ++g) CHECK(std::isnan(got[g].scale) == (g == place / 32));
    }
  }
}

TEST_CASE("encode_groups: native equals scalar on every format, group size and ragged length") {
  if (!test::covers<encode_native, encode_native::isa_type>()) return;
  for_each_codec([](const quant::group_codec& codec) {
    for (const std::size_t group : group_sizes) {
      CAPTURE(group);
      const std::size_t n = 3 * group + 293;  // of short groups more than a kernel takes at once
      const auto x = values(n, static_cast<unsigned>(group), 0.05f);
      std::vector<quant::group_params> params(n / group + 1);
      fit_scalar::run(codec, x.data(), group, n / group, params.data());
      params.back() = params.front();
      params[1].scale *= 0.25f;  // values beyond the ends of the grid
      std::vector<std::uint8_t> got(n), want(n);
      encode_native::run(codec, params.data(), x.data(), group, n, got.data());
      encode_scalar::run(codec, params.data(), x.data(), group, n, want.data());
      CHECK(got == want);
    }
  });
}

TEST_CASE("encode_groups: native equals scalar at the middle between two codes and one unit beside it") {
  if (!test::covers<encode_native, encode_native::isa_type>()) return;
  for_each_codec([](const quant::group_codec& codec) {
    if (codec.format.rule == code_rule::codebook) return;
    const float zero = codec.format.rule == code_rule::asymmetric ? 1.0f : 0.0f;
    std::vector<float> x;
    std::vector<quant::group_params> params;
    for (const float scale : {0.1f, 1.0f / 3.0f, 0.7f, 1.7f, 1e-30f, 3e30f}) {
      params.push_back({scale, zero});
      for (int half = -256; half < 256; ++half) {
        const float middle = 0.5f * static_cast<float>(half) * scale;
        x.push_back(half % 3 == 0 ? middle : std::nextafter(middle, half % 3 == 1 ? 1e38f : -1e38f));
      }
    }
    std::vector<std::uint8_t> got(x.size()), want(x.size());
    encode_native::run(codec, params.data(), x.data(), 512, x.size(), got.data());
    encode_scalar::run(codec, params.data(), x.data(), 512, x.size(), want.data());
    CHECK(got == want);
  });
}

TEST_CASE("encode_groups: native equals scalar over more groups than a kernel takes at once") {
  if (!test::covers<encode_native, encode_native::isa_type>()) return;
  const quant::qtype_info& info = quant::info_of(qtype::w4a_g128);
  const quant::group_codec codec{info.format, {}};
  const std::size_t group = 8, n = 8 * 1000 + 5;
  const auto x = values(n, 1, 0.05f);
  std::vector<quant::group_params> params(n / group + 1);
  fit_scalar::run(codec, x.data(), group, n / group, params.data());
  std::vector<std::uint8_t> got(n), want(n);
  encode_native::run(codec, params.data(), x.data(), group, n, got.data());
  encode_scalar::run(codec, params.data(), x.data(), group, n, want.data());
  CHECK(got == want);
}

TEST_CASE("encode_groups: native equals scalar with scales of 0 and scales without a reciprocal") {
  if (!test::covers<encode_native, encode_native::isa_type>()) return;
  for_each_codec([](const quant::group_codec& codec) {
    for (const float scale : {0.0f, 0x1p-149f, 0x1p-130f, 0x1p-126f, 0x1p126f}) {
      CAPTURE(scale);
      const auto x = values(200, 1, scale == 0.0f ? 1.0f : scale > 1.0f ? 0.3f * scale : 3.0f * scale);
      const std::vector<quant::group_params> params(7,
                                                    {scale, codec.format.rule == code_rule::asymmetric ? 3.0f : 0.0f});
      std::vector<std::uint8_t> got(200), want(200);
      encode_native::run(codec, params.data(), x.data(), 32, 200, got.data());
      encode_scalar::run(codec, params.data(), x.data(), 32, 200, want.data());
      CHECK(got == want);
    }
  });
}

TEST_CASE("encode_groups: reads and writes nothing past n") {
  const quant::qtype_info& info = quant::info_of(qtype::nf4_g64);
  const quant::group_codec codec{info.format, info.book};
  for (const std::size_t n : test::ragged_sizes(64)) {
    CAPTURE(n);
    const test::guarded<float> x(n);
    const auto from = test::gaussian(n, 1);
    std::copy(from.begin(), from.end(), x.begin());
    const test::guarded<std::uint8_t> codes(n);
    const std::vector<quant::group_params> params(n / 32 + 1, {2.0f, 0.0f});
    encode_native::run(codec, params.data(), x.data(), 32, n, codes.data());
    std::vector<std::uint8_t> want(n);
    encode_scalar::run(codec, params.data(), x.data(), 32, n, want.data());
    CHECK(std::equal(want.begin(), want.end(), codes.begin()));
  }
}

TEST_CASE("decode_groups: native equals scalar on every format, group size and ragged length") {
  if (!test::covers<decode_native, decode_native::isa_type>()) return;
  for_each_codec([](const quant::group_codec& codec) {
    for (const std::size_t group : group_sizes) {
      for (const std::size_t n : {std::size_t{3}, group - 1, group, 3 * group + 37}) {
        CAPTURE(group);
        CAPTURE(n);
        std::vector<quant::group_params> params(n / group + 1);
        for (std::size_t g = 0; g < params.size(); ++g) {
          params[g].scale = g == 1 ? 0.0f : 0.3f / static_cast<float>(g + 1);
          if (codec.format.rule == code_rule::asymmetric) params[g].zero = static_cast<float>(g % 4);
          if (codec.format.rule == code_rule::asymmetric_offset) params[g].zero = -0.1f * static_cast<float>(g);
        }
        const test::guarded<std::uint8_t> codes(n);
        for (std::size_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(i * 7 % (1u << codec.format.bits));
        const test::guarded<float> got(n);
        std::vector<float> want(n);
        decode_native::run(codec, params.data(), codes.data(), group, n, got.data());
        decode_scalar::run(codec, params.data(), codes.data(), group, n, want.data());
        bool same = true;
        for (std::size_t i = 0; i < n; ++i)
          same = same && std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(want[i]);
        CHECK(same);
      }
    }
  });
}

TEST_CASE("encode_scales: floats of every size are stored as quant::as_stored has them") {
  std::vector<float> x;
  for (std::uint64_t u = 0; u < std::uint64_t{1} << 32; u += 40961) {
    const float v = std::bit_cast<float>(static_cast<std::uint32_t>(u));
    if (!std::isnan(v)) x.push_back(v);
  }
  for (const float v : {65519.0f, 65520.0f, 0x1p-25f, 0x1.000002p-25f, -0x1p-24f, 0x1.002p0f, 0x1.006p0f})
    x.push_back(v);
  for (const scale_storage s : {scale_storage::f32, scale_storage::f16, scale_storage::bf16}) {
    std::vector<std::byte> stored(x.size() * quant::scale_bytes(s));
    std::vector<float> back(x.size());
    kernels::encode_scales(s, x.data(), x.size(), stored.data());
    kernels::decode_scales(s, stored.data(), x.size(), back.data());
    std::size_t differ = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      differ +=
          std::bit_cast<std::uint32_t>(back[i]) != std::bit_cast<std::uint32_t>(quant::as_stored(s, x[i])) ? 1 : 0;
    CAPTURE(static_cast<int>(s));
    CHECK(differ == 0);
  }
}

TEST_CASE("clip_search: the bounds hold for the errors by the law") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  std::size_t known = 0;
  for_each_codec([&](const quant::group_codec& codec) {
    for (const std::size_t n : {8u, 30u, 32u, 64u, 128u, 1000u}) {
      for (const float sigma : {1e-3f, 1.0f, 700.0f}) {
        CAPTURE(n);
        CAPTURE(sigma);
        // Multiples of a power of two: many of them lie in the middle between two levels of some clip.
        auto x = test::gaussian(n, static_cast<unsigned>(n), sigma);
        if (n % 3 == 2)
          for (float& v : x) v = std::round(v / sigma * 16.0f) * sigma / 16.0f;
        quant::range_scan scan;
        scan.add(x.data(), n);
        float clips[64];
        for (int i = 0; i < 64; ++i) clips[i] = quant::detail::clip_at(i, 64);
        kernels::clip_bounds bounds;
        search_native(codec, clips, 64).bound(scan.range(), x.data(), n, bounds);
        if (!bounds.known) continue;
        ++known;
        double least = std::numeric_limits<double>::infinity();
        bool below = true;
        for (std::size_t i = 0; i < 64; ++i) {
          const quant::group_params p =
              quant::detail::params_for_range(codec, quant::detail::clipped(codec.format.rule, scan.range(), clips[i]));
          const double error = quant::detail::squared_error(codec, quant::contiguous_source{x.data(), n}, p);
          below = below && static_cast<double>(bounds.at_least[i]) <= error;
          least = std::min(least, error);
        }
        CHECK(below);
        CHECK(static_cast<double>(bounds.at_most) >= least);
      }
    }
  });
  CHECK(known > 1000);
}

TEST_CASE("clip_search: the search with bounds finds what the search without finds") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  for_each_codec([&](const quant::group_codec& codec) {
    for (const int clips : {2, 9, 64}) {
      for (unsigned seed = 0; seed < 6; ++seed) {
        CAPTURE(clips);
        CAPTURE(seed);
        const auto x = values(512, seed, 0.02f);
        float clip[64];
        for (int i = 0; i < clips; ++i) clip[i] = quant::detail::clip_at(i, clips);
        const search_native search(codec, clip, static_cast<std::size_t>(clips));
        for (std::size_t first = 0; first < x.size(); first += 64) {
          quant::range_scan scan;
          scan.add(x.data() + first, 64);
          kernels::clip_bounds bounds;
          search.bound(scan.range(), x.data() + first, 64, bounds);
          if (!bounds.known) continue;
          const quant::contiguous_source source{x.data() + first, 64};
          const auto got = quant::detail::fit_mse(codec, source, scan.range(), clips, bounds.open_clips());
          CHECK(quant::detail::same(got, quant::detail::fit_mse(codec, source, scan.range(), clips)));
        }
      }
    }
  });
}

TEST_CASE("clip_search: native finds the parameters that scalar finds, in every format, group size and magnitude") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  for_each_codec([&](const quant::group_codec& codec) {
    for (const std::size_t group : {4u, 8u, 20u, 32u, 64u, 128u, 132u}) {
      for (const int clips : {3, 64}) {
        CAPTURE(group);
        CAPTURE(clips);
        // Two registers of the widest and a part of one; also groups that are dead to float, and near the scale's ends.
        const std::size_t count = 37;
        auto x = values(count * group, static_cast<unsigned>(group), 0.02f);
        const float factors[] = {1e-42f, 1e-9f, 3e-6f, 1e7f, 1e20f};
        for (std::size_t g = 0; g < 5; ++g)
          for (std::size_t i = 0; i < group; ++i) x[(7 * g + 2) * group + i] *= factors[g];
        x[5 * group + 1] = std::numeric_limits<float>::quiet_NaN();
        x[11 * group + group - 1] = -std::numeric_limits<float>::infinity();
        float clip[64];
        for (int i = 0; i < clips; ++i) clip[i] = quant::detail::clip_at(i, clips);
        std::vector<quant::group_params> got(count), want(count);
        search_native(codec, clip, static_cast<std::size_t>(clips)).run(x.data(), group, count, got.data());
        kernels::clip_search<isa::scalar>(codec, clip, static_cast<std::size_t>(clips))
            .run(x.data(), group, count, want.data());
        CHECK(bits_of(got) == bits_of(want));
      }
    }
  });
}

TEST_CASE("clip_search: a search among tables of any shape finds what scalar finds") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  float clip[64];
  for (int i = 0; i < 64; ++i) clip[i] = quant::detail::clip_at(i, 64);
  for (int bits = 2; bits <= 8; ++bits) {
    for (const codebook_scaling scaling :
         {codebook_scaling::absmax, codebook_scaling::absmax_reciprocal, codebook_scaling::rms}) {
      CAPTURE(bits);
      CAPTURE(static_cast<int>(scaling));
      std::vector<float> levels = test::gaussian(std::size_t{1} << bits, static_cast<unsigned>(bits));
      levels[1] = levels[0] * 1.001f, levels[2] = levels[0] * 1.0005f;
      const quant::run_time_table table(levels, bits);
      const quant::group_codec codec{
          {code_rule::codebook, static_cast<std::uint8_t>(bits), granularity_kind::grouped, scale_storage::f16, 64},
          table.desc(scaling)};
      for (const std::size_t group : {12u, 64u}) {
        const auto x = values(35 * group, static_cast<unsigned>(bits), 0.3f);
        std::vector<quant::group_params> got(35), want(35);
        search_native(codec, clip, 64).run(x.data(), group, 35, got.data());
        kernels::clip_search<isa::scalar>(codec, clip, 64).run(x.data(), group, 35, want.data());
        CHECK(bits_of(got) == bits_of(want));
      }
    }
  }
}

TEST_CASE("clip_search: the bounds hold for tables of any shape, and the squared error is the law's bit for bit") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  std::size_t known = 0;
  for (int bits = 2; bits <= 6; ++bits) {
    for (const int shape : {0, 1, 2, 3}) {
      CAPTURE(bits);
      CAPTURE(shape);
      // Levels as they come; three near each other; a far one; thresholds off the middles, one beyond its levels.
      std::vector<float> levels = test::gaussian(std::size_t{1} << bits, static_cast<unsigned>(10 * bits + shape));
      if (shape == 1) levels[1] = levels[0] * 1.001f, levels[2] = levels[0] * 1.0005f;
      if (shape == 2) levels[1] = 300.0f;
      const quant::run_time_table table(levels, bits);
      quant::group_codec codec{
          {code_rule::codebook, static_cast<std::uint8_t>(bits), granularity_kind::grouped, scale_storage::f16, 64},
          table.desc()};
      std::vector<float> off(codec.book.thresholds, codec.book.thresholds + quant::detail::threshold_count(codec.book));
      if (shape == 3) {
        std::vector<float> sorted = levels;
        std::sort(sorted.begin(), sorted.end());
        for (std::size_t i = 0; i < off.size(); ++i) off[i] += (sorted[i + 1] - sorted[i]) * (i == 1 ? 0.7f : 0.2f);
        std::sort(off.begin(), off.end());
        codec.book.thresholds = off.data();
      }
      float clips[64];
      for (int i = 0; i < 64; ++i) clips[i] = quant::detail::clip_at(i, 64);
      const search_native search(codec, clips, 64);
      for (const std::size_t n : {1u, 7u, 16u, 29u, 64u, 200u, 700u}) {
        CAPTURE(n);
        const auto x = test::gaussian(n, static_cast<unsigned>(n), 0.05f);
        quant::range_scan scan;
        scan.add(x.data(), n);
        const quant::contiguous_source source{x.data(), n};
        kernels::clip_bounds bounds;
        search.bound(scan.range(), x.data(), n, bounds);
        known += bounds.known ? 1 : 0;
        double least = std::numeric_limits<double>::infinity();
        bool below = true, same = true;
        for (std::size_t i = 0; i < 64; ++i) {
          const quant::group_params p =
              quant::detail::params_for_range(codec, quant::detail::clipped(codec.format.rule, scan.range(), clips[i]));
          const double error = quant::detail::squared_error(codec, source, p);
          same = same && search.squared_error(p, x.data(), n, __builtin_inf()) == error;
          below = below && (!bounds.known || static_cast<double>(bounds.at_least[i]) <= error);
          least = std::min(least, error);
        }
        CHECK(same);
        CHECK(below);
        if (bounds.known) CHECK(static_cast<double>(bounds.at_most) >= least);
      }
    }
  }
  CHECK(known > 100);
}

TEST_CASE("clip_search: the squared error is the law's on every format, ragged length, scale and limit") {
  if (!test::covers<search_native, search_native::isa_type>()) return;
  constexpr float most = std::numeric_limits<float>::max();
  for_each_codec([&](const quant::group_codec& codec) {
    const float clip = 1.0f;
    const search_native search(codec, &clip, 1);
    for (const std::size_t n : test::ragged_sizes(256)) {
      for (const float scale : {0.0f, 0x1p-149f, 0x1p-130f, 1e-6f, 0.02f, 1.0f, most}) {
        CAPTURE(n);
        CAPTURE(scale);
        auto x = values(n, static_cast<unsigned>(n), scale == 0.0f || scale == most ? 1.0f : 2.0f * scale);
        x[n / 2] = scale < 1e-30f ? 0x1p-149f : -most;
        const test::guarded<float> at(n);
        std::copy(x.begin(), x.end(), at.begin());
        const quant::group_params p{scale, codec.format.rule == code_rule::asymmetric ? 3.0f : 0.0f};
        const double want = quant::detail::squared_error(codec, quant::contiguous_source{x.data(), n}, p);
        const double got = search.squared_error(p, at.data(), n, __builtin_inf());
        CHECK(std::bit_cast<std::uint64_t>(got) == std::bit_cast<std::uint64_t>(want));
        CHECK(search.squared_error(p, at.data(), n, want) == want);
        if (want > 0.0) CHECK(search.squared_error(p, at.data(), n, want * 0.5) > want * 0.5);
      }
    }
  });
}
