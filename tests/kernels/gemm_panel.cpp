// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
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

/// The one-row kernel on one panel; it may take several, which then are this one with results of their own.
template <class Kernel, int Bits>
void one_row(integer_data& d, const std::byte* packed) {
  constexpr std::size_t panels = Kernel::integer_row_panels(Bits);
  std::vector<float> others(panels * 16);
  kernels::integer_call calls[panels];
  const std::byte* codes[panels];
  for (std::size_t i = 0; i < panels; ++i) {
    calls[i] = d.call;
    if (i != 0) calls[i].acc = others.data() + i * 16;
    codes[i] = packed;
  }
  Kernel::template integer_row<Bits>(calls, codes);
}

constexpr shape integer_row_shapes[] = {{1, 32, 32}, {1, 77, 80}, {1, 160, 64}, {1, 129, 132}, {1, 5, 8},  {1, 75, 8},
                                        {1, 96, 8},  {1, 40, 8},  {1, 129, 16}, {1, 80, 16},   {1, 64, 16}};
/// Several panels at once against the scalar kernel, one after the other. Exact: on operands whose zero points are taken off.
template <class Kernel, bool Exact>
void check_panels_at_once() {
  constexpr std::size_t K = 448, cuts[] = {0, 128, 352, K};
  typename Kernel::block_scope scope;
  for (const std::size_t group : {std::size_t{32}, std::size_t{96}, std::size_t{128}, K}) {
    for (const std::size_t M : {2u, 5u, 15u, 16u, 17u, 31u, 32u, 33u, 47u, 48u, 64u, 79u}) {
      CAPTURE(group);
      CAPTURE(M);
      REQUIRE(Kernel::in_blocks(M, group, K, false));
      std::vector<std::vector<std::uint8_t>> units;
      std::vector<std::unique_ptr<test::guarded<std::uint8_t>>> operands;
      std::vector<std::unique_ptr<integer_data>> got, want;
      kernels::integer_call calls[Kernel::block_panels];
      const std::byte* at[Kernel::block_panels];
      for (std::size_t i = 0; i < Kernel::block_panels; ++i) {
        units.push_back(test::codes(K * 16, 6 + i, Exact ? 7 : 8));
        for (auto* all : {&got, &want}) {
          all->push_back(std::make_unique<integer_data>(M, K, group, !Exact && i % 2 == 0, 9));
          integer_data& d = *all->back();
          d.scales = test::gaussian(d.scales.size(), 90 + static_cast<unsigned>(i));
          d.call.params.scales = d.scales.data();
          if (Exact)
            for (std::int32_t& z : d.zeros) z &= 127;
        }
        calls[i] = got[i]->call;
        calls[i].x = got[0]->x.data();
        operands.push_back(std::make_unique<test::guarded<std::uint8_t>>(K * 16));
        for (std::size_t at_unit = 0; at_unit < K * 16; ++at_unit) {
          const std::size_t k = at_unit / 64 * 4, column = at_unit % 64 / 4;
          const std::int32_t zero = Exact ? want[i]->zeros[k / group * 16 + column] : 0;
          (*operands[i])[at_unit] = static_cast<std::uint8_t>(units[i][at_unit] - zero);
        }
        if (!Exact) continue;
        calls[i].params.zeros = nullptr;
        calls[i].x_sums = nullptr;
      }
      for (std::size_t cut = 0; cuts[cut] < K; ++cut) {
        for (std::size_t i = 0; i < Kernel::block_panels; ++i) {
          calls[i].k0 = cuts[cut];
          calls[i].k1 = cuts[cut + 1];
          at[i] = reinterpret_cast<const std::byte*>(operands[i]->data() + cuts[cut] * 16);
        }
        Kernel::integer_blocks(calls, Kernel::block_panels, Exact, at, {}, scope);
      }
      for (std::size_t i = 0; i < Kernel::block_panels; ++i) {
        scalar::integer_block(want[i]->call, Exact ? 7 : 8, units[i].data());
        CHECK(same(got[i]->acc, want[i]->acc));
      }
    }
  }
}

