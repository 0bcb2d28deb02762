// SPDX-License-Identifier: MIT
#include <nibble/io/gguf_writer.hpp>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::errc;
using nibble::ggml_type;
using nibble::io::gguf_reader;
using nibble::io::gguf_type;
using nibble::io::gguf_writer;
using nibble::io::tensor_sink;
using nibble::test::refusal_of;
using nibble::test::temporary_file;

template <class T>
std::span<const T> view(const std::vector<T>& v) {
  return v;
}

}  // namespace

TEST_CASE("gguf_writer: what is written is read back") {
  const temporary_file file{"round.gguf"}, copy{"copy.gguf"};
  const std::vector<float> f{1.5f, -2.0f, 0.25f};
  std::vector<std::byte> q(2 * 34);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = static_cast<std::byte>(i);
  gguf_writer w;
  w.set("general.architecture", "llama");
  w.set("u8", std::uint8_t{255});
  w.set("i8", std::int8_t{-1});
  w.set("u16", std::uint16_t{65535});
  w.set("i16", std::int16_t{-1});
  w.set("u32", 7u);
  w.set("i32", -7);
  w.set("u64", ~std::uint64_t{0});
  w.set("i64", std::int64_t{-1});
  w.set("f32", 0.1f);
  w.set("f64", 0.1);
  w.set("bool", true);
  w.set_array("numbers", std::span<const float>{f});
  w.set_array("words", view(std::vector<std::string>{"a", "\xc3\xa9"}));
  w.set_array("none", std::span<const int>{});
  w.add("f", ggml_type::f32, {3}, std::as_bytes(std::span{f}));
  w.add("q", ggml_type::q8_0, {32, 2}, q);
  w.add("empty", ggml_type::q4_k, {256, 0}, std::span<const std::byte>{});
  w.add("made", ggml_type::i8, {5, 2}, [](tensor_sink& sink) {
    const std::byte row[5] = {std::byte{9}, std::byte{8}, std::byte{7}, std::byte{6}, std::byte{5}};
    CHECK(sink.left() == 10);
    sink.write(row);
    sink.write(row);
  });
  w.save(file.path);
  w.save(file.path);  // over the old file

  const gguf_reader r{file.path};
  CHECK(r.version() == 3);
  CHECK(r.alignment() == 32);
  CHECK(r.get<std::string_view>("general.architecture") == "llama");
  CHECK(r.get<std::uint32_t>("general.quantization_version") == 2);
  CHECK(r.find("u8")->type() == gguf_type::u8);
  CHECK(r.find("i8")->type() == gguf_type::i8);
  CHECK(r.find("u16")->type() == gguf_type::u16);
  CHECK(r.find("i16")->type() == gguf_type::i16);
  CHECK(r.find("u32")->type() == gguf_type::u32);
  CHECK(r.find("i32")->type() == gguf_type::i32);
  CHECK(r.find("u64")->type() == gguf_type::u64);
  CHECK(r.find("i64")->type() == gguf_type::i64);
  CHECK(r.find("f64")->type() == gguf_type::f64);
  CHECK(r.get<float>("f32") == 0.1f);
  CHECK(r.get<bool>("bool"));
  CHECK(r.get_array<float>("numbers") == f);
  CHECK(r.get_array<std::string_view>("words") == std::vector<std::string_view>{"a", "\xc3\xa9"});
  CHECK(r.get_array<int>("none").empty());
  CHECK(std::memcmp(r.bytes(r.at("f")).data(), f.data(), 12) == 0);
  CHECK(std::memcmp(r.bytes(r.at("q")).data(), q.data(), q.size()) == 0);
  CHECK(r.at("q").dims == std::array<std::size_t, 4>{32, 2, 1, 1});
  CHECK(r.at("empty").elements == 0);
  CHECK(r.bytes(r.at("made"))[9] == std::byte{5});

  gguf_writer again;  // a copy of every key and tensor is the same file
  for (const auto& [key, value] : r.metadata()) again.set(std::string{key}, value);
  for (const auto& t : r.tensors())
    again.add(std::string{t.name}, t.type, {t.shape().begin(), t.shape().end()}, r.bytes(t));
  again.save(copy.path);
  CHECK(nibble::test::bytes_of(copy.path) == nibble::test::bytes_of(file.path));
}

