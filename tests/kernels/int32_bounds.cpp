// SPDX-License-Identifier: MIT
//
// Why no integer of the law overflows, as facts for the compiler, and the kernels at those bounds.

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"

namespace {

using namespace nibble;

constexpr std::int64_t int32_max = (std::int64_t{1} << 31) - 1, int16_max = 32767;
constexpr std::int64_t exact_k = kernels::exact_k;
constexpr std::int64_t longest_k = std::int64_t{1} << 24;  // the limit of gemm::check_weights
constexpr std::int64_t x = 127;                            // greatest magnitude of an activation's code: never -128
constexpr std::int64_t u = 255;                            // greatest stored code

// One group in int32: S, S in half steps, X, z X; the difference is sum (2^shift u - z) x with |2^shift u - z| <= 255.
static_assert(u * x * exact_k <= int32_max);
static_assert(2 * u * x * exact_k <= int32_max, "mid-rise counts half steps: shift = 1");
static_assert(2 * u * x * (exact_k + exact_k / 64) > int32_max, "exact_k is the greatest power of two that fits");
static_assert(x * longest_k <= int32_max, "token sums stay in int32 over the longest row");
static_assert(u * x * exact_k <= int32_max, "z X: z <= 255, in half steps 2^8 - 1");

// Codes with 128 taken off (|v| <= 128): the fold multiplies X by z - 128 * 2^shift, at most 256 in magnitude.
static_assert(2 * 128 * x * exact_k <= int32_max && 256 * x * exact_k <= int32_max);

// Longer rows are combined in int64.
static_assert(2 * u * x * longest_k <= (std::int64_t{1} << 62));

// Two products in int16 (vpmaddubsw saturates beyond, addp wraps around): up to 7 bits as they are, 8 bits only as |v| <= 128.
static_assert(2 * 127 * x <= int16_max && 2 * 128 * x <= int16_max);
static_assert(2 * u * x > int16_max, "8-bit codes as they are would saturate");

// Four products of a lane at once (vpdpbusd, without saturation) on top of the sum of all before.
static_assert(u * x * (exact_k - 4) + 4 * u * x <= int32_max);

// The conversion of a group's sum to float is exact for groups of up to 256 codes of any width, also in half steps: there
// the integer path rounds once for each group.
static_assert(2 * u * x * 256 <= std::int64_t{1} << 24);

#if NIBBLE_SIMD_KERNELS
// Several units of two pairs each in one int16: as many as fit, for every width that the kind serves.
constexpr bool runs_fit(int bits) {
  const std::int64_t unit = 2 * ((std::int64_t{1} << bits) - 1) * x;
  const auto run = static_cast<std::int64_t>(kernels::simd::pair_run(bits));
  return run * unit <= int16_max;
}
static_assert(runs_fit(2) && runs_fit(3) && runs_fit(4) && runs_fit(5) && runs_fit(6));
#endif

/// The law's accumulator for one group of exact_k greatest codes and activations +-127, from kernel K.
template <class Kernel>
std::vector<float> run_at_bound(int sign, int shift, std::int32_t zero) {
  constexpr std::size_t K = kernels::exact_k;
  const std::vector<std::uint8_t> units(K * 16, 255);
  const std::vector<std::int8_t> row(K, static_cast<std::int8_t>(127 * sign));
  const std::int32_t x_sum = 127 * sign * static_cast<std::int32_t>(K);
  const std::vector<float> scales(16, 1.0f);
  const std::vector<std::int32_t> zeros(16, zero);
  std::vector<std::int32_t> state(16);
  std::vector<float> acc(16);
  kernels::integer_call call;
  call.M = 1;
  call.K = call.k1 = K;
  call.group = K;
  call.x = row.data();
  call.x_stride = K;
  call.x_sums = &x_sum;
  call.sum_stride = 1;
  call.params.scales = scales.data();
  call.params.zeros = zeros.data();
  call.params.shift = shift;
  call.state = state.data();
  call.acc = acc.data();
  Kernel::integer_block(call, 8, units.data());
  return acc;
}

template <class Kernel>
void check_at_bound() {
  for (const int sign : {-1, 1})
    for (const int shift : {0, 1})
      for (const std::int32_t zero : {0, 255}) {
        const std::int64_t exact = ((std::int64_t{255} << shift) - zero) * 127 * sign * exact_k;
        const float want = static_cast<float>(exact) / static_cast<float>(1 << shift);
        CAPTURE(sign);
        CAPTURE(shift);
        CAPTURE(zero);
        for (const float got : run_at_bound<Kernel>(sign, shift, zero)) CHECK(got == want);
      }
}

}  // namespace

TEST_CASE("int32_bounds: the longest group of the greatest codes does not overflow") {
  using native = kernels::gemm_panel<isa::native>;
  check_at_bound<kernels::gemm_panel<isa::scalar>>();
  if (test::covers<native, native::isa_type>()) check_at_bound<native>();
}
