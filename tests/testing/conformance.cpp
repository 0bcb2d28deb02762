// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <nibble/gemm/gemm.hpp>
#include <nibble/testing/conformance.hpp>
#include <nibble/testing/digest.hpp>

namespace {

using namespace nibble;

/// What is wrong with the engine under test.
enum class bug {
  none,
  skips_last_k,
  skips_last_column,
  reads_past_codes,
  reads_before_codes,
  reads_past_x,
  adds_groups_backwards,
  adds_halves_of_k,
  scales_each_half_group,
  saturates_pairs,
  reads_y,
  stores_whole_vectors,
  writes_past_y,
  spreads_nan,
  changes_x,
  begins_at_negative_zero,
};

/// A small engine of another make: canonical rows, plain loops, float sums like the law's own.
errc toy_multiply(bug b, span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& o) {
  const quantized_view& w = W.matrix;
  if (W.layout != layout_id::row_major || w.format.granularity == granularity_kind::flat)
    return errc::unsupported_layout;
  const bool integer = o.computation == computation::integer;
  const std::size_t K = w.K;
  const float h = static_cast<float>(1 << (w.format.bits - 1));
  float nan_of_before = 0.0f;
  for (std::size_t m = 0; m < X.rows; ++m) {
    const float* x = X.data + m * X.stride;
    if (b == bug::changes_x && m == 0) const_cast<float*>(x)[K / 2] += 1.0f;
    float largest = 0.0f, nan = 0.0f;
    for (std::size_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(x[k])), nan += x[k] - x[k];
    if (b == bug::reads_past_x && m + 1 == X.rows) nan += 0.0f * *static_cast<const volatile float*>(x + K);
    const float token = std::isnan(nan) ? nan : largest / 127.0f;
    std::vector<float> a(x, x + K);
    if (integer)
      for (float& v : a) v = token > 0.0f ? std::nearbyint(std::clamp(v / token, -127.0f, 127.0f)) : 0.0f;

    for (std::size_t n = 0; n < w.N; ++n) {
      if (b == bug::skips_last_column && n + 1 == w.N) continue;
      const std::byte* row = w.codes + n * w.row_stride_bytes;
      if (b == bug::reads_past_codes && n + 1 == w.N)
        (void)*static_cast<const volatile std::byte*>(row + pack::packed_bytes(K, w.format.bits));
      if (b == bug::reads_before_codes && n == 0) (void)*static_cast<const volatile std::byte*>(row - 1);
      const std::size_t one = quant::groups_per_row(w.format, K) == 1 ? K : w.format.group_size;
      const auto sum_of = [&](std::size_t begin, std::size_t end, float acc) {
        const std::size_t g = quant::group_of(w.format, K, n, begin);
        const float scale = quant::scale_at(w, g), zero = quant::zero_at(w, g);
        float p = 0.0f, x_sum = 0.0f;
        std::int64_t exact = 0, exact_x = 0;
        for (std::size_t k = begin; k < end; ++k) {
          if (b == bug::skips_last_k && k + 1 == K) break;
          const auto u = static_cast<int>(pack::get(row, k, w.format.bits));
          if (integer) {
            std::int64_t product = std::int64_t{u} * static_cast<int>(a[k]);
            exact_x += static_cast<int>(a[k]);
            if (b == bug::saturates_pairs && k % 2 == 0 && k + 1 < end) {
              ++k;
              product += std::int64_t{static_cast<int>(pack::get(row, k, w.format.bits))} * static_cast<int>(a[k]);
              exact_x += static_cast<int>(a[k]);
              product = std::clamp<std::int64_t>(product, -32768, 32767);
            }
            exact += product;
          } else {
            float q = w.format.rule == code_rule::codebook ? w.table[u] : static_cast<float>(u);
            if (w.format.rule == code_rule::symmetric || w.format.rule == code_rule::symmetric_full) q -= h;
            if (w.format.rule == code_rule::mid_rise) q -= h - 0.5f;
            if (w.format.rule == code_rule::asymmetric) q -= zero;
            p = multiply_add(a[k], q, p);
            x_sum += a[k];
          }
        }
        if (integer) {
          const std::int64_t two = w.format.rule == code_rule::mid_rise ? 2 : 1;
          std::int64_t z = 0;
          if (w.format.rule == code_rule::symmetric || w.format.rule == code_rule::symmetric_full)
            z = static_cast<std::int64_t>(h);
          if (w.format.rule == code_rule::mid_rise) z = 2 * static_cast<std::int64_t>(h) - 1;
          if (w.format.rule == code_rule::asymmetric) z = static_cast<std::int64_t>(zero);
          p = static_cast<float>(two * exact - z * exact_x) / static_cast<float>(two);
          x_sum = static_cast<float>(exact_x);
        }
        acc = fused_multiply_add(p, scale, acc);
        return w.format.rule == code_rule::asymmetric_offset ? fused_multiply_add(x_sum, zero, acc) : acc;
      };
      const auto all_groups = [&](std::size_t from, std::size_t to) {
        float acc = integer ? 0.0f : nan;
        if (b == bug::begins_at_negative_zero && acc == 0.0f) acc = -0.0f;
        const std::size_t first = from / one, last = ceil_div(to, one);
        for (std::size_t i = first; i < last; ++i) {
          const std::size_t g = b == bug::adds_groups_backwards ? last - 1 - (i - first) : i;
          const std::size_t begin = std::max(from, g * one), end = std::min({to, (g + 1) * one, K});
          const std::size_t half =
              b == bug::scales_each_half_group ? begin + ceil_div(end - begin, std::size_t{2}) : end;
          acc = sum_of(begin, half, acc);
          if (half < end) acc = sum_of(half, end, acc);
        }
        return acc;
      };
      float acc = 0.0f;
      if (b == bug::adds_halves_of_k && K > 1) {
        const std::size_t middle = ceil_div(K, std::size_t{2});
        acc = all_groups(0, middle) + all_groups(middle, K);
      } else {
        acc = all_groups(0, K);
      }
      if (b == bug::spreads_nan) acc += nan_of_before;
      float& y = Y.data[m * Y.stride + n];
      float value = acc;
      if (integer) value = o.bias != nullptr ? fused_multiply_add(acc, token, o.bias[n]) : acc * token;
      else if (o.bias != nullptr) value = acc + o.bias[n];
      if (o.beta != 0.0f || b == bug::reads_y) value = fused_multiply_add(o.beta, y, value);
      y = value;
    }
    nan_of_before = nan;
    if (b == bug::stores_whole_vectors && m + 1 < X.rows) Y.data[m * Y.stride + w.N] = 0.0f;
    if (b == bug::writes_past_y && m + 1 == X.rows) *static_cast<volatile float*>(Y.data + m * Y.stride + w.N) = 1.0f;
  }
  return errc::ok;
}

/// A few formats are enough to see a bug, and keep the run short.
testing::conformance_options few_formats() {
  testing::conformance_options o;
  o.formats = {{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32},
               {code_rule::asymmetric, 8, granularity_kind::per_channel, scale_storage::f32, 0},
               {code_rule::mid_rise, 3, granularity_kind::grouped, scale_storage::bf16, 64},
               {code_rule::asymmetric_offset, 5, granularity_kind::grouped, scale_storage::f32, 12},
               {code_rule::codebook, 4, granularity_kind::grouped, scale_storage::f16, 64}};
  o.max_failures = 1000;
  return o;
}

testing::report run(bug b, const testing::conformance_options& o = few_formats()) {
  return testing::check_multiply([b](span2d<const float> X, const packed_view& W, span2d<float> Y,
                                     const gemm_options& options) { return toy_multiply(b, X, W, Y, options); },
                                 o);
}

/// The failures that give this as their likely cause.
std::size_t caused_by(const testing::report& r, std::string_view cause) {
  return static_cast<std::size_t>(std::count_if(r.failures.begin(), r.failures.end(), [&](const testing::failure& f) {
    return f.cause.find(cause) != std::string::npos;
  }));
}

}  // namespace

