// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/quant/qtype.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/qmatrix.hpp>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

// Every plane comes from the aligned operator new: replaced here, it sees what a matrix really takes.
namespace {
std::atomic<std::size_t> live_bytes{0};
constexpr std::size_t header = 64;
}  // namespace

void* operator new(std::size_t size, std::align_val_t alignment) {
  if (static_cast<std::size_t>(alignment) != header) std::abort();
  void* const p = std::aligned_alloc(header, (size + 2 * header - 1) / header * header);
  if (p == nullptr) std::abort();
  *static_cast<std::size_t*>(p) = size;
  live_bytes += size;
  return static_cast<std::byte*>(p) + header;
}
void operator delete(void* p, std::align_val_t) noexcept {
  if (p == nullptr) return;
  void* const base = static_cast<std::byte*>(p) - header;
  live_bytes -= *static_cast<std::size_t*>(base);
  std::free(base);
}
void operator delete(void* p, std::size_t, std::align_val_t alignment) noexcept { operator delete(p, alignment); }

using namespace nibble;

namespace {

std::vector<format_desc> all_formats() {
  std::vector<format_desc> formats;
  for (int bits = 2; bits <= 8; ++bits)
    for (int rule = 0; rule <= static_cast<int>(code_rule::codebook); ++rule)
      for (int scale = 0; scale <= static_cast<int>(scale_storage::double_quant); ++scale)
        for (const auto& [kind, size] : {std::pair{granularity_kind::per_tensor, 0u},
                                         {granularity_kind::per_channel, 0u},
                                         {granularity_kind::grouped, 12u},
                                         {granularity_kind::flat, 24u}})
          formats.push_back({static_cast<code_rule>(rule), static_cast<std::uint8_t>(bits), kind,
                             static_cast<scale_storage>(scale), size});
  for (int bits = 2; bits <= 8; ++bits)
    for (int rule = 0; rule <= static_cast<int>(code_rule::codebook); ++rule)
      formats.push_back({static_cast<code_rule>(rule), static_cast<std::uint8_t>(bits), granularity_kind::grouped,
                         scale_storage::super_block, 16});
  return formats;
}

}  // namespace

TEST_CASE("qmatrix: the ledger is what a counting allocator sees, for every format") {
  const std::vector<float> table(256, 1.0f);
  for (const format_desc& f : all_formats())
    for (const std::size_t N : {1u, 3u})
      for (const std::size_t K : {1u, 11u, 12u, 13u, 600u}) {
        CAPTURE(int{f.bits});
        CAPTURE(static_cast<int>(f.rule));
        CAPTURE(static_cast<int>(f.scale));
        CAPTURE(static_cast<int>(f.granularity));
        CAPTURE(K);
        const std::size_t before = live_bytes;
        const bool own = f.rule == code_rule::codebook && K % 2 == 0;
        const any_qmatrix m = own ? any_qmatrix(f, N, K, std::span<const float>(table.data(), std::size_t{1} << f.bits))
                                  : any_qmatrix(f, N, K, f.rule == code_rule::codebook ? table.data() : nullptr);
        const byte_ledger l = m.ledger();
        REQUIRE(total_bytes(l) == live_bytes - before);
        REQUIRE(l.payload == (N * K * f.bits + 7) / 8);
        REQUIRE(l.container == (own ? sizeof(float) << f.bits : 0));
        REQUIRE(ratio_to_fp16(l, N, K) <= theoretical_ratio(f));
      }
}

TEST_CASE("qmatrix: the ledger of packed forms, too, is what a counting allocator sees") {
  const std::vector<float> table(256, 1.0f);
  for (const format_desc& f : all_formats())
    for (const std::size_t K : {1u, 13u, 48u, 72u}) {
      const any_qmatrix m(f, 19, K, f.rule == code_rule::codebook ? table.data() : nullptr);
      for (const layout_id layout : {layout_id::row_major, layout_id::panel16}) {
        if (can_pack(f, K, layout) != errc::ok) continue;
        const std::size_t before = live_bytes;
        const packed_matrix p(m.view(), layout);
        REQUIRE(total_bytes(p.ledger()) == live_bytes - before);
      }
    }
}

