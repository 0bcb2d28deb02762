// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Random operands of the panel kernels, for their tests.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace nibble::test {

template <class F>
void for_each_width(F&& f) {
  [&]<int... Minus2>(std::integer_sequence<int, Minus2...>) { (f.template operator()<Minus2 + 2>(), ...); }
  (std::make_integer_sequence<int, 7>{});
}

/// `count` blocks of random codes, and the same codes in unit order.
struct random_blocks {
  std::vector<std::byte> packed;
  std::vector<std::uint8_t> units;
};
template <int Bits>
random_blocks make_blocks(std::size_t count, std::uint64_t seed) {
  random_blocks b{std::vector<std::byte>(count * pack::panel16::block_bytes(Bits)), codes(count * 512, seed, Bits)};
  for (std::size_t k = 0; k < count * 32; ++k)
    for (std::size_t n = 0; n < 16; ++n)
      pack::put_panel16(b.packed.data(), Bits, n, k, b.units[k / 4 * 64 + 4 * n + k % 4]);
  return b;
}

/// Everything a call points to, with the arrays it reads ending at a guard page.
template <class X, class Sum, class State>
struct call_data {
  guarded<X> x;
  std::vector<Sum> sums;
  std::vector<float> levels, scales, offsets;
  std::vector<std::int32_t> zeros;
  std::vector<State> state;
  std::vector<float> acc;
  kernels::panel_call<X, Sum, State> call;

  call_data(std::size_t M, std::size_t K, std::size_t group, bool with_offsets, unsigned seed)
      : x(M * round_up(K, std::size_t{64})), state(M * 16), acc(M * 16) {
    const std::size_t padded = round_up(K, std::size_t{64}), groups = ceil_div(K, group);
    const auto values = gaussian(x.size(), seed, 40.0f);
    sums.resize(M * groups);
    for (std::size_t m = 0; m < M; ++m)
      for (std::size_t k = 0; k < padded; ++k) {
        const float v = std::fmin(std::fmax(values[m * padded + k], -127.0f), 127.0f);
        x[m * padded + k] = k < K ? static_cast<X>(v) : X{0};
        if (k < K) sums[m * groups + k / group] += static_cast<Sum>(x[m * padded + k]);
      }
    levels.assign(sums.begin(), sums.end());
    scales = gaussian(groups * 16, seed + 1);
    offsets = gaussian(groups * 16, seed + 2);
    for (const std::uint8_t z : codes(groups * 16, seed + 3)) zeros.push_back(z);
    acc = gaussian(M * 16, seed + 4);
    call.M = M;
    call.K = K;
    call.k1 = K;
    call.group = group;
    call.x = x.data();
    call.x_stride = padded;
    call.x_sums = sums.data();
    call.x_levels = with_offsets ? levels.data() : nullptr;
    call.sum_stride = groups;
    call.params.scales = scales.data();
    call.params.zeros = zeros.data();
    call.params.offsets = with_offsets ? offsets.data() : nullptr;
    call.state = state.data();
    call.acc = acc.data();
  }
};
using integer_data = call_data<std::int8_t, std::int32_t, std::int32_t>;
using float_data = call_data<float, float, float>;

inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct shape {
  std::size_t M, K, group;
};
inline constexpr shape row_shapes[] = {{1, 32, 32}, {1, 77, 80}, {1, 160, 64}, {1, 129, 132}};
inline constexpr shape shapes[] = {{1, 32, 32}, {1, 77, 80},  {2, 64, 8},    {3, 100, 12},
                                   {5, 33, 36}, {13, 96, 32}, {25, 130, 64}, {33, 200, 128}};

}  // namespace nibble::test
