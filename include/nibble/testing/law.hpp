// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The numeric law of kernels/README.md, one element at a time and nothing shared with the kernels: what conformance.hpp
/// compares with. Beside it the same element computed with a known slip, which is how a wrong result gets a likely cause.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/pack/bits.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/integer_image.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// `madd` of the law.
enum class float_rule : unsigned char {
  fused,          ///< one rounding: targets with FMA
  rounded_twice,  ///< the product, then the sum
};
/// That of this translation unit's flags, which nibble's own kernels follow.
inline constexpr float_rule native_float_rule = NIBBLE_HAS_FMA ? float_rule::fused : float_rule::rounded_twice;

constexpr float_rule other(float_rule r) noexcept {
  return r == float_rule::fused ? float_rule::rounded_twice : float_rule::fused;
}
inline float madd(float_rule rule, float a, float b, float c) noexcept {
  return rule == float_rule::fused ? fused_multiply_add(a, b, c) : rounded_product(a, b) + c;
}

/// One row of X as both computations see it.
struct law_token {
  std::span<const float> x;
  std::vector<std::int8_t> codes;
  float scale = 0.0f;  ///< NaN when an activation is not finite
  bool finite = true;

  explicit law_token(std::span<const float> row) : x(row), codes(row.size()) {
    float largest = 0.0f;
    for (const float v : row) {
      finite = finite && std::isfinite(v);
      largest = std::fmax(largest, std::fabs(v));
    }
    scale = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
    if (!(scale > 0.0f)) return;
    for (std::size_t k = 0; k < row.size(); ++k)
      codes[k] = static_cast<std::int8_t>(std::nearbyint(std::fmin(std::fmax(row[k] / scale, -127.0f), 127.0f)));
  }
};

/// W[N, K] unpacked: codes, and for each row the runs of k that share a group.
struct law_weights {
  struct segment {
    std::size_t begin, end;
    float scale;
    float zero;  ///< zero point or offset of the group; 0 for rules without one
  };
  format_desc format;
  std::size_t N, K;
  const float* table;
  std::vector<std::uint8_t> codes;             ///< [N][K]
  std::vector<std::vector<segment>> segments;  ///< [N]
  std::vector<law_weights> planes;             ///< of a codebook's integer image: one product each, added up

  explicit law_weights(const quantized_view& w)
      : format(w.format), N(w.N), K(w.K), table(w.table), codes(w.N * w.K), segments(w.N) {
    for (std::size_t n = 0; n < N; ++n) {
      const bool flat = format.granularity == granularity_kind::flat;
      for (std::size_t k = 0; k < K; ++k) {
        codes[n * K + k] =
            static_cast<std::uint8_t>(flat ? pack::get(w.codes, n * K + k, format.bits)
                                           : pack::get(w.codes + n * w.row_stride_bytes, k, format.bits));
        const std::size_t g = quant::group_of(format, K, n, k);
        if (k == 0 || g != quant::group_of(format, K, n, k - 1))
          segments[n].push_back({k, k, quant::scale_at(w, g), quant::zero_at(w, g)});
        segments[n].back().end = k + 1;
      }
    }
  }

  /// The same with the integer image that `kind` asks for of a codebook.
  law_weights(const quantized_view& w, table_image kind) : law_weights(w) {
    if (kind == table_image::none || format.rule != code_rule::codebook) return;
    const quant::integer_image image = quant::make_integer_image(table, format.bits, kind);
    for (int p = 0; p < image.planes; ++p) {
      law_weights plane(w);
      plane.format.rule = code_rule::symmetric_full;
      plane.format.bits = static_cast<std::uint8_t>(image.bits);
      for (std::uint8_t& code : plane.codes) code = image.codes[p][code];
      for (std::vector<segment>& row : plane.segments)
        for (segment& s : row) s.scale *= image.units[p];
      planes.push_back(std::move(plane));
    }
  }