/// Panels whose codes are centred among the products against the scalar kernel, one after the other.
template <class Kernel, int Bits>
void check_stream(bool doubled) {
  constexpr std::size_t panels = Kernel::stream_panels;
  typename Kernel::block_scope scope;
  constexpr shape some[] = {{9, 32, 32},   {16, 90, 32},   {15, 448, 32},  {2, 448, 96},
                            {16, 448, 64}, {11, 320, 128}, {13, 413, 416}, {16, 1000, 1000}};
  for (const shape& s : some) {
    const std::size_t M = s.M, K = s.K, group = s.group;
    CAPTURE(M);
    CAPTURE(K);
    CAPTURE(group);
    REQUIRE(Kernel::in_stream(M, group, K));
    std::vector<std::unique_ptr<integer_data>> got, want;
    std::vector<std::unique_ptr<guarded<std::byte>>> packed;
    kernels::integer_call calls[panels];
    kernels::centred_codes centres[panels];
    const std::byte* codes[panels];
    std::vector<std::vector<std::uint8_t>> units;
    for (std::size_t i = 0; i < panels; ++i) {
      random_blocks b = make_blocks<Bits>(pack::panel16::blocks(K), 40 + i);
      packed.push_back(std::make_unique<guarded<std::byte>>(b.packed.size()));
      std::copy(b.packed.begin(), b.packed.end(), packed[i]->begin());
      codes[i] = packed[i]->data();
      units.push_back(std::move(b.units));
      for (auto* all : {&got, &want}) {
        all->push_back(std::make_unique<integer_data>(M, K, group, false, 9));
        integer_data& d = *all->back();
        d.scales = gaussian(d.scales.size(), 90 + static_cast<unsigned>(i));
        d.call.params.scales = d.scales.data();
        d.call.params.shift = doubled ? 1 : 0;
        for (std::int32_t& z : d.zeros) z = (z + static_cast<std::int32_t>(i)) & ((1 << Bits) - 1);
      }
      calls[i] = got[i]->call;
      calls[i].x = got[0]->x.data();
      calls[i].params.zeros = nullptr;
      calls[i].x_sums = nullptr;
      centres[i] = {.k1 = K,
                    .group = group,
                    .origin = want[i]->zeros.data(),
                    .origin_stride = 16,
                    .image = nullptr,
                    .doubled = doubled};
    }
    const guarded<std::byte> operands(Kernel::stream_bytes);
    Kernel::template integer_stream<Bits>(calls, centres, codes, operands.data(), scope);
    for (std::size_t i = 0; i < panels; ++i) {
      CAPTURE(i);
      scalar::integer_block(want[i]->call, Bits, units[i].data());
      CHECK(same(got[i]->acc, want[i]->acc));
    }
  }
}

/// What `centred` makes of packed blocks against the codes, or their image, minus the origin of their group and column.
template <class Kernel, int Bits>
void check_centred(bool image) {
  constexpr std::size_t blocks = 5, k0 = 64, K = k0 + blocks * 32;
  const random_blocks b = make_blocks<Bits>(blocks, 70 + Bits);
  const test::guarded<std::byte> packed(b.packed.size());
  std::copy(b.packed.begin(), b.packed.end(), packed.begin());
  const std::vector<std::uint8_t> table = test::codes(256, 71);
  for (const std::size_t group : {std::size_t{32}, std::size_t{96}, K}) {
    for (const bool shared : {false, true}) {
      CAPTURE(group);
      CAPTURE(shared);
      std::vector<std::int32_t> origin;
      for (const std::uint8_t z : test::codes(ceil_div(K, group) * 16, 72, Bits)) origin.push_back(z);
      const kernels::centred_codes c{.k0 = k0,
                                     .k1 = K,
                                     .group = group,
                                     .origin = origin.data(),
                                     .origin_stride = shared ? std::size_t{0} : std::size_t{16},
                                     .image = image ? table.data() : nullptr};
      const test::guarded<std::int8_t> values(blocks * 512);
      Kernel::template centred<Bits>(c, packed.data(), values.data());
      bool equal = true;
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::size_t g = shared ? 0 : (k0 + i / 64 * 4) / group, column = i % 64 / 4;
        const std::int32_t u = image ? table[b.units[i]] : b.units[i];
        equal = equal && values[i] == static_cast<std::int8_t>(u - origin[g * 16 + column]);
      }
      CHECK(equal);
    }
  }
}

