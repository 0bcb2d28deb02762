// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include <nibble/gemm/gemm.hpp>
#include <nibble/io/packed_file.hpp>

#include "support/guard_page.hpp"
#include "support/matrices.hpp"

namespace {

using namespace nibble;

std::vector<float> product(const packed_view& W, const std::vector<float>& x) {
  std::vector<float> y(x.size() / W.matrix.K * W.matrix.N);
  const std::size_t M = x.size() / W.matrix.K;
  multiply(make_span2d(x.data(), M, W.matrix.K), W, make_span2d(y.data(), M, W.matrix.N));
  return y;
}

aligned_vector<std::byte> example() {
  const format_desc f{code_rule::asymmetric, 3, granularity_kind::grouped, scale_storage::f16, 32};
  return io::serialize_packed(pack_matrix(test::random_qmatrix(f, 19, 77, 1).view()).view());
}

std::string refusal(std::span<const std::byte> file, bool verify = true) {
  try {
    io::view_packed(file, verify);
  } catch (const error& e) {
    CHECK((e.code() == errc::bad_file || e.code() == errc::bad_alignment));
    const std::string text = e.what();  // "nibble: ... [code]"
    return text.substr(8, text.rfind(" [") - 8);
  }
  return "";
}

}  // namespace

TEST_CASE("packed_file: what is mapped multiplies to the same bits, every format and layout, up to the last byte") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const format_desc& f : test::all_formats(bits, {8, 64})) {
      for (const layout_id layout : {layout_id::panel16, layout_id::row_major}) {
        constexpr std::size_t N = 19, K = 77;
        if (can_pack(f, K, layout) != errc::ok) continue;
        const packed_matrix W = pack_matrix(test::random_qmatrix(f, N, K, static_cast<unsigned>(bits)).view(), layout);
        const auto bytes = io::serialize_packed(W.view());
        CHECK(bytes.size() % 64 == 0);
        const test::guarded<std::byte> mapped(bytes.size());  // ends at a page that must not be read
        std::memcpy(mapped.data(), bytes.data(), bytes.size());
        const packed_view view = io::view_packed({mapped.data(), bytes.size()});
        const auto x = test::normal_values(2 * K, 5);
        CAPTURE(test::describe(f));
        CAPTURE(name_of(layout));
        CHECK(test::same_bits(product(view, x), product(W.view(), x)));
        CHECK(io::serialize_packed(view) == bytes);
      }
    }
  }
}

TEST_CASE("packed_file: rows with gaps are written without them") {
  const format_desc f{code_rule::symmetric, 4, granularity_kind::per_channel, scale_storage::f32, 0};
  const any_qmatrix q = test::random_qmatrix(f, 3, 10, 1);
  std::vector<std::byte> wide(3 * 9, std::byte{0xee});
  for (std::size_t n = 0; n < 3; ++n)
    std::memcpy(wide.data() + n * 9, q.view().codes + n * q.view().row_stride_bytes, 5);
  packed_view tight{layout_id::row_major, q.view()}, gaps = tight;
  gaps.matrix.codes = wide.data();
  gaps.matrix.row_stride_bytes = 9;
  CHECK(io::serialize_packed(gaps) == io::serialize_packed(tight));
}

TEST_CASE("packed_file: the bytes are those of the description") {
  const auto bytes = example();
  CHECK(std::memcmp(bytes.data(),
                    "nibblepk\x01\0\0\0\x01\0\0\0\x13\0\0\0\0\0\0\0\x4d\0\0\0\0\0\0\0\x03\x03\x02\x01\x20\0\0\0",
                    40) == 0);
  // 128 of header, 2 panels * 3 blocks * 192 of codes, 2 * 3 groups * 16 scales of 2 bytes and zero points of 1.
  CHECK(bytes.size() == 128 + 2 * 3 * 192 + 192 + 128);
}

TEST_CASE("packed_file: every file that is cut short is refused") {
  const auto bytes = example();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    CAPTURE(n);
    CHECK(refusal(std::span(bytes).first(n)) != "");
  }
  aligned_vector<std::byte> longer = bytes;
  longer.resize(bytes.size() + 64);
  CHECK(refusal(longer) != "");
}

TEST_CASE("packed_file: every flipped bit is found, and without the checksum no access leaves the file") {
  const auto bytes = example();
  const std::vector<float> x(77, 0.5f);
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    aligned_vector<std::byte> bad = bytes;
    bad[i / 8] ^= static_cast<std::byte>(1u << i % 8);
    CAPTURE(i);
    CHECK(refusal(bad) != "");
    if (i % 7 != 0 || refusal(bad, false) != "") continue;
    const test::guarded<std::byte> mapped(bad.size());
    std::memcpy(mapped.data(), bad.data(), bad.size());
    const packed_view view = io::view_packed({mapped.data(), bad.size()}, false);
    if (view.matrix.K == x.size()) product(view, x);
  }
}

TEST_CASE("packed_file: refusals name offset and rule") {
  const auto bytes = example();
  const auto with = [&](std::size_t at, std::uint64_t value, std::size_t size) {
    aligned_vector<std::byte> bad = bytes;
    std::memcpy(bad.data() + at, &value, size);
    return refusal(bad);
  };
  CHECK(refusal(std::span(bytes).first(100)) == "packed_file: 100 bytes are fewer than the header's 128");
  CHECK(with(0, 0, 1) == "packed_file: offset 0: not \"nibblepk\"");
  CHECK(with(8, 2, 4) == "packed_file: offset 8: version 2, this library reads 1");
  CHECK(with(12, 2, 4) == "packed_file: offset 12: layout 2 is not below 2");
  CHECK(with(32, 6, 1) == "packed_file: offset 32: code rule 6 is not below 6");
  CHECK(with(33, 9, 1) == "packed_file: offset 33: 9 bits are not 2 to 8");
  CHECK(with(36, 201, 4) == "packed_file: offset 32: group size 201; it must be a positive multiple of 4");
  CHECK(with(40, 1, 1) == "packed_file: the header's unused bytes are not 0");
  CHECK(with(16, ~0ull, 8) == "packed_file: offset 16: N 18446744073709551615 is not below 1099511627776");
  aligned_vector<std::byte> huge = bytes;
  const std::uint64_t most = (1ull << 40) - 1;
  std::memcpy(huge.data() + 16, &most, 8);
  std::memcpy(huge.data() + 24, &most, 8);
  CHECK(refusal(huge).find("more than 2^64 bytes") != std::string::npos);
  CHECK(with(16, 33, 8).find("33 x 77 of this format take") != std::string::npos);
  CHECK(with(24, 0, 8).find("K = 0") != std::string::npos);
  CHECK(with(200, 0x55, 1).find("offset 64: checksum") != std::string::npos);
  std::vector<std::byte> shifted(bytes.size() + 65);
  std::byte* odd = shifted.data() + (65 - reinterpret_cast<std::uintptr_t>(shifted.data()) % 64);
  std::memcpy(odd, bytes.data(), bytes.size());
  CHECK(refusal({odd, bytes.size()}) == "packed_file: the bytes must be aligned to 64");
}
