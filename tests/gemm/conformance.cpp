// SPDX-License-Identifier: MIT
//
// nibble's own kernels under the kit that other engines use (testing/conformance.hpp), on this instruction set.

#include <doctest/doctest.h>

#include <algorithm>

#include <nibble/core/thread_pool.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/testing/conformance.hpp>

#include "support/coverage.hpp"

namespace {

using namespace nibble;

template <class B>
errc multiply_on(span2d<const float> X, const packed_view& W, span2d<float> Y, const gemm_options& o,
                 const context& threads = {}) {
  if (const errc answer = B::can_multiply(W, o); answer != errc::ok) return answer;
  aligned_vector<std::byte> scratch(B::scratch_bytes(W, X.rows, o, threads.concurrency));
  context ctx = threads;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  gemm::multiply<B>(X, W, Y, o, ctx);
  return errc::ok;
}

using native_rows = kernels::quantize_row<isa::native>;

}  // namespace

TEST_CASE("conformance: the panel kernels pass, every width, rule and pattern") {
  if (!test::covers<kernels::gemm_panel<isa::native>, gemm::simd::isa_type>()) return;
  testing::conformance_options o;
  o.images = true;
  o.layout = layout_id::panel16;
  const testing::report r = testing::check_multiply([](auto... a) { return multiply_on<gemm::simd>(a...); }, o);
  INFO(r.text());
  CHECK(r.passed());
  CHECK(r.refused == 0);
  CHECK(r.cases > 5000);
}

TEST_CASE("conformance: the panel kernels pass in bfloat16, every width, rule and pattern") {
  if (!test::covers<kernels::gemm_panel<isa::native>, gemm::simd::isa_type>()) return;
  testing::conformance_options o;
  o.layout = layout_id::panel16;
  o.integer = o.weight_only = false;
  o.bfloat16 = true;
  const testing::report r = testing::check_multiply([](auto... a) { return multiply_on<gemm::simd>(a...); }, o);
  INFO(r.text());
  CHECK(r.passed());
  CHECK(r.refused == 0);
  CHECK(r.cases > 2500);
}

TEST_CASE("conformance: the panel kernels pass on threads") {
  thread_pool pool(3);
  testing::conformance_options o;
  o.images = true;
  o.layout = layout_id::panel16;
  o.seed = 2;
  std::erase_if(o.formats, [](const format_desc& f) { return f.bits != 4; });
  const testing::report r =
      testing::check_multiply([&](auto... a) { return multiply_on<gemm::simd>(a..., pool.context()); }, o);
  INFO(r.text());
  CHECK(r.passed());
}

TEST_CASE("conformance: the plain kernels pass on canonical rows") {
  testing::conformance_options o;
  o.images = true;
  o.bfloat16 = true;
  std::erase_if(o.formats, [](const format_desc& f) { return f.bits % 3 != 2; });
  const testing::report r = testing::check_multiply([](auto... a) { return multiply_on<gemm::scalar>(a...); }, o);
  INFO(r.text());
  CHECK(r.passed());
  CHECK(r.refused == 0);
}

TEST_CASE("conformance: the plain kernels pass on panels") {
  testing::conformance_options o;
  o.images = true;
  o.layout = layout_id::panel16;
  std::erase_if(o.formats, [](const format_desc& f) { return f.bits != 3; });
  const testing::report r = testing::check_multiply([](auto... a) { return multiply_on<gemm::scalar>(a...); }, o);
  INFO(r.text());
  CHECK(r.passed());
}

TEST_CASE("conformance: activation quantization passes") {
  const auto check = [](auto run) {
    const testing::report r = testing::check_quantize_row(run);
    INFO(r.text());
    CHECK(r.passed());
  };
  check([](auto... a) { return native_rows::run(a...); });
  check([](auto... a) { return kernels::quantize_row<isa::scalar>::run(a...); });
}

TEST_CASE("conformance: unpacking of canonical rows passes") {
  const testing::report r =
      testing::check_unpack([](const std::byte* packed, std::size_t count, int bits, std::uint8_t* codes) {
        pack::unpack_row(packed, count, bits, codes);
      });
  INFO(r.text());
  CHECK(r.passed());
}

TEST_CASE("conformance: quantization of weights by row views passes") {
  const testing::report r = testing::check_quantize([](span2d<const float> W, const testing::quantized_planes& out) {
    const any_qmatrix q = quantize(out.format, W);
    std::copy(q.codes().begin(), q.codes().end(), out.codes.begin());
    std::copy(q.scale_plane().begin(), q.scale_plane().end(), out.scales.begin());
    std::copy(q.zero_plane().begin(), q.zero_plane().end(), out.zeros.begin());
    std::copy(q.super_scales().begin(), q.super_scales().end(), out.super_scales.begin());
    std::copy(q.block_scales().begin(), q.block_scales().end(), out.block_scales.begin());
    return errc::ok;
  });
  INFO(r.text());
  CHECK(r.passed());
}
