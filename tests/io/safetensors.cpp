// SPDX-License-Identifier: MIT
#include <nibble/io/safetensors.hpp>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/temporary_file.hpp"

namespace {

using nibble::errc;
using nibble::io::dtype;
using nibble::io::safetensors_reader;
using nibble::io::safetensors_writer;
using nibble::test::bytes_of;
using nibble::test::temporary_file;

/// A file's bytes: length, header and `data_bytes` bytes 0, 1, 2, ...
std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const std::uint64_t n = header.size();
  std::memcpy(bytes.data(), &n, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i) bytes[8 + header.size() + i] = static_cast<std::byte>(i & 0xff);
  return bytes;
}

/// The message of the bad_file error that reading raises; "" when the file is accepted.
std::string refusal(const std::vector<std::byte>& bytes) {
  try {
    const safetensors_reader reader{std::span{bytes}};
    return "";
  } catch (const nibble::error& e) {
    CHECK(e.code() == errc::bad_file);
    return e.what();
  }
}
std::string refusal(const std::string& header, std::size_t data_bytes) { return refusal(file_of(header, data_bytes)); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A valid file with three types, a scalar, an empty tensor and metadata.
std::vector<std::byte> small_file() {
  return file_of(
      R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("h":{"dtype":"F16","shape":[],"data_offsets":[24,26]},"e":{"dtype":"I64","shape":[0,7],"data_offsets":[26,26]},)"
      R"("b":{"dtype":"BOOL","shape":[3],"data_offsets":[26,29]}}  )",
      29);
}

}  // namespace

TEST_CASE("safetensors: reads names, types, shapes, offsets and metadata in data order") {
  const auto bytes = small_file();
  const safetensors_reader reader{std::span{bytes}};
  REQUIRE(reader.tensors().size() == 4);
  CHECK(reader.tensors()[0].name == "w");
  CHECK(reader.tensors()[0].shape == std::vector<std::size_t>{2, 3});
  CHECK(reader.tensors()[0].elements == 6);
  CHECK(reader.at("h").elements == 1);
  CHECK(reader.at("h").type == dtype::f16);
  CHECK(reader.at("e").elements == 0);
  CHECK(reader.at("b").begin == 26);
  CHECK(reader.bytes(reader.at("b"))[2] == std::byte{28});
  CHECK(reader.metadata().at("k") == "v");
  CHECK(reader.contains("w"));
  CHECK_FALSE(reader.contains("W"));
  CHECK_THROWS_WITH_AS(reader.at("W"), doctest::Contains("has no tensor 'W'"), nibble::error);
}

TEST_CASE("safetensors: an empty header is a file without tensors") {
  CHECK(refusal("{}", 0).empty());
  CHECK(refusal("{}   ", 0).empty());
  CHECK(refusal(R"({"__metadata__":{}})", 0).empty());
}

TEST_CASE("safetensors: F32, F16 and BF16 values are read exactly from unaligned data") {
  // The header's length is odd, so no value is aligned.
  const std::string header = R"({"f":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"h":{"dtype":"F16","shape":[3],)"
                             R"("data_offsets":[8,14]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[14,18]}} )";
  REQUIRE(header.size() % 2 == 1);
  auto bytes = file_of(header, 18);
  std::byte* const data = bytes.data() + 8 + header.size();
  const float f[2] = {1.1f, -0x1p-149f};
  const std::uint16_t h[3] = {0x3c00, 0x0001, 0xfc00}, b[2] = {0x3f81, 0xff80};
  std::memcpy(data, f, 8);
  std::memcpy(data + 8, h, 6);
  std::memcpy(data + 14, b, 4);
  const safetensors_reader reader{std::span<const std::byte>{bytes}};
  const auto rf = reader.read_f32("f"), rh = reader.read_f32("h"), rb = reader.read_f32("b");
  CHECK(rf[0] == 1.1f);
  CHECK(rf[1] == -0x1p-149f);
  CHECK(rh[0] == 1.0f);
  CHECK(rh[1] == 0x1p-24f);
  CHECK(rh[2] == -std::numeric_limits<float>::infinity());
  CHECK(rb[0] == 1.0078125f);
  CHECK(rb[1] == -std::numeric_limits<float>::infinity());
  float part[2];
  reader.read_f32(reader.at("h"), 1, part);
  CHECK(part[0] == 0x1p-24f);
  CHECK_THROWS_WITH_AS(reader.read_f32(reader.at("h"), 2, part), doctest::Contains("tensor 'h', which has 3"),
                       nibble::error);
}

