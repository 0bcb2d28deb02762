// SPDX-License-Identifier: MIT
//
// Prints one digest of everything that the numeric law fixes: codes and parameters that every fitter finds for every run-time
// format, their values, activation codes, and integer products on the scalar and the native backend. Compiled by several compilers with several flags; all
// digests must be equal.

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <nibble/nibble.hpp>

// What no product below reaches is most of the kernels, and takes more than half of the compilers' time: left out.
#define LEAVE_OUT(Isa)                                                                              \
  template <>                                                                                       \
  void products<Isa>::float_row(const call&, std::size_t, std::size_t, std::size_t) noexcept {      \
    std::abort();                                                                                   \
  }                                                                                                 \
  template <>                                                                                       \
  void products<Isa>::integer_row(const call&, std::size_t, std::size_t, std::size_t) noexcept {    \
    std::abort();                                                                                   \
  }                                                                                                 \
  template <>                                                                                       \
  template <bool Bfloat16>                                                                          \
  void products<Isa>::float_panels(const call&, std::size_t, std::size_t, std::size_t, std::size_t, \
                                   std::size_t) noexcept {                                          \
    std::abort();                                                                                   \
  }
namespace nibble {
inline namespace NIBBLE_ABI {
namespace gemm {
LEAVE_OUT(isa::scalar)
LEAVE_OUT(isa::native)
}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble

namespace {

using namespace nibble;

struct hasher {
  std::uint64_t digest = 0xcbf29ce484222325u;  // FNV-1a
  void bytes(const void* p, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) digest = (digest ^ static_cast<const unsigned char*>(p)[i]) * 0x100000001b3u;
  }
  template <class T>
  void values(const std::vector<T>& v) {
    bytes(v.data(), v.size() * sizeof(T));
  }
};

/// Bell-shaped numbers without the standard library's distributions, which are not the same everywhere: sums of four
/// uniform numbers, each a multiple of 2^-24, are exact.
struct generator {
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  float uniform() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<std::int32_t>(state >> 41) - (1 << 22)) * 0x1p-22f;
  }
  float operator()() {
    const float a = uniform() + uniform(), b = uniform() + uniform();
    return a + b;
  }
};

template <class B>
void product(hasher& h, span2d<const float> x, const packed_view& w, const float* bias) {
  const gemm_options o{.computation = computation::integer, .bias = bias, .beta = 0.0f};
  aligned_vector<std::byte> scratch(B::scratch_bytes(w, x.rows, o, 1));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  std::vector<float> y(x.rows * w.matrix.N);
  gemm::multiply<B>(x, w, make_span2d(y.data(), x.rows, w.matrix.N), o, ctx);
  h.values(y);
}

void planes(hasher& h, const any_qmatrix& q) {
  h.bytes(q.codes().data(), q.codes().size());
  h.bytes(q.scale_plane().data(), q.scale_plane().size());
  h.bytes(q.zero_plane().data(), q.zero_plane().size());
  h.bytes(q.super_scales().data(), q.super_scales().size_bytes());
  h.bytes(q.block_scales().data(), q.block_scales().size_bytes());
  std::vector<float> values(q.N() * q.K());
  dequantize(q.view(), make_span2d(values.data(), q.N(), q.K()));
  h.values(values);
}

}  // namespace

int main() {
  hasher h;
  generator next;
  constexpr std::size_t N = 21, M = 9;
  std::vector<float> bias(N);
  for (float& b : bias) b = next();
  for (const std::size_t K : {std::size_t{1}, std::size_t{33}, std::size_t{128}, std::size_t{300}}) {
    std::vector<float> W(N * K), X(M * K);
    for (float& v : W) v = next() * 0.05f;
    for (float& v : X) v = next() * 3.0f;
    X[0] = 1e-41f;  // a subnormal
    for (std::size_t i = 0; i < quant::qtype_count; ++i) {
      const qtype t = static_cast<qtype>(i);
      for (const fitter method : {fitter::percentile, fitter::mse_search, fitter::least_squares})
        planes(h,
               quantize(
                   t, make_span2d<const float>(W.data(), N, K),
                   {.fit = {.method = method, .percentile = 0.99}, .non_finite = non_finite::error, .table = nullptr}));
      const any_qmatrix q = quantize(t, make_span2d<const float>(W.data(), N, K));
      planes(h, q);
      if (q.format().rule == code_rule::codebook) continue;
      const packed_matrix p = pack_matrix(q.view());
      const span2d<const float> x = make_span2d<const float>(X.data(), M, K);
      product<gemm::scalar>(h, x, {layout_id::row_major, q.view()}, bias.data());
      product<gemm::scalar>(h, x, p.view(), nullptr);
      if (p.layout() == layout_id::panel16) product<gemm::simd>(h, x, p.view(), bias.data());
    }
  }
  std::printf("%016" PRIx64 "\n", h.digest);
  return 0;
}
