// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>
#include <nibble/tensor/ggml_rows.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "support/guard_page.hpp"
#include "support/random.hpp"
#include "support/refusal.hpp"

using namespace nibble;
using test::refusal_of;

namespace {

struct golden_bytes {
  std::string_view name;
  std::array<std::uint64_t, 12> digest;
};
struct golden_edge {
  std::string_view name;
  std::size_t kind;
  std::uint64_t digest;
};
struct golden_block {
  std::string_view name, hex;
};
struct golden_values {
  std::string_view name;
  std::uint64_t digest;
};
#include "golden/ggml_golden.inc"

constexpr std::size_t golden_elements = 16 * 256;

/// The inputs of tests/golden/make_ggml_golden.py: integers times powers of two.
std::vector<float> golden_input(std::size_t kind) {
  std::vector<std::uint64_t> z(golden_elements), g(golden_elements), blocks(golden_elements);
  test::generator of_values(1000 + kind), of_groups(2000 + kind), of_blocks(4000 + kind);
  for (auto& v : blocks) v = of_blocks.next();
  for (auto& v : z) v = of_values.next();
  for (auto& v : g) v = of_groups.next();
  const auto bell_of = [&](std::size_t i) {
    long sum = -131070;
    for (int k = 0; k < 4; ++k) sum += static_cast<long>(z[i] >> (16 * k) & 0xffffu);
    return sum;
  };
  std::vector<float> x(golden_elements);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long bell = bell_of(i), rare = static_cast<long>(z[i] % 61), group = static_cast<long>(g[i / 16] % 24);
    long v = bell;
    switch (kind) {
      case 1: v = std::abs(bell) + 65536; break;
      case 2: v = -std::abs(bell) - 65536; break;
      case 3: v = rare % 17 - 8; break;
      case 4: v = rare < 2 ? bell : 0; break;
      case 5: v = bell_of(i / 32 * 32); break;
      case 6: v = 0; break;
      case 7: v = rare == 0 ? bell * 64 : bell; break;
      case 8: v = static_cast<long>(i) - static_cast<long>(golden_elements / 2); break;
      case 9: v = group < 8 ? 0 : bell; break;
      default: break;
    }
    int shift = -17;
    const int block = static_cast<int>(blocks[i / 32] % 255);
    switch (kind) {
      case 10: shift -= static_cast<int>(group); break;
      case 11: shift = -4; break;
      case 12: shift = -149; break;
      case 13: shift = block - 145; break;
      case 14:
        v = ((1L << 24) - rare) * (bell < 0 ? -1 : 1);
        shift = block - (rare < 30 ? 151 : 154);
        break;
      default: break;
    }
    x[i] = static_cast<float>(std::ldexp(static_cast<double>(v), shift));
  }
  return x;
}

/// The importance of its 1024 columns.
std::vector<float> golden_importance() {
  std::vector<float> columns(1024);
  test::generator random(5000);
  for (float& c : columns) {
    const std::uint64_t z = random.next();
    c = z % 7 == 0 ? 0.0f : static_cast<float>(z >> 40 >> (z % 23));
  }
  return columns;
}

template <class T>
std::uint64_t fnv(const std::vector<T>& v) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const std::byte b : std::as_bytes(std::span{v})) h = (h ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3u;
  return h;
}

std::vector<std::byte> encoded(ggml_type type, const std::vector<float>& x, std::size_t rows = 1) {
  const auto& info = quant::info_of(type);
  std::vector<std::byte> blocks(x.size() / info.block_elements * info.block_bytes);
  encode_ggml(type, make_span2d<const float>(x.data(), rows, x.size() / rows), blocks);
  return blocks;
}
std::vector<float> decoded(ggml_type type, const std::vector<std::byte>& blocks) {
  const auto& info = quant::info_of(type);
  std::vector<float> y(blocks.size() / info.block_bytes * info.block_elements);
  decode_ggml(type, blocks, y);
  return y;
}

template <class F>
void for_each_type(F&& f) {
  for (const auto& info : quant::detail::ggml_types) f(info);
}

}  // namespace