TEST_CASE("conformance: a correct engine of another make passes, flat formats refused") {
  testing::conformance_options o;
  const testing::report r = run(bug::none, o);
  INFO(r.text());
  CHECK(r.passed());
  CHECK(r.cases > 5000);
  CHECK(r.refused > 0);
}

TEST_CASE("conformance: a run in which all calls are refused has not passed") {
  const testing::report r = testing::check_multiply([](auto...) { return errc::unsupported_format; }, few_formats());
  CHECK_FALSE(r.passed());
  CHECK(r.text().find("nothing was compared") != std::string::npos);
}

TEST_CASE("conformance: a planted off-by-one in k is caught and named") {
  const testing::report r = run(bug::skips_last_k);
  INFO(r.text());
  CHECK_FALSE(r.passed());
  CHECK(caused_by(r, "the last k is left out") > r.failed * 9 / 10);
}

TEST_CASE("conformance: a planted off-by-one in the columns is caught and named") {
  const testing::report r = run(bug::skips_last_column);
  CHECK(r.failed > r.cases / 2);
  CHECK(caused_by(r, "the last column is not written") > 0);
}

#if NIBBLE_TESTING_PAGES
TEST_CASE("conformance: a planted over-read of one byte is caught, named, and does not stop the run") {
  const testing::report r = run(bug::reads_past_codes);
  REQUIRE_FALSE(r.passed());
  // Every case whose buffers end at a page: three of four.
  CHECK(r.failed > r.cases * 2 / 3);
  CHECK(r.failures.front().place == "codes were read at byte 0 past their end");
  CHECK(caused_by(r, "an over-read") == r.failed);
}