  /// 1 for mid-rise, whose integer sums count half steps.
  int shift() const noexcept { return format.rule == code_rule::mid_rise ? 1 : 0; }
  /// z of the law's integer path.
  std::int64_t integer_zero(const segment& s) const noexcept {
    const std::int64_t h = std::int64_t{1} << (format.bits - 1);
    switch (format.rule) {
      case code_rule::symmetric:
      case code_rule::symmetric_full: return h;
      case code_rule::mid_rise: return 2 * h - 1;
      case code_rule::asymmetric: return static_cast<std::int64_t>(s.zero);
      case code_rule::asymmetric_offset:
      case code_rule::codebook: break;
    }
    return 0;
  }
  /// q of the law's float path.
  float value(const segment& s, unsigned code) const noexcept {
    if (format.rule == code_rule::codebook) return table[code];
    const float zero = static_cast<float>(integer_zero(s));
    return static_cast<float>(code) - (shift() == 0 ? zero : zero / 2.0f);
  }
  bool has_offset() const noexcept { return format.rule == code_rule::asymmetric_offset; }
};

/// What becomes of an accumulator: token scale, bias and the old value.
inline float law_finish(float acc, const law_token* integer, const float* bias, float beta, float old) noexcept {
  float y = acc;
  if (integer != nullptr) y = bias != nullptr ? fused_multiply_add(acc, integer->scale, *bias) : acc * integer->scale;
  else if (bias != nullptr) y = acc + *bias;
  return beta == 0.0f ? y : fused_multiply_add(beta, old, y);
}

/// The accumulator `acc` after all groups of row n.
inline float law_accumulate(const law_weights& w, const law_token& x, std::size_t n, bool integer, float_rule rule,
                            float acc) noexcept {
  const std::uint8_t* codes = w.codes.data() + n * w.K;
  for (const law_weights::segment& s : w.segments[n]) {
    if (integer) {
      std::int64_t sum = 0, x_sum = 0;
      for (std::size_t k = s.begin; k < s.end; ++k) {
        sum += std::int64_t{codes[k]} * x.codes[k];
        x_sum += x.codes[k];
      }
      const std::int64_t exact = sum * (1 << w.shift()) - w.integer_zero(s) * x_sum;
      const float levels = static_cast<float>(exact) / static_cast<float>(1 << w.shift());
      acc = fused_multiply_add(levels, s.scale, acc);
      if (w.has_offset()) acc = fused_multiply_add(static_cast<float>(x_sum), s.zero, acc);
    } else {
      float p = 0.0f, x_sum = 0.0f;
      for (std::size_t k = s.begin; k < s.end; ++k) {
        p = madd(rule, x.x[k], w.value(s, codes[k]), p);
        x_sum += x.x[k];
      }
      acc = fused_multiply_add(p, s.scale, acc);
      if (w.has_offset()) acc = fused_multiply_add(x_sum, s.zero, acc);
    }
  }
  return acc;
}

/// Element (m, n) of Y by the law; x is row m, `old` the element before the call.
inline float law_element(const law_weights& w, const law_token& x, std::size_t n, const gemm_options& o,
                         float_rule rule, float old) noexcept {
  const bool integer = o.computation == computation::integer;
  float acc = integer || x.finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  if (!integer || w.planes.empty()) {
    acc = law_accumulate(w, x, n, integer, rule, acc);
  } else {
    for (const law_weights& plane : w.planes) acc = law_accumulate(plane, x, n, integer, rule, acc);
  }
  return law_finish(acc, integer ? &x : nullptr, o.bias == nullptr ? nullptr : o.bias + n, o.beta, old);
}

