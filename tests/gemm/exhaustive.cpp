// SPDX-License-Identifier: MIT
//
// Every shape from one element to two tiles and one, against the double reference within a bound that follows from the
// law's own rounding steps, and against the law bit for bit.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <nibble/gemm/gemm.hpp>
#include <nibble/testing/law.hpp>
#include <nibble/testing/operands.hpp>

#include "support/coverage.hpp"
#include "support/matrices.hpp"

namespace {

using namespace nibble;
using panel = kernels::gemm_panel<isa::native>;

/// Two of the tallest tiles and one row.
constexpr std::size_t most_rows = [] {
  if constexpr (panel::block_panels > 1) return std::size_t{33};  // tile registers of 16 rows
  else if constexpr (requires { panel::mr; }) return 2 * static_cast<std::size_t>(panel::mr) + 1;
  else return std::size_t{5};
}();
constexpr std::size_t most_columns = 2 * pack::panel16::nr + 1, most_k = 2 * pack::panel16::block_k + 1;

/// How far element (token, n) may lie from the reference's. A running error analysis (Higham 2002, section 3.3) of the
/// law: after each rounding step with exact value A and error e so far, e grows by u (|A| + e), u = 2^-24; a product
/// with an exact factor multiplies e. Integer sums do not round at all, nor does their conversion to float below 2^24.
/// The reference adds the rounding of its own result to float, and K sums in double. A codebook's image is the products of its
/// planes, one after the other, whose scale is a product that the law rounds.
double bound_of(const testing::law_weights& all, const testing::law_token& x, std::size_t n, bool integer) {
  constexpr double u = 0x1p-24;
  double exact = 0.0, error = 0.0, magnitude = 0.0;
  const auto round = [&](double by, double by_error) {
    exact += by;
    error += by_error;
    error += u * (std::abs(exact) + error);
    magnitude += std::abs(by) + by_error;
  };
  bool bounded = true;
  const auto add = [&](const testing::law_weights& w, const testing::law_weights::segment& s) {
    const std::uint8_t* codes = w.codes.data() + n * w.K;
    double sum = 0.0, sum_error = 0.0, x_sum = 0.0, x_error = 0.0, terms = 0.0;
    for (std::size_t k = s.begin; k < s.end; ++k) {
      const double a = integer ? x.codes[k] : x.x[k], q = w.value(s, codes[k]);
      sum += a * q;
      x_sum += a;
      terms += std::abs(a * q);
      if (integer) continue;
      if (testing::native_float_rule == testing::float_rule::rounded_twice) sum_error += u * std::abs(a * q);
      sum_error += u * (std::abs(sum) + sum_error);
      x_error += u * (std::abs(x_sum) + x_error);
    }
    if (integer && !(2.0 * std::abs(sum) < 0x1p24)) bounded = false;  // not exact as a float, in half steps
    const double scale = s.scale, offset = w.has_offset() ? static_cast<double>(s.zero) : 0.0;
    const double scale_error = &w == &all ? 0.0 : u * std::abs(scale);
    round(sum * scale, sum_error * std::abs(scale) + std::abs(sum) * scale_error);
    if (w.has_offset()) round(x_sum * offset, x_error * std::abs(offset));
    magnitude += terms * std::abs(scale);
  };
  if (integer && !all.planes.empty()) {
    for (const testing::law_weights& plane : all.planes)
      for (const testing::law_weights::segment& s : plane.segments[n]) add(plane, s);
  } else {
    for (const testing::law_weights::segment& s : all.segments[n]) add(all, s);
  }
  if (!bounded) return -1.0;
  if (integer) {
    const double token = x.scale;
    exact *= token, error *= token, magnitude *= token;
    error += u * (std::abs(exact) + error);
  }
  return error + u * (std::abs(exact) + error) + 4.0 * static_cast<double>(all.K + 1) * 0x1p-53 * magnitude;
}

/// Products of all asked sizes that share K: expectations for the greatest, which hold the smaller ones in their corner.
class sweep {
 public:
  sweep(const format_desc& f, std::size_t K, const gemm_options& options)
      : options_(options),
        W_(testing::weights(testing::operand_pattern::random, f, most_columns, K, 31 * K + f.bits)),
        x_(testing::activations(testing::operand_pattern::random, most_rows, K, 77 * K + 1)),
        reference_(most_rows * most_columns),
        law_(reference_.size()),
        bounds_(reference_.size()),
        y_(reference_.size()),
        bits_(options.computation != computation::bfloat16) {
    gemm::reference::multiply(make_span2d<const float>(x_.data(), most_rows, K), {layout_id::row_major, W_.view()},
                              make_span2d(reference_.data(), most_rows, most_columns), options_, {});
    const testing::law_weights w(W_.view(), options_.image);
    for (std::size_t m = 0; m < most_rows; ++m) {
      const testing::law_token token{std::span<const float>(x_.data() + m * K, K)};
      for (std::size_t n = 0; n < most_columns; ++n) {
        const std::size_t at = m * most_columns + n;
        if (bits_) {
          law_[at] = testing::law_element(w, token, n, options_, testing::native_float_rule, 0.0f);
          bounds_[at] = bound_of(w, token, n, options_.computation == computation::integer);
        } else {  // additions in any order
          const testing::bounded_element e = testing::bfloat16_element(w, token, n, options_, 0.0f);
          bounds_[at] = e.bound + 0x1p-24 * std::abs(e.exact);  // the reference's own rounding
        }
      }
    }
  }