TEST_CASE("conformance: a read in front of the codes is caught") {
  const testing::report r = run(bug::reads_before_codes);
  REQUIRE_FALSE(r.passed());
  CHECK(r.failures.front().place == "codes were read 1 bytes before their begin");
}

TEST_CASE("conformance: a read past the last row of X is caught") {
  const testing::report r = run(bug::reads_past_x);
  REQUIRE_FALSE(r.passed());
  CHECK(r.failures.front().place == "activations were read at byte 0 past their end");
}
#endif

TEST_CASE("conformance: a write past the last row of Y is caught") {
  const testing::report r = run(bug::writes_past_y);
  CHECK(r.failed == r.cases);
  CHECK(caused_by(r, "a write") == r.failed);
}

TEST_CASE("conformance: summation order: groups from the last to the first are caught and named") {
  const testing::report r = run(bug::adds_groups_backwards);
  INFO(r.text());
  CHECK(caused_by(r, "groups are added from the last to the first") > 100);
}

TEST_CASE("conformance: summation order: two halves of K added in float are caught and named") {
  const testing::report r = run(bug::adds_halves_of_k);
  INFO(r.text());
  CHECK(caused_by(r, "K is split in two halves") > 100);
}

TEST_CASE("conformance: summation order: a scale applied to each half of a group is caught and named") {
  const testing::report r = run(bug::scales_each_half_group);
  INFO(r.text());
  CHECK(caused_by(r, "the scale is applied to each half of a group") > 100);
  // In both computations: integer sums are exact, their scaling is not.
  bool integer = false, weight_only = false;
  for (const testing::failure& f : r.failures) {
    integer = integer || f.arguments.find("integer") == 0;
    weight_only = weight_only || f.arguments.find("weight-only") == 0;
  }
  CHECK(integer);
  CHECK(weight_only);
}

TEST_CASE("conformance: pairs that saturate 16 bits are caught and named") {
  const testing::report r = run(bug::saturates_pairs);
  INFO(r.text());
  CHECK(caused_by(r, "saturated to 16 bits") > 5);
}

TEST_CASE("conformance: a Y that is read with beta 0 is caught") {
  const testing::report r = run(bug::reads_y);
  CHECK(caused_by(r, "Y is read though beta is 0") > 100);
}

TEST_CASE("conformance: stores into the gap between rows of Y are caught") {
  const testing::report r = run(bug::stores_whole_vectors);
  CHECK(caused_by(r, "columns past N are stored") > 100);
}

TEST_CASE("conformance: a NaN that reaches another row is caught") {
  const testing::report r = run(bug::spreads_nan);
  CHECK(caused_by(r, "a NaN or an infinity of another row") > 0);
}

TEST_CASE("conformance: an input that is written is caught") {
  const testing::report r = run(bug::changes_x);
  CHECK(caused_by(r, "an input is used as scratch memory") > 100);
}

TEST_CASE("conformance: a zero of the wrong sign is caught and named") {
  const testing::report r = run(bug::begins_at_negative_zero);
  CHECK(r.failed > 0);
  CHECK(caused_by(r, "the sign of zero") == r.failed);
}

TEST_CASE("conformance: a stated error bound takes another order of sums, and refuses a wrong sum") {
  testing::conformance_options o = few_formats();
  o.integer = false;
  o.float_results = testing::float_policy::bounded(0.0);
  for (const bug b : {bug::none, bug::adds_groups_backwards, bug::adds_halves_of_k, bug::scales_each_half_group}) {
    const testing::report r = run(b, o);
    INFO(r.text());
    CHECK(r.passed());
  }
  CHECK_FALSE(run(bug::skips_last_k, o).passed());
  CHECK_FALSE(run(bug::skips_last_column, o).passed());
}