TEST_CASE("gguf_writer: tensors lie in their order, without a gap, each padded to the alignment") {
  for (const std::size_t alignment : {8u, 32u, 64u, 4096u}) {
    CAPTURE(alignment);
    const temporary_file file{"aligned.gguf"};
    const std::vector<std::byte> bytes(100, std::byte{1});
    gguf_writer w{alignment};
    w.add("b", ggml_type::i8, {100}, bytes);
    w.add("a", ggml_type::i8, {3}, std::span{bytes}.first(3));
    w.save(file.path);
    const gguf_reader r{file.path};
    CHECK(r.alignment() == alignment);
    CHECK((r.find("general.alignment") == nullptr) == (alignment == 32));
    CHECK(r.find("general.quantization_version") == nullptr);
    CHECK(r.at("b").offset == 0);
    CHECK(r.at("a").offset == (100 + alignment - 1) / alignment * alignment);
    CHECK(std::filesystem::file_size(file.path) % alignment == 0);
  }
}

TEST_CASE("gguf_writer: the caller's quantization version is kept") {
  const temporary_file file{"version.gguf"};
  const std::vector<std::byte> bytes(18);
  gguf_writer w;
  w.set("general.quantization_version", 3u);
  w.add("t", ggml_type::q4_0, {32}, bytes);
  w.save(file.path);
  CHECK(gguf_reader{file.path}.get<int>("general.quantization_version") == 3);
}

TEST_CASE("gguf_writer: what the format cannot hold is refused") {
  const std::vector<std::byte> bytes(64);
  const std::span<const std::byte> b{bytes};
  const struct {
    std::function<void(gguf_writer&)> call;
    errc code;
    const char* says;
  } cases[] = {
      {[](gguf_writer& w) { w.set("", 1); }, errc::bad_value, "a key of 0 bytes; 1 to 65535"},
      {[](gguf_writer& w) { w.set(std::string(65536, 'k'), 1); }, errc::bad_value, "a key of 65536 bytes"},
      {[](gguf_writer& w) { w.set("\xff", 1); }, errc::bad_value, "'\\xff' is not UTF-8 at its byte 0"},
      {[](gguf_writer& w) { w.set("k", "a\xc0"); }, errc::bad_value, "'a\\xc0' is not UTF-8 at its byte 1"},
      {[](gguf_writer& w) { w.set("x", 1), w.set("x", 2); }, errc::bad_value, "key 'x' occurs twice"},
      {[](gguf_writer& w) { w.set("general.alignment", 64u); }, errc::bad_value, "the constructor's to set"},
      {[&](gguf_writer& w) { w.add("", ggml_type::i8, {64}, b); }, errc::bad_value, "a tensor name of 0 bytes"},
      {[&](gguf_writer& w) { w.add(std::string(64, 'n'), ggml_type::i8, {64}, b); }, errc::bad_value,
       "64 bytes; 1 to 63"},
      {[&](gguf_writer& w) { w.add("\x80", ggml_type::i8, {64}, b); }, errc::bad_value, "not UTF-8"},
      {[&](gguf_writer& w) { w.add("t", ggml_type::i8, {}, b); }, errc::bad_shape, "has 0 extents; 1 to 4"},
      {[&](gguf_writer& w) {
         w.add("t", ggml_type::i8, {64, 1, 1, 1, 1}, b);
       },
       errc::bad_shape, "has 5 extents"},
      {[&](gguf_writer& w) { w.add("t", ggml_type::q4_0, {48}, b); }, errc::bad_shape, "Q4_0 has blocks of 32"},
      {[&](gguf_writer& w) { w.add("t", ggml_type::i8, {65}, b); }, errc::bad_shape, "has 65 bytes; it was given 64"},
      {[&](gguf_writer& w) { w.add("t", ggml_type::f32, {std::size_t{1} << 62}, b); }, errc::bad_shape, "overflows"},
      {[&](gguf_writer& w) { w.add("t", ggml_type::i8, {64}, b), w.add("t", ggml_type::i8, {64}, b); }, errc::bad_value,
       "tensor 't' occurs twice"},
      {[](gguf_writer&) { gguf_writer{0}; }, errc::bad_value, "alignment 0; a power of two"},
      {[](gguf_writer&) { gguf_writer{48}; }, errc::bad_value, "alignment 48; a power of two"},
  };
  for (const auto& c : cases) {
    gguf_writer w;
    const auto r = refusal_of([&] { c.call(w); });
    CAPTURE(r.message);
    CHECK(r.code == c.code);
    CHECK(r.says(c.says));
  }
}