/// Image_bits 0: codes as they are; else an image of that width. `one_zero`: one zero point, whose part of the sums is in x_sums.
/// `halves`: scales as stored.
template <int Bits, int ImageBits>
void check_integer_rows(bool one_zero, bool halves) {
  constexpr std::size_t panels = native::integer_row_panels(Bits);
  constexpr int code_bits = ImageBits == 0 ? Bits : ImageBits;
  constexpr std::int32_t zero = 5;
  auto image = test::codes(256, 31, code_bits);
  for (std::uint8_t& code : image) code = std::max<std::uint8_t>(code, 1);  // of 8 bits 0 does not occur
  for (const shape& s : integer_row_shapes) {
    if (ImageBits != 0 && s.group < 32) continue;
    CAPTURE(Bits);
    CAPTURE(ImageBits);
    CAPTURE(s.K);
    CAPTURE(s.group);
    // Panels differ in weights, scales, zeros and accumulators; the row of x and its sums are one.
    std::vector<std::unique_ptr<integer_data>> data;
    std::vector<std::unique_ptr<test::guarded<std::byte>>> packed;
    std::vector<std::unique_ptr<test::guarded<half>>> stored;
    std::vector<random_blocks> blocks;
    kernels::integer_call calls[panels];
    const std::byte* codes[panels];
    const auto make = [&] {
      auto d = std::make_unique<integer_data>(1, s.K, s.group, !one_zero, 9);
      if (one_zero) d->call.params.zeros = nullptr;
      return d;
    };
    const auto shared = make(), plain = make();
    for (std::int32_t& sum : shared->sums) sum *= one_zero ? native::code_bias(code_bits) - zero : 1;
    for (std::int32_t& sum : plain->sums) sum *= one_zero ? -zero : 1;
    for (std::size_t i = 0; i < panels; ++i) {
      blocks.push_back(make_blocks<Bits>(ceil_div(s.K, std::size_t{32}), 70 + i));
      packed.push_back(std::make_unique<test::guarded<std::byte>>(blocks[i].packed.size()));
      std::copy(blocks[i].packed.begin(), blocks[i].packed.end(), packed[i]->begin());
      data.push_back(make());
      data[i]->scales = test::gaussian(data[i]->scales.size(), 40 + static_cast<unsigned>(i));
      stored.push_back(std::make_unique<test::guarded<half>>(data[i]->scales.size()));
      for (std::size_t j = 0; j < data[i]->scales.size(); ++j) {
        (*stored[i])[j] = to_half(data[i]->scales[j]);
        if (halves) data[i]->scales[j] = to_float((*stored[i])[j]);
      }
      std::rotate(data[i]->zeros.begin(), data[i]->zeros.begin() + static_cast<std::ptrdiff_t>(i),
                  data[i]->zeros.end());
      data[i]->call.params.scales = data[i]->scales.data();
      calls[i] = data[i]->call;
      if (halves) calls[i].params.scales = nullptr, calls[i].params.halves = stored[i]->data();
      calls[i].x = shared->x.data();
      calls[i].x_sums = shared->sums.data();
      codes[i] = packed[i]->data();
    }
    if constexpr (ImageBits == 0) native::integer_row<Bits>(calls, codes);
    else native::image_row<Bits, ImageBits>(calls, codes, image.data());
    for (std::size_t i = 0; i < panels; ++i) {
      CAPTURE(i);
      const auto want = make();
      want->call.params.scales = data[i]->scales.data();
      if (!one_zero) want->call.params.zeros = data[i]->zeros.data();
      want->call.x_sums = plain->sums.data();
      std::vector<std::uint8_t> units = blocks[i].units;
      if constexpr (ImageBits != 0)
        for (std::uint8_t& u : units) u = image[u];
      scalar::integer_block(want->call, code_bits, units.data());
      CHECK(same(data[i]->acc, want->acc));
    }
  }
}

}  // namespace

