// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Files of tests.

#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace nibble::test {

/// A path in the system's folder for temporary files; the file is removed at the end of the test.
struct temporary_file {
  std::string path;
  explicit temporary_file(const std::string& name)
      : path((std::filesystem::temp_directory_path() / ("nibble_test_" + std::to_string(::getpid()) + "_" + name))
                 .string()) {}
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() { std::filesystem::remove(path); }
};

inline std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
inline std::vector<std::byte> bytes_of(const std::string& path) {
  const std::string s = text_of(path);
  const auto* const p = reinterpret_cast<const std::byte*>(s.data());
  return {p, p + s.size()};
}

}  // namespace nibble::test
