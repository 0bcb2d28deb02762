// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>
#include <nibble/tensor/ggml_matrix.hpp>
#include <nibble/tensor/packed_matrix.hpp>
#include <nibble/tensor/quantize.hpp>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "support/guard_page.hpp"
#include "support/matrices.hpp"
#include "support/random.hpp"
#include "support/refusal.hpp"

using namespace nibble;
using test::refusal_of;

namespace {

std::vector<ggml_type> block_types() {
  std::vector<ggml_type> types;
  for (std::uint32_t id = 0; id < 64; ++id)
    if (can_be_matrix(static_cast<ggml_type>(id))) types.push_back(static_cast<ggml_type>(id));
  return types;
}

/// Blocks of random bytes whose halves are finite: scales of every sign, subnormal ones and zeros among them.
std::vector<std::byte> random_blocks(ggml_type type, std::size_t elements, std::uint64_t seed) {
  test::generator random(seed);
  std::vector<std::byte> blocks(detail::ggml_bytes(type, elements, "test"));
  for (std::byte& b : blocks) b = static_cast<std::byte>(random.next() >> 32);
  detail::with_ggml_format(type, [&]<class Format>(Format) {
    for (std::size_t at = 0; at < blocks.size(); at += Format::block_bytes)
      for (const std::size_t h : Format::halves) {
        std::byte& exponent = blocks[at + h + 1];
        if ((exponent & std::byte{0x7c}) == std::byte{0x7c}) exponent &= std::byte{0x8f};
      }
  });
  return blocks;
}

}  // namespace

TEST_CASE("ggml_matrix: every type that is decoded and has blocks can be a matrix") {
  CHECK(block_types().size() == 13);
  CHECK_FALSE(can_be_matrix(ggml_type::f16));
  CHECK_FALSE(can_be_matrix(ggml_type::iq2_xxs));
}

TEST_CASE("ggml_matrix: dequantize gives the bits of decode_ggml, for random blocks of every type") {
  for (const ggml_type type : block_types())
    for (const std::size_t N : {1u, 3u, 17u})
      for (const std::size_t K : {256u, 768u}) {
        CAPTURE(quant::name_of(type));
        const std::vector<std::byte> blocks = random_blocks(type, N * K, N * 31 + K);
        std::vector<float> want(N * K), got(N * K);
        decode_ggml(type, blocks, want);
        const any_qmatrix m = matrix_from_ggml(type, blocks, N, K);
        dequantize(m.view(), make_span2d(got.data(), N, K));
        // -0 and +0 are one value: -dmin times 0 is -0 in one form and what is subtracted +0 in the other.
        for (std::size_t i = 0; i < want.size(); ++i) CHECK(got[i] == want[i]);
      }
}

TEST_CASE("ggml_matrix: a matrix gives its blocks back, byte for byte, on any threads") {
  thread_pool pool(3);
  for (const ggml_type type : block_types()) {
    CAPTURE(quant::name_of(type));
    const std::size_t N = 9, K = 512;
    const std::vector<std::byte> blocks = random_blocks(type, N * K, 7);
    const any_qmatrix m = matrix_from_ggml(type, blocks, N, K, pool.context());
    std::vector<std::byte> again(blocks.size(), std::byte{0xa5});
    matrix_to_ggml(m.view(), type, again, pool.context());
    CHECK(again == blocks);
  }
}

TEST_CASE("ggml_matrix: blocks of 32 need no multiple of 256") {
  const std::size_t N = 5, K = 96;
  const std::vector<std::byte> blocks = random_blocks(ggml_type::q5_1, N * K, 3);
  const any_qmatrix m = matrix_from_ggml(ggml_type::q5_1, blocks, N, K);
  std::vector<std::byte> again(blocks.size());
  matrix_to_ggml(m.view(), ggml_type::q5_1, again);
  CHECK(again == blocks);
}