TEST_CASE("qmatrix: bits per weight of known formats") {
  const auto bits = [](qtype type, std::size_t N, std::size_t K) {
    return bits_per_weight(canonical_ledger(quant::info_of(type).format, N, K), N, K);
  };
  CHECK(bits(qtype::w4_g128, 64, 4096) == 4.0 + 16.0 / 128);
  CHECK(bits(qtype::w4a_g128, 64, 4096) == 4.0 + 24.0 / 128);
  CHECK(bits(qtype::w4o_g128, 64, 4096) == 4.0 + 32.0 / 128);
  CHECK(bits(qtype::w8_channel, 64, 4096) == 8.0 + 32.0 / 4096);
  CHECK(bits(qtype::nf4_flat64, 64, 4096) == 4.5);
  // QLoRA: 4 + 8/64 + 32/(64 * 256), and the one offset.
  CHECK(bits(qtype::nf4_flat64_dq, 64, 4096) == 4.0 + 8.0 / 64 + 32.0 / (64 * 256) + 32.0 / (64 * 4096));
  // 11 codes of 3 bits: 33 bits in 5 bytes, one row after the other.
  const byte_ledger l = canonical_ledger(quant::info_of(qtype::w3_channel).format, 8, 11);
  CHECK(l.payload == 33);
  CHECK(l.padding == 7);
}

TEST_CASE("qmatrix: planes are aligned, zeroed, and of the lengths that a view promises") {
  for (const format_desc& f : all_formats()) {
    const std::size_t N = 5, K = 37, groups = quant::scale_count(f, N, K);
    const std::vector<float> table(256, 1.0f);
    any_qmatrix m(f, N, K, table.data());
    const quantized_view v = m.view();
    for (const void* plane : {static_cast<const void*>(v.codes), v.scales})
      CHECK(reinterpret_cast<std::uintptr_t>(plane) % plane_alignment == 0);
    CHECK(m.scale_count() == groups);
    CHECK(m.scale_plane().size() == groups * quant::scale_bytes(f.scale));
    CHECK((v.zeros != nullptr) == quant::has_zeros(f));
    CHECK(v.row_stride_bytes == (f.granularity == granularity_kind::flat ? 0 : pack::packed_bytes(K, f.bits)));
    CHECK((v.super_scales != nullptr) == (f.scale == scale_storage::double_quant));
    CHECK((v.block_scales != nullptr) == (f.scale == scale_storage::super_block));
    CHECK(m.block_scales().size() == N * quant::block_scales_per_row(f, K));
    for (const std::byte b : m.codes()) CHECK(b == std::byte{0});
    if (f.scale == scale_storage::double_quant) {
      m.super_scales().back() = 3.5f;
      CHECK(m.view().scale_offset == 3.5f);
    }
  }
}

TEST_CASE("qmatrix: copies own their planes and their table") {
  const std::vector<float> table{4.0f, 3.0f, 2.0f, 1.0f};
  any_qmatrix a({code_rule::codebook, 2, granularity_kind::per_channel, scale_storage::f32, 0}, 2, 9,
                std::span<const float>(table));
  any_qmatrix b = a;
  CHECK(b.view().table != a.view().table);
  CHECK(b.view().table[1] == 3.0f);
  CHECK(b.view().codes != a.view().codes);
  const std::byte* codes = a.view().codes;
  const any_qmatrix c = std::move(a);
  CHECK(c.view().codes == codes);
  CHECK(c.view().table[3] == 1.0f);
  CHECK(any_qmatrix().view().codes == nullptr);
  CHECK(total_bytes(any_qmatrix().ledger()) == 0);
}

