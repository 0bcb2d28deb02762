// SPDX-License-Identifier: MIT
#include <nibble/io/gguf_text.hpp>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using namespace nibble::io;
using nibble::errc;
using nibble::test::bytes_of;
using nibble::test::refusal_of;
using nibble::test::temporary_file;

/// A value of each type; the arrays in arrays as the bytes of a file.
void fill(gguf_writer& w) {
  w.set("u8", std::uint8_t{255});
  w.set("i8", std::int8_t{-128});
  w.set("u16", std::uint16_t{65535});
  w.set("i16", std::int16_t{-32768});
  w.set("u32", ~std::uint32_t{0});
  w.set("i32", std::numeric_limits<std::int32_t>::min());
  w.set("u64", ~std::uint64_t{0});
  w.set("i64", std::numeric_limits<std::int64_t>::min());
  w.set("f32", 0.1f);
  w.set("least", std::numeric_limits<float>::denorm_min());
  w.set("f64", -0.0);
  w.set("inf", -std::numeric_limits<double>::infinity());
  w.set("bool", true);
  w.set("general.name", "caf\xc3\xa9 \"x\"\n");
  w.set("text", "{\"u32\":1}");
  const std::vector<float> scores{0.5f, -1.0f, std::numeric_limits<float>::infinity()};
  const std::vector<std::string> words{"", "a\nb", "\xe2\x96\x81"};
  w.set_array("scores", std::span<const float>{scores});
  w.set_array("words", std::span<const std::string>{words});
  w.set_array("none", std::span<const std::string>{});
  detail::gguf_bytes nested("nested");
  nested.append_array(gguf_type::array,
                      nlohmann::json::parse(R"([{"u8":[1,2]},{"string":["x"]},{"array":[{"f32":[]}]}])"));
  w.set("nested", gguf_value{gguf_type::array, std::as_bytes(std::span{nested.bytes})});
}

errc refused(const std::string& text, const std::string& types) {
  return refusal_of([&] {
           gguf_writer w;
           set_gguf_strings(w, {{"key", text}, {"gguf.types", types}});
         })
      .code;
}

}  // namespace

TEST_CASE("gguf_text: every type comes back to the byte") {
  const temporary_file before{"before.gguf"}, after{"after.gguf"};
  gguf_writer w;
  fill(w);
  w.save(before.path);
  const gguf_reader a{before.path};
  const auto strings = gguf_strings(a.metadata());
  gguf_writer back;
  set_gguf_strings(back, strings);
  back.save(after.path);
  const gguf_reader b{after.path};
  CHECK(b.metadata().size() == a.metadata().size());
  for (const gguf_entry& entry : a.metadata()) {
    CAPTURE(std::string{entry.key});
    const gguf_value* const value = b.find(entry.key);
    REQUIRE(value != nullptr);
    CHECK(value->type() == entry.value.type());
    const auto x = entry.value.bytes(), y = value->bytes();
    CHECK(std::vector(x.begin(), x.end()) == std::vector(y.begin(), y.end()));
  }
  CHECK(gguf_strings(b.metadata()) == strings);
}

TEST_CASE("gguf_text: strings are themselves, and need no types") {
  const temporary_file file{"strings.gguf"};
  gguf_writer w(64);  // whose general.alignment is the file's own
  w.set("general.architecture", "llama");
  w.save(file.path);
  const std::map<std::string, std::string> expected{{"general.architecture", "llama"}};
  CHECK(gguf_strings(gguf_reader{file.path}.metadata()) == expected);
}

TEST_CASE("gguf_text: values read like what they are") {
  const temporary_file file{"read.gguf"};
  gguf_writer w;
  fill(w);
  w.save(file.path);
  auto strings = gguf_strings(gguf_reader{file.path}.metadata());
  CHECK(strings["u32"] == "4294967295");
  CHECK(strings["i8"] == "-128");
  CHECK(strings["bool"] == "true");
  CHECK(strings["inf"] == "\"-inf\"");
  CHECK(strings["general.name"] == "caf\xc3\xa9 \"x\"\n");
  CHECK(strings["scores"] == "[0.5,-1.0,\"inf\"]");
  CHECK(strings["nested"] == R"([{"u8":[1,2]},{"string":["x"]},{"array":[{"f32":[]}]}])");
  const auto types = nlohmann::json::parse(strings["gguf.types"]);
  CHECK(types["scores"] == "[f32]");
  CHECK_FALSE(types.contains("text"));
}

TEST_CASE("gguf_text: a value that is not what its type says is refused with its key") {
  CHECK(refused("1", R"({"key":"u8"})") == errc::ok);
  CHECK(refused("256", R"({"key":"u8"})") == errc::bad_file);
  CHECK(refused("-1", R"({"key":"u64"})") == errc::bad_file);
  CHECK(refused("1.5", R"({"key":"i32"})") == errc::bad_file);
  CHECK(refused("\"x\"", R"({"key":"f32"})") == errc::bad_file);
  CHECK(refused("1e39", R"({"key":"f32"})") == errc::bad_file);
  CHECK(refused("1", R"({"key":"bool"})") == errc::bad_file);
  CHECK(refused("1", R"({"key":"[u8]"})") == errc::bad_file);
  CHECK(refused("[1,\"x\"]", R"({"key":"[u8]"})") == errc::bad_file);
  CHECK(refused("[[1]]", R"({"key":"[array]"})") == errc::bad_file);
  CHECK(refused("[", R"({"key":"[u8]"})") == errc::bad_file);
  CHECK(refused("[]", R"({"key":"array"})") == errc::bad_file);
  CHECK(refused("1", R"({"key":"u9"})") == errc::bad_file);
  CHECK(refused("1", R"({"key":1})") == errc::bad_file);
  CHECK(refused("1", "[]") == errc::bad_file);
  std::string deep = "1";
  for (int i = 0; i < 10; ++i) deep = "[{\"array\":" + deep + "}]";
  CHECK(refused(deep, R"({"key":"[array]"})") == errc::bad_file);
  const auto r = refusal_of([] {
    gguf_writer w;
    set_gguf_strings(w, {{"n", "300"}, {"gguf.types", R"({"n":"u8"})"}});
  });
  CHECK(r.says("key 'n' holds something else than an integer that fits 1 bytes"));
}

TEST_CASE("gguf_text: a text that is too long to become values is refused before it is parsed") {
  const std::map<std::string, std::string> strings{{"n", std::string((64u << 20) + 1, ' ')},
                                                   {"gguf.types", R"({"n":"u8"})"}};
  const auto r = refusal_of([&] {
    gguf_writer w;
    set_gguf_strings(w, strings);
  });
  CHECK(r.code == errc::bad_file);
  CHECK(r.says("key 'n' has 67108865 bytes of JSON; rule: at most 67108864"));
}
