// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The conformance kit: an engine hands over its kernels as functions and gets a report of every case in which they differ
/// from the numeric law (kernels/README.md). Needs the standard library alone; works under any test framework or none.
///
///   nibble::testing::check_multiply(f)       Y = X * transpose(W), integer, weight-only and bfloat16
///   nibble::testing::check_quantize_row(f)   one token to s8
///   nibble::testing::check_quantize(f)       float weights to codes and scales
///   nibble::testing::check_unpack(f)         packed codes to bytes
///
/// Buffers end or begin at pages that cannot be touched; a touch is reported like a wrong value and the run goes on. Rows
/// of X and Y have gaps, filled with NaN; Y begins as NaN; inputs and gaps must be as they were afterwards.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/backend.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/quantize.hpp>
#include <nibble/testing/guard_page.hpp>
#include <nibble/testing/law.hpp>
#include <nibble/testing/operands.hpp>
#include <nibble/testing/report.hpp>
#include <nibble/testing/watched_buffers.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// What weight-only results are held to. Integer results are always compared bit for bit (any NaN equals any NaN), those of
/// computation::bfloat16 with the products of rounded numbers, of which they differ by additions in float alone.
struct float_policy {
  enum class kind : unsigned char { same_bits, within_bound };
  kind compare = kind::same_bits;
  float_rule rule = native_float_rule;  ///< same_bits: the law's madd
  /// within_bound: |y - exact| <= (operand + (2 K + 8) * step) * sum |x| |w|.
  double operand = 0.0, step = 0.0;

  /// The law's order and rounding, bit for bit.
  static constexpr float_policy law(float_rule rule = native_float_rule) noexcept {
    return {kind::same_bits, rule, 0.0, 0.0};
  }
  /// A stated error: `operand` relative error of one product's operands (bfloat16 on both sides: 2^-7 + 2^-16), `step` that of
  /// an addition (float: 2^-24).
  static constexpr float_policy bounded(double operand, double step = 0x1p-24) noexcept {
    return {kind::within_bound, native_float_rule, operand, step};
  }
};

/// How a run goes. Everything has a default.
struct conformance_options {
  std::uint64_t seed = 1;
  layout_id layout = layout_id::row_major;  ///< the form of W that `multiply` is given
  float_policy float_results = float_policy::law();
  bool integer = true, weight_only = true;  ///< the computations to run
  bool images = false;                      ///< integer computation on codebooks too, with both gemm_options::image
  bool bfloat16 = false;                    ///< that one, too: engines without it need not ask which was meant
  bool bias_and_beta = true;                ///< some cases have them
  std::vector<format_desc> formats = covering_formats();
  std::vector<shape> shapes = ragged_shapes();
  /// Codes, scales and X begin at multiples of this. With more than an element an over-read of up to alignment - 1 bytes
  /// stays unseen, so leave it unless the engine asks its callers for alignment.
  std::size_t alignment = 1;
  std::size_t max_failures = 20;
};

/// Y = X * transpose(W) (+ bias + beta * Y). Returns errc::ok, or why it refused: refusals are counted, not failed.
using multiply_function =
    std::function<errc(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& options)>;
/// Codes of x[0, K) to codes[0, padded), zeros past K; returns the scale (kernels/quantize_row.hpp).
using quantize_row_function =
    std::function<float(const float* x, std::size_t K, std::int8_t* codes, std::size_t padded)>;
/// The planes that a quantizer fills: those of any_qmatrix, zeroed.
struct quantized_planes {
  format_desc format;
  std::size_t N = 0, K = 0, row_stride_bytes = 0;
  std::span<std::byte> codes, scales, zeros;
  std::span<float> super_scales;  ///< double_quant: one for each 256 scales, then the offset
  std::span<half> block_scales;   ///< super_block: of each row those of scales, then of offsets
};
/// Min-max quantization of W[N, K] by the rules of nibble::quantize.
using quantize_function = std::function<errc(span2d<const float> W, const quantized_planes& out)>;
/// `count` codes of `bits` bits from packed bytes (pack/bits.hpp), one a byte.
using unpack_function = std::function<void(const std::byte* packed, std::size_t count, int bits, std::uint8_t* codes)>;

