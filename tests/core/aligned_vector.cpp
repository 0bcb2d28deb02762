// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>

namespace {
template <class T>
bool aligned(const nibble::aligned_vector<T>& v) {
  return reinterpret_cast<std::uintptr_t>(v.data()) % nibble::plane_alignment == 0;
}
}  // namespace

TEST_CASE("aligned_vector: data stays on a cache line while the vector grows") {
  nibble::aligned_vector<std::uint8_t> bytes;
  nibble::aligned_vector<double> numbers;
  int wrong = 0;
  for (int i = 0; i < 1000; ++i) {
    bytes.push_back(static_cast<std::uint8_t>(i));
    numbers.push_back(i);
    wrong += !aligned(bytes) || !aligned(numbers);
  }
  CHECK(wrong == 0);
  CHECK(bytes[999] == static_cast<std::uint8_t>(999));
  CHECK(numbers[999] == 999.0);
}

TEST_CASE("aligned_vector: many small ones are each aligned") {
  std::vector<nibble::aligned_vector<char>> all(100, nibble::aligned_vector<char>(3));
  int wrong = 0;
  for (const auto& v : all) wrong += !aligned(v);
  CHECK(wrong == 0);
}

TEST_CASE("aligned_vector: allocators compare equal, so moving keeps the memory") {
  nibble::aligned_vector<float> a(100, 1.0f);
  const float* data = a.data();
  const nibble::aligned_vector<float> b = std::move(a);
  CHECK(b.data() == data);
  CHECK(nibble::aligned_allocator<float>() == nibble::aligned_allocator<int>());
}

TEST_CASE("aligned_vector: a size whose bytes overflow size_t is an error with the numbers") {
  nibble::aligned_allocator<double> allocator;
  const std::size_t n = std::numeric_limits<std::size_t>::max() / sizeof(double) + 1;
  try {
    static_cast<void>(allocator.allocate(n));
    FAIL("allocated");
  } catch (const nibble::error& e) {
    CHECK(e.code() == nibble::errc::out_of_memory);
    CHECK(std::string(e.what()).find("2305843009213693952 elements of 8 bytes") != std::string::npos);
  }
}