TEST_CASE("safetensors: 8-bit floats and small integers are read exactly") {
  const std::string header =
      R"({"e4m3":{"dtype":"F8_E4M3","shape":[6],"data_offsets":[0,6]},"e5m2":{"dtype":"F8_E5M2","shape":[5],)"
      R"("data_offsets":[6,11]},"e8m0":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[11,15]},"i8":{"dtype":"I8",)"
      R"("shape":[2],"data_offsets":[15,17]},"u16":{"dtype":"U16","shape":[1],"data_offsets":[17,19]},"i16":{"dtype":)"
      R"("I16","shape":[1],"data_offsets":[19,21]},"fn":{"dtype":"F8_E4M3FNUZ","shape":[3],"data_offsets":[21,24]},)"
      R"("gn":{"dtype":"F8_E5M2FNUZ","shape":[3],"data_offsets":[24,27]},"u8":{"dtype":"U8","shape":[1],)"
      R"("data_offsets":[27,28]}})";
  auto bytes = file_of(header, 28);
  const unsigned char data[28] = {0x00, 0x80, 0x01, 0x7e, 0x7f, 0xb8, 0x7b, 0xfc, 0x7d, 0x01, 0x3c, 0,    1,    127,
                                  255,  0x80, 0x7f, 0xff, 0xff, 0x00, 0x80, 0x80, 0x01, 0x40, 0x80, 0xff, 0x40, 200};
  std::memcpy(bytes.data() + 8 + header.size(), data, sizeof data);
  const safetensors_reader reader{std::span<const std::byte>{bytes}};
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto same = [&](const char* name, std::vector<float> want) {
    CAPTURE(name);
    const auto got = reader.read_f32(name);
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i)
      CHECK((std::isnan(want[i]) ? std::isnan(got[i])
                                 : got[i] == want[i] && std::signbit(got[i]) == std::signbit(want[i])));
  };
  same("e4m3", {0.0f, -0.0f, 0x1p-9f, 448.0f, NAN, -1.0f});
  same("e5m2", {57344.0f, -infinity, NAN, 0x1p-16f, 1.0f});
  same("e8m0", {0x1p-127f, 0x1p-126f, 1.0f, NAN});
  same("i8", {-128.0f, 127.0f});
  same("u16", {65535.0f});
  same("i16", {-32768.0f});
  same("fn", {NAN, 0x1p-10f, 1.0f});
  same("gn", {NAN, -57344.0f, 1.0f});
  same("u8", {200.0f});
}

TEST_CASE("safetensors: every 8-bit float is the value that its fields say") {
  const struct {
    dtype type;
    int fraction, bias;
  } formats[] = {
      {dtype::f8_e4m3, 3, 7}, {dtype::f8_e5m2, 2, 15}, {dtype::f8_e4m3fnuz, 3, 8}, {dtype::f8_e5m2fnuz, 2, 16}};
  for (const auto& f : formats) {
    for (int byte = 0; byte < 256; ++byte) {
      const float got = nibble::io::float8_value(f.type, static_cast<std::uint8_t>(byte));
      if (!std::isfinite(got)) continue;
      const int exponent = (byte & 127) >> f.fraction, fraction = byte & ((1 << f.fraction) - 1);
      const double significand = (exponent == 0 ? 0.0 : 1.0) + std::ldexp(fraction, -f.fraction);
      const double want = std::ldexp(significand, (exponent == 0 ? 1 : exponent) - f.bias) * (byte >= 128 ? -1.0 : 1.0);
      CHECK(static_cast<double>(got) == want);
    }
  }
  int special = 0;  // E5M2 has 8 infinities and NaN, E4M3 two NaN, the others one each, E8M0 one
  for (const dtype type : {dtype::f8_e4m3, dtype::f8_e5m2, dtype::f8_e4m3fnuz, dtype::f8_e5m2fnuz, dtype::f8_e8m0})
    for (int byte = 0; byte < 256; ++byte)
      special += !std::isfinite(nibble::io::float8_value(type, static_cast<std::uint8_t>(byte)));
  CHECK(special == 8 + 2 + 1 + 1 + 1);
}

