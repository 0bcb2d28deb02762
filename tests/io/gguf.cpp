// SPDX-License-Identifier: MIT
#include <nibble/io/gguf.hpp>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>

#include "support/random.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::errc;
using nibble::ggml_type;
using nibble::io::gguf_reader;
using nibble::io::gguf_type;
using nibble::io::gguf_value;

/// A file's bytes, put together by hand: the tests do not trust the writer.
struct maker {
  std::string bytes;

  template <class T>
  maker& raw(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  maker& u32(std::uint32_t v) { return raw(v); }
  maker& u64(std::uint64_t v) { return raw(v); }
  maker& text(std::string_view s) {
    u64(s.size());
    bytes += s;
    return *this;
  }
  maker& key(std::string_view name, gguf_type type) { return text(name).u32(static_cast<std::uint32_t>(type)); }
  maker& tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t d : dims) u64(d);
    return u32(type).u64(offset);
  }
  maker& pad(std::size_t to) {
    while (bytes.size() % to != 0) bytes.push_back('\0');
    return *this;
  }
  maker& data(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) bytes.push_back(static_cast<char>(i));
    return *this;
  }
  std::span<const std::byte> span() const { return std::as_bytes(std::span{bytes}); }
};

maker header(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
  maker m;
  m.bytes = "GGUF";
  return m.u32(version).u64(tensors).u64(keys);
}

/// The message of the bad_file error that reading raises; "" when the file is accepted.
std::string refusal(const maker& m) {
  try {
    const gguf_reader reader{m.span()};
    return "";
  } catch (const nibble::error& e) {
    CHECK(e.code() == errc::bad_file);
    return e.what();
  }
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// One key of every type, an array of every kind, six tensors: out of order, with a gap, an empty one and a scalar.
maker small_file() {
  maker m = header(6, 17);
  m.key("u8", gguf_type::u8).raw(std::uint8_t{200});
  m.key("i8", gguf_type::i8).raw(std::int8_t{-5});
  m.key("u16", gguf_type::u16).raw(std::uint16_t{60000});
  m.key("i16", gguf_type::i16).raw(std::int16_t{-300});
  m.key("u32", gguf_type::u32).raw(std::uint32_t{4000000000u});
  m.key("i32", gguf_type::i32).raw(std::int32_t{-70000});
  m.key("f32", gguf_type::f32).raw(0.1f);
  m.key("bool", gguf_type::boolean).raw(std::uint8_t{1});
  m.key("string", gguf_type::string).text("caf\xc3\xa9");
  m.key("u64", gguf_type::u64).raw(~std::uint64_t{0});
  m.key("i64", gguf_type::i64).raw(std::int64_t{-1} - 0x7fffffffffffffff);
  m.key("f64", gguf_type::f64).raw(0.1);
  m.key("numbers", gguf_type::array).u32(5).u64(3).raw(std::int32_t{1}).raw(std::int32_t{-2}).raw(std::int32_t{3});
  m.key("words", gguf_type::array).u32(8).u64(3).text("a").text("").text("bc");
  m.key("flags", gguf_type::array).u32(7).u64(2).raw(std::uint8_t{0}).raw(std::uint8_t{1});
  m.key("nested", gguf_type::array).u32(9).u64(2);
  m.u32(4).u64(2).u32(7).u32(8);
  m.u32(8).u64(1).text("x");
  m.key("general.alignment", gguf_type::u32).u32(16);
  m.tensor("last", {4, 2}, 0, 80);   // 32 bytes
  m.tensor("first", {32, 1}, 8, 0);  // 34 bytes, then a gap of 30
  m.tensor("scalar", {}, 1, 64);     // 2 bytes
  m.tensor("empty", {32, 0, 7}, 2, 48);
  m.tensor("listed", {256}, 16, 112);  // IQ2_XXS: 66 bytes
  m.tensor("small", {3}, 24, 192);     // 3 bytes without padding after them
  return m.pad(16).data(195);
}

}  // namespace