TEST_CASE("conformance: bfloat16 products pass; weights that are cut off instead of rounded are caught") {
  testing::conformance_options o = few_formats();
  o.integer = o.weight_only = false;
  o.bfloat16 = true;
  const auto run = [&](bool cut) {
    return testing::check_multiply(
        [cut](span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options) {
          if (!cut) {
            gemm::reference::multiply(X, W, Y, options, {});
            return errc::ok;
          }
          for (std::size_t m = 0; m < X.rows; ++m)
            for (std::size_t n = 0; n < Y.cols; ++n) {
              float sum = 0.0f;
              for (std::size_t k = 0; k < X.cols; ++k) {
                const float w = static_cast<float>(gemm::reference::weight(W, n, k));
                const bfloat16 high{static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(w) >> 16)};
                sum = multiply_add(to_float(to_bfloat16(X.data[m * X.stride + k])), to_float(high), sum);
              }
              Y.data[m * Y.stride + n] = sum;
            }
          return errc::ok;
        },
        o);
  };
  const testing::report right = run(false), wrong = run(true);
  INFO(right.text());
  CHECK(right.passed());
  CHECK(right.cases > 100);
  CHECK(wrong.failed > wrong.cases / 2);
}

TEST_CASE("conformance: the law with no slip is the law") {
  // Two separate implementations: law_element, and element_with without a slip.
  for (const format_desc& f : testing::covering_formats())
    for (const testing::operand_pattern p : {testing::operand_pattern::random, testing::operand_pattern::cancelling}) {
      const any_qmatrix m = testing::weights(p, f, 3, 70, 5);
      const testing::law_weights w(m.view());
      const std::vector<float> x = testing::activations(p, 1, 70, 6);
      const testing::law_token token{std::span<const float>(x)};
      for (const computation c : {computation::integer, computation::weight_only}) {
        if (c == computation::integer && f.rule == code_rule::codebook) continue;
        for (const testing::float_rule rule : {testing::float_rule::fused, testing::float_rule::rounded_twice})
          for (std::size_t n = 0; n < 3; ++n) {
            const gemm_options o{.computation = c, .beta = -0.5f};
            CHECK(testing::element_with({}, w, token, n, o, rule, 3.0f) ==
                  testing::law_element(w, token, n, o, rule, 3.0f));
          }
      }
    }
}

TEST_CASE("conformance: a failure names format, shape, operands, element, values with bits and ulps, and cause") {
  testing::failure f;
  f.function = "multiply", f.format = "4-bit symmetric, groups of 32, half scales";
  f.arguments = "integer, M = 1, N = 2, K = 3", f.operands = "random", f.place = "Y(0, 1)";
  f.has_values = true, f.got = 1.0, f.want = 2.0, f.got_bits = 0x3f800000u, f.want_bits = 0x40000000u;
  f.ulps = testing::ulps_between(1.0f, 2.0f), f.wrong = 1, f.compared = 2, f.cause = "none";
  CHECK(testing::to_string(f) ==
        "multiply: 4-bit symmetric, groups of 32, half scales, integer, M = 1, N = 2, K = 3, operands random: Y(0, 1) "
        "is 1 (3f800000), should be 2 (40000000), 8388608 ulps; wrong: 1 of 2; likely cause: none");
  CHECK(testing::ulps_between(-0.0f, 0.0f) == 0);
  CHECK(testing::ulps_between(-std::numeric_limits<float>::denorm_min(), 0.0f) == 1);
  CHECK(testing::ulps_between(std::nanf(""), 0.0f) == -1);
}