TEST_CASE("gemm_panel: the scalar kernel takes part") { CHECK(test::covers<scalar, isa::scalar>()); }

TEST_CASE("gemm_panel: unpack gives the codes of every width, all values and places") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    const random_blocks b = make_blocks<Bits>(3, 40 + Bits);
    const test::guarded<std::byte> packed(b.packed.size());
    std::copy(b.packed.begin(), b.packed.end(), packed.begin());
    const test::guarded<std::uint8_t> units(b.units.size());
    CAPTURE(Bits);
    native::unpack<Bits>(packed.data(), 3, units.data());
    CHECK(std::equal(units.begin(), units.end(), b.units.begin()));
    scalar::unpack<Bits>(packed.data(), 3, units.data());
    CHECK(std::equal(units.begin(), units.end(), b.units.begin()));
  });
}

TEST_CASE("gemm_panel: integer blocks equal the scalar ones bit for bit, every width, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  for (int bits = 2; bits <= 8; ++bits) {
    for (const shape& s : shapes) {
      CAPTURE(bits);
      CAPTURE(s.M);
      CAPTURE(s.K);
      CAPTURE(s.group);
      const auto codes = test::codes(round_up(s.K, std::size_t{64}) * 16, 6, bits);
      const test::guarded<std::uint8_t> units(codes.size());
      std::copy(codes.begin(), codes.end(), units.begin());
      const bool offsets = bits % 2 == 0;
      integer_data a(s.M, s.K, s.group, offsets, 9), b(s.M, s.K, s.group, offsets, 9);
      a.call.params.shift = b.call.params.shift = s.M % 2 == 0 ? 1 : 0;
      native::integer_block(a.call, bits, units.data());
      // The scalar side goes block by block of 32 k: groups continue through the state.
      for (b.call.k0 = 0; b.call.k0 < s.K; b.call.k0 = b.call.k1) {
        b.call.k1 = std::min(s.K, b.call.k0 + 32);
        scalar::integer_block(b.call, bits, units.data() + b.call.k0 * 16);
      }
      CHECK(same(a.acc, b.acc));
    }
  }
}

TEST_CASE(
    "gemm_panel: sums that start from a constant zero point's share equal those that subtract it, blocks and rows") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    for (const shape& s : shapes) {
      CAPTURE(Bits);
      CAPTURE(s.M);
      CAPTURE(s.K);
      const random_blocks w = make_blocks<Bits>(ceil_div(s.K, std::size_t{64}) * 2, 60 + Bits);
      integer_data a(s.M, s.K, s.group, false, 9), b(s.M, s.K, s.group, false, 9);
      constexpr std::int32_t zero = 1 << (Bits - 1);
      std::fill(b.zeros.begin(), b.zeros.end(), zero);
      a.call.params.zeros = nullptr;
      for (std::int32_t& sum : a.sums) sum *= native::code_bias(Bits) - zero;
      native::integer_block(a.call, Bits, w.units.data());
      scalar::integer_block(b.call, Bits, w.units.data());
      CHECK(same(a.acc, b.acc));
      if (s.M != 1) continue;
      one_row<native, Bits>(a, w.packed.data());
      one_row<scalar, Bits>(b, w.packed.data());
      CHECK(same(a.acc, b.acc));
    }
  });
}

