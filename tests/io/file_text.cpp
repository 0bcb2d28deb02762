// SPDX-License-Identifier: MIT
#include <nibble/io/file_text.hpp>

#include <string>

#include <doctest/doctest.h>

#include <nibble/core/error.hpp>

using nibble::io::detail::find_ill_formed_utf8;

TEST_CASE("file_text: the first ill-formed byte is found wherever it stands") {
  for (std::size_t size = 0; size < 40; ++size) {
    CAPTURE(size);
    std::string s(size, 'a');
    CHECK(find_ill_formed_utf8(s) == size);
    for (std::size_t at = 0; at < size; ++at) {
      CAPTURE(at);
      s[at] = '\x80';  // continues nothing
      CHECK(find_ill_formed_utf8(s) == at);
      s[at] = 'a';
    }
  }
}

TEST_CASE("file_text: characters of several bytes are well-formed wherever they begin, and cut ones are not") {
  for (const std::string character : {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}) {
    for (std::size_t before = 0; before < 20; ++before) {
      CAPTURE(before);
      const std::string s = std::string(before, 'a') + character + std::string(20, 'b');
      CHECK(find_ill_formed_utf8(s) == s.size());
      const std::string cut = std::string(before, 'a') + character.substr(0, character.size() - 1);
      CHECK(find_ill_formed_utf8(cut) == before);
      CHECK(find_ill_formed_utf8(cut + std::string(20, 'b')) == before);
    }
  }
}

TEST_CASE("file_text: a name is made printable when a message is made of it") {
  CHECK(nibble::core::message("'", nibble::io::detail::shown{"a\nb"}, "'") == "'a\\x0ab'");
}