TEST_CASE("conformance: activation quantization passes by the law; ties, an over-read and unset padding are caught") {
  const auto quantize = [](const float* x, std::size_t K, std::int8_t* codes, std::size_t padded, auto round) {
    float largest = 0.0f, nan = 0.0f;
    for (std::size_t k = 0; k < K; ++k) largest = std::max(largest, std::fabs(x[k])), nan += x[k] - x[k];
    const float scale = std::isnan(nan) ? nan : largest / 127.0f;
    for (std::size_t k = 0; k < padded; ++k)
      codes[k] = k < K && scale > 0.0f ? static_cast<std::int8_t>(round(std::clamp(x[k] / scale, -127.0f, 127.0f)))
                                       : std::int8_t{0};
    return scale;
  };
  const auto even = [](float v) { return std::nearbyint(v); };
  using testing::check_quantize_row;
  const testing::report good = check_quantize_row([&](const float* x, std::size_t K, std::int8_t* c,
                                                      std::size_t padded) { return quantize(x, K, c, padded, even); });
  INFO(good.text());
  CHECK(good.passed());

  const testing::report ties =
      check_quantize_row([&](const float* x, std::size_t K, std::int8_t* c, std::size_t padded) {
        return quantize(x, K, c, padded, [](float v) { return std::round(v); });
      });
  CHECK(caused_by(ties, "ties are not rounded to even") > 0);

  const testing::report padding = check_quantize_row(
      [&](const float* x, std::size_t K, std::int8_t* c, std::size_t) { return quantize(x, K, c, K, even); });
  CHECK(caused_by(padding, "codes past K must be 0") > 0);

#if NIBBLE_TESTING_PAGES
  const testing::report over =
      check_quantize_row([&](const float* x, std::size_t K, std::int8_t* c, std::size_t padded) {
        (void)*static_cast<const volatile float*>(x + K);
        return quantize(x, K, c, padded, even);
      });
  CHECK(caused_by(over, "an over-read") == over.failures.size());
  CHECK(over.failed >= over.cases / 2);
#endif
}

TEST_CASE("conformance: unpacking passes; a word that reads past the codes and a missing rest are caught") {
  using testing::check_unpack;
  const testing::report good = check_unpack([](const std::byte* p, std::size_t count, int bits, std::uint8_t* codes) {
    for (std::size_t i = 0; i < count; ++i) codes[i] = static_cast<std::uint8_t>(pack::get(p, i, bits));
  });
  INFO(good.text());
  CHECK(good.passed());
  const testing::report rest = check_unpack([](const std::byte* p, std::size_t count, int bits, std::uint8_t* codes) {
    pack::unpack_row(p, count / 8 * 8, bits, codes);
  });
  CHECK(caused_by(rest, "the codes past whole groups of 8") + caused_by(rest, "the last code") > 0);
#if NIBBLE_TESTING_PAGES
  const testing::report over = check_unpack([](const std::byte* p, std::size_t count, int bits, std::uint8_t* codes) {
    const std::size_t bytes = pack::packed_bytes(count, bits);
    std::uint64_t word = 0;  // eight bytes at once, whatever is left
    for (std::size_t i = 0; i < 8; ++i)
      word ^= std::to_integer<std::uint64_t>(*static_cast<const volatile std::byte*>(p + bytes - 1 + i));
    pack::unpack_row(p, count, bits, codes);
    (void)word;
  });
  CHECK(caused_by(over, "an over-read") > 0);
#endif
}

TEST_CASE("conformance: quantization of weights passes; a scale by another range is caught") {
  testing::conformance_options o;
  const auto quantize = [](span2d<const float> W, const testing::quantized_planes& out, float clip) {
    std::vector<float> copy;
    for (std::size_t n = 0; n < W.rows; ++n)
      for (std::size_t k = 0; k < W.cols; ++k) copy.push_back(W.data[n * W.stride + k] * clip);
    const any_qmatrix q = nibble::quantize(out.format, make_span2d<const float>(copy.data(), W.rows, W.cols));
    std::copy(q.codes().begin(), q.codes().end(), out.codes.begin());
    std::copy(q.scale_plane().begin(), q.scale_plane().end(), out.scales.begin());
    std::copy(q.zero_plane().begin(), q.zero_plane().end(), out.zeros.begin());
    std::copy(q.super_scales().begin(), q.super_scales().end(), out.super_scales.begin());
    std::copy(q.block_scales().begin(), q.block_scales().end(), out.block_scales.begin());
    return errc::ok;
  };
  const testing::report good = testing::check_quantize(
      [&](span2d<const float> W, const testing::quantized_planes& out) { return quantize(W, out, 1.0f); }, o);
  INFO(good.text());
  CHECK(good.passed());
  const testing::report clipped = testing::check_quantize(
      [&](span2d<const float> W, const testing::quantized_planes& out) { return quantize(W, out, 0.9f); }, o);
  CHECK(caused_by(clipped, "the range of a group") > 0);
}

TEST_CASE("digest: FNV-1a of the empty string, of 'a' and of 'foobar'") {
  // Test vectors of the hash's authors.
  CHECK(testing::digest().value() == 0xcbf29ce484222325u);
  CHECK(testing::digest().add("a", 1).value() == 0xaf63dc4c8601ec8cu);
  CHECK(testing::digest().add("foobar", 6).text() == "85944171f73967e8");
}