namespace detail {

/// Counts a case; keeps its failure, if any.
inline void note(report& r, failure f, bool failed, std::size_t max_failures) {
  ++r.cases;
  r.elements += f.compared;
  if (!failed) return;
  ++r.failed;
  if (r.failures.size() < max_failures) r.failures.push_back(std::move(f));
}

/// One call of multiply: operands, guarded buffers, comparison.
struct multiply_case {
  format_desc format;
  shape size;
  operand_pattern pattern;
  nibble::computation computation;
  bool with_bias;
  float beta;
  placement where;
  std::uint64_t seed;
  table_image image = table_image::none;
};

class multiply_runner {
 public:
  multiply_runner(const multiply_function& multiply, const conformance_options& o) : multiply_(multiply), o_(o) {}

  void run(const multiply_case& c, report& r) {
    const auto [M, N, K] = c.size;
    const any_qmatrix canonical = weights(c.pattern, c.format, N, K, c.seed);
    const std::vector<float> x = activations(c.pattern, M, K, c.seed + 1);

    // Gaps of 3 and 5: rows begin at every place in a register.
    const std::size_t x_stride = K + 3, y_stride = N + 5;
    std::vector<float> x_gapped((M - 1) * x_stride + K, poison());
    for (std::size_t m = 0; m < M; ++m)
      std::memcpy(x_gapped.data() + m * x_stride, x.data() + m * K, K * sizeof(float));
    generator random(c.seed + 2);
    std::vector<float> bias(c.with_bias ? N : 0), old(M * N);
    for (float& v : bias) v = random.value();
    for (float& v : old) v = random.value();

    const input<float> guarded_x(x_gapped, c.where, o_.alignment, "activations");
    const input<float> guarded_bias(bias, c.where, 1, "biases");
    const guarded<float> y((M - 1) * y_stride + N, c.where);
    for (float& v : y) v = poison();
    if (c.beta != 0.0f)
      for (std::size_t m = 0; m < M; ++m) std::memcpy(y.data() + m * y_stride, old.data() + m * N, N * sizeof(float));
    const guarded_weights w(canonical, o_, c.where);

    gemm_options options{.computation = c.computation,
                         .bias = c.with_bias ? guarded_bias.data() : nullptr,
                         .beta = c.beta,
                         .image = c.image};
    buffer_check buffers(watch_);
    buffers.watch(guarded_x);
    if (c.with_bias) buffers.watch(guarded_bias);
    buffers.watch(y.bytes(), "results");
    w.watch(buffers);
    const errc answer = multiply_(make_span2d(guarded_x.data(), M, K, x_stride), w.view(),
                                  make_span2d(y.data(), M, N, y_stride), options);
    if (answer != errc::ok) {
      ++r.refused;
      return;
    }

    failure f = describe_case(c, x_stride, y_stride);
    if (c.with_bias) options.bias = bias.data();
    bool failed = compare(c, canonical, x, old, y, y_stride, options, f);
    std::string cause;
    if (std::string wrong = buffers.verdict(cause); !wrong.empty()) {
      // An access outside says more than the wrong values that come of it.
      f.place = std::move(wrong), f.cause = std::move(cause), f.has_values = false;
      failed = true;
    }
    note(r, std::move(f), failed, o_.max_failures);
  }