TEST_CASE("gguf: metadata of every type is read as written") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  CHECK(r.version() == 3);
  CHECK(r.alignment() == 16);
  REQUIRE(r.metadata().size() == 17);
  CHECK(r.metadata()[8].key == "string");
  CHECK(r.get<std::uint8_t>("u8") == 200);
  CHECK(r.get<std::int8_t>("i8") == -5);
  CHECK(r.get<std::uint16_t>("u16") == 60000);
  CHECK(r.get<std::int16_t>("i16") == -300);
  CHECK(r.get<std::uint32_t>("u32") == 4000000000u);
  CHECK(r.get<std::int32_t>("i32") == -70000);
  CHECK(r.get<float>("f32") == 0.1f);
  CHECK(r.get<bool>("bool"));
  CHECK(r.get<std::string_view>("string") == "caf\xc3\xa9");
  CHECK(r.get<std::uint64_t>("u64") == ~std::uint64_t{0});
  CHECK(r.get<std::int64_t>("i64") == std::numeric_limits<std::int64_t>::min());
  CHECK(r.get<double>("f64") == 0.1);
  CHECK(r.get<double>("f32") == static_cast<double>(0.1f));
  CHECK(r.get_array<int>("numbers") == std::vector<int>{1, -2, 3});
  CHECK(r.get_array<std::string_view>("words") == std::vector<std::string_view>{"a", "", "bc"});
  CHECK(r.get_array<bool>("flags") == std::vector<bool>{false, true});
}

TEST_CASE("gguf: a file of the Python package gguf is read value by value") {
  const gguf_reader r{std::string(NIBBLE_TEST_SOURCE_DIR) + "/tests/golden/container_gguf.gguf"};
  CHECK(r.alignment() == 64);
  CHECK(r.get<std::string_view>("general.architecture") == "golden");
  CHECK(r.get<std::uint8_t>("t.u8") == 200);
  CHECK(r.get<std::int8_t>("t.i8") == -5);
  CHECK(r.get<std::uint16_t>("t.u16") == 60000);
  CHECK(r.get<std::int16_t>("t.i16") == -300);
  CHECK(r.get<std::uint32_t>("t.u32") == 4000000000u);
  CHECK(r.get<std::int32_t>("t.i32") == -70000);
  CHECK(r.get<float>("t.f32") == 0.1f);
  CHECK(r.get<bool>("t.bool"));
  CHECK(r.get<std::string_view>("t.string") == "caf\xc3\xa9");
  CHECK(r.get<std::uint64_t>("t.u64") == ~std::uint64_t{0});
  CHECK(r.get<std::int64_t>("t.i64") == std::numeric_limits<std::int64_t>::min());
  CHECK(r.get<double>("t.f64") == 0.1);
  CHECK(r.get_array<int>("t.numbers") == std::vector<int>{1, -2, 3});
  CHECK(r.get_array<std::string_view>("t.words") == std::vector<std::string_view>{"a", "", "bc"});
  REQUIRE(r.tensors().size() == 3);
  CHECK(r.at("f").dims == std::array<std::size_t, 4>{3, 2, 1, 1});
  const auto f = r.read_f32("f");
  for (std::size_t i = 0; i < 6; ++i) CHECK(f[i] == 0.25f * static_cast<float>(i));
  CHECK(r.at("q").type == ggml_type::q8_0);
  CHECK(r.at("q").dims == std::array<std::size_t, 4>{64, 3, 1, 1});
  const auto q = r.read_f32("q"), dense = r.read_f32("q.dense");
  REQUIRE(q.size() == 3 * 64);
  REQUIRE(dense.size() == q.size());
  CHECK(std::memcmp(q.data(), dense.data(), q.size() * sizeof(float)) == 0);
}

