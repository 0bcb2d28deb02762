// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include <nibble/kernels/kernels.hpp>

#include "support/coverage.hpp"
#include "support/guard_page.hpp"
#include "support/random.hpp"

namespace {

using namespace nibble;
using native = kernels::dense_codes<isa::native>;
using scalar = kernels::dense_codes<isa::scalar>;

}  // namespace

TEST_CASE("codes: the scalar kernels take part") { CHECK(test::covers<scalar, isa::scalar>()); }

TEST_CASE("codes: native packs and unpacks as scalar does in every width and length, and touches nothing beyond") {
  if (!test::covers<native, native::isa_type>()) return;
  for (int bits = 2; bits <= 8; ++bits) {
    for (std::size_t n = 0; n <= 230; ++n) {
      CAPTURE(bits);
      CAPTURE(n);
      test::generator random(n + 1);
      const std::size_t bytes = pack::packed_bytes(n, bits);
      const test::guarded<std::uint8_t> codes(n), back(n);
      for (std::uint8_t& u : codes) u = static_cast<std::uint8_t>(random.below(std::size_t{1} << bits));
      const test::guarded<std::byte> packed(bytes);
      std::vector<std::byte> want(bytes);
      native::pack(codes.data(), n, bits, packed.data());
      scalar::pack(codes.data(), n, bits, want.data());
      CHECK(std::equal(want.begin(), want.end(), packed.begin()));
      native::unpack(packed.data(), n, bits, back.data());
      CHECK(std::equal(codes.begin(), codes.end(), back.begin()));
    }
  }
}