 private:
  /// W in guarded planes, in the layout asked for.
  class guarded_weights {
   public:
    guarded_weights(const any_qmatrix& canonical, const conformance_options& o, placement where) {
      const auto aligned = [&](std::size_t size) { return std::max<std::size_t>(o.alignment, size == 0 ? 1 : size); };
      const std::size_t scale_size = aligned(quant::scale_bytes(canonical.format().scale));
      const std::size_t zero_size = aligned(quant::zero_bytes(canonical.format()));
      const auto keep_blocks = [&](const half* from, std::size_t rows) {
        const std::size_t halves = rows * quant::block_scales_per_row(canonical.format(), canonical.K());
        blocks_ = std::make_unique<input<half>>(std::span<const half>(from, halves), where,
                                                std::max(o.alignment, sizeof(half)), "scales of super-blocks");
      };
      if (o.layout == layout_id::row_major) {
        view_ = {layout_id::row_major, canonical.view()};
        keep_blocks(view_.matrix.block_scales, canonical.N());
        codes_ = std::make_unique<input<std::byte>>(gapped_rows(canonical), where, o.alignment, "codes");
        scales_ = std::make_unique<input<std::byte>>(canonical.scale_plane(), where, scale_size, "scales");
        zeros_ = std::make_unique<input<std::byte>>(canonical.zero_plane(), where, zero_size, "zero points");
        if (view_.matrix.row_stride_bytes != 0) view_.matrix.row_stride_bytes += gap;
      } else {
        const packed_matrix packed = pack_matrix(canonical.view(), o.layout);
        view_ = packed.view();
        const quantized_view& m = view_.matrix;
        const bool one = m.format.granularity == granularity_kind::per_tensor;
        const std::size_t panels = pack::panel16::panels(m.N);
        const std::size_t count = one ? 1 : panels * 16 * (quant::scale_count(m.format, m.N, m.K) / m.N);
        const auto plane = [](const void* p, std::size_t bytes) {
          return std::span<const std::byte>(static_cast<const std::byte*>(p), p == nullptr ? 0 : bytes);
        };
        codes_ = std::make_unique<input<std::byte>>(
            plane(m.codes, panels * pack::panel16::panel_bytes(m.K, m.format.bits)), where, o.alignment, "codes");
        scales_ = std::make_unique<input<std::byte>>(plane(m.scales, count * quant::scale_bytes(m.format.scale)), where,
                                                     scale_size, "scales");
        zeros_ = std::make_unique<input<std::byte>>(plane(m.zeros, count * quant::zero_bytes(m.format)), where,
                                                    zero_size, "zero points");
        keep_blocks(m.block_scales, panels * 16);
      }
      quantized_view& m = view_.matrix;
      const quantized_view from = canonical.view();
      supers_ = std::make_unique<input<float>>(
          from.super_scales == nullptr
              ? std::span<const float>()
              : std::span<const float>(from.super_scales, ceil_div(canonical.scale_count(), quant::double_quant_block)),
          where, o.alignment, "scales of scales");
      table_ = std::make_unique<input<float>>(
          from.table == nullptr ? std::span<const float>()
                                : std::span<const float>(from.table, std::size_t{1} << from.format.bits),
          where, o.alignment, "table values");
      m.codes = codes_->data();
      m.scales = scales_->data();
      m.zeros = m.zeros == nullptr ? nullptr : zeros_->data();
      m.super_scales = m.super_scales == nullptr ? nullptr : supers_->data();
      m.block_scales = m.block_scales == nullptr ? nullptr : blocks_->data();
      m.table = m.table == nullptr ? nullptr : table_->data();
    }

    packed_view view() const noexcept { return view_; }
    void watch(buffer_check& buffers) const {
      buffers.watch(*codes_);
      buffers.watch(*scales_);
      if (view_.matrix.zeros != nullptr) buffers.watch(*zeros_);
      if (view_.matrix.super_scales != nullptr) buffers.watch(*supers_);
      if (view_.matrix.block_scales != nullptr) buffers.watch(*blocks_);
      if (view_.matrix.table != nullptr) buffers.watch(*table_);
    }

   private:
    static constexpr std::size_t gap = 3;  // bytes between two rows of codes

    /// Rows `gap` bytes apart; the gaps, and the bits past the last code of a row, are 1.
    static std::vector<std::byte> gapped_rows(const any_qmatrix& m) {
      const std::size_t rows = m.format().granularity == granularity_kind::flat ? 1 : m.N();
      const std::size_t bytes = m.codes().size() / rows, stride = rows == 1 ? bytes : bytes + gap;
      const std::size_t live = (rows == 1 && m.row_stride_bytes() == 0 ? m.N() * m.K() : m.K()) * m.format().bits % 8;
      std::vector<std::byte> out((rows - 1) * stride + bytes, std::byte{0xff});
      for (std::size_t n = 0; n < rows; ++n) {
        std::memcpy(out.data() + n * stride, m.codes().data() + n * bytes, bytes);
        if (live != 0) out[n * stride + bytes - 1] |= static_cast<std::byte>(0xffu << live);
      }
      return out;
    }

    packed_view view_;
    std::unique_ptr<input<std::byte>> codes_, scales_, zeros_;
    std::unique_ptr<input<float>> supers_, table_;
    std::unique_ptr<input<half>> blocks_;
  };

