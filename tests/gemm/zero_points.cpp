// SPDX-License-Identifier: MIT
//
// Zero points beyond the codes: GPTQ files of version 1 have 2^bits among theirs, and a plane of bytes holds them.

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include <nibble/gemm/gemm.hpp>
#include <nibble/tensor/quantize.hpp>

#include "support/matrices.hpp"

namespace {

using namespace nibble;

template <class B>
std::vector<float> run(span2d<const float> x, const packed_view& w, const gemm_options& options) {
  std::vector<float> y(x.rows * w.matrix.N);
  aligned_vector<std::byte> scratch(B::scratch_bytes(w, x.rows, options, 1));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  gemm::multiply<B>(x, w, make_span2d(y.data(), x.rows, w.matrix.N), options, ctx);
  return y;
}

}  // namespace

TEST_CASE("zero_points: 2^bits beside codes of up to 7 bits multiplies as the reference says, every path") {
  for (int bits = 2; bits <= 7; ++bits) {
    for (const granularity_kind kind :
         {granularity_kind::per_tensor, granularity_kind::per_channel, granularity_kind::grouped}) {
      for (const std::uint32_t size : {32u, 128u}) {
        const format_desc f{code_rule::asymmetric, static_cast<std::uint8_t>(bits), kind, scale_storage::f16,
                            kind == granularity_kind::grouped ? size : 0};
        constexpr std::size_t N = 40, K = 288;
        any_qmatrix m = test::random_qmatrix(f, N, K, 1);
        for (std::size_t i = 0; i < m.zero_plane().size(); i += 2)
          m.zero_plane()[i] = static_cast<std::byte>(1 << bits);
        const packed_matrix p = pack_matrix(m.view());
        for (const std::size_t M : {std::size_t{1}, std::size_t{2}, std::size_t{17}, std::size_t{64}}) {
          const auto x = test::normal_values(M * K, 2);
          const auto rows = make_span2d<const float>(x.data(), M, K);
          for (const computation c : {computation::weight_only, computation::integer, computation::bfloat16}) {
            const gemm_options o{.computation = c};
            const auto want = run<gemm::reference>(rows, p.view(), o), got = run<gemm::simd>(rows, p.view(), o);
            if (c == computation::integer) CHECK(test::same_bits(got, run<gemm::scalar>(rows, p.view(), o)));
            double worst = 0.0;
            for (std::size_t i = 0; i < want.size(); ++i)
              worst = std::max(worst, std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])));
            CAPTURE(test::describe(f));
            CAPTURE(M);
            CAPTURE(static_cast<int>(c));
            // Below the error of a sum of K products of |x| < 5 and |w| <= 0.02 * 2^bits, each rounded a few times.
            const double unit = c == computation::bfloat16 ? 0x1p-10 : 0x1p-20;
            CHECK(worst <= unit * static_cast<double>(K) * 0.02 * (1 << bits));
          }
        }
      }
    }
  }
}

TEST_CASE("zero_points: 2^bits decodes to the formula's values") {
  for (int bits = 2; bits <= 7; ++bits) {
    const format_desc f{code_rule::asymmetric, static_cast<std::uint8_t>(bits), granularity_kind::grouped,
                        scale_storage::f32, 32};
    any_qmatrix m = test::random_qmatrix(f, 5, 70, 1);
    for (std::byte& z : m.zero_plane()) z = static_cast<std::byte>(1 << bits);
    std::vector<float> values(5 * 70);
    dequantize(m.view(), make_span2d(values.data(), 5, 70));
    for (std::size_t n = 0; n < 5; ++n)
      for (std::size_t k = 0; k < 70; ++k) {
        const auto u = pack::get(m.view().codes + n * m.row_stride_bytes(), k, bits);
        const float s = quant::scale_at(m.view(), quant::group_of(f, 70, n, k));
        CHECK(values[n * 70 + k] == s * (static_cast<float>(u) - static_cast<float>(1 << bits)));
      }
  }
}
