// SPDX-License-Identifier: MIT
#include <nibble/io/atomic_file.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/safetensors.hpp>

#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::errc;
using nibble::ggml_type;
using nibble::io::resumption;
using nibble::test::bytes_of;
using nibble::test::refusal_of;
using nibble::test::temporary_file;

constexpr std::size_t tensors = 5, floats = 24;

/// A target, what lies beside it, and how often the bytes of each tensor were made.
struct target {
  temporary_file file, partial, journal;
  std::vector<int> made = std::vector<int>(tensors, 0);
  std::string said;
  std::vector<std::string> restored;

  explicit target(const std::string& name)
      : file(name), partial(name + ".partial"), journal(name + ".partial.journal") {}

  resumption how(bool resume, std::string fingerprint = "input 1") {
    resumption r;
    r.fingerprint = std::move(fingerprint);
    r.resume = resume;
    r.say = [this](std::string_view line) { said = line; };
    r.note = [](std::string_view tensor) { return "note of " + std::string{tensor}; };
    r.restored = [this](std::string_view tensor, std::string_view note) {
      CHECK(note == "note of " + std::string{tensor});
      restored.emplace_back(tensor);
    };
    return r;
  }
  /// Saves; what writes tensor `stop` fails with `code`.
  template <class Save>
  errc save(Save save, std::size_t stop, errc code = errc::io_failed) {
    return refusal_of([&] {
             nibble::io::gguf_writer w;
             w.set("general.architecture", "llama");
             for (std::size_t i = 0; i < tensors; ++i)
               w.add("t" + std::to_string(i), ggml_type::f32, {floats - i}, [&, i](nibble::io::tensor_sink& sink) {
                 ++made[i];
                 if (i == stop) nibble::core::fail(code, "stopped");
                 const std::vector<float> values(floats - i, static_cast<float>(i));
                 sink.write(std::as_bytes(std::span{values}));
               });
             save(w);
           })
        .code;
  }
  errc save_with(const resumption& r, std::size_t stop = tensors, errc code = errc::io_failed) {
    return save([&](const nibble::io::gguf_writer& w) { w.save(file.path, r); }, stop, code);
  }
};

std::vector<std::byte> whole_file() {
  target t{"whole.gguf"};
  CHECK(t.save([&](const nibble::io::gguf_writer& w) { w.save(t.file.path); }, tensors) == errc::ok);
  return bytes_of(t.file.path);
}

bool exists(const temporary_file& f) { return std::filesystem::exists(f.path); }

}  // namespace

TEST_CASE("atomic_file: a writer that failed leaves the old file, and the next one makes only what is missing") {
  target t{"resumed.gguf"};
  std::ofstream(t.file.path) << "old";
  CHECK(t.save_with(t.how(false), 3) == errc::io_failed);
  CHECK(bytes_of(t.file.path).size() == 3);
  CHECK(exists(t.partial));
  CHECK(t.save_with(t.how(true)) == errc::ok);
  CHECK(t.made == std::vector<int>{1, 1, 1, 2, 1});
  CHECK(t.restored == std::vector<std::string>{"t0", "t1", "t2"});
  CHECK(t.said.find("are taken over") != std::string::npos);
  CHECK(bytes_of(t.file.path) == whole_file());
  CHECK_FALSE(exists(t.partial));
  CHECK_FALSE(exists(t.journal));
}

TEST_CASE("atomic_file: without `resume`, or from something else, a file is begun anew and says so") {
  target t{"anew.gguf"};
  CHECK(t.save_with(t.how(false), 3) == errc::io_failed);
  CHECK(t.said.empty());
  CHECK(t.save_with(t.how(false), 3) == errc::io_failed);
  CHECK(t.said.find("of an earlier run is begun anew") != std::string::npos);
  CHECK(t.save_with(t.how(true, "input 2"), 3) == errc::io_failed);
  CHECK(t.said.find("was made from something else and is begun anew") != std::string::npos);
  CHECK(t.made[0] == 3);
  CHECK(t.save_with(t.how(true, "input 2")) == errc::ok);
  CHECK(t.made[0] == 3);
  CHECK(bytes_of(t.file.path) == whole_file());
}

TEST_CASE("atomic_file: another header takes nothing over") {
  target t{"header.gguf"};
  CHECK(t.save_with(t.how(false), 3) == errc::io_failed);
  nibble::io::gguf_writer w;
  w.set("general.architecture", "llama");
  w.set("another", 1u);
  w.save(t.file.path, t.how(true));
  CHECK(t.restored.empty());
  CHECK(nibble::io::gguf_reader{t.file.path}.get<int>("another") == 1);
}

TEST_CASE("atomic_file: a damaged byte is found, and what follows it is made anew") {
  target t{"damaged.gguf"};
  CHECK(t.save_with(t.how(false), 4) == errc::io_failed);
  const std::size_t begin = whole_file().size() - 96 - 96 - 96;  // of t2: tensors of 96 bytes and less, filled up to 32
  std::fstream(t.partial.path, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(static_cast<long>(begin))
      .put('x');
  CHECK(t.save_with(t.how(true)) == errc::ok);
  CHECK(t.made == std::vector<int>{1, 1, 2, 2, 2});
  CHECK(bytes_of(t.file.path) == whole_file());
}

TEST_CASE("atomic_file: wherever file or journal end, the new file is whole and right") {
  const std::vector<std::byte> whole = whole_file();
  target first{"ends.gguf"};
  CHECK(first.save_with(first.how(false), 4) == errc::io_failed);
  const auto partial = bytes_of(first.partial.path), journal = bytes_of(first.journal.path);
  const auto put = [](const std::string& path, std::span<const std::byte> bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  };
  for (std::size_t cut = 0; cut < journal.size() + partial.size(); ++cut) {
    CAPTURE(cut);
    const bool of_journal = cut < journal.size();
    put(first.journal.path, std::span{journal}.first(of_journal ? cut : journal.size()));
    put(first.partial.path, std::span{partial}.first(of_journal ? partial.size() : cut - journal.size()));
    REQUIRE(first.save_with(first.how(true)) == errc::ok);
    REQUIRE(bytes_of(first.file.path) == whole);
  }
}

TEST_CASE("atomic_file: what would fail again leaves nothing behind") {
  target t{"again.gguf"};
  CHECK(t.save_with(t.how(false), 3, errc::bad_value) == errc::bad_value);
  CHECK_FALSE(exists(t.partial));
  CHECK_FALSE(exists(t.journal));
}

TEST_CASE("atomic_file: two writers of one file do not mix") {
  target t{"two.gguf"};
  const nibble::io::atomic_file one{"one", t.file.path, t.how(false)};
  const auto r = refusal_of([&] { const nibble::io::atomic_file two{"two", t.file.path, t.how(true)}; });
  CHECK(r.code == errc::io_failed);
  CHECK(r.says("two: cannot lock"));
  CHECK(exists(t.partial));
}

TEST_CASE("atomic_file: pieces of any size are in the file in their order") {
  const temporary_file to{"pieces.bin"};
  std::string all;
  nibble::io::atomic_file file{"test", to.path};
  for (std::size_t size : {1u, 1048575u, 1u, 3000000u, 0u, 7u}) {
    const std::string piece(size, static_cast<char>('a' + all.size() % 26));
    file.write(piece);
    all += piece;
  }
  CHECK(file.written() == all.size());
  file.commit();
  const auto bytes = bytes_of(to.path);
  CHECK(std::string_view{reinterpret_cast<const char*>(bytes.data()), bytes.size()} == all);
}