  failure describe_case(const multiply_case& c, std::size_t x_stride, std::size_t y_stride) const {
    failure f;
    f.function = "multiply";
    f.format = describe(c.format);
    f.operands = name_of(c.pattern);
    constexpr const char* names[] = {"weight-only", "integer", "bfloat16"};
    constexpr const char* images[] = {"", ", codebook in one plane", ", codebook in two planes"};
    f.arguments = std::string(names[static_cast<unsigned char>(c.computation)]) +
                  images[static_cast<unsigned char>(c.image)] + ", M = " + std::to_string(c.size.M) +
                  ", N = " + std::to_string(c.size.N) + ", K = " + std::to_string(c.size.K) + ", strides " +
                  std::to_string(x_stride) + " and " + std::to_string(y_stride) + ", layout " +
                  nibble::name_of(o_.layout) + (c.with_bias ? ", bias" : "") +
                  (c.beta != 0.0f ? ", beta = " + std::to_string(c.beta) : "") +
                  (c.where == placement::at_end ? ", buffers end" : ", buffers begin") + " at forbidden pages, seed " +
                  std::to_string(c.seed);
    return f;
  }

  struct element {
    std::size_t m, n;
    float got, want;
  };

  /// True when results differ; `f` is completed.
  bool compare(const multiply_case& c, const any_qmatrix& canonical, const std::vector<float>& x,
               const std::vector<float>& old, const guarded<float>& y, std::size_t y_stride,
               const gemm_options& options, failure& f) const {
    const auto [M, N, K] = c.size;
    const law_weights w(canonical.view(), c.image);
    std::vector<law_token> tokens;
    for (std::size_t m = 0; m < M; ++m) tokens.emplace_back(std::span<const float>(x.data() + m * K, K));
    const bool bounded = bounded_results(c);
    const float_rule rule = o_.float_results.rule;

    std::vector<element> wrong;
    for (std::size_t m = 0; m < M; ++m) {
      for (std::size_t n = 0; n < N; ++n) {
        const float got = y[m * y_stride + n], before = old[m * N + n];
        ++f.compared;
        if (bounded && tokens[m].finite) {
          const bounded_element e =
              c.computation == computation::bfloat16
                  ? bfloat16_element(w, tokens[m], n, options, before)
                  : exact_element(w, tokens[m], n, options, before, o_.float_results.operand, o_.float_results.step);
          if (e.may_overflow) continue;  // depends on the order: no bound holds
          if (std::fabs(static_cast<double>(got) - e.exact) <= e.bound) continue;
          if (wrong.empty()) f.bound = e.bound;
          wrong.push_back({m, n, got, static_cast<float>(e.exact)});
        } else {
          const float want = law_element(w, tokens[m], n, options, rule, before);
          if (!same_float(got, want)) wrong.push_back({m, n, got, want});
        }
      }
    }
    if (wrong.empty()) return gaps_written(c, y, y_stride, f);

    const element& e = wrong.front();
    f.place = "Y(" + std::to_string(e.m) + ", " + std::to_string(e.n) + ")";
    f.has_values = true;
    f.got = e.got, f.want = e.want;
    f.got_bits = std::bit_cast<std::uint32_t>(e.got), f.want_bits = std::bit_cast<std::uint32_t>(e.want);
    f.ulps = ulps_between(e.got, e.want);
    f.wrong = wrong.size();
    f.cause = cause_of(c, w, tokens, old, y, y_stride, options, rule, wrong);
    return true;
  }

  /// True when results are held to a bound, not to bits.
  bool bounded_results(const multiply_case& c) const noexcept {
    return c.computation == computation::bfloat16 ||
           (c.computation == computation::weight_only && o_.float_results.compare == float_policy::kind::within_bound);
  }

  static bool gaps_written(const multiply_case& c, const guarded<float>& y, std::size_t y_stride, failure& f) {
    for (std::size_t m = 0; m + 1 < c.size.M; ++m)
      for (std::size_t n = c.size.N; n < y_stride; ++n) {
        const auto bits = std::bit_cast<std::uint32_t>(y[m * y_stride + n]);
        if (bits == poison_bits) continue;
        f.place = "the gap after row " + std::to_string(m) + " of Y was written";
        f.cause = "columns past N are stored";
        return true;
      }
    return false;
  }

