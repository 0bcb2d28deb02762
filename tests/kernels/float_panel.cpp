// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/panel_calls.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using native = kernels::gemm_panel<isa::native>;
using scalar = kernels::gemm_panel<isa::scalar>;
using namespace nibble::test;

/// One of the panels that a float row takes at once.
struct row_panel {
  random_blocks blocks;
  std::unique_ptr<test::guarded<std::byte>> packed;
  std::vector<float> zeros;
  std::unique_ptr<float_data> data;
};

}  // namespace

TEST_CASE("float_panel: values of affine and table codes equal the scalar ones") {
  if (!test::covers<native, native::isa_type>()) return;
  for (int bits = 2; bits <= 8; ++bits) {
    const auto units = test::codes(5 * 64, 3, bits);
    const auto zero = test::gaussian(16, 4), table = test::gaussian(std::size_t{1} << bits, 5);
    const test::guarded<float> got(5 * 64), want(5 * 64);
    CAPTURE(bits);
    native::values_affine(units.data(), 5, zero.data(), got.data());
    scalar::values_affine(units.data(), 5, zero.data(), want.data());
    CHECK(std::equal(got.begin(), got.end(), want.begin()));
    native::values_table(units.data(), 5, table.data(), bits, got.data());
    scalar::values_table(units.data(), 5, table.data(), bits, want.data());
    CHECK(std::equal(got.begin(), got.end(), want.begin()));
  }
}

TEST_CASE("float_panel: float blocks equal the scalar ones bit for bit, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const shape& s : shapes) {
    for (const bool offsets : {false, true}) {
      CAPTURE(s.M);
      CAPTURE(s.K);
      CAPTURE(s.group);
      const auto values = test::gaussian(round_up(s.K, std::size_t{32}) * 16, 6);
      float_data a(s.M, s.K, s.group, offsets, 9), b(s.M, s.K, s.group, offsets, 9);
      native::float_block(a.call, values.data());
      for (b.call.k0 = 0; b.call.k0 < s.K; b.call.k0 = b.call.k1) {
        b.call.k1 = std::min(s.K, b.call.k0 + 32);
        scalar::float_block(b.call, values.data() + b.call.k0 * 16);
      }
      CHECK(same(a.acc, b.acc));
    }
  }
}

TEST_CASE(
    "float_panel: float blocks of interleaved rows equal the scalar ones bit for bit, every number of panels, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  constexpr std::size_t panels = native::float_panels, tile = native::float_rows;
  for (const shape& s : shapes) {
    for (std::size_t count = 1; count <= panels; ++count) {
      CAPTURE(s.M);
      CAPTURE(s.K);
      CAPTURE(s.group);
      CAPTURE(count);
      const std::size_t padded = round_up(s.K, std::size_t{64});  // as call_data has it
      std::vector<std::unique_ptr<float_data>> got, want;
      std::vector<std::vector<float>> values;
      kernels::float_call calls[panels];
      for (std::size_t i = 0; i < count; ++i) {
        values.push_back(test::gaussian(padded * 16, 6 + static_cast<unsigned>(i)));
        for (auto* all : {&got, &want}) {
          all->push_back(std::make_unique<float_data>(s.M, s.K, s.group, count % 2 == 0, 9));
          float_data& d = *all->back();
          d.scales = test::gaussian(d.scales.size(), 90 + static_cast<unsigned>(i));
          d.call.params.scales = d.scales.data();
        }
        calls[i] = got[i]->call;
      }
      const test::guarded<float> x(s.M * padded);
      for (std::size_t m = 0; m < s.M; ++m) {
        const std::size_t first = m - m % tile, rows = std::min(tile, s.M - first);
        for (std::size_t k = 0; k < padded; ++k) x[first * padded + k * rows + m % tile] = want[0]->x[m * padded + k];
      }
      for (std::size_t k0 = 0, k1; k0 < s.K; k0 = k1) {
        k1 = std::min(s.K, k0 + 64);
        const float* at[panels] = {};
        for (std::size_t i = 0; i < count; ++i) {
          calls[i].x = x.data();
          calls[i].k0 = k0;
          calls[i].k1 = k1;
          at[i] = values[i].data() + k0 * 16;
        }
        native::float_blocks(calls, count, at);
      }
      for (std::size_t i = 0; i < count; ++i) {
        scalar::float_block(want[i]->call, values[i].data());
        CHECK(same(got[i]->acc, want[i]->acc));
      }
    }
  }
}