TEST_CASE("gemm_panel: every number of rows is computed once and equals the scalar kernel") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const int bits : {4, 7, 8}) {
    const auto units = test::codes(64 * 16, 6, bits);
    for (std::size_t M = 1; M <= 40; ++M) {
      CAPTURE(bits);
      CAPTURE(M);
      integer_data a(M, 64, 32, false, 9), b(M, 64, 32, false, 9);
      native::integer_block(a.call, bits, units.data());
      scalar::integer_block(b.call, bits, units.data());
      CHECK(same(a.acc, b.acc));
    }
  }
}

TEST_CASE("gemm_panel: tiles that unpack on their way equal the scalar kernel, every number of rows, cut anywhere") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    if constexpr (native::packed_rows(Bits) > 0) {
      for (std::size_t M = 1; M <= native::packed_rows(Bits); ++M) {
        for (const shape& s : {shape{M, 32, 32}, shape{M, 77, 80}, shape{M, 161, 32}, shape{M, 224, 96},
                               shape{M, 129, 16}, shape{M, 80, 16}, shape{M, 216, 48}}) {
          if (s.group < s.K && s.group % native::packed_group(Bits) != 0) continue;
          CAPTURE(Bits);
          CAPTURE(s.M);
          CAPTURE(s.K);
          CAPTURE(s.group);
          const random_blocks w = make_blocks<Bits>(ceil_div(s.K, std::size_t{32}), 70 + Bits);
          const test::guarded<std::byte> packed(w.packed.size());
          std::copy(w.packed.begin(), w.packed.end(), packed.begin());
          integer_data a(s.M, s.K, s.group, M % 3 == 0, 9), b(s.M, s.K, s.group, M % 3 == 0, 9);
          std::vector<half> stored(a.scales.size());
          if (M % 2 == 0 && M <= native::half_scale_rows) {
            for (std::size_t i = 0; i < stored.size(); ++i) {
              stored[i] = to_half(b.scales[i]);
              b.scales[i] = to_float(stored[i]);
            }
            a.call.params.scales = nullptr;
            a.call.params.halves = stored.data();
          }
          if (M % 3 == 1) {
            constexpr std::int32_t zero = 3;
            std::fill(b.zeros.begin(), b.zeros.end(), zero);
            a.call.params.zeros = nullptr;
            for (std::int32_t& sum : a.sums) sum *= native::code_bias(Bits) - zero;
          } else {
            a.call.params.shift = b.call.params.shift = M % 2 == 0 ? 1 : 0;
          }
          // A cut inside a group, which goes on from the state.
          for (const std::size_t cut : {std::size_t{64}, s.K}) {
            a.call.k1 = std::min(cut, s.K);
            native::packed_block<Bits>(a.call, packed.data() + a.call.k0 / 32 * pack::panel16::block_bytes(Bits));
            a.call.k0 = a.call.k1;
            if (a.call.k0 == s.K) break;
          }
          scalar::integer_block(b.call, Bits, w.units.data());
          CHECK(same(a.acc, b.acc));
        }
      }
    }
  });
}

TEST_CASE("gemm_panel: several panels at once equal one after the other, in blocks that cut groups") {
  if (!test::covers<native, native::isa_type>()) return;
  []<class Kernel>(Kernel) {
    if constexpr (Kernel::block_panels > 1) {
      check_panels_at_once<Kernel, false>();
      check_panels_at_once<Kernel, true>();
    }
  }(native{});
}

TEST_CASE("gemm_panel: operands with their zero points taken off are code minus zero point, at every width") {
  if (!test::covers<native, native::isa_type>()) return;
  []<class Kernel>(Kernel) {
    if constexpr (Kernel::block_panels > 1)
      for_each_width([]<int Bits>() {
        CAPTURE(Bits);
        check_centred<Kernel, Bits>(false);
        check_centred<Kernel, Bits>(true);
      });
  }(native{});
}