TEST_CASE("ggml_matrix: reads and writes nothing beside its blocks") {
  for (const ggml_type type : block_types()) {
    const std::size_t N = 2, K = 256;
    const std::vector<std::byte> blocks = random_blocks(type, N * K, 5);
    const test::guarded<std::byte> in(blocks.size()), out(blocks.size());
    std::memcpy(in.data(), blocks.data(), blocks.size());
    const any_qmatrix m = matrix_from_ggml(type, {in.data(), blocks.size()}, N, K);
    matrix_to_ggml(m.view(), type, {out.data(), blocks.size()});
    CHECK(std::memcmp(out.data(), blocks.data(), blocks.size()) == 0);
  }
}

TEST_CASE("ggml_matrix: the bits per weight of K-quants, with scales as bytes") {
  const auto bits = [](ggml_type type) {
    const any_qmatrix m = matrix_from_ggml(type, random_blocks(type, 4 * 1024, 1), 4, 1024);
    return bits_per_weight(m.ledger(), 4, 1024);
  };
  CHECK(bits(ggml_type::q2_k) == 3.125);   // 2.625 in the file: scales of 4 bits there
  CHECK(bits(ggml_type::q3_k) == 3.5625);  // 3.4375
  CHECK(bits(ggml_type::q4_k) == 4.625);   // 4.5
  CHECK(bits(ggml_type::q5_k) == 5.625);   // 5.5
  CHECK(bits(ggml_type::q6_k) == 6.5625);
}

TEST_CASE("ggml_matrix: panels give the matrix back") {
  for (const ggml_type type : block_types()) {
    const any_qmatrix m = matrix_from_ggml(type, random_blocks(type, 19 * 512, 11), 19, 512);
    const any_qmatrix back = pack_matrix(m.view()).unpack();
    CHECK(test::same_bytes(m.codes(), back.codes()));
    CHECK(test::same_bytes(m.scale_plane(), back.scale_plane()));
    CHECK(test::same_bytes(m.zero_plane(), back.zero_plane()));
    CHECK(std::ranges::equal(m.block_scales(), back.block_scales()));
  }
}

TEST_CASE("ggml_matrix: what does not fit is refused by name, place and size") {
  const std::vector<std::byte> blocks = random_blocks(ggml_type::q4_k, 2 * 256, 1);
  CHECK(refusal_of([&] { static_cast<void>(matrix_from_ggml(ggml_type::f32, blocks, 1, 256)); }).code ==
        errc::unsupported_format);
  CHECK(refusal_of([&] { static_cast<void>(matrix_from_ggml(ggml_type::q4_k, blocks, 2, 128)); }).code ==
        errc::bad_shape);
  CHECK(refusal_of([&] { static_cast<void>(matrix_from_ggml(ggml_type::q4_k, blocks, 3, 256)); }).code ==
        errc::bad_shape);
  CHECK(refusal_of([&] { static_cast<void>(matrix_from_ggml(ggml_type::q4_k, blocks, 0, 256)); }).code ==
        errc::bad_shape);

  any_qmatrix m = matrix_from_ggml(ggml_type::q4_k, blocks, 2, 256);
  std::vector<std::byte> out(blocks.size());
  CHECK(refusal_of([&] { matrix_to_ggml(m.view(), ggml_type::q5_k, out); }).code == errc::unsupported_format);
  CHECK(refusal_of([&] { matrix_to_ggml(m.view(), ggml_type::q4_k, std::span(out).first(100)); }).code ==
        errc::bad_shape);
  m.scale_plane()[8 + 3] = std::byte{64};  // one more than 6 bits hold
  try {
    matrix_to_ggml(m.view(), ggml_type::q4_k, out);
    FAIL("a scale of 64 was written");
  } catch (const error& e) {
    CHECK(e.code() == errc::bad_value);
    CHECK(std::string(e.what()).find("row 1, columns 0 to 255") != std::string::npos);
  }
}

TEST_CASE("ggml_matrix: another table than the type's is refused") {
  std::vector<float> table(16, 1.0f);
  const any_qmatrix m(matrix_format_of(ggml_type::iq4_nl), 1, 32, std::span<const float>(table));
  std::vector<std::byte> out(18);
  CHECK(refusal_of([&] { matrix_to_ggml(m.view(), ggml_type::iq4_nl, out); }).code == errc::unsupported_format);
}
