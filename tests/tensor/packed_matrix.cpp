// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>
#include <nibble/tensor/packed_matrix.hpp>

#include "support/matrices.hpp"

using namespace nibble;

namespace {

/// The same codes, scales, zero points, second-level scales and table.
bool equal(const any_qmatrix& a, const any_qmatrix& b) {
  const auto floats = [](const float* p, std::size_t n) { return std::vector<float>(p, p + (p == nullptr ? 0 : n)); };
  const std::size_t entries = std::size_t{1} << a.format().bits;
  return quant::same_format(a.format(), b.format()) && a.N() == b.N() && a.K() == b.K() &&
         test::same_bytes(a.scale_plane(), b.scale_plane()) && test::same_bytes(a.zero_plane(), b.zero_plane()) &&
         test::same_bits(a.super_scales(), b.super_scales()) &&
         std::ranges::equal(a.block_scales(), b.block_scales()) &&
         floats(a.view().table, entries) == floats(b.view().table, entries);
}

/// Codes compared one by one: the padding bits at the end of rows are not part of the value.
bool equal_codes(const any_qmatrix& a, const any_qmatrix& b) {
  std::vector<std::uint8_t> x(a.K()), y(a.K());
  const int bits = a.format().bits;
  for (std::size_t n = 0; n < a.N(); ++n) {
    const std::size_t first = a.row_stride_bytes() == 0 ? n * a.K() : 0;
    pack::unpack_range(a.view().codes + n * a.row_stride_bytes(), first, a.K(), bits, x.data());
    pack::unpack_range(b.view().codes + n * b.row_stride_bytes(), first, a.K(), bits, y.data());
    if (x != y) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("packed_matrix: every format in every layout gives the canonical form back bit for bit") {
  thread_pool pool(3);
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits, {8, 32})) {
      for (const std::size_t K : {std::size_t{1}, std::size_t{32}, std::size_t{45}, std::size_t{96}}) {
        const any_qmatrix w = test::random_qmatrix(f, 19, K, static_cast<unsigned>(K));
        for (const layout_id layout : {layout_id::row_major, layout_id::panel16}) {
          if (can_pack(f, K, layout) != errc::ok) continue;
          CAPTURE(test::describe(f));
          CAPTURE(K);
          CAPTURE(name_of(layout));
          const packed_matrix p = pack_matrix(w.view(), layout, pool.context());
          const any_qmatrix back = p.unpack(pool.context());
          CHECK(equal(w, back));
          CHECK(equal_codes(w, back));
        }
      }
    }
  }
}

TEST_CASE("packed_matrix: every code stands where the layout says, any width and ragged K") {
  for (int bits = 2; bits <= 8; ++bits)
    for (const std::size_t K :
         {std::size_t{1}, std::size_t{31}, std::size_t{255}, std::size_t{256}, std::size_t{300}, std::size_t{545}}) {
      CAPTURE(bits);
      CAPTURE(K);
      const format_desc f{code_rule::symmetric_full, static_cast<std::uint8_t>(bits), granularity_kind::per_channel,
                          scale_storage::f32, 0};
      const any_qmatrix w = test::random_qmatrix(f, 37, K, static_cast<unsigned>(K));
      const packed_matrix p = pack_matrix(w.view(), layout_id::panel16);
      const std::size_t panel_bytes = pack::panel16::panel_bytes(K, bits);
      bool same = true;
      for (std::size_t n = 0; n < 48; ++n)
        for (std::size_t k = 0; k < pack::panel16::padded_k(K); ++k) {
          const unsigned want = n < 37 && k < K ? pack::get(w.view().codes + n * w.row_stride_bytes(), k, bits) : 0u;
          same = same && want == pack::get_panel16(p.view().matrix.codes + n / 16 * panel_bytes, bits, n % 16, k);
        }
      CHECK(same);
      // Padding bits at the end of rows come back as zeros: everything else is the canonical form.
      any_qmatrix expected = w;
      std::vector<std::uint8_t> codes(K);
      for (std::size_t n = 0; n < 37; ++n) {
        std::byte* row = expected.codes().data() + n * w.row_stride_bytes();
        pack::unpack_row(row, K, bits, codes.data());
        pack::pack_row(codes.data(), K, bits, row);
      }
      CHECK(test::same_bytes(expected.codes(), p.unpack().codes()));
    }
}

TEST_CASE("packed_matrix: bits do not depend on the number of threads") {
  thread_pool pool(3);
  const any_qmatrix w =
      test::random_qmatrix({code_rule::asymmetric, 3, granularity_kind::grouped, scale_storage::f16, 8}, 100, 77, 1);
  const packed_matrix a = pack_matrix(w.view()), b = pack_matrix(w.view(), pool.context());
  CHECK(std::memcmp(a.view().matrix.codes, b.view().matrix.codes,
                    pack::panel16::panels(100) * pack::panel16::panel_bytes(77, 3)) == 0);
}

TEST_CASE("packed_matrix: planes are aligned to 64 bytes") {
  const any_qmatrix w =
      test::random_qmatrix({code_rule::asymmetric, 4, granularity_kind::grouped, scale_storage::f16, 8}, 5, 40, 1);
  const packed_view v = pack_matrix(w.view()).view();
  for (const void* p : {static_cast<const void*>(v.matrix.codes), v.matrix.scales, v.matrix.zeros})
    CHECK(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
}

TEST_CASE("packed_matrix: flat blocks that cross rows stay in row_major") {
  const format_desc f{code_rule::codebook, 4, granularity_kind::flat, scale_storage::f32, 64};
  CHECK(best_layout(f, 96) == layout_id::row_major);
  CHECK(best_layout(f, 128) == layout_id::panel16);
  const any_qmatrix w = test::random_qmatrix(f, 3, 96, 1);
  CHECK_THROWS_AS(pack_matrix(w.view(), layout_id::panel16), error);
}

TEST_CASE("packed_matrix: the ledger counts panels rounded up to 16 columns and 32 k as padding") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::grouped, scale_storage::f16, 32};
  const packed_matrix p = pack_matrix(test::random_qmatrix(f, 20, 40, 1).view());
  const byte_ledger l = p.ledger();
  CHECK(l.payload == 20 * 40 / 2);
  CHECK(l.scales == 20 * 2 * 2);
  CHECK(total_bytes(l) == 2 * 2 * 256 + 32 * 2 * 2);  // 2 panels of 2 blocks of 256 bytes; 32 columns of 2 half scales
}

TEST_CASE("packed_matrix: rows with a stride of their own are read where they are") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix w = test::random_qmatrix(f, 4, 64, 1);
  std::vector<std::byte> wide(4 * 50);
  for (std::size_t n = 0; n < 4; ++n) std::memcpy(&wide[n * 50], w.codes().data() + n * 32, 32);
  quantized_view v = w.view();
  v.codes = wide.data();
  v.row_stride_bytes = 50;
  for (const layout_id layout : {layout_id::row_major, layout_id::panel16})
    CHECK(equal_codes(w, pack_matrix(v, layout).unpack()));
}
