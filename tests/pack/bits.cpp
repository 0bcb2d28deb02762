// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <nibble/pack/bits.hpp>

#include <cstring>
#include <type_traits>
#include <vector>

#include "support/guard_page.hpp"
#include "support/random.hpp"

using namespace nibble;

namespace {

template <class F>
void for_each_width(F f) {
  f(std::integral_constant<int, 2>{});
  f(std::integral_constant<int, 3>{});
  f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 5>{});
  f(std::integral_constant<int, 6>{});
  f(std::integral_constant<int, 7>{});
  f(std::integral_constant<int, 8>{});
}

/// The definition: code i occupies bits [i * bits, (i + 1) * bits) of one long little-endian number.
std::vector<std::byte> packed_by_definition(const std::vector<std::uint8_t>& codes, int bits) {
  std::vector<std::byte> out((codes.size() * static_cast<std::size_t>(bits) + 7) / 8);
  std::size_t at = 0;
  for (const std::uint8_t code : codes)
    for (int b = 0; b < bits; ++b, ++at)
      if (code >> b & 1) out[at / 8] |= static_cast<std::byte>(1u << at % 8);
  return out;
}

}  // namespace

TEST_CASE("bits: packed_bytes rounds up and does not overflow") {
  CHECK(pack::packed_bytes(0, 3) == 0);
  CHECK(pack::packed_bytes(1, 3) == 1);
  CHECK(pack::packed_bytes(3, 3) == 2);
  CHECK(pack::packed_bytes(8, 3) == 3);
  CHECK(pack::packed_bytes(std::size_t{1} << 63, 7) == (std::size_t{1} << 60) * 7);
}

TEST_CASE("bits: pack_row and unpack_row follow the definition for every width and count, behind guard pages") {
  for_each_width([](auto width) {
    constexpr int bits = width;
    for (std::size_t count = 0; count <= 67; ++count) {
      CAPTURE(bits);
      CAPTURE(count);
      const auto codes = test::codes(count, count + 1, bits);
      const auto expected = packed_by_definition(codes, bits);
      test::guarded<std::uint8_t> in(count), out(count);
      test::guarded<std::byte> packed(pack::packed_bytes(count, bits));
      std::copy(codes.begin(), codes.end(), in.begin());
      pack::pack_row<bits>(in.data(), count, packed.data());
      CHECK(std::equal(expected.begin(), expected.end(), packed.begin(), packed.end()));
      pack::unpack_row<bits>(packed.data(), count, out.data());
      CHECK(std::equal(codes.begin(), codes.end(), out.begin()));
      for (std::size_t i = 0; i < count; ++i) REQUIRE(pack::get(packed.data(), i, bits) == codes[i]);
      // The functions with a run-time width are the same functions.
      std::vector<std::byte> again(packed.size());
      std::vector<std::uint8_t> back(count);
      pack::pack_row(codes.data(), count, bits, again.data());
      pack::unpack_row(again.data(), count, bits, back.data());
      CHECK(again == expected);
      CHECK(back == codes);
    }
  });
}

TEST_CASE("bits: pack_row ignores the upper bits of a code and zeroes the padding") {
  for_each_width([](auto width) {
    constexpr int bits = width;
    for (std::size_t count = 1; count <= 17; ++count) {
      const std::vector<std::uint8_t> all(count, 0xff);
      std::vector<std::uint8_t> masked(count, static_cast<std::uint8_t>((1 << bits) - 1));
      std::vector<std::byte> packed(pack::packed_bytes(count, bits), std::byte{0xa5});
      pack::pack_row<bits>(all.data(), count, packed.data());
      CHECK(packed == packed_by_definition(masked, bits));
    }
  });
}

TEST_CASE("bits: put then get gives every value at every bit offset and leaves the neighbours alone") {
  for (int bits = 2; bits <= 8; ++bits) {
    CAPTURE(bits);
    constexpr std::size_t count = 19;  // every offset of a field in its byte, twice, and a last partial byte
    for (std::size_t index = 0; index < count; ++index) {
      for (unsigned value = 0; value < 1u << bits; ++value) {
        auto codes = test::codes(count, index, bits);
        const auto before = packed_by_definition(codes, bits);
        test::guarded<std::byte> packed(before.size());
        std::copy(before.begin(), before.end(), packed.begin());
        pack::put(packed.data(), index, bits, value | ~0u << bits);  // upper bits are ignored
        codes[index] = static_cast<std::uint8_t>(value);
        const auto expected = packed_by_definition(codes, bits);
        REQUIRE(pack::get(packed.data(), index, bits) == value);
        REQUIRE(std::equal(expected.begin(), expected.end(), packed.begin()));
      }
    }
  }
}

TEST_CASE("bits: unpack_range gives any part of an array") {
  for (int bits = 2; bits <= 8; ++bits) {
    CAPTURE(bits);
    const auto codes = test::codes(41, 7, bits);
    const auto bytes = packed_by_definition(codes, bits);
    test::guarded<std::byte> packed(bytes.size());
    std::copy(bytes.begin(), bytes.end(), packed.begin());
    for (std::size_t first = 0; first <= codes.size(); ++first)
      for (std::size_t count = 0; first + count <= codes.size(); ++count) {
        test::guarded<std::uint8_t> out(count);
        pack::unpack_range(packed.data(), first, count, bits, out.data());
        REQUIRE(std::equal(out.begin(), out.end(), codes.begin() + static_cast<std::ptrdiff_t>(first)));
      }
  }
}

#if defined(__unix__) || defined(__APPLE__)
TEST_CASE("bits: element access reaches beyond 2^32 bytes") {
  // 15 GB of address space, of which the page around the element exists.
  const std::size_t index = (std::size_t{1} << 34) + 5, bytes = pack::packed_bytes(index + 1, 7);
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* const base = mmap(nullptr, bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(base != MAP_FAILED);
  auto* const codes = static_cast<std::byte*>(base);
  mprotect(codes + (bytes - 2) / page * page, 2 * page, PROT_READ | PROT_WRITE);
  pack::put(codes, index, 7, 0x5b);
  CHECK(pack::get(codes, index, 7) == 0x5b);
  CHECK((codes[bytes - 2] != std::byte{0} || codes[bytes - 1] != std::byte{0}));
  munmap(base, bytes + page);
}
#endif
