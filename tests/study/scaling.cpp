// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/study/scaling.hpp>

using namespace nibble;
using namespace nibble::study;

namespace {

/// A random one-block model over 32 tokens whose distributions are neither flat nor sharp.
nn::model tiny_model() {
  nn::model_config c;
  c.n_layers = 1;
  c.d_model = 32;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 8;
  c.d_ff = 64;
  c.vocab_size = 32;
  c.max_seq_len = 64;
  c.rope_dims = 8;
  c.gated = false;
  nn::model m(c);
  normal_source normals(3);
  nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, aligned_vector<float>& values) {
    const bool norm = slot.name.find("norm") != std::string::npos;
    for (float& v : values) v = norm ? 1.0f : static_cast<float>(0.35 * normals.next());
  });
  return m;
}

constexpr std::array<nn::token, 2> first{1, 2};

}  // namespace

TEST_CASE("scaling: sampled sequences do not depend on the number of threads") {
  const nn::model m = tiny_model();
  thread_pool pool(3);
  const token_sequences a = sample_sequences(m, 7, 16, first, 5, {}),
                        b = sample_sequences(m, 7, 16, first, 5, pool.context());
  CHECK(a.tokens == b.tokens);
  CHECK(a.positions() == 112);
  CHECK(a.inputs(1)[0] == 2);
  CHECK(a.tokens != sample_sequences(m, 7, 16, first, 6, {}).tokens);
}

TEST_CASE("scaling: on its own samples the float model's NLL equals its mean entropy") {
  const nn::model m = tiny_model();
  const token_sequences text = sample_sequences(m, 64, 48, first, 1, {});
  nn::transformer<> t(m);
  const reference_run r = run_reference(t, text);
  double difference = 0.0, entropy = 0.0;
  for (std::size_t s = 0; s < text.sequences; ++s) {
    difference += r.nll[s] - r.entropy[s];
    entropy += r.entropy[s];
  }
  const double n = static_cast<double>(text.positions());
  CHECK(std::fabs(difference / n) < 4.0 * r.surprise_error());
  CHECK(entropy / n > 0.5);
  CHECK(entropy / n < std::log(32.0));
}

TEST_CASE("scaling: a model compared with itself has no divergence and agrees everywhere") {
  const nn::model m = tiny_model();
  const token_sequences text = sample_sequences(m, 4, 32, first, 1, {});
  nn::transformer<> t(m);
  const reference_run r = run_reference(t, text);
  const fidelity f = compare(t, text, r, {});
  CHECK(f.positions == 128);
  CHECK(f.mean(f.kl).value == 0.0);
  CHECK(f.mean(f.agree).value == 1.0);
  CHECK(f.relative_output_error() == 0.0);
  CHECK(f.identity_z() == 0.0);
}

TEST_CASE("scaling: KL falls with bits, the sampled log-ratio agrees with it, and its variance is 2 KL near zero") {
  const nn::model m = tiny_model();
  const token_sequences text = sample_sequences(m, 64, 48, first, 1, {});
  nn::transformer<> float_model(m);
  const reference_run r = run_reference(float_model, text);
  double last = 1e9;
  for (const qtype type : {qtype::w2_channel, qtype::w4_channel, qtype::w6_channel, qtype::w8_channel}) {
    CAPTURE(quant::name_of(type));
    nn::linear_options o;
    o.blocks.weights = type;
    nn::transformer<> t(m, o);
    const fidelity f = compare(t, text, r, {});
    const estimate kl = f.mean(f.kl);
    CHECK(kl.value > 0.0);
    CHECK(kl.value < 0.5 * last);
    CHECK(kl.standard_error > 0.0);
    CHECK(kl.standard_error < kl.value);
    CHECK(std::fabs(f.identity_z()) < 4.0);
    if (kl.value < 0.01) CHECK(f.variance_ratio() == doctest::Approx(1.0).epsilon(0.2));
    last = kl.value;
  }
}

TEST_CASE("scaling: the blocks of a model count their own bytes only") {
  const nn::model m = tiny_model();
  const block_weights_error e = measure_blocks(m, qtype::w4_channel, {}, {});
  // q 32x32, k and v 16x32, o 32x32, up 64x32, down 32x64: 7168 weights in 192 rows; two norms of 32.
  CHECK(e.ledger.weights == 7168);
  CHECK(e.ledger.fp16_parameters == 64);
  CHECK(e.ledger.bytes() == 7168 / 2 + 192 * 4 + 128);
  CHECK(e.ledger.ratio_to_fp16() == doctest::Approx(2.0 * 7232 / 4480.0));
  CHECK(e.metrics.tensors() == 6);
  CHECK(e.metrics.least_cosine() <= e.metrics.mean_cosine());
}

TEST_CASE("scaling: sequences are cut from all of a text and never past its end") {
  std::vector<std::byte> text(1000);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(i % 251);
  const token_sequences s = cut_sequences(text, 100, 3);
  REQUIRE(s.sequences == 3);
  CHECK(s.tokens.size() == 303);
  CHECK(s.inputs(0)[0] == 0);
  CHECK(s.inputs(2)[0] == static_cast<nn::token>(600 % 251));
  CHECK(s.target(2, 99) == static_cast<nn::token>(700 % 251));
  CHECK(cut_sequences(text, 100, 100).sequences == 9);
  CHECK(cut_sequences({}, 100, 3).sequences == 0);
}

TEST_CASE("scaling: nothing to sample is an error") {
  const nn::model m = tiny_model();
  CHECK_THROWS_AS(sample_sequences(m, 0, 4, first, 1, {}), error);
  CHECK_THROWS_AS(sample_sequences(m, 4, 4, {}, 1, {}), error);
}