TEST_CASE("qmatrix: what was moved from is empty, in every form") {
  const auto empty = [](const quantized_view& v) {
    return v.N == 0 && v.K == 0 && v.codes == nullptr && v.scales == nullptr && v.zeros == nullptr &&
           v.super_scales == nullptr && v.table == nullptr && v.scale_offset == 0.0f && v.row_stride_bytes == 0;
  };
  const std::vector<float> table(256, 1.0f);
  for (const format_desc& f : all_formats()) {
    if (f.bits != 4 && f.bits != 7) continue;
    for (const bool own : {false, true}) {
      const bool book = f.rule == code_rule::codebook;
      const auto make = [&] {
        return book && own ? any_qmatrix(f, 3, 24, std::span<const float>(table.data(), std::size_t{1} << f.bits))
                           : any_qmatrix(f, 3, 24, book ? table.data() : nullptr);
      };
      any_qmatrix a = make();
      any_qmatrix b = std::move(a);
      CHECK((a.N() == 0 && a.K() == 0 && a.scale_count() == 0 && total_bytes(a.ledger()) == 0));
      CHECK(empty(a.view()));
      CHECK((b.N() == 3 && b.K() == 24 && !empty(b.view())));
      a = std::move(b);
      CHECK(empty(b.view()));
      CHECK((a.N() == 3 && a.codes().size() != 0));
      b = a;  // an empty matrix can be assigned to
      CHECK((b.N() == 3 && a.N() == 3));
      const any_qmatrix of_empty = any_qmatrix(std::move(b)), copy = b;
      CHECK((empty(copy.view()) && of_empty.N() == 3));

      packed_matrix p(a.view(), layout_id::row_major);
      packed_matrix q = std::move(p);
      CHECK((p.N() == 0 && p.K() == 0 && total_bytes(p.ledger()) == 0));
      CHECK(empty(p.view().matrix));
      CHECK((q.N() == 3 && q.K() == 24));
      CHECK_THROWS_AS(p.unpack(), error);
      p = std::move(q);
      CHECK(empty(q.view().matrix));
      CHECK((p.N() == 3 && p.unpack().K() == 24));
      p = packed_matrix(a.view(), layout_id::row_major);
      CHECK(p.N() == 3);
    }
  }
  qmatrix<quant::w4_g128> typed(3, 200);
  const qmatrix<quant::w4_g128> other = std::move(typed);
  CHECK((typed.N() == 0 && typed.K() == 0 && other.N() == 3));
  CHECK(empty(typed.view()));
}

TEST_CASE("qmatrix: bad shapes, formats and tables are refused") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const format_desc nine{code_rule::symmetric, 9, granularity_kind::per_channel, scale_storage::f32, 0};
  const format_desc book{code_rule::codebook, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const std::vector<float> table(15, 1.0f);
  CHECK_THROWS_AS(any_qmatrix(f, 0, 4), error);
  CHECK_THROWS_AS(any_qmatrix(f, 4, 0), error);
  CHECK_THROWS_AS(any_qmatrix(f, std::size_t{1} << 40, std::size_t{1} << 40), error);
  CHECK_THROWS_AS(any_qmatrix(nine, 4, 4), error);
  CHECK_THROWS_AS(any_qmatrix(book, 4, 4), error);
  CHECK_THROWS_AS(any_qmatrix(book, 4, 4, std::span<const float>(table)), error);
  CHECK_THROWS_AS(any_qmatrix(f, 4, 4, std::span<const float>(table)), error);
}

TEST_CASE("qmatrix: the typed matrix takes over only matrices of its own format and table") {
  using w4 = quant::w4_g128;
  any_qmatrix m(w4::format(), 3, 200);
  const std::byte* codes = m.view().codes;
  const qmatrix<w4> typed(std::move(m));
  CHECK(typed.view().codes == codes);
  CHECK(typed.N() == 3);
  CHECK(typed.K() == 200);
  const any_qmatrix& erased = typed;
  CHECK(erased.view().codes == codes);
  CHECK_THROWS_AS(qmatrix<quant::w4_g64>(any_qmatrix(w4::format(), 3, 200)), error);
  const std::vector<float> other(16, 1.0f);
  CHECK_THROWS_AS(qmatrix<quant::nf4_g64>(any_qmatrix(quant::nf4_g64::format(), 3, 200, other.data())), error);
  CHECK_NOTHROW(qmatrix<quant::nf4_g64>(
      any_qmatrix(quant::nf4_g64::format(), 3, 200, std::span<const float>(quant::nf4_table::table.values))));
  CHECK(qmatrix<quant::nf4_g64>(3, 200).view().table == quant::nf4_table::desc().values);
}

TEST_CASE("qmatrix: parameters are read as they were stored") {
  any_qmatrix m({code_rule::asymmetric_offset, 4, granularity_kind::grouped, scale_storage::f16, 4}, 1, 8);
  auto* scales = reinterpret_cast<half*>(m.scale_plane().data());
  auto* zeros = reinterpret_cast<half*>(m.zero_plane().data());
  scales[1] = to_half(0.5f);
  zeros[1] = to_half(-3.0f);
  CHECK(quant::scale_at(m.view(), 1) == 0.5f);
  CHECK(quant::zero_at(m.view(), 1) == -3.0f);
  any_qmatrix u({code_rule::asymmetric, 4, granularity_kind::per_channel, scale_storage::bf16, 0}, 2, 8);
  u.zero_plane()[1] = std::byte{9};
  CHECK(quant::zero_at(u.view(), 1) == 9.0f);
  CHECK(quant::zero_at(
            any_qmatrix({code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0}, 1, 1).view(),
            0) == 0.0f);
}
