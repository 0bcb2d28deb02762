// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Folders of tests.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace nibble::test {

/// A new folder in the system's folder for temporary files; it is removed with all that is in it at the end of the test.
struct temporary_folder {
  std::filesystem::path path;
  explicit temporary_folder(const std::string& name)
      : path(std::filesystem::temp_directory_path() / ("nibble_test_" + std::to_string(::getpid()) + "_" + name)) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() { std::filesystem::remove_all(path); }

  std::string operator/(const std::string& name) const { return (path / name).string(); }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path / name, std::ios::binary) << text;
  }
};

}  // namespace nibble::test