TEST_CASE("safetensors: wider numbers become floats on request, with a report of what was rounded") {
  const std::string header =
      R"({"d":{"dtype":"F64","shape":[5],"data_offsets":[0,40]},"l":{"dtype":"I64","shape":[2],"data_offsets":[40,56]},)"
      R"("i":{"dtype":"I32","shape":[2],"data_offsets":[56,64]}})";
  auto bytes = file_of(header, 64);
  std::byte* const data = bytes.data() + 8 + header.size();
  const double d[5] = {0.5, 0.1, 1e300, std::nan(""), -std::numeric_limits<double>::infinity()};
  const std::int64_t l[2] = {std::int64_t{1} << 40, (std::int64_t{1} << 40) + 1};
  const std::int32_t i[2] = {16777216, 16777217};
  std::memcpy(data, d, 40);
  std::memcpy(data + 40, l, 16);
  std::memcpy(data + 56, i, 8);
  const safetensors_reader reader{std::span<const std::byte>{bytes}};
  CHECK_THROWS_WITH_AS(reader.read_f32("d"), doctest::Contains("'d' is F64; its values must be rounded"),
                       nibble::error);
  float out[5];
  const auto f64 = reader.read_f32_rounded(reader.at("d"), 0, out);
  CHECK(f64.rounded == 2);
  CHECK(f64.overflowed == 1);
  CHECK(f64.greatest_error == static_cast<double>(0.1f) - 0.1);
  CHECK(out[0] == 0.5f);
  CHECK(out[2] == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(out[3]));
  CHECK(out[4] == -std::numeric_limits<float>::infinity());
  const auto i64 = reader.read_f32_rounded(reader.at("l"), 0, std::span{out}.first(2));
  CHECK(i64.rounded == 1);
  CHECK(i64.greatest_error == 1.0);
  const auto i32 = reader.read_f32_rounded(reader.at("i"), 0, std::span{out}.first(2));
  CHECK(i32.rounded == 1);
  CHECK(out[1] == 16777216.0f);
  CHECK(i32.greatest_relative == 1.0 / 16777217.0);
}

TEST_CASE("safetensors: tensors with bytes of their own are written as they are") {
  const temporary_file file("own_bytes");
  safetensors_writer writer;
  writer.add(nibble::io::tensor_bytes{"t", dtype::f8_e4m3, {2, 2}, std::vector<std::byte>(4, std::byte{0x38})});
  CHECK_THROWS_WITH_AS(writer.add(nibble::io::tensor_bytes{"u", dtype::i16, {2}, std::vector<std::byte>(3)}),
                       doctest::Contains("'u' of shape [2] and I16 with 3 bytes"), nibble::error);
  writer.save(file.path);
  const safetensors_reader reader{file.path};
  CHECK(reader.read_f32("t")[3] == 1.0f);
  CHECK(reader.view(reader.at("t")).shape == std::vector<std::size_t>{2, 2});
}

TEST_CASE("safetensors: values of other types are refused by name") {
  const auto bytes = small_file();
  const safetensors_reader reader{std::span{bytes}};
  CHECK_THROWS_WITH_AS(reader.read_f32("b"), doctest::Contains("tensor 'b' is BOOL"), nibble::error);
  CHECK_THROWS_WITH_AS(reader.read_f32("e"), doctest::Contains("tensor 'e' is I64"), nibble::error);
  CHECK_THROWS_WITH_AS(reader.read_i32("w"), doctest::Contains("tensor 'w' is F32, not I32"), nibble::error);
}