  /// The first N columns of W.
  void columns(std::size_t N) {
    quantized_view v = W_.view();
    v.N = N;
    packed_ = std::make_unique<packed_matrix>(v, layout_id::panel16);
  }

  /// Counts what is wrong with the first M rows times the columns chosen.
  template <class B>
  void run(std::size_t M) {
    const std::size_t N = packed_->N(), K = W_.K();
    const packed_view view = packed_->view();
    const std::size_t need = B::scratch_bytes(view, M, options_, 1);
    if (scratch_.size() < need) scratch_.resize(need);
    context ctx;
    ctx.scratch = scratch_.data();
    ctx.scratch_bytes = scratch_.size();
    B::multiply(make_span2d<const float>(x_.data(), M, K), view, make_span2d(y_.data(), M, N), options_, ctx);
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t n = 0; n < N; ++n) {
        const std::size_t at = m * most_columns + n;
        const double error = std::abs(static_cast<double>(y_[m * N + n]) - static_cast<double>(reference_[at]));
        if (!(error <= bounds_[at])) note(beyond_bound, M, N, K, m, n);
        if (bits_ && y_[m * N + n] != law_[at]) note(other_bits, M, N, K, m, n);
        if (error > worst * bounds_[at] && bounds_[at] > 0.0) worst = error / bounds_[at];
      }
  }

  std::string beyond_bound, other_bits;  ///< the first element of each kind
  double worst = 0.0;                    ///< greatest share of a bound that was used

 private:
  static void note(std::string& first, std::size_t M, std::size_t N, std::size_t K, std::size_t m, std::size_t n) {
    if (!first.empty()) return;
    first = "M " + std::to_string(M) + " N " + std::to_string(N) + " K " + std::to_string(K) + " at (" +
            std::to_string(m) + ", " + std::to_string(n) + ")";
  }

  gemm_options options_;
  any_qmatrix W_;
  std::vector<float> x_, reference_, law_;
  std::vector<double> bounds_;
  std::vector<float> y_;
  bool bits_;  ///< whether the computation promises the law's
  std::unique_ptr<packed_matrix> packed_;
  aligned_vector<std::byte> scratch_;
};

/// All computations with a format.
std::vector<gemm_options> computations(const format_desc& f) {
  std::vector<gemm_options> all{{}, {.computation = computation::bfloat16}};
  if (f.rule != code_rule::codebook) {
    all.push_back({.computation = computation::integer});
  } else {
    for (const table_image image : {table_image::one_plane, table_image::two_planes})
      all.push_back({.computation = computation::integer, .image = image});
  }
  return all;
}

