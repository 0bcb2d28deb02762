// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include <nibble/core/config.hpp>

TEST_CASE("config: the version is one ordered number") {
  CHECK(NIBBLE_VERSION == NIBBLE_VERSION_MAJOR * 10000 + NIBBLE_VERSION_MINOR * 100 + NIBBLE_VERSION_PATCH);
}

TEST_CASE("config: the inline namespace is named from the API version, the ISA macros and the assert mode") {
  const std::string name = NIBBLE_ABI_NAME;
  const std::string version =
      "v" + std::to_string(NIBBLE_VERSION_MAJOR) + "_" + std::to_string(NIBBLE_VERSION_MINOR) + "_";
  CHECK(name.starts_with(version));
  const auto has = [&](std::string_view piece) {
    return (name + "_").find(std::string(piece) + "_") != std::string::npos;
  };
  CHECK(has("_assert") == (NIBBLE_ENABLE_ASSERT != 0));
  CHECK(has("_xsimd") == (NIBBLE_HAS_XSIMD != 0));
#if defined(__x86_64__) && !defined(__SSE3__)
  CHECK(has("_sse2"));
#endif
#ifdef __FMA__
  CHECK(has("_fma"));
#else
  CHECK_FALSE(has("_fma"));
#endif
#ifdef __cpp_exceptions
  CHECK_FALSE(has("_noexc"));
#endif
}