TEST_CASE("safetensors: every rule of the header is one error that names it") {
  const struct {
    const char* header;
    std::size_t data;
    const char* says;
  } cases[] = {
      {R"([])", 0, "does not begin with '{'"},
      {R"( {})", 0, "does not begin with '{'"},
      {"", 0, "does not begin with '{'"},
      {"{}\n", 0, "ends in a byte other than '}' and spaces, at byte 10; rule: it is one JSON object"},
      {R"({}{})", 0, "not JSON"},
      {R"({"a")", 0, "ends in a byte other than"},
      {R"({"a":1})", 0, "tensor 'a': its entry is the integer 1"},
      {R"({"a":[]})", 0, "tensor 'a': its entry is an array"},
      {R"({"a":null})", 0, "tensor 'a': its entry is null"},
      {R"({"a":{}})", 0, "tensor 'a': 'dtype' is missing"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor 'a': 'data_offsets' is missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor 'a': 'shape' is missing"},
      {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype 'F31'"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype holds the integer 7"},
      {R"({"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})", 4, "dtype holds an array"},
      {R"({"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4, "shape holds a string"},
      {R"({"a":{"dtype":"F32","shape":{"x":1},"data_offsets":[0,4]}})", 4, "shape holds an object"},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "shape holds an array"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "shape holds the number 1.0"},
      {R"({"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}})", 4, "shape holds the number 1e0"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape holds the signed integer -1"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})", 4, "shape holds a boolean"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}})", 4,
       "shape holds the number 18446744073709551616"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "exactly two numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "exactly two numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "begin <= end"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "inside the data section of 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
       "hold 4 bytes; rule: F32 times its shape needs 8"},
      {R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2, "12 bits of F4; rule: a multiple of 8"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "tensor 'a' at byte 9: the product"},
      {R"({"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "tensor 'a' at byte 9: the product"},
      {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0, "overflows 64 bits; rule: "},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3,
       "'a' begins at data offset 1, the one before it ends at 0"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3, "'b' begins at data offset 1, the one before it ends at 2"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
       5, "'b' begins at data offset 3, the one before it ends at 2"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 3, "no trailing byte"},
      {R"({})", 1, "no trailing byte"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2, "'dtype' occurs once"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1}})", 2, "unknown field 'x'"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "'a': rule: names are unique; this one occurs twice, at bytes 9 and 61"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "'a': rule: names are unique; this one occurs twice, at bytes 9 and 61"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "names are unique; this one occurs twice, at bytes 9 and 27"},
      {R"({"\\\"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "\\\"x":1})", 0, "twice, at bytes 9 and 66"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "key 'k' occurs twice, the second time at byte 33"},
      {R"({"__metadata__":{"k":1}})", 0, "__metadata__ key 'k' holds the integer 1"},
      {R"({"__metadata__":{"k":{}}})", 0, "__metadata__ key 'k' holds an object"},
      {R"({"__metadata__":7})", 0, "tensor '__metadata__': its entry is the integer 7"},
      {"{\"a\xff\":{}}", 0, "not JSON"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],}})", 1, "not JSON"},
      {R"({"a\ud800":{}})", 0, "not JSON"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.header);
    const std::string message = refusal(c.header, c.data);
    CAPTURE(message);
    CHECK(contains(message, c.says));
  }
}

TEST_CASE("safetensors: a NUL byte cannot hide the rest of the header") {
  const std::string header{"{}\0}", 4};
  CHECK(contains(refusal(header, 0), "NUL byte in the header at byte 10"));
}

TEST_CASE("safetensors: hostile header lengths are refused before anything is read") {
  for (const std::uint64_t n :
       {std::uint64_t{3}, std::uint64_t{100'000'001}, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    auto bytes = file_of("{}", 0);
    std::memcpy(bytes.data(), &n, 8);
    CHECK(contains(refusal(bytes), "header length"));
  }
  for (std::size_t size = 0; size < 8; ++size)
    CHECK(contains(refusal(std::vector<std::byte>(size)), "begins with the header length"));
}

TEST_CASE("safetensors: nesting bombs stop at the first level that the format does not have") {
  const std::size_t depth = 1'000'000;
  CHECK(contains(refusal(R"({"a":)" + std::string(depth, '[') + "}", 0), "its entry is an array"));
  std::string objects = "{";
  for (std::size_t i = 0; i < depth; ++i) objects += R"("a":{)";
  CHECK(contains(refusal(objects + "}", 0), "unknown field 'a'"));
}

TEST_CASE("safetensors: names may hold any escape and are made printable in messages") {
  const auto bytes = file_of("{\"\\u00e9\\n\\u0000\\\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
  const safetensors_reader reader{std::span{bytes}};
  CHECK(reader.contains(std::string_view{"\xc3\xa9\n\0\"", 5}));
  CHECK(nibble::io::printable(reader.tensors()[0].name) == "\\xc3\\xa9\\x0a\\x00\"");
  CHECK(nibble::io::printable(std::string(1000, 'x')).size() == 123);
}

TEST_CASE("safetensors: truncation at every byte is an error") {
  const auto bytes = small_file();
  REQUIRE(refusal(bytes).empty());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(
        refusal(std::vector<std::byte>(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))).empty());
  }
}