TEST_CASE("ggml_rows: the bytes of every format are those of ggml") {
  std::vector<std::vector<float>> inputs;
  for (std::size_t kind = 0; kind < 12; ++kind) inputs.push_back(golden_input(kind));
  CHECK(std::size(golden_encoded) == 13);
  for (const auto& golden : golden_encoded) {
    for (std::size_t kind = 0; kind < inputs.size(); ++kind) {
      CAPTURE(golden.name);
      CAPTURE(kind);
      CHECK(fnv(encoded(*quant::ggml_type_from_name(golden.name), inputs[kind])) == golden.digest[kind]);
    }
  }
}

TEST_CASE("ggml_rows: subnormal values, all exponents, and values below powers of two have the bytes of ggml") {
  CHECK(std::size(golden_edges) == 4);
  for (const auto& golden : golden_edges) {
    CAPTURE(golden.name);
    CAPTURE(golden.kind);
    CHECK(fnv(encoded(*quant::ggml_type_from_name(golden.name), golden_input(golden.kind))) == golden.digest);
  }
}

TEST_CASE("ggml_rows: IQ4_NL and IQ4_XS weigh by importance as ggml does, byte for byte, in any search") {
  const std::vector<float> importance = golden_importance();
  CHECK(std::size(golden_weighted) == 2);
  for (const auto& golden : golden_weighted) {
    for (std::size_t kind = 0; kind < golden.digest.size(); ++kind) {
      CAPTURE(golden.name);
      CAPTURE(kind);
      const auto x = golden_input(kind);
      const ggml_type type = *quant::ggml_type_from_name(golden.name);
      std::vector<std::byte> blocks(encoded(type, x).size());
      for (const ggml_search search : {ggml_search::reference, ggml_search::least_error}) {
        encode_ggml(type, make_span2d<const float>(x.data(), 4, 1024), blocks,
                    {.search = search, .importance = importance});
        CHECK(fnv(blocks) == golden.digest[kind]);
      }
    }
  }
}

TEST_CASE("ggml_rows: the first block of each format, byte for byte") {
  const auto x = golden_input(0);
  for (const auto& golden : golden_blocks) {
    const auto blocks = encoded(*quant::ggml_type_from_name(golden.name), x);
    std::string hex;
    for (std::size_t i = 0; i < golden.hex.size() / 2; ++i) {
      constexpr char digits[] = "0123456789abcdef";
      hex += digits[std::to_integer<int>(blocks[i] >> 4)];
      hex += digits[std::to_integer<int>(blocks[i] & std::byte{15})];
    }
    CAPTURE(golden.name);
    CHECK(hex == golden.hex);
  }
}

TEST_CASE("ggml_rows: the values of random blocks are those of ggml and of gguf-py, bit for bit") {
  CHECK(std::size(golden_decoded) == 13);
  for (const auto& golden : golden_decoded) {
    const auto& info = quant::info_of(*quant::ggml_type_from_name(golden.name));
    test::generator random(3000 + static_cast<std::uint64_t>(info.type));
    std::vector<std::byte> blocks(golden_elements / info.block_elements * info.block_bytes);
    for (std::byte& b : blocks) b = static_cast<std::byte>(random.next() & 0xffu);
    const auto y = decoded(info.type, blocks);
    std::vector<std::uint32_t> bits(y.size());
    for (std::size_t i = 0; i < y.size(); ++i)
      bits[i] = std::isnan(y[i]) ? 0x7fc00000u : std::bit_cast<std::uint32_t>(y[i]);
    CAPTURE(golden.name);
    CHECK(fnv(bits) == golden.digest);
  }
}

TEST_CASE("ggml_rows: rows are read with their stride, and lie one after the other") {
  const std::size_t rows = 3, cols = 512, stride = 515;
  const auto x = test::gaussian(rows * stride, 3);
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type)) return;
    CAPTURE(info.name);
    const std::size_t row_bytes = cols / info.block_elements * info.block_bytes;
    std::vector<std::byte> blocks(rows * row_bytes);
    encode_ggml(info.type, make_span2d<const float>(x.data(), rows, cols, stride), blocks);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(r * stride);
      const auto one = encoded(info.type, {first, first + static_cast<std::ptrdiff_t>(cols)});
      CHECK(std::memcmp(one.data(), blocks.data() + r * row_bytes, row_bytes) == 0);
    }
  });
}