TEST_CASE("gguf: integers are given in any type that they fit, and refused with their value in others") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  CHECK(r.get<std::size_t>("u8") == 200);
  CHECK(r.get<std::int64_t>("i8") == -5);
  CHECK_FALSE(r.find("u8")->as<std::int8_t>());
  CHECK_THROWS_WITH_AS(r.get<std::uint32_t>("i16"), doctest::Contains("key 'i16' holds the i16 -300"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get<std::int32_t>("u32"), doctest::Contains("holds the u32 4000000000"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get<std::uint32_t>("f32"), doctest::Contains("holds a value of type f32"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get<bool>("u8"), doctest::Contains("asked for a bool"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get<float>("f64"), doctest::Contains("asked for an f32"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get_array<std::uint8_t>("numbers"), doctest::Contains("holds the i32 -2"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get_array<int>("u8"), doctest::Contains("asked for an array"), nibble::error);
}

TEST_CASE("gguf: a key that is not there is nothing for get_if and an error for get") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  CHECK(r.find("U8") == nullptr);
  CHECK_FALSE(r.get_if<int>("absent"));
  CHECK_THROWS_WITH_AS(r.get<int>("absent"), doctest::Contains("there is no key 'absent'"), nibble::error);
  CHECK_THROWS_WITH_AS(r.get_array<int>("absent"), doctest::Contains("there is no key 'absent'"), nibble::error);
}

TEST_CASE("gguf: arrays in arrays are walked element by element") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  const gguf_value nested = *r.find("nested");
  CHECK(nested.element_type() == gguf_type::array);
  CHECK(nested.size() == 2);
  std::vector<std::size_t> numbers;
  std::vector<std::string_view> words;
  nested.for_each([&](const gguf_value& inner) {
    inner.for_each([&](const gguf_value& v) {
      if (const auto n = v.as<std::size_t>()) numbers.push_back(*n);
      if (const auto s = v.as<std::string_view>()) words.push_back(*s);
    });
  });
  CHECK(numbers == std::vector<std::size_t>{7, 8});
  CHECK(words == std::vector<std::string_view>{"x"});
}

TEST_CASE("gguf: tensors carry name, type, extents, offset and bytes, in any order and with gaps") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  REQUIRE(r.tensors().size() == 6);
  const auto& last = r.at("last");
  CHECK(last.type == ggml_type::f32);
  CHECK(last.n_dims == 2);
  CHECK(last.dims == std::array<std::size_t, 4>{4, 2, 1, 1});
  CHECK(last.elements == 8);
  CHECK(r.bytes(last).size() == 32);
  CHECK(r.bytes(last)[0] == std::byte{80});
  CHECK(r.bytes(r.at("first")).size() == 34);
  CHECK(r.at("scalar").elements == 1);
  CHECK(r.bytes(r.at("scalar")).size() == 2);
  CHECK(r.at("empty").elements == 0);
  CHECK(r.bytes(r.at("empty")).empty());
  CHECK(r.bytes(r.at("listed")).size() == 66);
  CHECK(r.bytes(r.at("small"))[2] == std::byte{194});
  CHECK(r.contains("small"));
  CHECK_FALSE(r.contains("smal"));
  CHECK_THROWS_WITH_AS(r.at("smal"), doctest::Contains("there is no tensor 'smal'"), nibble::error);
}

TEST_CASE("gguf: values are read as floats, whole or in part") {
  maker m = header(3, 0);
  m.tensor("f", {3}, 0, 0).tensor("q", {32, 2}, 8, 32).tensor("e", {32, 0}, 8, 0).pad(32);
  m.raw(1.5f).raw(-0.0f).raw(0.1f).pad(32);
  for (int row = 1; row <= 2; ++row) {
    m.raw(std::uint16_t{0x3800});  // 0.5
    for (int i = 0; i < 32; ++i) m.raw(static_cast<std::int8_t>(row * i - 16));
  }
  const gguf_reader r{m.span()};
  const auto f = r.read_f32("f"), q = r.read_f32("q");
  REQUIRE(f.size() == 3);
  CHECK(f[2] == 0.1f);
  REQUIRE(q.size() == 64);
  for (std::size_t i = 0; i < 64; ++i)
    CHECK(q[i] == 0.5f * (static_cast<float>(i / 32 + 1) * static_cast<float>(i % 32) - 16.0f));
  float row[32];
  r.read_f32(r.at("q"), 32, row);
  CHECK(row[31] == 23.0f);
  CHECK(r.read_f32("e").empty());
  CHECK_THROWS_WITH_AS(r.read_f32(r.at("q"), 16, row), doctest::Contains("'q'; Q8_0 has blocks of 32"), nibble::error);
  CHECK_THROWS_WITH_AS(r.read_f32(r.at("q"), 64, row), doctest::Contains("tensor 'q', which has 64"), nibble::error);
  CHECK_THROWS_WITH_AS(r.read_f32(r.at("f"), 1, row), doctest::Contains("tensor 'f', which has 3"), nibble::error);
}

TEST_CASE("gguf: values of types that nibble cannot compute are refused by name") {
  const maker m = small_file();
  const gguf_reader r{m.span()};
  CHECK_THROWS_WITH_AS(r.read_f32("listed"), doctest::Contains("tensor 'listed' is IQ2_XXS"), nibble::error);
  CHECK_THROWS_WITH_AS(r.read_f32("small"), doctest::Contains("tensor 'small' is I8"), nibble::error);
}

TEST_CASE("gguf: version 2 has the same layout") {
  maker m = small_file();
  m.bytes[4] = 2;
  CHECK(gguf_reader{m.span()}.version() == 2);
}

TEST_CASE("gguf: a file without keys and tensors needs no padding") {
  CHECK(refusal(header(0, 0)).empty());
  CHECK(refusal(header(1, 0).tensor("e", {0}, 0, 0)).empty());
}

TEST_CASE("gguf: every type of the list is known by name and size, and no other id") {
  std::size_t known = 0;
  for (std::uint32_t id = 0; id < 64; ++id) {
    const auto* const info = nibble::quant::find_ggml_type(id);
    maker m = header(1, 0);
    m.tensor("t", {256}, id, 0).pad(32).data(1200);
    if (id == 28 || id == 27) m.data(2048);  // the widest: 8 bytes an element
    const std::string message = refusal(m);
    CAPTURE(id);
    CHECK(message.empty() == (info != nullptr));
    if (info == nullptr) {
      CHECK(contains(message, "type " + std::to_string(id) + "; rule: one of the ids"));
    } else {
      const gguf_reader r{m.span()};
      CHECK(r.tensors()[0].bytes == 256 / info->block_elements * info->block_bytes);
      CHECK(nibble::quant::ggml_type_from_name(info->name) == info->type);
      ++known;
    }
  }
  CHECK(known == nibble::quant::ggml_type_count);
}

TEST_CASE("gguf: every rule is one error that names the place and the rule") {
  const std::uint64_t huge = ~std::uint64_t{0};
  const auto one_tensor = [](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset) {
    return header(1, 0).tensor("t", std::move(dims), type, offset).pad(32).data(64);
  };
  const auto one_key = [](gguf_type type) { return header(0, 1).key("k", type); };
  const auto alignment = [](std::uint32_t value) {
    return header(0, 1).key("general.alignment", gguf_type::u32).u32(value);
  };
  maker wrong_magic = header(0, 0);
  wrong_magic.bytes[3] = 'f';
  maker deep = one_key(gguf_type::array);
  for (int i = 0; i < 8; ++i) deep.u32(9).u64(1);
  maker bomb = one_key(gguf_type::array);
  for (int i = 0; i < 1'000'000; ++i) bomb.u32(9).u64(1);
  maker late;
  late = header(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 32).pad(32).data(63);
  const struct {
    maker file;
    std::string says;
  } cases[] = {
      {maker{}, "does not begin with \"GGUF\""},
      {wrong_magic, "does not begin with \"GGUF\""},
      {header(0, 0, 1), "version 1 at byte 4; rule: 2 or 3"},
      {header(0, 0, 4), "version 4 at byte 4; rule: 2 or 3"},
      {header(0, 0, 0), "version 0 at byte 4"},
      {header(0, 0, 0x03000000u), "big-endian"},
      {header(0, huge), "key count 18446744073709551615 at byte 16; rule: each takes at least 13 bytes"},
      {header(huge, 0), "tensor count 18446744073709551615 at byte 8; rule: each takes at least 24 bytes"},
      {header(0, 1).u64(huge).data(20), "length of key 0 18446744073709551615 at byte 24"},
      {header(0, 1).u64(21).data(20), "length of key 0 21 at byte 24"},
      {header(0, 1).text(std::string(65536, 'k')).u32(0).u32(0), "has 65536 bytes; rule: at most 65535"},
      {header(0, 1).text("k\xff").u32(0).u32(0), "key 0 is not UTF-8 at byte 33"},
      {header(0, 1).text("k").u32(13).u32(0), "value type of key 'k' 13 at byte 33; rule: 0 to 12"},
      {one_key(gguf_type::string).u64(5).data(4), "length of string of key 'k' 5 at byte 37"},
      {one_key(gguf_type::string).text("\xed\xa0\x80"), "string of key 'k' is not UTF-8 at byte 45"},
      {one_key(gguf_type::u32).raw(std::uint16_t{1}), "value of key 'k' at byte 37 needs 4 bytes; 2 are left"},
      {one_key(gguf_type::boolean).raw(std::uint8_t{2}), "bool of key 'k' at byte 37 is 2; rule: 0 or 1"},
      {one_key(gguf_type::array).u32(7).u64(2).raw(std::uint8_t{0}).raw(std::uint8_t{3}),
       "at byte 50 is 3; rule: 0 or 1"},
      {one_key(gguf_type::array).u32(14).u64(0), "element type of key 'k' 14 at byte 37"},
      {one_key(gguf_type::array).u32(10).u64(std::uint64_t{1} << 61).data(8),
       "element count of key 'k' 2305843009213693952"},
      {one_key(gguf_type::array).u32(8).u64(2).text("ab"), "each takes at least 8 bytes, and 10 are left"},
      {deep.u32(0).u64(0), "arrays nest at most 8 deep"},
      {bomb, "arrays nest at most 8 deep"},
      {header(0, 2).key("k", gguf_type::u8).raw('a').key("k", gguf_type::i8).raw('a'),
       "key 'k' occurs twice, at bytes 24 and 38; rule: keys are unique"},
      {header(0, 1).key("general.alignment", gguf_type::u64).u64(32),
       "'general.alignment' at byte 24 is of type u64; rule: u32"},
      {alignment(0), "'general.alignment' at byte 24 is 0; rule: a power of two"},
      {alignment(24), "'general.alignment' at byte 24 is 24; rule: a power of two"},
      {one_tensor({1, 1, 1, 1, 1}, 0, 0), "tensor 't' at byte 33: 5 extents; rule: at most 4"},
      {one_tensor({8}, 4, 0), "type 4; rule: one of the ids"},
      {one_tensor({8}, 99, 0), "tensor 't' at byte 45: type 99; rule: one of the ids"},
      {one_tensor({40}, 2, 0), "rows of 40 elements; rule: Q4_0 has blocks of 32"},
      {one_tensor({8, 32}, 8, 0), "rows of 8 elements; rule: Q8_0 has blocks of 32"},
      {one_tensor({4294967296, 4294967296}, 24, 0), "overflows 64 bits; rule: "},
      {one_tensor({4294967296, 4294967296, 0}, 24, 0), "overflows 64 bits; rule: "},
      {one_tensor({0, 4294967296, 4294967296}, 24, 0), "overflows 64 bits; rule: "},
      {one_tensor({std::uint64_t{1} << 62}, 0, 0), "overflows 64 bits; rule: "},
      {one_tensor({8}, 0, 16), "offset 16; rule: a multiple of the alignment 32"},
      {one_tensor({8}, 0, 64), "32 bytes at data offset 64; rule: inside the data section, 64 bytes from byte 64"},
      {one_tensor({17}, 0, 0), "68 bytes at data offset 0; rule: inside"},
      {one_tensor({8}, 0, huge - 31), "rule: inside the data section"},
      {late, "tensor 'b' at byte 57: 32 bytes at data offset 32; rule: inside the data section, 63 bytes"},
      {header(1, 0).tensor("t", {8}, 0, 0), "rule: inside the data section, 0 bytes from byte 64"},
      {header(1, 0).tensor("t\xc0\x80", {0}, 0, 0), "name of tensor 0 is not UTF-8"},
      {header(2, 0).tensor("t", {0}, 0, 0).tensor("t", {0}, 0, 0), "tensor 't' occurs twice, at bytes 24 and 57"},
      {header(2, 0).tensor("a", {9}, 0, 0).tensor("b", {8}, 0, 32).pad(32).data(64),
       "tensor 'b' at byte 57 begins at data offset 32, inside 'a', which ends at 36"},
      {header(2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 0).pad(32).data(64), "tensors do not overlap"},
      {header(1, 0).text("t").u32(1), "tensor count 1 at byte 8"},
      {header(1, 0).text("t").u32(3).u64(1).data(4), "extents of 't' at byte 45 needs 8 bytes; 4 are left"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.says);
    const std::string message = refusal(c.file);
    CAPTURE(message);
    CHECK(contains(message, c.says));
  }
}

TEST_CASE("gguf: truncation at every byte is an error") {
  const maker whole = small_file();
  REQUIRE(refusal(whole).empty());
  for (std::size_t size = 0; size < whole.bytes.size(); ++size) {
    CAPTURE(size);
    maker cut;
    cut.bytes = whole.bytes.substr(0, size);
    CHECK_FALSE(refusal(cut).empty());
  }
}

TEST_CASE("gguf: a file with any bit flipped is refused or read within its bounds") {
  const maker original = small_file();
  std::size_t refused = 0, sum = 0;
  const auto visit = [&](const auto& self, const gguf_value& v) -> void {
    if (const auto s = v.as<std::string_view>()) sum += s->size();
    for (const std::byte b : v.bytes()) sum += std::to_integer<std::size_t>(b);
    v.for_each([&](const gguf_value& element) { self(self, element); });
  };
  for (std::size_t bit = 0; bit < original.bytes.size() * 8; ++bit) {
    maker m = original;
    m.bytes[bit / 8] = static_cast<char>(m.bytes[bit / 8] ^ (1 << (bit % 8)));
    try {
      const gguf_reader r{m.span()};
      for (const auto& entry : r.metadata()) visit(visit, entry.value);
      for (const auto& t : r.tensors()) {
        CHECK(r.bytes(t).size() == t.bytes);
        for (const std::byte b : r.bytes(t)) sum += std::to_integer<std::size_t>(b);
        if (nibble::can_decode_ggml(t.type)) CHECK(r.read_f32(t).size() == t.elements);
      }
    } catch (const nibble::error& e) {
      CHECK(e.code() == errc::bad_file);
      ++refused;
    }
  }
  CHECK(refused > 1500);  // lengths, types and offsets; values and the data may hold anything
  CHECK(sum > 0);
}

TEST_CASE("gguf: random bytes behind a header are refused or read, never more") {
  nibble::test::generator random(4);
  for (int round = 0; round < 20000; ++round) {
    maker m = header(random.below(4), random.below(4));
    const std::size_t n = random.below(200);
    for (std::size_t i = 0; i < n; ++i)
      m.bytes.push_back(static_cast<char>(random.below(8) == 0 ? random.below(256) : random.below(3)));
    refusal(m);
  }
}

TEST_CASE("gguf: a reader that is moved keeps its names and values") {
  const nibble::test::temporary_file file{"moved.gguf"};
  std::ofstream{file.path, std::ios::binary} << small_file().bytes;
  gguf_reader a{file.path};
  const gguf_reader b{std::move(a)};
  CHECK(b.get<std::string_view>("string") == "caf\xc3\xa9");
  CHECK(b.at("last").name == "last");
  CHECK(b.bytes(b.at("last"))[0] == std::byte{80});
  b.release(b.at("last"));
  CHECK(b.bytes(b.at("last"))[0] == std::byte{80});
  CHECK(contains(b.place(), file.path));
}

TEST_CASE("gguf: messages name the file") {
  const nibble::test::temporary_file file{"named.gguf"};
  std::ofstream{file.path, std::ios::binary} << "GGUX";
  CHECK_THROWS_WITH_AS(gguf_reader{file.path}, doctest::Contains(("'" + file.path + "'").c_str()), nibble::error);
}

TEST_CASE("gguf: a file of 4 GB with 300 tensors opens in less than 50 ms") {
  const nibble::test::temporary_file file{"large.gguf"};
  const std::uint64_t row = 4096, tensor_bytes = row * 3640;  // 14.9 MB of I8
  maker m = header(300, 1);
  m.key("tokens", gguf_type::array).u32(8).u64(128000);
  for (int i = 0; i < 128000; ++i) m.text("token" + std::to_string(i));
  for (std::uint64_t i = 0; i < 300; ++i)
    m.tensor("blk." + std::to_string(i) + ".weight", {row, 3640}, 24, i * tensor_bytes);
  m.pad(32);
  std::ofstream{file.path, std::ios::binary} << m.bytes;
  std::filesystem::resize_file(file.path, m.bytes.size() + 300 * tensor_bytes);  // no disk behind the rest
  const auto begin = std::chrono::steady_clock::now();
  const gguf_reader r{file.path};
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  CHECK(r.bytes(r.at("blk.299.weight")).size() == tensor_bytes);
  MESSAGE("opened in " << took.count() << " ms");
#if defined(NDEBUG) && defined(__OPTIMIZE__)
  CHECK(took.count() < 50);
#else
  CHECK(took.count() < 500);
#endif
}

TEST_CASE("gguf: values are the same on any number of threads") {
  constexpr std::size_t rows = 700, cols = 256;
  maker m = header(1, 0);
  m.tensor("w", {cols, rows}, static_cast<std::uint32_t>(ggml_type::q4_k), 0).pad(32).data(rows * 144);
  const gguf_reader file{m.span()};
  nibble::thread_pool pool(3);
  const auto one = file.read_f32("w"), three = file.read_f32("w", pool.context());
  CHECK(one.size() == rows * cols);
  CHECK(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)) == 0);
}