TEST_CASE("safetensors: a file with any bit flipped is refused or read within its bounds") {
  const auto original = small_file();
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < original.size() * 8; ++bit) {
    auto bytes = original;
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    try {
      const safetensors_reader reader{std::span<const std::byte>{bytes}};
      for (const auto& t : reader.tensors()) {
        CHECK(reader.bytes(t).size() == t.end - t.begin);
        if (reader.is_float(t)) CHECK(reader.read_f32(t).size() == t.elements);
      }
    } catch (const nibble::error& e) {
      CHECK(e.code() == errc::bad_file);
      ++refused;
    }
  }
  CHECK(refused > 1000);  // most bits of the header carry structure
}

TEST_CASE("safetensors: what is written is read back, sorted by element size and name") {
  const temporary_file file{"round_trip.safetensors"};
  const std::vector<float> f{1.5f, -2.0f, 0.1f, 4.0f, 5.0f, 6.0f};
  const std::vector<nibble::half> h{nibble::to_half(0.5f)};
  const std::vector<nibble::bfloat16> b{nibble::to_bfloat16(3.0f), nibble::to_bfloat16(-3.0f)};
  const std::vector<std::int32_t> i{1, -2, 3};
  const std::vector<std::uint8_t> u{9};
  safetensors_writer writer;
  writer.metadata = {{"format", "test"}, {"quote\"", "\n\xc3\xa9"}};
  writer.add("u", {1}, std::span<const std::uint8_t>{u});
  writer.add("z.f", {2, 3}, std::span<const float>{f});
  writer.add("h", {}, std::span<const nibble::half>{h});
  writer.add("b", {2, 1}, std::span<const nibble::bfloat16>{b});
  writer.add("a.i", {3}, std::span<const std::int32_t>{i});
  writer.add("empty", {0, 4}, std::span<const float>{});
  writer.save(file.path);
  writer.save(file.path);  // over the old file

  const safetensors_reader reader{file.path};
  std::vector<std::string> names;
  for (const auto& t : reader.tensors()) names.push_back(t.name);
  CHECK(names.size() == 6);
  CHECK(names.front() == "a.i");
  CHECK(names.back() == "u");
  const auto rf = reader.read_f32("z.f");
  CHECK(std::vector<float>(rf.begin(), rf.end()) == f);
  CHECK(reader.read_f32("h")[0] == 0.5f);
  CHECK(reader.read_f32("b")[1] == -3.0f);
  CHECK(reader.read_i32("a.i") == i);
  CHECK(reader.at("empty").elements == 0);
  CHECK(reader.metadata() == writer.metadata);
  std::uint64_t header_bytes = 0;
  const auto bytes = bytes_of(file.path);
  std::memcpy(&header_bytes, bytes.data(), 8);
  CHECK(header_bytes % 8 == 0);
  reader.release(reader.at("z.f"));
  CHECK(reader.read_f32("z.f")[0] == 1.5f);  // dropped pages come back
}

TEST_CASE("safetensors: tensors of any dtype are written piece by piece") {
  using nibble::io::tensor_sink;
  const temporary_file file{"pieces.safetensors"};
  const std::vector<std::byte> two{std::byte{1}, std::byte{2}};
  safetensors_writer writer;
  writer.add("f8", dtype::f8_e4m3, {2, 3}, [&](tensor_sink& sink) {
    while (sink.left() != 0) sink.write(two);
  });
  writer.add("f4", dtype::f4, {4}, [&](tensor_sink& sink) { sink.write(two); });
  writer.add("none", dtype::i64, {0}, [](tensor_sink&) {});
  writer.save(file.path);
  const safetensors_reader reader{file.path};
  CHECK(reader.at("f8").type == dtype::f8_e4m3);
  CHECK(reader.bytes(reader.at("f8"))[5] == std::byte{2});
  CHECK(reader.bytes(reader.at("f4")).size() == 2);
  CHECK(reader.at("none").elements == 0);
}

