// SPDX-License-Identifier: MIT
//
// Without exceptions a broken rule calls the handler that the program sets; the handler does not return.

#include <nibble/nibble.hpp>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

[[noreturn]] void on_error(nibble::errc code, const char* message) {
  std::printf("handler: %s (%s)\n", nibble::name_of(code), message);
  const bool right =
      code == nibble::errc::bad_shape && std::string_view(message).find("bad_shape") != std::string_view::npos;
  std::exit(right ? EXIT_SUCCESS : EXIT_FAILURE);
}

}  // namespace

int main() {
  if (nibble::core::set_fail_handler(on_error) != nullptr) return EXIT_FAILURE;
  float w[64], x[64] = {1.0f}, y[2] = {};
  for (int i = 0; i < 64; ++i) w[i] = static_cast<float>(i % 7) - 3.0f;
  const auto packed = nibble::pack_matrix(
      nibble::quantize<nibble::quant::w8_channel>(nibble::make_span2d<const float>(w, 1, 64)).view());
  nibble::multiply(nibble::make_span2d<const float>(x, 1, 64), packed, nibble::make_span2d(y, 1, 1));
  if (y[0] < -3.05f || y[0] > -2.95f) return EXIT_FAILURE;

  nibble::multiply(nibble::make_span2d<const float>(x, 1, 63), packed, nibble::make_span2d(y, 1, 1));  // K is 64
  std::puts("the error was not raised");
  return EXIT_FAILURE;
}