  std::string cause_of(const multiply_case& c, const law_weights& w, const std::vector<law_token>& tokens,
                       const std::vector<float>& old, const guarded<float>& y, std::size_t y_stride,
                       const gemm_options& options, float_rule rule, const std::vector<element>& wrong) const {
    const auto all = [&](auto&& holds) {
      const std::size_t most = std::min<std::size_t>(wrong.size(), 48);
      for (std::size_t i = 0; i < most; ++i)
        if (!holds(wrong[i * wrong.size() / most])) return false;
      return true;
    };
    const std::size_t M = c.size.M, N = c.size.N;
    const bool integer = c.computation == computation::integer;
    if (all([](const element& e) { return std::bit_cast<std::uint32_t>(e.got) == poison_bits; })) {
      if (all([&](const element& e) { return e.n + 1 == N; }) && N > 1) return "the last column is not written";
      if (all([&](const element& e) { return e.m + 1 == M; }) && M > 1) return "the last row is not written";
      return "elements of Y are not written";
    }
    if (all([&](const element& e) { return std::isnan(e.got) && tokens[e.m].finite; })) {
      if (c.pattern == operand_pattern::non_finite)
        return "a NaN or an infinity of another row, or a gap of X, takes part";
      return options.beta == 0.0f ? "Y is read though beta is 0, or X past its columns" : "X is read past its columns";
    }
    if (all([&](const element& e) { return !tokens[e.m].finite; }))
      return "a row with a NaN or an infinity must be NaN as a whole";
    if (c.image == table_image::none && !bounded_results(c)) {
      // A slip must explain what is right as well: it gives the same bits there.
      const auto explains = [&](const slip& one, std::size_t m, std::size_t n, float got) {
        return same_float(element_with(one, w, tokens[m], n, options, rule, old[m * N + n]), got);
      };
      const auto explains_all = [&](const slip& one) {
        if (!all([&](const element& e) { return explains(one, e.m, e.n, e.got); })) return false;
        const std::size_t step = 1 + M * N / 64;
        for (std::size_t i = 0; i < M * N; i += step)
          if (!explains(one, i / N, i % N, y[i / N * y_stride + i % N])) return false;
        return true;
      };
      for (const slip& one : known_slips())
        if ((integer ? one.for_integer : one.for_float) && explains_all(one)) return one.cause;
    }
    if (all([](const element& e) { return e.got == e.want; }))
      return "the sign of zero: accumulators begin at +0, so a sum of 0 times a negative scale is +0";
    const auto elsewhere = [&](const element& e, std::size_t m, std::size_t n) {
      return m < M && n < N && same_float(law_element(w, tokens[m], n, options, rule, old[m * N + n]), e.got);
    };
    if (all([&](const element& e) { return elsewhere(e, e.m, e.n + 1) || elsewhere(e, e.m, e.n - 1); }))
      return "the value of a neighbouring column";
    if (all([&](const element& e) { return elsewhere(e, e.m + 1, e.n) || elsewhere(e, e.m - 1, e.n); }))
      return "the value of a neighbouring row";
    if (all([&](const element& e) { return e.n >= N / 16 * 16; }) && N > 16)
      return "the columns past whole panels of 16";
    if (all([&](const element& e) { return e.m + 1 == M; }) && M > 1) return "the last row alone";
    if (all([](const element& e) {
          const std::int64_t d = ulps_between(e.got, e.want);
          return d >= 0 && d <= 64;
        }))
      return "rounding: another order of additions, or a product rounded before it is added";
    if (integer && (c.pattern == operand_pattern::all_max || c.pattern == operand_pattern::all_min ||
                    c.pattern == operand_pattern::pairs || c.pattern == operand_pattern::alternating))
      return "an integer sum overflows on the way: products of the greatest operands";
    return {};
  }

  const multiply_function& multiply_;
  const conformance_options& o_;
  fault_watch watch_;
};

}  // namespace detail