TEST_CASE("gemm_panel: panels whose codes are centred among the products equal the scalar kernel, at every width") {
  if (!test::covers<native, native::isa_type>()) return;
  []<class Kernel>(Kernel) {
    if constexpr (Kernel::block_panels > 1)
      for_each_width([]<int Bits>() {
        CAPTURE(Bits);
        if constexpr (Bits < 8) check_stream<Kernel, Bits>(false);
        if constexpr (Bits < 7) check_stream<Kernel, Bits>(true);
      });
  }(native{});
}

TEST_CASE("gemm_panel: the most extreme codes and activations of every width stay exact") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    for (const std::size_t group : {std::size_t{32}, std::size_t{512}}) {
      for (const int x : {-127, 127}) {
        CAPTURE(Bits);
        CAPTURE(x);
        constexpr std::size_t K = 512;
        const auto top = static_cast<std::uint8_t>((1u << Bits) - 1u);
        const std::vector<std::uint8_t> units(K * 16, top);
        std::vector<std::byte> packed(K / 32 * pack::panel16::block_bytes(Bits), std::byte{0xff});
        for (const std::size_t M : {std::size_t{1}, std::size_t{13}}) {
          integer_data a(M, K, group, false, 9), b(M, K, group, false, 9);
          for (integer_data* d : {&a, &b}) {
            std::fill(d->x.begin(), d->x.end(), static_cast<std::int8_t>(x));
            std::fill(d->sums.begin(), d->sums.end(), static_cast<std::int32_t>(group) * x);
          }
          native::integer_block(a.call, Bits, units.data());
          scalar::integer_block(b.call, Bits, units.data());
          if (M == 1) {
            one_row<native, Bits>(a, packed.data());
            one_row<scalar, Bits>(b, packed.data());
          }
          if constexpr (native::packed_rows(Bits) > 0) {
            if (M <= native::packed_rows(Bits)) {
              native::packed_block<Bits>(a.call, packed.data());
              scalar::integer_block(b.call, Bits, units.data());
            }
          }
          CHECK(same(a.acc, b.acc));
        }
      }
    }
  });
}

TEST_CASE("gemm_panel: integer rows from packed codes equal the detour over unpacked ones, every width and panel") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    check_integer_rows<Bits, 0>(false, false);
    check_integer_rows<Bits, 0>(true, false);
  });
}

TEST_CASE("gemm_panel: integer rows that are cut inside a group go on from the state") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    for (const shape& s : {shape{1, 224, 96}, shape{1, 161, 128}, shape{1, 300, 300}}) {
      for (const bool one_zero : {false, true}) {
        CAPTURE(Bits);
        CAPTURE(s.K);
        CAPTURE(one_zero);
        constexpr std::int32_t zero = 3;
        const random_blocks w = make_blocks<Bits>(ceil_div(s.K, std::size_t{32}), 50 + Bits);
        integer_data a(1, s.K, s.group, false, 9), b(1, s.K, s.group, false, 9);
        if (one_zero) {
          std::fill(b.zeros.begin(), b.zeros.end(), zero);
          a.call.params.zeros = nullptr;
          for (std::int32_t& sum : a.sums) sum *= native::code_bias(Bits) - zero;
        }
        for (const std::size_t cut : {std::size_t{32}, std::size_t{160}, s.K}) {
          a.call.k1 = std::min(cut, s.K);
          one_row<native, Bits>(a, w.packed.data() + a.call.k0 / 32 * pack::panel16::block_bytes(Bits));
          a.call.k0 = a.call.k1;
        }
        scalar::integer_block(b.call, Bits, w.units.data());
        CHECK(same(a.acc, b.acc));
      }
    }
  });
}

