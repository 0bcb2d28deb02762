// SPDX-License-Identifier: MIT
//
// Compiled twice: with -march=x86-64 (UNIT_FUNCTION run_baseline) and with -march=x86-64-v3 (run_v3). Everything the two
// results hold obeys the numeric law, so they are equal to the last bit.

#include "unit.hpp"

#include <cstdio>
#include <cstring>

#include <nibble/nibble.hpp>

namespace {

struct hasher {
  std::uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a
  std::size_t results = 0;
  void bytes(const void* p, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) digest = (digest ^ static_cast<const unsigned char*>(p)[i]) * 0x100000001b3u;
    ++results;
  }
};

/// Reproducible numbers about 0 without the standard library's distributions.
float number(std::uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<std::int32_t>(state) >> 8) * 0x1p-23f;
}

void conversions(hasher& h) {
  for (std::uint32_t p = 0; p < 65536; p += 7) {
    const float x = nibble::to_float(nibble::half{static_cast<std::uint16_t>(p)});
    const float y = x == x ? x * 1.0009765f : 0.0f;
    const std::uint16_t bits[2] = {nibble::to_half(y).bits, nibble::to_bfloat16(y).bits};
    h.bytes(bits, sizeof bits);
  }
}

void errors(hasher& h) {
  try {
    nibble::core::fail(nibble::errc::bad_shape, "K = ", 3, " and ", 0.5f);
  } catch (const nibble::error& e) {
    h.bytes(e.what(), std::strlen(e.what()));
  }
}

/// Two slots, one after the other.
void both(void*, std::size_t slots, void (*body)(void*, std::size_t), void* arg) {
  for (std::size_t s = slots; s-- > 0;) body(arg, s);
}

/// Quantize, pack and multiply in integers with every kind of format.
void products(hasher& h) {
  constexpr std::size_t M = 5, N = 21, K = 200;
  std::uint32_t state = 1;
  nibble::aligned_vector<float> w(N * K), x(M * K), y(M * N);
  for (float& v : w) v = number(state);
  for (float& v : x) v = number(state);
  nibble::context threads;
  threads.parallel_for = both;
  threads.concurrency = 2;

  for (const nibble::qtype type : {nibble::qtype::w2_g32, nibble::qtype::w4_g128, nibble::qtype::w4a_g128,
                                   nibble::qtype::w7_channel, nibble::qtype::w8_channel}) {
    const nibble::any_qmatrix q = nibble::quantize(type, nibble::make_span2d<const float>(w.data(), N, K), {}, threads);
    h.bytes(q.codes().data(), q.codes().size());
    nibble::dequantize(q.view(), nibble::make_span2d(w.data(), N, K), threads);
    h.bytes(w.data(), w.size() * sizeof(float));

    const nibble::packed_matrix packed = nibble::pack_matrix(q.view());
    nibble::gemm_options options;
    options.computation = nibble::computation::integer;
    nibble::multiply(nibble::make_span2d<const float>(x.data(), M, K), packed, nibble::make_span2d(y.data(), M, N),
                     options);
    h.bytes(y.data(), y.size() * sizeof(float));
  }
}

}  // namespace

extern "C" void UNIT_FUNCTION(unit_report* report) {
  hasher h;
  conversions(h);
  errors(h);
  products(h);
  std::snprintf(report->abi, sizeof report->abi, "%s", NIBBLE_ABI_NAME);
  report->digest = h.digest;
  report->results = h.results;
}
