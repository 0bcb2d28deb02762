// SPDX-License-Identifier: MIT
//
// Compiled twice: with -march=x86-64 (UNIT_FUNCTION run_baseline) and with -march=x86-64-v3 (run_v3). Everything the two
// results hold obeys the numeric law, so they are equal to the last bit.

#include "unit.hpp"

#include <cstdio>
#include <cstring>

#include <nibble/core/thread_pool.hpp>
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

/// Every fitter with every kind of format: codebooks, flat blocks, scales of every storage, a user's own table; packed and
/// back, decoded, multiplied in float, with a pool.
void formats(hasher& h) {
  constexpr std::size_t M = 3, N = 19, K = 128;
  std::uint32_t state = 2;
  nibble::aligned_vector<float> w(N * K), x(M * K), y(M * N), back(N * K);
  for (float& v : w) v = number(state) + number(state);
  for (std::size_t k = 0; k < K; ++k) w[3 * K + k] = 0.0f;
  for (float& v : x) v = number(state);
  const nibble::span2d<const float> W = nibble::make_span2d<const float>(w.data(), N, K);
  nibble::thread_pool pool(2);

  const auto all = [&](const nibble::any_qmatrix& q) {
    h.bytes(q.codes().data(), q.codes().size());
    h.bytes(q.scale_plane().data(), q.scale_plane().size());
    h.bytes(q.zero_plane().data(), q.zero_plane().size());
    h.bytes(q.super_scales().data(), q.super_scales().size_bytes());
    h.bytes(q.block_scales().data(), q.block_scales().size_bytes());
    nibble::dequantize(q.view(), nibble::make_span2d(back.data(), N, K), pool.context());
    h.bytes(back.data(), back.size() * sizeof(float));
    const float one = nibble::decode_at(q.view(), N - 1, K - 1);
    h.bytes(&one, sizeof one);

    nibble::packed_matrix packed = nibble::pack_matrix(q.view(), pool.context());
    const nibble::any_qmatrix unpacked = packed.unpack(pool.context());
    h.bytes(unpacked.codes().data(), unpacked.codes().size());
    // Float products may differ with FMA: called, not counted.
    nibble::multiply(nibble::make_span2d<const float>(x.data(), M, K), packed, nibble::make_span2d(y.data(), M, N),
                     pool);
    nibble::multiply(nibble::make_span2d<const float>(x.data(), 1, K), packed, nibble::make_span2d(y.data(), 1, N),
                     pool);
    nibble::gemm_options options;
    options.computation = nibble::computation::integer;
    if (q.format().rule != nibble::code_rule::codebook) {
      nibble::multiply(nibble::make_span2d<const float>(x.data(), M, K), packed, nibble::make_span2d(y.data(), M, N),
                       pool, options);
      h.bytes(y.data(), y.size() * sizeof(float));
    }
    packed = nibble::pack_matrix(unpacked.view(), nibble::layout_id::row_major);
    nibble::multiply(nibble::make_span2d<const float>(x.data(), M, K), packed, nibble::make_span2d(y.data(), M, N));
  };

  for (const nibble::fitter method : {nibble::fitter::min_max, nibble::fitter::percentile, nibble::fitter::mse_search,
                                      nibble::fitter::least_squares}) {
    nibble::quantize_options options;
    options.fit.method = method;
    options.non_finite = nibble::non_finite::saturate;
    for (const nibble::qtype type :
         {nibble::qtype::w3_g32, nibble::qtype::w4a_g128, nibble::qtype::w4o_g128, nibble::qtype::w3m_channel,
          nibble::qtype::w8_tensor, nibble::qtype::w4_g64_dq, nibble::qtype::nf4_flat64_dq, nibble::qtype::fp4_g64,
          nibble::qtype::lloyd4_channel})
      all(nibble::quantize(type, W, options, pool.context()));
    const float table[4] = {0.5f, -1.0f, 1.0f, -0.25f};
    options.table = table;
    nibble::format_desc f;
    f.rule = nibble::code_rule::codebook;
    f.bits = 2;
    all(nibble::quantize(f, W, options, pool.context()));
  }
  const nibble::qmatrix<nibble::quant::w4_g128> typed = nibble::quantize<nibble::quant::w4_g128>(W);
  all(typed);
}

}  // namespace

extern "C" void UNIT_FUNCTION(unit_report* report) {
  hasher h;
  conversions(h);
  errors(h);
  products(h);
  formats(h);
  std::snprintf(report->abi, sizeof report->abi, "%s", NIBBLE_ABI_NAME);
  report->digest = h.digest;
  report->results = h.results;
}