/// The exact element, and the bound on the error of any computation that rounds its operands by `operand` (relative) and
/// each of its at most 2 K + 8 steps by `step`: what a stated error bound is held against.
struct bounded_element {
  double exact = 0.0;
  double bound = 0.0;
  bool may_overflow = false;  ///< some order of the additions may leave the range of float, before or after the scale
};
inline bounded_element exact_element(const law_weights& w, const law_token& x, std::size_t n, const gemm_options& o,
                                     float old, double operand, double step) noexcept {
  const std::uint8_t* codes = w.codes.data() + n * w.K;
  // Offsets count on their own: kernels sum them apart.
  double sum = 0.0, magnitude = 0.0, unscaled = 0.0, greatest_scale = 1.0;
  for (const law_weights::segment& s : w.segments[n]) {
    const double scale = s.scale, offset = w.has_offset() ? static_cast<double>(s.zero) : 0.0;
    greatest_scale = std::max(greatest_scale, std::fabs(scale));
    for (std::size_t k = s.begin; k < s.end; ++k) {
      const double a = x.x[k], q = w.value(s, codes[k]);
      sum += a * (scale * q + offset);
      magnitude += std::fabs(a) * (std::fabs(scale * q) + std::fabs(offset));
      unscaled += std::fabs(a) * (std::fabs(q) + 1.0);
    }
  }
  if (o.bias != nullptr) sum += o.bias[n], magnitude += std::fabs(static_cast<double>(o.bias[n]));
  if (o.beta != 0.0f) {
    const double kept = static_cast<double>(o.beta) * static_cast<double>(old);
    sum += kept, magnitude += std::fabs(kept);
  }
  const double steps = 2.0 * static_cast<double>(w.K) + 8.0;
  // Below the normal range a rounding costs up to half of 2^-149, before or after the scale.
  return {sum, (operand + steps * step) * magnitude + steps * 0x1p-149 * greatest_scale,
          std::max(magnitude, unscaled) > 0x1p127};
}

/// The element of the bfloat16 computation, products of the rounded numbers added without error, and the bound on what a
/// computation may make of it whose additions round to float and that may take numbers below 2^-126 for 0, operands and
/// results. (The error that the computation states is this one and that of rounding X and W: gemm/backend.hpp.)
inline bounded_element bfloat16_element(const law_weights& w, const law_token& x, std::size_t n, const gemm_options& o,
                                        float old) noexcept {
  const auto rounded = [](float v) {
    constexpr float most = 0x1.fep127f;
    return v != v ? v : to_float(to_bfloat16(std::fmin(std::fmax(v, -most), most)));
  };
  const std::uint8_t* codes = w.codes.data() + n * w.K;
  double sum = 0.0, magnitude = 0.0, operands = 0.0;
  for (const law_weights::segment& s : w.segments[n]) {
    for (std::size_t k = s.begin; k < s.end; ++k) {
      const float q = w.value(s, codes[k]);
      const double a = rounded(x.x[k]),
                   b = rounded(w.has_offset() ? fused_multiply_add(q, s.scale, s.zero) : q * s.scale);
      sum += a * b;
      magnitude += std::fabs(a * b);
      operands += std::fabs(a) + std::fabs(b);
    }
  }
  if (o.bias != nullptr) sum += o.bias[n], magnitude += std::fabs(static_cast<double>(o.bias[n]));
  if (o.beta != 0.0f) {
    const double kept = static_cast<double>(o.beta) * static_cast<double>(old);
    sum += kept, magnitude += std::fabs(kept);
  }
  const double steps = 2.0 * static_cast<double>(w.K) + 8.0;
  return {sum, steps * 0x1p-24 * magnitude + 0x1p-126 * (operands + steps), magnitude > 0x1p127};
}

/// A way to get an element wrong. The default is the law itself.
struct slip {
  const char* cause = "";
  bool for_integer = true, for_float = true;
  std::size_t skip_first = 0, skip_last = 0;  ///< k left out
  std::size_t skip_rest_of = 0;               ///< the last K % this are left out
  bool sums_skip = true;                      ///< the sums of x skip the same k
  bool descending = false;                    ///< groups from the last to the first
  std::size_t fold_every = 0;                 ///< the scale is applied every so many k of a group
  bool fold_halves = false;                   ///< ... and in the middle of each group
  std::size_t chains = 1;                     ///< float: k goes to one of so many sums of a group, added in the end
  bool group_halves = false;                  ///< float: a group is two sums, of its halves
  std::size_t split = 0;                      ///< two accumulators, cut at K / 2 rounded up to a multiple of this
  bool unfused_scale = false, other_madd = false, saturating = false, signed_codes = false;
  bool no_zero = false, no_offset = false, no_bias = false, unfused_bias = false, no_beta = false;
  bool first_scale = false, no_token_scale = false;
};