TEST_CASE("gemm_panel: integer rows that do not fold leave the sums of codes less the bias, and the accumulators") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    constexpr std::size_t K = 192;
    CAPTURE(Bits);
    const random_blocks w = make_blocks<Bits>(K / 32, 50 + Bits);
    integer_data a(1, K, K, false, 9);
    a.call.fold = false;
    const std::vector<float> before = a.acc;
    one_row<native, Bits>(a, w.packed.data());
    CHECK(same(a.acc, before));
    for (std::size_t n = 0; n < 16; ++n) {
      std::int32_t want = 0;
      for (std::size_t k = 0; k < K; ++k)
        want += (w.units[k / 4 * 64 + 4 * n + k % 4] - native::code_bias(Bits)) * a.x[k];
      CHECK(a.state[n] == want);
    }
  });
}

TEST_CASE("gemm_panel: integer rows take half scales as they are stored") {
  if (!test::covers<native, native::isa_type>()) return;
  if constexpr (native::reads_halves)
    for_each_width([]<int Bits>() {
      check_integer_rows<Bits, 0>(false, true);
      check_integer_rows<Bits, 0>(true, true);
    });
}

TEST_CASE("gemm_panel: rows of an image equal the detour over its codes") {
  if (!test::covers<native, native::isa_type>()) return;
  for (const bool one_zero : {true, false}) {
    check_integer_rows<2, 7>(one_zero, false);
    check_integer_rows<2, 8>(one_zero, false);
    check_integer_rows<3, 7>(one_zero, false);
    check_integer_rows<3, 8>(one_zero, false);
    check_integer_rows<4, 7>(one_zero, false);
    check_integer_rows<4, 8>(one_zero, false);
  }
}

TEST_CASE(
    "gemm_panel: a float row with one zero point equals the detour over unpacked codes, every width and zero point") {
  if (!test::covers<native, native::isa_type>()) return;
  for_each_width([]<int Bits>() {
    for (const float zero : {0.0f, 1.0f, static_cast<float>(1 << (Bits - 1)),
                             static_cast<float>(1 << (Bits - 1)) - 0.5f, static_cast<float>((1 << Bits) - 1)}) {
      constexpr std::size_t K = 160, group = 64;
      CAPTURE(Bits);
      CAPTURE(zero);
      const std::vector<float> zeros(16, zero);
      kernels::float_call calls[native::row_panels];
      const std::byte* codes[native::row_panels];
      const float* each_zero[native::row_panels];
      random_blocks w[native::row_panels];
      std::vector<std::unique_ptr<float_data>> data;
      for (std::size_t i = 0; i < native::row_panels; ++i) {
        w[i] = make_blocks<Bits>(K / 32, 30 + i);
        data.push_back(std::make_unique<float_data>(1, K, group, false, 9));
        calls[i] = data[i]->call;
        calls[i].x = data[0]->x.data();
        codes[i] = w[i].packed.data();
        each_zero[i] = zeros.data();
      }
      native::float_row<Bits>(calls, codes, each_zero, 0);
      for (std::size_t i = 0; i < native::row_panels; ++i) {
        float_data want(1, K, group, false, 9);
        std::vector<float> values(K * 16);
        scalar::values_affine(w[i].units.data(), K / 4, zeros.data(), values.data());
        scalar::float_block(want.call, values.data());
        CHECK(same(data[i]->acc, want.acc));
      }
    }
  });
}

TEST_CASE("gemm_panel: codes of an image are those of plain code, every width") {
  if (!test::covers<native, native::isa_type>()) return;
  const auto image = test::codes(256, 31);
  for_each_width([&]<int Bits>() {
    for (const std::size_t units : {1u, 2u, 9u}) {
      const auto codes = test::codes(units * 64, 32, Bits);
      test::guarded<std::uint8_t> got(codes.size());
      std::copy(codes.begin(), codes.end(), got.begin());
      native::image_codes<Bits>(got.data(), units, image.data());
      for (std::size_t i = 0; i < codes.size(); ++i) REQUIRE(got[i] == image[codes[i]]);
    }
  });
}