TEST_CASE("gguf_writer: a call that is refused leaves the writer as it was") {
  const temporary_file file{"refused.gguf"};
  const std::vector<std::byte> bytes(4);
  gguf_writer w;
  CHECK(refusal_of([&] { w.set("k", "\xff"); }).code == errc::bad_value);
  CHECK(refusal_of([&] { w.add("t", ggml_type::i8, {5}, bytes); }).code == errc::bad_shape);
  w.set("k", "v");
  w.add("t", ggml_type::i8, {4}, bytes);
  w.save(file.path);
  const gguf_reader r{file.path};
  CHECK(r.metadata().size() == 1);
  CHECK(r.tensors().size() == 1);
}

TEST_CASE("gguf_writer: a file that cannot be completed leaves the old one and nothing else") {
  namespace fs = std::filesystem;
  const temporary_file folder{"writer_folder"};
  fs::create_directory(folder.path);
  const std::string path = folder.path + "/m.gguf";
  gguf_writer good;
  good.set("k", 1);
  good.save(path);
  const auto before = nibble::test::bytes_of(path);

  const std::byte four[4] = {};
  gguf_writer small, large, thrown;
  small.add("t", ggml_type::i8, {5}, [&](tensor_sink& sink) { sink.write(four); });
  large.add("t", ggml_type::i8, {5}, [&](tensor_sink& sink) { sink.write(four), sink.write(four); });
  thrown.add("t", ggml_type::i8, {5}, [](tensor_sink&) { throw 42; });
  CHECK(refusal_of([&] { small.save(path); }).says("'t' has 5 bytes; it was given 4"));
  CHECK(refusal_of([&] { large.save(path); }).says("'t' has 5 bytes; it was given 8"));
  CHECK_THROWS_AS(thrown.save(path), int);
  CHECK(nibble::test::bytes_of(path) == before);
  CHECK(std::distance(fs::directory_iterator{folder.path}, {}) == 1);

  const auto r = refusal_of([&] { good.save(folder.path + "/absent/m.gguf"); });
  CHECK(r.code == errc::io_failed);
  CHECK(r.says("gguf_writer: cannot create"));
  fs::remove(path);
  fs::create_directory(path);  // a folder cannot be replaced by a file
  CHECK(refusal_of([&] { good.save(path); }).says("cannot rename"));
  fs::remove(path);
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("gguf_writer: the bytes of a file are known before it is written") {
  const temporary_file file{"sized.gguf"};
  const std::vector<float> values(96, 1.0f);
  for (const std::size_t alignment : {std::size_t{8}, std::size_t{32}, std::size_t{4096}}) {
    gguf_writer w(alignment);
    CHECK(w.file_bytes() % alignment == 0);
    w.set("general.architecture", "llama");
    w.add("a", ggml_type::f32, {5}, std::as_bytes(std::span{values}.first(5)));
    w.add("b", ggml_type::q8_0, {32, 2}, std::as_bytes(std::span{values}).first(68));
    w.save(file.path);
    CHECK(w.file_bytes() == std::filesystem::file_size(file.path));
  }
}
