// SPDX-License-Identifier: MIT
#include <nibble/io/imatrix.hpp>

#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/io/gguf_writer.hpp>

#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using namespace nibble::io;
using nibble::errc;
using nibble::ggml_type;
using nibble::test::refusal_of;
using nibble::test::temporary_file;

void write_gguf(const std::string& path, const std::vector<float>& sums, const std::vector<float>& counts,
                std::string name = "blk.0.attn_q.weight") {
  gguf_writer w;
  w.set("general.type", "imatrix");
  w.add(name + ".in_sum2", ggml_type::f32, {sums.size() / counts.size(), counts.size()},
        std::as_bytes(std::span{sums}));
  w.add(name + ".counts", ggml_type::f32, {1, counts.size()}, std::as_bytes(std::span{counts}));
  w.save(path);
}

struct bytes_writer {
  std::string bytes;
  bytes_writer& u32(std::uint32_t v) {
    bytes.append(reinterpret_cast<const char*>(&v), 4);
    return *this;
  }
  bytes_writer& text(std::string_view s) {
    u32(static_cast<std::uint32_t>(s.size()));
    bytes += s;
    return *this;
  }
  bytes_writer& number(float v) {
    bytes.append(reinterpret_cast<const char*>(&v), 4);
    return *this;
  }
};
std::string legacy_file() {
  bytes_writer w;
  w.u32(2);
  w.text("a.weight").u32(4).u32(2).number(8.0f).number(2.0f);
  w.text("b.weight").u32(0).u32(1).number(3.0f);
  return w.bytes;
}
void write(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
std::vector<float> of(const imatrix& m, std::string_view name, std::size_t cols, std::size_t matrices, std::size_t i) {
  const auto values = m.of(name, cols, matrices, i);
  return {values.begin(), values.end()};
}

}  // namespace

TEST_CASE("imatrix: sums over counts of a GGUF file, matrix by matrix") {
  const temporary_file file{"imatrix.gguf"};
  write_gguf(file.path, {2.0f, 4.0f, 6.0f, 30.0f, 0.0f, 3.0f, 9.0f, 9.0f, 9.0f}, {2.0f, 3.0f, 0.0f});
  const imatrix m{file.path};
  CHECK(m.size() == 1);
  CHECK(of(m, "blk.0.attn_q.weight", 3, 3, 0) == std::vector{1.0f, 2.0f, 3.0f});
  CHECK(of(m, "blk.0.attn_q.weight", 3, 3, 1) == std::vector{10.0f, 0.0f, 1.0f});
  CHECK(of(m, "blk.0.attn_q.weight", 3, 3, 2) == std::vector{1.0f, 1.0f, 1.0f});  // met by no token
  CHECK(m.of("blk.1.attn_q.weight", 3, 3, 0).empty());
  CHECK(refusal_of([&] { m.of("blk.0.attn_q.weight", 4, 3, 0); }).says("has 9 numbers; the weight has 3 times 4"));
}

TEST_CASE("imatrix: the legacy form") {
  const temporary_file file{"imatrix.dat"};
  write(file.path, legacy_file() + "what follows");
  const imatrix m{file.path};
  CHECK(m.size() == 2);
  CHECK(of(m, "a.weight", 2, 1, 0) == std::vector{2.0f, 0.5f});
  CHECK(of(m, "b.weight", 1, 1, 0) == std::vector{3.0f});
}

TEST_CASE("imatrix: a legacy file cut at any byte is refused with the byte") {
  const temporary_file file{"imatrix.dat"};
  const std::string whole = legacy_file();
  for (std::size_t n = 0; n < whole.size(); ++n) {
    CAPTURE(n);
    write(file.path, whole.substr(0, n));
    const auto r = refusal_of([&] { imatrix{file.path}; });
    CHECK(r.code == errc::bad_file);
    CHECK(r.says("remain"));
  }
}

TEST_CASE("imatrix: lengths beyond the file allocate nothing") {
  const temporary_file file{"imatrix.dat"};
  write(file.path, bytes_writer{}.u32(1).text("a").u32(1).u32(0xffffffffu).number(1.0f).bytes);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("the sums takes 17179869180 bytes; 4 remain"));
  write(file.path, bytes_writer{}.u32(1).text("a").u32(1).u32(0).bytes);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("byte 17: 'a' has no numbers"));
  write(file.path, bytes_writer{}.u32(0xffffffffu).u32(0xffffffffu).bytes);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("a name takes 4294967295 bytes; 0 remain"));
}

TEST_CASE("imatrix: numbers that are no weights, and files without entries, are refused") {
  const temporary_file file{"imatrix.gguf"};
  write_gguf(file.path, {1.0f, -2.0f}, {1.0f});
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("number 1 of 'blk.0.attn_q.weight' is -2"));
  write_gguf(file.path, {1.0f, 2.0f}, {-1.0f});
  CHECK(refusal_of([&] { imatrix{file.path}; }).code == errc::bad_file);
  write_gguf(file.path, {1.0f, std::numeric_limits<float>::infinity()}, {1.0f});
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("is inf"));
  gguf_writer w;
  w.save(file.path);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("has no entry"));
  write(file.path, bytes_writer{}.u32(0).bytes);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("has no entry"));
}

TEST_CASE("imatrix: a second entry of a weight, other types and sums without counts are errors") {
  const temporary_file file{"imatrix"};
  bytes_writer twice;
  twice.u32(2);
  for (int i = 0; i < 2; ++i) twice.text("a.weight").u32(1).u32(1).number(1.0f);
  write(file.path, twice.bytes);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("byte 52: a second entry of 'a.weight' ends here"));

  const nibble::half halves[] = {nibble::to_half(1.0f), nibble::to_half(2.0f)};
  const float count = 1.0f;
  gguf_writer types;
  types.add("a.in_sum2", ggml_type::f16, {2}, std::as_bytes(std::span{halves}));
  types.add("a.counts", ggml_type::f32, {1}, std::as_bytes(std::span{&count, 1}));
  types.save(file.path);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("'a.in_sum2' is not F32"));

  gguf_writer alone;
  alone.add("a.in_sum2", ggml_type::f32, {1}, std::as_bytes(std::span{&count, 1}));
  alone.save(file.path);
  CHECK(refusal_of([&] { imatrix{file.path}; }).says("has no tensor 'a.counts'"));
}