TEST_CASE("float_panel: bfloat16 weights equal the scalar ones in the kernel's own order, every rule, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  using operand = native::bfloat16_operand;
  constexpr bool pairs = std::is_same_v<operand, bfloat16>;
  constexpr std::size_t K = 135, group = 12, groups = 12;
  // Subnormal and overflowing scales, a NaN.
  auto scales = test::gaussian(groups * 16, 1), offsets = test::gaussian(groups * 16, 2);
  scales[3] = 0x1p-140f, scales[20] = 3e38f, scales[40] = -3e38f, offsets[21] = 3e38f;
  scales[50] = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> zeros;
  for (const std::uint8_t z : test::codes(groups * 16, 3)) zeros.push_back(z);
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool with_table : {false, true})
      for (const bool with_offset : {false, true})
        for (const auto& cut : {std::pair<std::size_t, std::size_t>{0, 32}, {32, 96}, {96, K}, {0, K}}) {
          const std::size_t k0 = cut.first, k1 = cut.second;  // clang 14: no capture of structured bindings
          const std::size_t blocks = ceil_div(k1 - k0, std::size_t{32});
          const auto units = test::codes(blocks * 512, 4, bits);
          const auto table = test::gaussian(std::size_t{1} << bits, 5);
          kernels::float_codes c;
          c.units = units.data(), c.k0 = k0, c.k1 = k1, c.group = group, c.bits = bits;
          c.zeros = zeros.data(), c.zero_stride = bits % 2 == 0 ? 16 : 0;
          c.table = with_table ? table.data() : nullptr;
          c.params.scales = scales.data();
          c.params.offsets = with_offset ? offsets.data() : nullptr;
          std::vector<float> want(blocks * 512);
          const test::guarded<operand> got(blocks * 512);
          for (operand& v : got) std::memset(static_cast<void*>(&v), 0x7f, sizeof v);
          scalar::bfloat16_weights(c, want.data());
          native::bfloat16_weights(c, got.data());
          std::size_t wrong = 0;
          const std::size_t end = pairs ? round_up(k1, std::size_t{32}) : round_up(k1, std::size_t{4});
          for (std::size_t k = 0; k < end - k0; ++k)
            for (std::size_t n = 0; n < 16; ++n) {
              // bfloat16 operands below 2^-126 are 0 to the instruction that takes them, and may already be.
              const auto seen = [](float value) { return pairs && std::fabs(value) < 0x1p-126f ? 0.0f : value; };
              const float w = seen(k < round_up(k1, std::size_t{4}) - k0 ? want[k * 16 + n] : 0.0f);
              const float v = seen(to_float(got[pairs ? k / 2 * 32 + 2 * n + k % 2 : k * 16 + n]));
              wrong += std::isnan(w) ? !std::isnan(v) : std::memcmp(&w, &v, sizeof w) != 0;
            }
          CAPTURE(bits);
          CAPTURE(with_table);
          CAPTURE(with_offset);
          CAPTURE(k1);
          CHECK(wrong == 0);
        }
}

TEST_CASE("float_panel: bfloat16 rows are rounded and padded, and touch nothing else") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const std::size_t K : {1u, 15u, 16u, 17u, 31u, 63u, 64u, 100u}) {
    const std::size_t padded = round_up(K, std::size_t{64});
    const test::guarded<float> x(K);
    const auto values = test::gaussian(K, 7);
    std::copy(values.begin(), values.end(), x.data());
    x[0] = std::numeric_limits<float>::max();
    x[K / 2] = -0x1.01p-130f;
    const test::guarded<native::bfloat16_operand> out(padded);
    native::bfloat16_row(x.data(), K, padded, out.data());
    CAPTURE(K);
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < padded; ++k)
      wrong += to_float(out[k]) != (k < K ? kernels::nearest_bfloat16(x[k]) : 0.0f);
    CHECK(wrong == 0);
  }
}

TEST_CASE("float_panel: bfloat16 blocks are sums of products, every number of rows, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  using operand = native::bfloat16_operand;
  static constexpr float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  constexpr std::size_t K = 77, padded = 96, panels = native::bfloat16_panels;
  // Small integers: all sums are exact, whatever their order.
  const auto units = test::codes(panels * padded * 16, 5, 3);
  const auto codes = test::codes(40 * padded, 6, 4);
  for (std::size_t M = 1; M <= 40; ++M)
    for (std::size_t count = 1; count <= panels; ++count) {
      const test::guarded<operand> x(M * padded);
      std::vector<float> row(K), scales(16, 1.0f), zeros(16, 3.0f);
      for (std::size_t m = 0; m < M; ++m) {
        for (std::size_t k = 0; k < K; ++k) row[k] = static_cast<float>(codes[m * padded + k]) - 7.0f;
        native::bfloat16_row(row.data(), K, padded, x.data() + m * padded);
      }
      std::vector<std::vector<float>> acc(panels, std::vector<float>(M * 16, 0.5f)), state = acc;
      for (const auto& [k0, k1] : {std::pair<std::size_t, std::size_t>{0, 64}, {64, K}}) {
        kernels::bfloat16_call<operand> calls[panels];
        std::vector<std::vector<operand>> weights(panels);
        const operand* at[panels] = {};
        for (std::size_t i = 0; i < count; ++i) {
          kernels::float_codes c;
          c.units = units.data() + i * padded * 16 + k0 * 16, c.k0 = k0, c.k1 = k1, c.group = 80, c.bits = 3;
          c.zeros = zeros.data();
          c.params.scales = scales.data();
          weights[i].resize(64 * 16);
          native::bfloat16_weights(c, weights[i].data());
          at[i] = weights[i].data();
          calls[i].M = M, calls[i].K = K, calls[i].k0 = k0, calls[i].k1 = k1, calls[i].group = 80;
          calls[i].x = x.data(), calls[i].x_stride = padded;
          calls[i].params.scales = ones, calls[i].params.scale_stride = 0;
          calls[i].state = state[i].data(), calls[i].acc = acc[i].data();
        }
        native::bfloat16_blocks(calls, count, at);
      }
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < panels; ++i)
        for (std::size_t m = 0; m < M; ++m)
          for (std::size_t n = 0; n < 16; ++n) {
            float want = 0.5f;
            for (std::size_t k = 0; i < count && k < K; ++k)
              want += (static_cast<float>(codes[m * padded + k]) - 7.0f) *
                      (static_cast<float>(units[i * padded * 16 + k / 4 * 64 + 4 * n + k % 4]) - 3.0f);
            wrong += acc[i][m * 16 + n] != want;
          }
      CAPTURE(M);
      CAPTURE(count);
      CHECK(wrong == 0);
    }
}

