// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Products through nibble::dispatch against the scalar backend of this unit, which is compiled for the baseline.

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <nibble/dispatch/dispatch.hpp>
#include <nibble/tensor/quantize.hpp>

#include "support/matrices.hpp"

namespace nibble::test {

struct compared {
  std::size_t products = 0;
  std::string wrong;  ///< the first one that differs, or empty
};

/// The scalar backend's Y.
inline std::vector<float> scalar_product(span2d<const float> x, const packed_view& w, const gemm_options& options) {
  aligned_vector<std::byte> scratch(gemm::scalar::scratch_bytes(w, x.rows, options, 1));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  std::vector<float> y(x.rows * w.matrix.N);
  gemm::multiply<gemm::scalar>(x, w, make_span2d(y.data(), x.rows, w.matrix.N), options, ctx);
  return y;
}

/// Every rule, width and granularity at ragged shapes: integer products bit for bit. Float products within
/// (K + 4) * 2^-24 * sum |x w|, the bound of K + 1 roundings on each side; asked of rules without an offset, where no
/// cancellation hides in the weights.
inline compared compare_with_scalar() {
  struct shape {
    std::size_t M, N, K;
  };
  compared out;
  for (const shape s : {shape{1, 17, 64}, shape{1, 33, 100}, shape{5, 40, 65}, shape{9, 3, 200}}) {
    const std::vector<float> values = normal_values(s.M * s.K, 7, 2.0f);
    const span2d<const float> x = make_span2d(values.data(), s.M, s.K);
    for (int bits = 2; bits <= 8; ++bits) {
      for (const format_desc& f : all_formats(bits, {32})) {
        if (f.scale == scale_storage::bf16) continue;
        const any_qmatrix q = random_qmatrix(f, s.N, s.K, 11);
        const packed_matrix packed = pack_matrix(q.view());
        for (const computation c : {computation::integer, computation::weight_only, computation::bfloat16}) {
          const gemm_options options{.computation = c,
                                     .image = bits % 2 == 0 ? table_image::one_plane : table_image::two_planes};
          std::vector<float> y(s.M * s.N);
          dispatch::multiply(x, packed, make_span2d(y.data(), s.M, s.N), options);
          const std::vector<float> expected = scalar_product(x, packed.view(), options);
          ++out.products;
          bool same = true;
          if (c == computation::integer) {
            same = same_bits(y, expected);
          } else if (f.rule != code_rule::asymmetric_offset && f.rule != code_rule::asymmetric) {
            for (std::size_t m = 0; m < s.M; ++m) {
              for (std::size_t n = 0; n < s.N; ++n) {
                double sum = 0.0;
                for (std::size_t k = 0; k < s.K; ++k)
                  sum += std::abs(double{values[m * s.K + k]} * double{decode_at(q.view(), n, k)});
                const double bound = static_cast<double>(s.K + 4) * 0x1p-24 * sum;
                same = same && std::abs(double{y[m * s.N + n]} - double{expected[m * s.N + n]}) <= 2 * bound;
              }
            }
          }
          if (same || !out.wrong.empty()) continue;
          constexpr const char* names[] = {", weight-only", ", integer", ", bfloat16"};
          out.wrong = describe(f) + names[static_cast<unsigned char>(c)] + ", M " + std::to_string(s.M) + ", N " +
                      std::to_string(s.N) + ", K " + std::to_string(s.K);
        }
      }
    }
  }
  return out;
}

}  // namespace nibble::test