TEST_CASE("ggml_rows: nothing beyond the blocks and values is touched, whatever the alignment") {
  const auto x = test::adversarial(1024, 5);
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type)) return;
    for (const std::size_t n : {info.block_elements, 3 * info.block_elements}) {
      const test::guarded<float> in(n), out(n);
      std::copy_n(x.begin(), n, in.begin());
      const test::guarded<std::byte> blocks(n / info.block_elements * info.block_bytes);
      encode_ggml(info.type, make_span2d<const float>(in.data(), 1, n), {blocks.data(), blocks.size()});
      decode_ggml(info.type, {blocks.data(), blocks.size()}, {out.data(), n});
      CHECK(std::all_of(out.begin(), out.end(), [](float v) { return is_finite(v); }));
    }
  });
}

TEST_CASE("ggml_rows: bytes and values do not depend on the threads") {
  thread_pool pool(3);
  const context threads = pool.context();
  const std::size_t rows = 5, cols = 9 * 1024, stride = cols + 3;
  const auto x = test::gaussian(rows * stride, 11);
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type)) return;
    CAPTURE(info.name);
    for (const std::size_t step : {cols, stride}) {
      const auto view = make_span2d<const float>(x.data(), rows, cols, step);
      std::vector<std::byte> one(rows * cols / info.block_elements * info.block_bytes), many(one.size());
      encode_ggml(info.type, view, one);
      encode_ggml(info.type, view, many, threads);
      CHECK(std::memcmp(one.data(), many.data(), one.size()) == 0);
      std::vector<float> y(rows * cols), z(rows * cols);
      decode_ggml(info.type, one, y);
      decode_ggml(info.type, one, z, threads);
      CHECK(std::memcmp(y.data(), z.data(), y.size() * sizeof(float)) == 0);
    }
  });
}

TEST_CASE("ggml_rows: of many refused blocks the first is named, on any threads") {
  thread_pool pool(3);
  const std::size_t rows = 6, cols = 16 * 1024;
  auto x = test::gaussian(rows * (cols + 1), 12);
  for (const std::size_t stride : {cols, cols + 1}) {
    auto bad = x;
    for (std::size_t r = 2; r < rows; ++r) bad[r * stride + 9999] = std::numeric_limits<float>::infinity();
    bad[2 * stride + 9000] = std::numeric_limits<float>::max();
    bad[1 * stride + 16001] = std::numeric_limits<float>::quiet_NaN();
    for (const context& ctx : {context{}, pool.context()}) {
      std::vector<std::byte> blocks(rows * cols / 256 * 144);
      const auto view = make_span2d<const float>(bad.data(), rows, cols, stride);
      const auto r = refusal_of([&] { encode_ggml(ggml_type::q4_k, view, blocks, ctx); });
      CHECK(r.says("row 1, column 16001 is"));
      bad[1 * stride + 16001] = 0.0f;
      const auto next = refusal_of([&] { encode_ggml(ggml_type::q4_k, view, blocks, ctx); });
      CHECK(next.says("row 2, columns 8960 to 9215 are too large for Q4_K"));
      bad[1 * stride + 16001] = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

TEST_CASE("ggml_rows: no rows and no columns are no bytes") {
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type)) return;
    encode_ggml(info.type, make_span2d<const float>(nullptr, 0, 256), {});
    encode_ggml(info.type, make_span2d<const float>(nullptr, 4, 0), {});
    decode_ggml(info.type, {}, {});
  });
}

TEST_CASE("ggml_rows: types without code are refused by name") {
  std::size_t read = 0, written = 0;
  for_each_type([&](const quant::ggml_type_info& info) {
    CAPTURE(info.name);
    read += can_decode_ggml(info.type);
    written += can_encode_ggml(info.type);
    std::vector<std::byte> b(info.block_bytes);
    std::vector<float> y(info.block_elements);
    if (!can_decode_ggml(info.type)) {
      const auto r = refusal_of([&] { decode_ggml(info.type, b, y); });
      CHECK(r.code == errc::unsupported_format);
      CHECK(r.says(info.name));
    }
    if (!can_encode_ggml(info.type)) {
      const auto r = refusal_of([&] { encoded(info.type, y); });
      CHECK(r.code == errc::unsupported_format);
      CHECK(r.says(info.name));
    }
  });
  CHECK(read == 16);
  CHECK(written == 16);
}