TEST_CASE("safetensors: a tensor that gets more or fewer bytes than it has leaves the old file") {
  using nibble::io::tensor_sink;
  const temporary_file file{"fewer.safetensors"};
  const std::vector<std::byte> two(2);
  safetensors_writer good, fewer, more;
  good.save(file.path);
  const auto before = bytes_of(file.path);
  fewer.add("t", dtype::u8, {3}, [&](tensor_sink& sink) { sink.write(two); });
  more.add("t", dtype::u8, {3}, [&](tensor_sink& sink) { sink.write(two), sink.write(two); });
  CHECK_THROWS_WITH_AS(fewer.save(file.path), doctest::Contains("'t' has 3 bytes; it was given 2"), nibble::error);
  CHECK_THROWS_WITH_AS(more.save(file.path), doctest::Contains("'t' has 3 bytes; it was given 4"), nibble::error);
  CHECK(bytes_of(file.path) == before);
  CHECK_THROWS_WITH_AS(good.add("t", dtype::f4, {3}, [](tensor_sink&) {}), doctest::Contains("F4 is no whole number"),
                       nibble::error);
  CHECK_THROWS_WITH_AS(good.add("t", dtype::f64, {std::size_t{1} << 61}, [](tensor_sink&) {}),
                       doctest::Contains("no whole number of bytes below 2^61"), nibble::error);
}

TEST_CASE("safetensors: the writer leaves no file behind when it fails") {
  namespace fs = std::filesystem;
  const temporary_file folder{"writer_fails"};
  fs::create_directory(folder.path);
  const std::string path = folder.path + "/m.safetensors";
  const std::vector<float> f{1.0f};
  safetensors_writer writer;
  CHECK_THROWS_WITH_AS(writer.add("x", {2}, std::span<const float>{f}), doctest::Contains("shape [2] with 1 values"),
                       nibble::error);
  writer.add("x", {1}, std::span<const float>{f});
  writer.add("x", {1}, std::span<const float>{f});
  CHECK_THROWS_WITH_AS(writer.save(path), doctest::Contains("'x' occurs twice"), nibble::error);
  safetensors_writer bad_name;
  bad_name.add("\xff", {1}, std::span<const float>{f});
  CHECK_THROWS_WITH_AS(bad_name.save(path), doctest::Contains("not UTF-8"), nibble::error);
  safetensors_writer good;
  good.add("x", {1}, std::span<const float>{f});
  CHECK_THROWS_WITH_AS(good.save(folder.path + "/absent/m.safetensors"), doctest::Contains("cannot create"),
                       nibble::error);
  fs::create_directory(path);  // a folder cannot be replaced by a file
  CHECK_THROWS_WITH_AS(good.save(path), doctest::Contains("cannot rename"), nibble::error);
  fs::remove(path);
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("mapped_file: what cannot be mapped is an io_failed error with the path") {
  namespace fs = std::filesystem;
  const auto code_of = [](const std::string& path) {
    try {
      const nibble::io::mapped_file file{path};
      return errc::ok;
    } catch (const nibble::error& e) {
      CHECK(contains(e.what(), path));
      return e.code();
    }
  };
  CHECK(code_of("/nonexistent/file") == errc::io_failed);
  CHECK(code_of(fs::temp_directory_path().string()) == errc::io_failed);
  const temporary_file empty{"empty"};
  std::ofstream{empty.path};
  nibble::io::mapped_file file{empty.path};
  CHECK(file.bytes().empty());
  const temporary_file other{"other"};
  std::ofstream{other.path} << "abc";
  file = nibble::io::mapped_file{other.path};
  const nibble::io::mapped_file moved{std::move(file)};
  CHECK(moved.bytes().size() == 3);
  CHECK(moved.bytes()[0] == std::byte{'a'});
}