/// Element (m, n) of Y with a slip.
inline float element_with(const slip& wrong, const law_weights& w, const law_token& x, std::size_t n,
                          const gemm_options& o, float_rule rule, float old) noexcept {
  const std::uint8_t* codes = w.codes.data() + n * w.K;
  const bool integer = o.computation == computation::integer;
  const std::size_t rest = wrong.skip_rest_of == 0 ? 0 : w.K % wrong.skip_rest_of, cut = wrong.skip_last + rest;
  const std::size_t first_k = std::min(wrong.skip_first, w.K), last_k = cut < w.K ? w.K - cut : 0;
  const float_rule madd_rule = wrong.other_madd ? other(rule) : rule;
  const float unit = static_cast<float>(1 << w.shift());
  const auto kept = [&](std::size_t k) { return k >= first_k && k < last_k; };
  const auto scaled = [&](float p, float scale, float acc) {
    return wrong.unfused_scale ? rounded_product(p, scale) + acc : fused_multiply_add(p, scale, acc);
  };
  const auto code = [&](std::size_t k) {
    const int u = codes[k], half_range = 1 << (w.format.bits - 1);
    return wrong.signed_codes && u >= half_range ? u - 2 * half_range : u;
  };

  // k in [begin, end) of one segment into acc.
  const auto fold = [&](const law_weights::segment& s, std::size_t begin, std::size_t end, float acc) {
    const float scale = wrong.first_scale ? w.segments[n].front().scale : s.scale;
    if (integer) {
      std::int64_t sum = 0, x_sum = 0;
      for (std::size_t k = begin; k < end; ++k) {
        if (kept(k) || !wrong.sums_skip) x_sum += x.codes[k];
        if (!kept(k)) continue;
        std::int64_t part = std::int64_t{code(k)} * x.codes[k];
        if (wrong.saturating && k % 2 == 0 && k + 1 < end && kept(k + 1)) {
          part = std::clamp<std::int64_t>(part + std::int64_t{code(k + 1)} * x.codes[k + 1], -32768, 32767);
          x_sum += x.codes[++k];
        }
        sum += part;
      }
      const std::int64_t zero = wrong.no_zero ? 0 : w.integer_zero(s);
      acc = scaled(static_cast<float>(sum * (1 << w.shift()) - zero * x_sum) / unit, scale, acc);
      if (w.has_offset() && !wrong.no_offset) acc = scaled(static_cast<float>(x_sum), s.zero, acc);
      return acc;
    }
    constexpr std::size_t most = 64;
    float chain[most] = {}, x_sum = 0.0f;
    for (std::size_t k = begin; k < end; ++k) {
      if (kept(k) || !wrong.sums_skip) x_sum += x.x[k];
      if (!kept(k)) continue;
      const float q = wrong.signed_codes || wrong.no_zero ? static_cast<float>(code(k)) : w.value(s, codes[k]);
      const std::size_t i = wrong.group_halves ? (k - begin) * 2 / (end - begin) : (k - begin) % wrong.chains;
      chain[i] = madd(madd_rule, x.x[k], q, chain[i]);
    }
    // Lanes are added as registers are: the upper half to the lower one.
    for (std::size_t live = wrong.group_halves ? 2 : wrong.chains; live > 1; live /= 2)
      for (std::size_t i = 0; i < live / 2; ++i) chain[i] += chain[i + live / 2];
    acc = scaled(chain[0], scale, acc);
    if (w.has_offset() && !wrong.no_offset) acc = scaled(x_sum, s.zero, acc);
    return acc;
  };
  // All groups, clipped to [from, to).
  const auto accumulate = [&](std::size_t from, std::size_t to) {
    float acc = integer || x.finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    const std::vector<law_weights::segment>& all = w.segments[n];
    for (std::size_t i = 0; i < all.size(); ++i) {
      const law_weights::segment& s = all[wrong.descending ? all.size() - 1 - i : i];
      const std::size_t begin = std::max(s.begin, from), end = std::min(s.end, to);
      if (begin >= end) continue;
      std::size_t step = wrong.fold_every == 0 ? end - begin : wrong.fold_every;
      if (wrong.fold_halves) step = ceil_div(end - begin, std::size_t{2});
      for (std::size_t k = begin; k < end; k += step) acc = fold(s, k, std::min(end, k + step), acc);
    }
    return acc;
  };
  float acc = 0.0f;
  if (wrong.split == 0) {
    acc = accumulate(0, w.K);
  } else {
    const std::size_t middle = std::min(w.K, round_up(ceil_div(w.K, std::size_t{2}), wrong.split));
    acc = accumulate(0, middle) + accumulate(middle, w.K);
  }
  const float* bias = o.bias == nullptr || wrong.no_bias ? nullptr : o.bias + n;
  if (wrong.unfused_bias && integer && bias != nullptr) {
    const float y = rounded_product(acc, x.scale) + *bias;
    return o.beta == 0.0f ? y : fused_multiply_add(o.beta, old, y);
  }
  return law_finish(acc, integer && !wrong.no_token_scale ? &x : nullptr, bias, wrong.no_beta ? 0.0f : o.beta, old);
}

