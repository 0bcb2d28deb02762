// SPDX-License-Identifier: MIT
// Makes a program of a fuzz target. `program --seeds <folder>` writes the seeds and prints max_input_bytes. Without libFuzzer
// `program` replays its own seeds and deterministic damage to them, `program <file or folder>...` these, too.

#include "target.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <random>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/error.hpp>

#include "support/temporary_file.hpp"

namespace nibble::fuzz {
namespace {

struct account {
  bool watched = false;
  std::ptrdiff_t live = 0, limit = 0;
};
thread_local account memory;

void* try_allocate(std::size_t bytes, std::size_t alignment) noexcept {
  void* const p = alignment <= alignof(std::max_align_t)
                      ? std::malloc(bytes == 0 ? 1 : bytes)
                      : std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (memory.watched) {
    memory.live += static_cast<std::ptrdiff_t>(p == nullptr ? bytes : ::malloc_usable_size(p));
    if (memory.live > memory.limit) {
      memory.watched = false;
      std::fprintf(stderr, "fuzz: %td bytes of memory where %td are allowed; the last request is for %zu\n",
                   memory.live, memory.limit, bytes);
      std::abort();
    }
  }
  return p;
}
void* allocate(std::size_t bytes, std::size_t alignment) {
  if (void* const p = try_allocate(bytes, alignment)) return p;
  throw std::bad_alloc();
}
void release(void* p) noexcept {
  if (memory.watched && p != nullptr) memory.live -= static_cast<std::ptrdiff_t>(::malloc_usable_size(p));
  std::free(p);
}

/// One input: errors that the formats allow are swallowed, and are lines fit for a terminal.
void run_one(std::span<const std::byte> input) {
  const aligned_vector<std::byte> exact(input.begin(), input.end());
  try {
    run(exact);
  } catch (const error& e) {
    require(e.code() == errc::bad_file, e.what());
    const std::string_view text = e.what();
    require(text.size() < 2000, "an error is one line, whatever the file's names");
    require(std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; }),
            "an error is printable ASCII");
  }
}

}  // namespace

memory_limit::memory_limit(std::size_t bytes) noexcept {
  memory = {.watched = true, .live = 0, .limit = static_cast<std::ptrdiff_t>(bytes)};
}
memory_limit::~memory_limit() { memory.watched = false; }

void broken(const char* promise) {
  std::fprintf(stderr, "fuzz: broken: %s\n", promise);
  std::abort();
}

void touch(std::span<const std::byte> bytes) noexcept {
  std::uint8_t sum = 0;
  for (const std::byte b : bytes) sum = static_cast<std::uint8_t>(sum + std::to_integer<std::uint8_t>(b));
  asm volatile("" : : "r"(sum));  // so that the reads stay
}

std::vector<std::byte> saved(const std::function<void(const std::string& path)>& save) {
  const test::temporary_file file{"seed"};
  save(file.path);
  return test::bytes_of(file.path);
}

}  // namespace nibble::fuzz