TEST_CASE("ggml_rows: sizes that do not match are refused with both numbers") {
  std::vector<float> x(256);
  std::vector<std::byte> b(144);
  const auto view = make_span2d<const float>(x.data(), 1, 256), halves = make_span2d<const float>(x.data(), 2, 128),
             crossed = make_span2d<const float>(x.data(), 2, 64, 32);
  CHECK(refusal_of([&] {
          decode_ggml(ggml_type::q4_k, b, std::span{x}.first(255));
        }).says("255 values; Q4_K has blocks of 256"));
  CHECK(refusal_of([&] { decode_ggml(ggml_type::q5_k, b, x); }).says("take 176 bytes; there are 144"));
  CHECK(refusal_of([&] { encode_ggml(ggml_type::q6_k, view, b); }).says("takes 210 bytes; there are 144"));
  CHECK(refusal_of([&] { encode_ggml(ggml_type::q4_k, halves, b); }).says("128 values; Q4_K has blocks of 256"));
  CHECK(refusal_of([&] { encode_ggml(ggml_type::q8_0, crossed, b); }).says("takes 136 bytes; there are 144"));
  b.resize(136);
  CHECK(refusal_of([&] { encode_ggml(ggml_type::q8_0, crossed, b); }).says("stride 32 is less than the row of 64"));
}

TEST_CASE("ggml_rows: a value that is not finite is refused with its row and column") {
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type)) return;
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      auto x = test::gaussian(2 * 512, 8);
      x[512 + 300] = bad;
      const auto r = refusal_of([&] { encoded(info.type, x, 2); });
      CAPTURE(r.message);
      CHECK(r.code == errc::bad_value);
      CHECK(r.says("row 1, column 300 is"));
    }
  });
}

TEST_CASE("ggml_rows: values too large for a format are refused with their place") {
  for_each_type([&](const quant::ggml_type_info& info) {
    // MXFP4 has a scale for every float.
    if (!can_encode_ggml(info.type) || info.type == ggml_type::f32 || info.type == ggml_type::mxfp4) return;
    for (const float large : {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()}) {
      auto x = test::gaussian(2 * 512, 8);
      x[512 + 256] = large;
      const auto r = refusal_of([&] { encoded(info.type, x, 2); });
      CAPTURE(r.message);
      CHECK(r.code == errc::scale_overflow);
      CHECK(r.says("row 1, columns 256 to " + std::to_string(255 + info.block_elements)));
      CHECK(r.says(info.name));
    }
  });
}

TEST_CASE("ggml_rows: the greatest values of a half scale are kept and the next ones refused") {
  const struct {
    ggml_type type;
    float fits, not_any_more;
  } cases[] = {
      {ggml_type::f16, 65519.0f, 65520.0f},
      {ggml_type::bf16, 0x1.fefffep127f, 0x1.ffp127f},
      {ggml_type::q8_0, 65504.0f * 127.0f, 65521.0f * 127.0f},
      {ggml_type::q4_0, 65504.0f * 8.0f, 65521.0f * 8.0f},
      {ggml_type::q5_0, 65504.0f * 16.0f, 65521.0f * 16.0f},
      {ggml_type::q4_1, 65504.0f * 15.0f, 65521.0f * 15.0f},
      {ggml_type::q5_1, 65504.0f * 31.0f, 65521.0f * 31.0f},
  };
  for (const auto& c : cases) {
    CAPTURE(quant::name_of(c.type));
    std::vector<float> x(quant::info_of(c.type).block_elements);
    x[0] = c.fits;
    const auto y = decoded(c.type, encoded(c.type, x));
    CHECK(std::fabs(y[0] / c.fits - 1.0f) < 0.004f);
    x[0] = c.not_any_more;
    CHECK(refusal_of([&] { encoded(c.type, x); }).code == errc::scale_overflow);
  }
}