TEST_CASE("float_panel: every value of a table is looked up, every width") {
  if (!test::covers<native, native::isa_type>()) return;
  for (int bits = 2; bits <= 8; ++bits) {
    const auto table = test::gaussian(std::size_t{1} << bits, 5);
    std::vector<std::uint8_t> units(256);
    for (std::size_t i = 0; i < units.size(); ++i) units[i] = static_cast<std::uint8_t>(i % table.size());
    std::vector<float> got(256), want(256);
    native::values_table(units.data(), 4, table.data(), bits, got.data());
    scalar::values_table(units.data(), 4, table.data(), bits, want.data());
    CAPTURE(bits);
    CHECK(same(got, want));
  }
}

TEST_CASE("float_panel: float rows from packed codes equal the detour over unpacked ones, every width and panel") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    for (const shape& s : row_shapes) {
      CAPTURE(Bits);
      CAPTURE(s.K);
      const std::size_t blocks = ceil_div(s.K, std::size_t{32}), groups = ceil_div(s.K, s.group);
      const auto table = test::gaussian(std::size_t{1} << Bits, 5);
      for (const bool codebook : {false, true}) {
        if (codebook && Bits > kernels::table_row_bits) continue;
        // Panels differ in weights, scales, zeros and accumulators; the row of x and its sums are one.
        row_panel panels[native::row_panels];
        kernels::float_call calls[native::row_panels];
        const std::byte* codes[native::row_panels];
        const float* zeros[native::row_panels];
        for (std::size_t i = 0; i < native::row_panels; ++i) {
          row_panel& p = panels[i];
          p.blocks = make_blocks<Bits>(blocks, 70 + i);
          p.packed = std::make_unique<test::guarded<std::byte>>(p.blocks.packed.size());
          std::copy(p.blocks.packed.begin(), p.blocks.packed.end(), p.packed->begin());
          p.zeros = test::gaussian(groups * 16, 20 + static_cast<unsigned>(i));
          p.data = std::make_unique<float_data>(1, s.K, s.group, !codebook, 9);
          p.data->scales = test::gaussian(groups * 16, 40 + static_cast<unsigned>(i));
          p.data->call.params.scales = p.data->scales.data();
          calls[i] = p.data->call;
          calls[i].x = panels[0].data->x.data();
          codes[i] = p.packed->data();
          zeros[i] = p.zeros.data();
        }
        if constexpr (Bits <= kernels::table_row_bits)
          if (codebook) native::table_row<Bits>(calls, codes, table.data());
        if (!codebook) native::float_row<Bits>(calls, codes, zeros, 16);
        for (std::size_t i = 0; i < native::row_panels; ++i) {
          const row_panel& p = panels[i];
          CAPTURE(i);
          float_data b(1, s.K, s.group, !codebook, 9), c(1, s.K, s.group, !codebook, 9);
          b.call.params.scales = c.call.params.scales = p.data->scales.data();
          std::vector<float> values(blocks * 512);
          for (std::size_t k = 0; k < blocks * 32; ++k)
            for (std::size_t n = 0; n < 16; ++n) {
              const std::uint8_t u = p.blocks.units[k / 4 * 64 + 4 * n + k % 4];
              const std::size_t g = std::min(k / s.group, groups - 1);
              values[k * 16 + n] = codebook ? table[u] : static_cast<float>(u) - p.zeros[g * 16 + n];
            }
          scalar::float_block(b.call, values.data());
          CHECK(same(p.data->acc, b.acc));
          if (codebook) scalar::table_row<Bits>(&c.call, &codes[i], table.data());
          else scalar::float_row<Bits>(&c.call, &codes[i], &zeros[i], 16);
          CHECK(same(p.data->acc, c.acc));
        }
      }
    }
  });
}