/// Runs `multiply` on every format with every ragged shape, on every operand pattern, and on a few great shapes, for the
/// computations asked for, and compares with the law. About 9000 calls with default options; formats that
/// options.layout cannot hold are left out.
inline report check_multiply(const multiply_function& multiply, const conformance_options& o = {}) {
  report r;
  detail::multiply_runner runner(multiply, o);
  std::uint64_t count = 0;
  const auto run = [&](const format_desc& f, const shape& s, operand_pattern pattern) {
    if (can_pack(f, s.K, o.layout) != errc::ok) return;
    const auto run_with = [&](computation c, table_image image) {
      const std::uint64_t i = count++;
      const bool epilogue = o.bias_and_beta && pattern != operand_pattern::zeros;
      const float beta = epilogue && i % 5 == 0 ? (i % 10 == 0 ? 1.0f : -0.5f) : 0.0f;
      runner.run({f, s, pattern, c, epilogue && i % 3 == 0, beta, i % 4 == 3 ? placement::at_begin : placement::at_end,
                  o.seed * 1000003 + i * 17, image},
                 r);
    };
    if (o.integer && f.rule != code_rule::codebook) run_with(computation::integer, table_image::none);
    if (o.weight_only) run_with(computation::weight_only, table_image::none);
    if (o.bfloat16) run_with(computation::bfloat16, table_image::none);
    if (o.integer && o.images && f.rule == code_rule::codebook)
      for (const table_image image : {table_image::one_plane, table_image::two_planes})
        run_with(computation::integer, image);
  };
  for (const format_desc& f : o.formats) {
    for (const shape& s : o.shapes) run(f, s, operand_pattern::random);
    for (const operand_pattern p : all_patterns) {
      run(f, {1, 18, 96}, p);
      run(f, {5, 19, 133}, p);
    }
  }
  // Long sums and many rows cost the reference too much for all formats; the greatest codes are what they are about.
  for (const format_desc& f : o.formats) {
    if (f.granularity != granularity_kind::per_channel || f.bits % 4 != 0) continue;
    for (const shape& s : great_shapes()) run(f, s, operand_pattern::all_max);
  }
  return r;
}

/// Runs `quantize_row` on every length around multiples of 64 and compares scale and codes with
/// scale = absmax / 127, code = round-half-even(clamp(x / scale, -127, 127)), bit for bit. A row that is not finite has the
/// scale NaN and codes 0.
inline report check_quantize_row(const quantize_row_function& quantize_row, const conformance_options& o = {}) {
  report r;
  fault_watch watch;
  std::uint64_t seed = o.seed * 7919;
  const auto run = [&](std::vector<float> x, const char* pattern, std::size_t padded, placement where) {
    const std::size_t K = x.size();
    const detail::input<float> in(x, where, o.alignment, "activations");
    const guarded<std::int8_t> codes(padded, where, o.alignment);
    for (std::int8_t& c : codes) c = 0x55;
    detail::buffer_check buffers(watch);
    buffers.watch(in);
    buffers.watch(codes.bytes(), "codes");
    const float scale = quantize_row(in.data(), K, codes.data(), padded);

    const law_token want{std::span<const float>(x)};
    failure f;
    f.function = "quantize_row";
    f.format = "s8";
    f.arguments = "K = " + std::to_string(K) + ", padded to " + std::to_string(padded) +
                  (where == placement::at_end ? ", buffers end" : ", buffers begin") + " at forbidden pages";
    f.operands = pattern;
    f.compared = 1 + padded;
    const bool scale_differs = !detail::same_float(scale, want.scale);
    if (scale_differs) {
      f.place = "the scale", f.has_values = true, f.wrong = 1;
      f.got = scale, f.want = want.scale;
      f.got_bits = std::bit_cast<std::uint32_t>(scale), f.want_bits = std::bit_cast<std::uint32_t>(want.scale);
      f.ulps = ulps_between(scale, want.scale);
      f.cause = want.finite ? "absmax times 1 / 127, or another maximum" : "a row that is not finite has the scale NaN";
    }
    bool ties_only = true;
    for (std::size_t k = 0; k < padded; ++k) {
      const int expected = k < K ? want.codes[k] : 0;
      if (codes[k] == expected) continue;
      const float q = k < K ? x[k] / want.scale : 0.0f;
      ties_only = ties_only && k < K && std::fabs(q - std::trunc(q)) == 0.5f;
      ++f.wrong;
      if (f.has_values) continue;
      f.place = "code " + std::to_string(k), f.has_values = true;
      f.got = codes[k], f.want = expected;
      f.got_bits = static_cast<std::uint8_t>(codes[k]), f.want_bits = static_cast<std::uint8_t>(expected);
      f.ulps = codes[k] < expected ? expected - codes[k] : codes[k] - expected;
      if (k >= K) f.cause = "codes past K must be 0";
      else if (codes[k] == 0x55) f.cause = "codes are not written";
    }
    if (f.cause.empty() && f.wrong != 0)
      f.cause =
          ties_only ? "ties are not rounded to even" : "x * (1 / scale) in place of x / scale, or another rounding";
    bool failed = f.wrong != 0;
    std::string cause;
    if (std::string wrong = buffers.verdict(cause); !wrong.empty()) {
      f.place = std::move(wrong), f.cause = std::move(cause), f.has_values = false;
      failed = true;
    }
    detail::note(r, std::move(f), failed, o.max_failures);
  };
  for (const std::size_t K : {1u, 3u, 4u, 7u, 8u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 127u, 200u, 1025u})
    for (const placement where : {placement::at_end, placement::at_begin}) {
      for (const value_pattern p : all_value_patterns) {
        run(values(p, K, ++seed), name_of(p), K, where);
        run(values(p, K, ++seed), name_of(p), round_up(std::size_t{K}, std::size_t{64}), where);
      }
      for (const operand_pattern p :
           {operand_pattern::non_finite, operand_pattern::largest, operand_pattern::denormals})
        run(activations(p, 1, K, ++seed), name_of(p), round_up(std::size_t{K}, std::size_t{64}), where);
    }
  return r;
}