/// The slips that a wrong result is compared with, the more specific first.
inline const std::vector<slip>& known_slips() {
  static const std::vector<slip> all = [] {
    std::vector<slip> s;
    const auto add = [&](const char* cause, auto&& set) {
      slip one;
      one.cause = cause;
      set(one);
      s.push_back(one);
    };
    add("the last k is left out", [](slip& e) { e.skip_last = 1; });
    add("the last k is left out of the sum of products, but not of the sum of x",
        [](slip& e) { e.skip_last = 1, e.sums_skip = false; });
    add("the first k is left out", [](slip& e) { e.skip_first = 1; });
    for (const std::size_t step : {4u, 8u, 16u, 32u, 64u})
      for (const bool sums : {true, false})
        add("the last K mod 4, 8, 16, 32 or 64 k are left out",
            [&](slip& e) { e.skip_rest_of = step, e.sums_skip = sums; });
    add("pairs of products are saturated to 16 bits (vpmaddubsw)",
        [](slip& e) { e.saturating = true, e.for_float = false; });
    add("codes are taken as signed", [](slip& e) { e.signed_codes = true; });
    add("the zero point is left out", [](slip& e) { e.no_zero = true; });
    add("the float offset is left out", [](slip& e) { e.no_offset = true; });
    add("the bias is left out", [](slip& e) { e.no_bias = true; });
    add("beta * Y is left out", [](slip& e) { e.no_beta = true; });
    add("the token's scale is left out", [](slip& e) { e.no_token_scale = true, e.for_float = false; });
    add("every group takes the scale of the first", [](slip& e) { e.first_scale = true; });
    add("the scale is multiplied and then added: fma is the law", [](slip& e) { e.unfused_scale = true; });
    add("summation order: groups are added from the last to the first", [](slip& e) { e.descending = true; });
    add("summation order: the scale is applied to each half of a group", [](slip& e) { e.fold_halves = true; });
    for (const std::size_t step : {16u, 32u, 64u, 128u, 256u, 512u, 1024u})
      add("summation order: the scale is applied to parts of a group", [&](slip& e) { e.fold_every = step; });
    for (const std::size_t step : {1u, 4u, 16u, 32u, 64u})
      add("summation order: K is split in two halves that are added in float", [&](slip& e) { e.split = step; });
    add("summation order: a group is the sum of its two halves",
        [](slip& e) { e.group_halves = true, e.for_integer = false; });
    for (const std::size_t lanes : {2u, 4u, 8u, 16u, 32u, 64u})
      add("summation order: k is spread over lanes that are added in the end",
          [&](slip& e) { e.chains = lanes, e.for_integer = false; });
    add("the bias is added after the token's scale was applied: one fma is the law",
        [](slip& e) { e.unfused_bias = true, e.for_float = false; });
    add("products are rounded as the other float_rule does (FMA used, or not used)",
        [](slip& e) { e.other_madd = true, e.for_integer = false; });
    return s;
  }();
  return all;
}

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