// All forms: the sanitizer's own would not fit together with some of these.
void* operator new(std::size_t bytes) { return nibble::fuzz::allocate(bytes, 1); }
void* operator new[](std::size_t bytes) { return nibble::fuzz::allocate(bytes, 1); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return nibble::fuzz::try_allocate(bytes, 1); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return nibble::fuzz::try_allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return nibble::fuzz::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return nibble::fuzz::allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { nibble::fuzz::release(p); }
void operator delete[](void* p) noexcept { nibble::fuzz::release(p); }
void operator delete(void* p, std::size_t) noexcept { nibble::fuzz::release(p); }
void operator delete[](void* p, std::size_t) noexcept { nibble::fuzz::release(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { nibble::fuzz::release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { nibble::fuzz::release(p); }
void operator delete(void* p, std::align_val_t) noexcept { nibble::fuzz::release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { nibble::fuzz::release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { nibble::fuzz::release(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { nibble::fuzz::release(p); }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  nibble::fuzz::run_one({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

namespace {

namespace fs = std::filesystem;
using bytes_of_file = std::vector<std::byte>;

std::vector<std::pair<std::string, bytes_of_file>> all_seeds() {
  std::vector<std::pair<std::string, bytes_of_file>> seeds;
  nibble::fuzz::make_seeds([&](std::string_view name, std::span<const std::byte> bytes) {
    nibble::fuzz::require(bytes.size() <= nibble::fuzz::max_input_bytes, "a seed is no longer than the inputs tried");
    seeds.emplace_back(name, bytes_of_file(bytes.begin(), bytes.end()));
  });
  return seeds;
}

/// Whether the arguments ask for the seeds, which then are written.
bool write_seeds(int argc, char** argv) {
  if (argc != 3 || std::string_view{argv[1]} != "--seeds") return false;
  fs::create_directories(argv[2]);
  for (const auto& [name, bytes] : all_seeds()) {
    std::ofstream out(fs::path{argv[2]} / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) nibble::fuzz::broken("a seed can be written");
  }
  std::printf("%zu\n", nibble::fuzz::max_input_bytes);
  return true;
}

}  // namespace

#if NIBBLE_LIBFUZZER

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  try {
    if (write_seeds(*argc, *argv)) std::exit(0);
  } catch (const std::exception& e) {
    nibble::fuzz::broken(e.what());
  }
  return 0;
}

#else

namespace {

/// Cuts, flips and overwrites: what libFuzzer begins with, the same on every run.
std::size_t damage(const bytes_of_file& seed, std::size_t rounds) {
  std::mt19937_64 random(seed.size());
  const std::uint64_t numbers[] = {0,          1,          0x7f,       0x80,       0xff,
                                   0x7fff,     0xffff,     0x7fffffff, 0x80000000, 0xffffffff,
                                   1ull << 61, 1ull << 63, ~0ull >> 1, ~0ull - 1,  ~0ull};
  std::size_t runs = 0;
  const std::size_t cuts = std::max<std::size_t>(2 * seed.size() / rounds, 1);
  for (std::size_t size = 0; size < seed.size(); size += cuts, ++runs)
    nibble::fuzz::run_one(std::span{seed}.first(size));
  for (; runs < rounds && !seed.empty(); ++runs) {
    bytes_of_file file = seed;
    // The header comes first in every format: half of the damage goes there.
    const std::size_t reach = random() % 2 == 0 ? file.size() : std::min<std::size_t>(file.size(), 512);
    for (std::size_t n = random() % 4 + 1; n > 0; --n) {
      const std::size_t at = random() % reach;
      const std::uint64_t number = numbers[random() % std::size(numbers)];
      switch (random() % 3) {
        case 0: file[at] ^= static_cast<std::byte>(1u << random() % 8); break;
        case 1: file[at] = static_cast<std::byte>(random()); break;
        default: std::memcpy(file.data() + at, &number, std::min<std::size_t>(8 >> random() % 4, file.size() - at));
      }
    }
    nibble::fuzz::run_one(file);
  }
  return runs;
}

int replay(int argc, char** argv) {
  if (write_seeds(argc, argv)) return 0;
  const auto seeds = all_seeds();
  std::size_t files = 0, damaged = 0;
  const auto file = [&](const std::string& path) {
    std::printf("%s\n", path.c_str());
    std::fflush(stdout);
    nibble::fuzz::run_one(nibble::test::bytes_of(path));
    ++files;
  };
  for (int i = 1; i < argc; ++i) {
    if (!fs::exists(argv[i])) continue;  // no finding of this format is committed
    if (!fs::is_directory(argv[i])) file(argv[i]);
    else
      for (const auto& entry : fs::directory_iterator(argv[i])) file(entry.path().string());
  }
  for (const auto& [name, bytes] : seeds) {
    nibble::fuzz::run_one(bytes);
    damaged += damage(bytes, 20000 / seeds.size());
  }
  std::printf("%zu files, %zu seeds, %zu damaged seeds\n", files, seeds.size(), damaged);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return replay(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fuzz: %s\n", e.what());
    return 1;
  }
}

#endif