TEST_CASE("ggml_rows: least error leaves less squared error in as many bytes, on any number of threads") {
  const auto x = test::gaussian(40 * 512, 11, 0.02f);
  const auto squared = [&](const std::vector<float>& y) {
    double sum = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    return sum;
  };
  thread_pool pool(3);
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_fit_ggml(info.type)) return;
    CAPTURE(info.name);
    const auto plain = encoded(info.type, x, 40);
    std::vector<std::byte> fitted(plain.size()), threaded(plain.size());
    const ggml_encoding how{.search = ggml_search::least_error};
    encode_ggml(info.type, make_span2d<const float>(x.data(), 40, 512), fitted, how);
    encode_ggml(info.type, make_span2d<const float>(x.data(), 40, 512), threaded, how, pool.context());
    CHECK(fitted == threaded);
    CHECK(squared(decoded(info.type, fitted)) < 0.96 * squared(decoded(info.type, plain)));
  });
}

TEST_CASE("ggml_rows: types without a search of least error keep ggml's bytes") {
  const auto x = test::gaussian(512, 12);
  for_each_type([&](const quant::ggml_type_info& info) {
    if (!can_encode_ggml(info.type) || can_fit_ggml(info.type)) return;
    CAPTURE(info.name);
    std::vector<std::byte> blocks(encoded(info.type, x).size());
    encode_ggml(info.type, make_span2d<const float>(x.data(), 1, x.size()), blocks,
                {.search = ggml_search::least_error, .importance = {}});
    CHECK(blocks == encoded(info.type, x));
  });
}

TEST_CASE("ggml_rows: importance follows the columns whatever the stride, the run and the row") {
  const std::size_t rows = 37, cols = 768, stride = 771;
  const auto x = test::gaussian(rows * stride, 13);
  std::vector<float> importance(cols), dense(rows * cols);
  for (std::size_t k = 0; k < cols; ++k) importance[k] = k < 256 ? 1.0f : static_cast<float>(k % 5);
  for (std::size_t r = 0; r < rows; ++r) std::copy_n(x.data() + r * stride, cols, dense.data() + r * cols);
  const ggml_encoding how{.search = ggml_search::least_error, .importance = importance};
  std::vector<std::byte> of_dense(rows * 3 * 144), of_strided(of_dense.size()), of_row(3 * 144);
  encode_ggml(ggml_type::q4_k, make_span2d<const float>(dense.data(), rows, cols), of_dense, how);
  encode_ggml(ggml_type::q4_k, span2d<const float>{x.data(), rows, cols, stride}, of_strided, how);
  CHECK(of_dense == of_strided);
  encode_ggml(ggml_type::q4_k, make_span2d<const float>(dense.data() + 36 * cols, 1, cols), of_row, how);
  CHECK(std::equal(of_row.begin(), of_row.end(), of_dense.end() - 3 * 144));
}

TEST_CASE("ggml_rows: an importance that is no weight is refused with its column") {
  const auto x = test::gaussian(512, 14);
  std::vector<std::byte> blocks(2 * 144);
  const auto values = make_span2d<const float>(x.data(), 1, 512);
  std::vector<float> importance(512, 1.0f);
  const auto refused = [&] {
    return refusal_of([&] {
      encode_ggml(ggml_type::q4_k, values, blocks, {.search = ggml_search::least_error, .importance = importance});
    });
  };
  importance[77] = -1.0f;
  CHECK(refused().says("the importance of column 77 is -1"));
  importance[77] = std::numeric_limits<float>::infinity();
  CHECK(refused().says("column 77 is inf"));
  importance[77] = 1e20f;
  std::vector<std::byte> weighed(2 * 136);
  const auto r = refusal_of([&] { encode_ggml(ggml_type::iq4_xs, values, weighed, {.importance = importance}); });
  CHECK(r.code == errc::bad_value);
  CHECK(r.says("the importance of column 77 is 1.00000002e+20; IQ4_XS takes at most 7.2057594e+16"));
  importance[77] = 0x1p56f;
  encode_ggml(ggml_type::iq4_xs, values, weighed, {.importance = importance});
  importance.resize(511);
  CHECK(refused().says("511 importances; there are 512 columns"));
}
