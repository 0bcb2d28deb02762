// SPDX-License-Identifier: MIT
//
// A product through nibble::dispatch; prints the tiers and who served.

#include <nibble/dispatch/dispatch.hpp>
#include <nibble/nibble.hpp>

#include <cstdio>
#include <string_view>
#include <vector>

const char* plugin_tier();

int main() {
  constexpr std::size_t N = 20, K = 64;
  const std::vector<float> w(N * K, 0.5f), x(K, 2.0f);
  std::vector<float> y(N);
  const auto W = nibble::quantize<nibble::quant::w8_channel>(nibble::make_span2d(w.data(), N, K));
  nibble::dispatch::multiply(nibble::make_span2d(x.data(), 1, K), nibble::pack_matrix(W.view()),
                             nibble::make_span2d(y.data(), 1, N), {.computation = nibble::computation::integer});
  std::printf("tiers here:");
  for (const std::string_view tier : nibble::dispatch::available())
    std::printf(" %.*s", static_cast<int>(tier.size()), tier.data());
  const std::string_view active = nibble::dispatch::active();
  std::printf("; active: %.*s; y = %.3f\n", static_cast<int>(active.size()), active.data(), static_cast<double>(y[0]));
  return active == plugin_tier() && y[0] > 63.9f && y[0] < 64.1f ? 0 : 1;
}