std::vector<std::size_t> up_to(std::size_t last) {
  std::vector<std::size_t> all(last);
  for (std::size_t i = 0; i < last; ++i) all[i] = i + 1;
  return all;
}

/// Rows that are multiplied with every number of columns; the others meet full panels and one column more. Only tile
/// registers have so many that it makes a difference.
constexpr bool in_every_width(std::size_t M) {
  constexpr std::size_t tile = most_rows / 2;
  return most_rows < 30 || M <= 6 || M + 1 == tile || M == tile || M == tile + 1 || M + 1 >= most_rows;
}

/// All products of rows x columns x ks; returns the greatest share of a bound that was used.
template <class B>
double check_all(const format_desc& f, const gemm_options& options, const std::vector<std::size_t>& rows,
                 const std::vector<std::size_t>& columns, const std::vector<std::size_t>& ks) {
  double worst = 0.0;
  for (const std::size_t K : ks) {
    if (can_pack(f, K, layout_id::panel16) != errc::ok) continue;
    sweep s(f, K, options);
    for (const std::size_t N : columns) {
      s.columns(N);
      for (const std::size_t M : rows)
        if (in_every_width(M) || N % 16 <= 1) s.template run<B>(M);
    }
    CAPTURE(testing::describe(f));
    CAPTURE(static_cast<int>(options.computation));
    CAPTURE(static_cast<int>(options.image));
    CHECK(s.beyond_bound == "");
    CHECK(s.other_bits == "");
    worst = std::max(worst, s.worst);
  }
  return worst;
}

}  // namespace

TEST_CASE("exhaustive: every M, N and K up to two tiles and one, every width and rule") {
  if (!test::covers<panel, gemm::simd::isa_type>()) return;
  using enum code_rule;
  using enum scale_storage;
  using g = granularity_kind;
  double worst = 0.0;
  for (std::uint8_t bits = 2; bits <= 8; ++bits) {
    // The rules turn with the width, so that every rule meets every kind of group and several widths.
    const code_rule rules[] = {symmetric, mid_rise, asymmetric, asymmetric_offset, codebook, symmetric_full};
    const auto rule = [&](int i) { return rules[(bits + i) % 6]; };
    for (const format_desc& f :
         {format_desc{rule(0), bits, g::grouped, f16, 32}, format_desc{rule(1), bits, g::per_channel, f32, 0},
          format_desc{rule(2), bits, g::grouped, bf16, 12}, format_desc{rule(3), bits, g::grouped, f32, 64}})
      for (const gemm_options& o : computations(f))
        if (o.computation != computation::bfloat16)  // fewer formats do for it, below
          worst = std::max(worst, check_all<gemm::simd>(f, o, up_to(most_rows), up_to(most_columns), up_to(most_k)));
  }
  // The bounds are no wider than they need be: some element uses a good part of its own.
  CHECK(worst > 0.3);
}

TEST_CASE("exhaustive: bfloat16, every M, N and K up to two tiles and one") {
  if (!test::covers<panel, gemm::simd::isa_type>()) return;
  for (const format_desc& f :
       {format_desc{code_rule::asymmetric_offset, 4, granularity_kind::grouped, scale_storage::f16, 12},
        format_desc{code_rule::codebook, 3, granularity_kind::per_channel, scale_storage::f32, 0}})
    check_all<gemm::simd>(f, {.computation = computation::bfloat16}, up_to(most_rows), up_to(most_columns),
                          up_to(most_k));
}

TEST_CASE("exhaustive: every format on a covering set of shapes") {
  if (!test::covers<panel, gemm::simd::isa_type>()) return;
  const std::size_t tile = most_rows / 2;
  const std::vector<std::size_t> rows{1, 2, tile, tile + 1, most_rows}, columns{1, 16, 17, most_columns};
  for (int bits = 2; bits <= 8; ++bits)
    for (const format_desc& f : test::all_formats(bits, {32}))
      for (const gemm_options& o : computations(f)) check_all<gemm::simd>(f, o, rows, columns, {1, 33, 64, most_k});
}