/// Runs `unpack` for every width and count up to 130, and a few greater ones.
inline report check_unpack(const unpack_function& unpack, const conformance_options& o = {}) {
  report r;
  fault_watch watch;
  generator random(o.seed * 104729);
  for (int bits = 2; bits <= 8; ++bits)
    for (std::size_t count = 1; count <= 1030; count += count < 130 ? 1 : 225) {
      const bool ones = count % 5 == 0;
      const placement where = count % 3 == 0 ? placement::at_begin : placement::at_end;
      std::vector<std::byte> bytes(pack::packed_bytes(count, bits));
      for (std::byte& b : bytes) b = ones ? std::byte{0xff} : static_cast<std::byte>(random.next());
      const detail::input<std::byte> in(bytes, where, o.alignment, "packed codes");
      const guarded<std::uint8_t> codes(count, where, o.alignment);
      for (std::uint8_t& c : codes) c = static_cast<std::uint8_t>(~pack::get(bytes.data(), 0, bits));
      detail::buffer_check buffers(watch);
      buffers.watch(in);
      buffers.watch(codes.bytes(), "codes");
      unpack(in.data(), count, bits, codes.data());

      failure f;
      f.function = "unpack";
      f.format = std::to_string(bits) + "-bit codes";
      f.arguments = std::to_string(count) + " of them" +
                    (where == placement::at_end ? ", buffers end" : ", buffers begin") + " at forbidden pages";
      f.operands = ones ? "all bits set" : "random";
      f.compared = count;
      for (std::size_t i = 0; i < count; ++i) {
        const unsigned want = pack::get(bytes.data(), i, bits);
        if (codes[i] == want) continue;
        if (f.wrong++ != 0) continue;
        f.place = "code " + std::to_string(i), f.has_values = true;
        f.got = codes[i], f.want = want, f.got_bits = codes[i], f.want_bits = want;
        f.ulps = codes[i] < want ? static_cast<int>(want) - codes[i] : codes[i] - static_cast<int>(want);
        if (i + 1 == count) f.cause = "the last code";
        else if (i >= count / 8 * 8) f.cause = "the codes past whole groups of 8";
      }
      bool failed = f.wrong != 0;
      std::string cause;
      if (std::string wrong = buffers.verdict(cause); !wrong.empty()) {
        f.place = std::move(wrong), f.cause = std::move(cause), f.has_values = false;
        failed = true;
      }
      detail::note(r, std::move(f), failed, o.max_failures);
    }
  return r;
}

