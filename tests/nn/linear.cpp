// SPDX-License-Identifier: MIT
#include <nibble/nn/linear.hpp>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

struct problem {
  std::vector<float> w, bias, x, y;
  std::size_t M, N, K, stride;

  problem(std::size_t m, std::size_t n, std::size_t k, unsigned seed)
      : w(n * k),
        bias(n),
        x(m * nn::padded_columns(k)),
        y(m * n, -7.0f),
        M(m),
        N(n),
        K(k),
        stride(nn::padded_columns(k)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float& v : w) v = normal(random);
    for (float& v : bias) v = normal(random);
    for (std::size_t i = 0; i < M; ++i)
      for (std::size_t j = 0; j < K; ++j) x[i * stride + j] = normal(random);
  }
  span2d<const float> W() const { return make_span2d(w.data(), N, K); }
  span2d<const float> X() const { return make_span2d(x.data(), M, K, stride); }
  span2d<float> Y() { return make_span2d(y.data(), M, N); }
};

template <class Backend>
void run(const nn::linear<Backend>& l, problem& p) {
  aligned_vector<std::byte> scratch(l.scratch_bytes(p.M, 1));
  context ctx;
  ctx.scratch = scratch.data();
  ctx.scratch_bytes = scratch.size();
  l.multiply(p.X(), p.Y(), ctx);
}

}  // namespace

TEST_CASE_TEMPLATE("linear: float weights give X * transpose(W) + bias for ragged shapes", Backend, gemm::simd,
                   gemm::scalar) {
  for (const auto& [m, n, k] : {std::tuple{1, 1, 1}, {1, 17, 33}, {5, 16, 32}, {67, 40, 100}, {130, 3, 7}}) {
    problem p(static_cast<std::size_t>(m), static_cast<std::size_t>(n), static_cast<std::size_t>(k), 1);
    for (const bool with_bias : {false, true}) {
      const nn::linear<Backend> l("test", p.W(), with_bias ? std::span<const float>{p.bias} : std::span<const float>{},
                                  {}, {});
      CHECK(l.is_float());
      CHECK(l.ledger().payload == p.N * p.K * 4);
      run(l, p);
      for (std::size_t i = 0; i < p.M; ++i) {
        for (std::size_t j = 0; j < p.N; ++j) {
          double sum = with_bias ? p.bias[j] : 0.0;
          for (std::size_t d = 0; d < p.K; ++d) sum += static_cast<double>(p.x[i * p.stride + d]) * p.w[j * p.K + d];
          REQUIRE(std::fabs(p.y[i * p.N + j] - sum) < 2e-5);
        }
      }
    }
  }
}

TEST_CASE("linear: quantized layers are nibble's product of the packed weights, whatever the backend") {
  problem p(9, 24, 100, 2);
  for (const nn::linear_format& f :
       {nn::linear_format{qtype::w4_g32}, nn::linear_format{qtype::w8_channel, computation::integer},
        nn::linear_format{qtype::w4a_g32, computation::bfloat16}, nn::linear_format{qtype::nf4_flat64}}) {
    const packed_matrix packed = pack_matrix(quantize(*f.weights, p.W()).view());
    gemm_options options;
    options.computation = f.computation;
    options.bias = p.bias.data();
    std::vector<float> expected(p.y.size());
    multiply(p.X(), packed, make_span2d(expected.data(), p.M, p.N), options);
    const nn::linear<gemm::simd> simd("test", p.W(), p.bias, f, {});
    run(simd, p);
    CHECK(p.y == expected);
    CHECK(total_bytes(simd.ledger()) == total_bytes(packed.ledger()));
    const nn::linear<gemm::scalar> scalar("test", p.W(), p.bias, f, {});
    run(scalar, p);
    // Sums of bfloat16 products have one order each on AMX and elsewhere.
    if (f.computation != computation::bfloat16 || gemm::simd::isa_type::name.substr(0, 3) != "amx")
      CHECK(p.y == expected);
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(p.y[i] == doctest::Approx(expected[i]).epsilon(1e-4));
    const nn::linear<gemm::reference> reference("test", p.W(), p.bias, f, {});
    run(reference, p);
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(p.y[i] == doctest::Approx(expected[i]).epsilon(1e-4));
  }
}

TEST_CASE("linear: arguments are checked with the layer's name") {
  problem p(2, 16, 32, 3);
  const std::vector<float> short_bias(15);
  const auto make = [&](const nn::linear_format& f, std::span<const float> bias = {}) {
    return nn::linear<gemm::simd>("blocks.7.mlp.up", p.W(), bias, f, {});
  };
  CHECK_THROWS_WITH_AS(make({}, short_bias),
                       doctest::Contains("linear blocks.7.mlp.up: a bias of 15 values for 16 outputs"), error);
  CHECK_THROWS_WITH_AS(make({qtype::nf4_g64, computation::integer}),
                       doctest::Contains("linear blocks.7.mlp.up: backend"), error);
  nn::linear_format wrong;
  wrong.make = [](span2d<const float> W) { return quantize(qtype::w4_g32, rows_of(W, 0, 3)); };
  CHECK_THROWS_WITH_AS(make(wrong), doctest::Contains("`make` returned 3 x 32 for weights 16 x 32"), error);
  p.w[5] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(make({qtype::w4_g32}), error);
  CHECK_THROWS_WITH_AS((nn::linear<gemm::simd>("head", span2d<const float>{}, {}, {}, {})),
                       doctest::Contains("linear head: the weights are 0 x 0"), error);
  const nn::linear<gemm::simd> l("l", p.W(), {}, {}, {});
  CHECK_THROWS_WITH_AS(l.multiply(make_span2d<const float>(p.x.data(), 2, 31, 32), p.Y(), {}),
                       doctest::Contains("X is 2 x 31"), error);
  CHECK_THROWS_WITH_AS(l.multiply(make_span2d<const float>(p.x.data(), 2, 32, 31), p.Y(), {}),
                       doctest::Contains("row strides of X 31"), error);
}
