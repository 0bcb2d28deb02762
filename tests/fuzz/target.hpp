// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a fuzz target is: one file tests/fuzz/<format>.cpp that defines the three names below. driver.cpp makes a program of
/// it that replays files, and with -fsanitize=fuzzer one that looks for new ones.

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::fuzz {

/// Inputs longer than this are not tried.
extern const std::size_t max_input_bytes;

/// Reads one hostile input, which ends at memory that must not be read and begins at a multiple of 64 bytes. May raise
/// nibble::error with bad_file, and nothing else; other errors that the format allows are caught by the target.
void run(std::span<const std::byte> input);

/// Calls add(name, bytes) for each whole file of the format that the search begins with, written by the library's writers.
using add_seed = std::function<void(std::string_view name, std::span<const std::byte> bytes)>;
void make_seeds(const add_seed& add);

/// While it lives, the thread's memory may grow by so many bytes in all; one more ends the program. This is what proves that
/// no number in a file makes a reader allocate beyond what the file's own size allows.
class memory_limit {
 public:
  explicit memory_limit(std::size_t bytes) noexcept;
  ~memory_limit();
  memory_limit(const memory_limit&) = delete;
  memory_limit& operator=(const memory_limit&) = delete;
};

/// Ends the program with a line: what was read breaks a promise of the reader.
[[noreturn]] void broken(const char* promise);
inline void require(bool holds, const char* promise) {
  if (!holds) broken(promise);
}

/// Reads every byte, so that the sanitizers see each of them.
void touch(std::span<const std::byte> bytes) noexcept;

/// The bytes of a file that `save(path)` writes.
std::vector<std::byte> saved(const std::function<void(const std::string& path)>& save);

}  // namespace nibble::fuzz