/// Runs `quantize` on affine formats and compares every byte of every plane with nibble::quantize (min_max).
inline report check_quantize(const quantize_function& quantize, const conformance_options& o = {}) {
  report r;
  fault_watch watch;
  std::uint64_t seed = o.seed * 15485863;
  for (const format_desc& format : o.formats) {
    if (format.rule == code_rule::codebook) continue;
    for (const shape& s : {shape{0, 1, 1}, shape{0, 3, 65}, shape{0, 5, 133}, shape{0, 2, 300}})
      for (const value_pattern p : all_value_patterns) {
        const placement where = ++seed % 3 == 0 ? placement::at_begin : placement::at_end;
        const std::size_t stride = s.K + 3;
        const std::vector<float> dense = values(p, s.N * s.K, seed);
        std::vector<float> gapped((s.N - 1) * stride + s.K, detail::poison());
        for (std::size_t n = 0; n < s.N; ++n)
          std::memcpy(gapped.data() + n * stride, dense.data() + n * s.K, s.K * sizeof(float));
        const any_qmatrix want = nibble::quantize(format, make_span2d(dense.data(), s.N, s.K));

        const detail::input<float> in(gapped, where, o.alignment, "weights");
        const guarded<std::byte> codes(want.codes().size(), where, o.alignment),
            scales(want.scale_plane().size(), where, 4), zeros(want.zero_plane().size(), where, 4);
        const guarded<float> supers(want.super_scales().size(), where);
        const guarded<half> halves(want.block_scales().size(), where);
        for (const guarded<std::byte>* plane : {&codes, &scales, &zeros})
          if (plane->size() != 0) std::memset(plane->data(), 0, plane->size());
        for (float& v : supers) v = 0.0f;
        for (half& v : halves) v = half{};
        detail::buffer_check buffers(watch);
        buffers.watch(in);
        buffers.watch(codes.bytes(), "codes");
        buffers.watch(scales.bytes(), "scales");
        buffers.watch(zeros.bytes(), "zero points");
        buffers.watch(supers.bytes(), "scales of scales");
        buffers.watch(halves.bytes(), "scales of super-blocks");
        const errc answer = quantize(make_span2d(in.data(), s.N, s.K, stride), {format,
                                                                                s.N,
                                                                                s.K,
                                                                                want.row_stride_bytes(),
                                                                                {codes.data(), codes.size()},
                                                                                {scales.data(), scales.size()},
                                                                                {zeros.data(), zeros.size()},
                                                                                {supers.data(), supers.size()},
                                                                                {halves.data(), halves.size()}});
        if (answer != errc::ok) {
          ++r.refused;
          continue;
        }

        failure f;
        f.function = "quantize";
        f.format = describe(format);
        f.arguments = "N = " + std::to_string(s.N) + ", K = " + std::to_string(s.K) + ", stride " +
                      std::to_string(stride) + (where == placement::at_end ? ", buffers end" : ", buffers begin") +
                      " at forbidden pages";
        f.operands = name_of(p);
        const auto compare = [&](const void* got, const void* expected, std::size_t bytes, const char* plane) {
          const auto* a = static_cast<const std::uint8_t*>(got);
          const auto* b = static_cast<const std::uint8_t*>(expected);
          f.compared += bytes;
          for (std::size_t i = 0; i < bytes; ++i) {
            if (a[i] == b[i] || f.wrong++ != 0) continue;
            f.place = "byte " + std::to_string(i) + " of the " + plane, f.has_values = true;
            f.got = a[i], f.want = b[i], f.got_bits = a[i], f.want_bits = b[i];
            f.ulps = a[i] < b[i] ? b[i] - a[i] : a[i] - b[i];
          }
        };
        // Parameters first: codes follow from them.
        compare(supers.data(), want.super_scales().data(), want.super_scales().size_bytes(), "scales of scales");
        compare(halves.data(), want.block_scales().data(), want.block_scales().size_bytes(), "scales of super-blocks");
        compare(scales.data(), want.scale_plane().data(), want.scale_plane().size(), "scales");
        compare(zeros.data(), want.zero_plane().data(), want.zero_plane().size(), "zero points");
        if (f.wrong != 0) f.cause = "the range of a group, or how its scale is rounded to its storage";
        compare(codes.data(), want.codes().data(), want.codes().size(), "codes");
        if (f.wrong != 0 && f.cause.empty())
          f.cause =
              "codes are chosen against a scale other than the stored one, rounded otherwise, or padding bits are not 0";
        bool failed = f.wrong != 0;
        std::string cause;
        if (std::string wrong = buffers.verdict(cause); !wrong.empty()) {
          f.place = std::move(wrong), f.cause = std::move(cause), f.has_values = false;
          failed = true;
        }
        detail::note(r, std::move(f), failed, o.max_failures);
      }
  }
  return r;
}

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
