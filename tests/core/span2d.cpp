// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <type_traits>

#include <nibble/core/span2d.hpp>

static_assert(std::is_trivially_copyable_v<nibble::span2d<float>> && std::is_aggregate_v<nibble::span2d<float>>);
static_assert(!std::is_convertible_v<nibble::span2d<const float>, nibble::span2d<float>>);

TEST_CASE("span2d: rows lie a stride apart, whatever the number of columns") {
  std::array<int, 20> memory{};
  for (int i = 0; i < 20; ++i) memory[static_cast<std::size_t>(i)] = i;
  const auto s = nibble::make_span2d(memory.data(), 4, 3, 5);
  CHECK(nibble::row(s, 0)[0] == 0);
  CHECK(nibble::row(s, 2)[1] == 11);
  const auto part = nibble::rows_of(s, 1, 2);
  CHECK(part.rows == 2);
  CHECK(part.cols == 3);
  CHECK(part.stride == 5);
  CHECK(nibble::row(part, 1)[2] == 12);
}

TEST_CASE("span2d: the dense form has stride = cols, and a view for writing is a view for reading") {
  std::array<float, 6> memory{};
  const auto s = nibble::make_span2d(memory.data(), 2, 3);
  CHECK(s.stride == 3);
  nibble::row(s, 1)[0] = 7.0f;
  const nibble::span2d<const float> c = s;
  CHECK(c.data == memory.data());
  CHECK(nibble::row(c, 1)[0] == 7.0f);
  CHECK(c.rows == 2);
  CHECK(c.cols == 3);
}
