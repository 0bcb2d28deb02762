// SPDX-License-Identifier: MIT
// The transformer against independent implementations: Hugging Face models (tests/golden/make_nn_golden.py) and the
// trainer of the example models (examples/models/train.py).
#include <nibble/nn/load_model.hpp>
#include <nibble/nn/transformer.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <span>
#include <string>

#include <doctest/doctest.h>

namespace {

using namespace nibble;

const std::string source_dir = NIBBLE_TEST_SOURCE_DIR;

/// Largest difference of a logit, in units of the root mean square of the expected ones.
double logits_error(const nn::model& m, const std::string& golden_path, nn::kv_kind kind = nn::kv_kind::f32,
                    const nn::linear_options& options = {}) {
  const io::safetensors_reader golden{golden_path};
  const auto tokens = golden.read_i32("tokens");
  const auto expected = golden.read_f32("logits");
  const std::size_t sequences = golden.at("tokens").shape[0], length = golden.at("tokens").shape[1];
  REQUIRE(golden.at("logits").shape == std::vector<std::size_t>{sequences, length, m.config.vocab_size});
  nn::transformer<> t(m, options);
  nn::kv_cache cache(m.config, kind);
  double largest = 0.0, squares = 0.0;
  for (std::size_t s = 0; s < sequences; ++s) {
    cache.clear();
    const nn::logits_matrix logits = t.prefill(std::span{tokens}.subspan(s * length, length), cache);
    for (std::size_t i = 0; i < logits.values.size(); ++i) {
      const double want = expected[s * logits.values.size() + i];
      largest = std::max(largest, std::fabs(logits.values[i] - want));
      squares += want * want;
    }
  }
  return largest / std::sqrt(squares / static_cast<double>(expected.size()));
}

std::string golden_model(const std::string& kind) { return source_dir + "/tests/golden/nn_" + kind + ".safetensors"; }
std::string golden_logits(const std::string& kind) {
  return source_dir + "/tests/golden/nn_" + kind + "_logits.safetensors";
}

}  // namespace

TEST_CASE("transformer: logits of LLaMA, Qwen3 and GPT-NeoX blocks equal the framework's to 1e-4") {
  for (const std::string kind : {"llama", "qwen3", "neox"}) {
    CAPTURE(kind);
    const double error = logits_error(nn::load_model(golden_model(kind)), golden_logits(kind));
    CAPTURE(error);
    CHECK(error < 1e-4);
  }
}

TEST_CASE("transformer: an f16 cache costs at most 1e-2 of the logits, an int8 cache 5e-2") {
  for (const std::string kind : {"llama", "qwen3", "neox"}) {
    CAPTURE(kind);
    const nn::model m = nn::load_model(golden_model(kind));
    const double half_error = logits_error(m, golden_logits(kind), nn::kv_kind::f16);
    const double int8_error = logits_error(m, golden_logits(kind), nn::kv_kind::int8);
    CAPTURE(half_error);
    CAPTURE(int8_error);
    CHECK(half_error < 1e-2);
    CHECK(half_error > 1e-6);  // the cache is really rounded
    CHECK(int8_error < 5e-2);
    CHECK(int8_error > half_error);
  }
}

TEST_CASE("transformer: every field of the configuration shows in the golden logits") {
  const auto changed = [](const std::string& kind, auto&& change) {
    nn::model m = nn::load_model(golden_model(kind));
    change(m);
    return logits_error(m, golden_logits(kind));
  };
  CHECK(changed("llama", [](nn::model& m) { m.config.rope_theta *= 2.0; }) > 1e-2);
  CHECK(changed("llama", [](nn::model& m) { m.config.rope_dims -= 2; }) > 1e-2);
  CHECK(changed("llama", [](nn::model& m) { m.config.activation = nn::activation_kind::gelu; }) > 1e-2);
  CHECK(changed("llama", [](nn::model& m) { m.config.parallel_residual = true; }) > 1e-2);
  CHECK(changed("llama", [](nn::model& m) { m.config.norm_eps = 0.1f; }) > 1e-2);
  CHECK(changed("qwen3", [](nn::model& m) { m.config.qk_norm = false; }) > 1e-2);
  CHECK(changed("neox", [](nn::model& m) { m.config.norm = nn::norm_kind::rms; }) > 1e-2);
  CHECK(changed("neox", [](nn::model& m) { m.config.parallel_residual = false; }) > 1e-2);
  CHECK(changed("neox", [](nn::model& m) { m.config.activation = nn::activation_kind::relu; }) > 1e-2);
  CHECK(changed("neox", [](nn::model& m) { m.blocks[1].up.bias.clear(); }) > 1e-2);
  // The two forms of GELU differ by 5e-4 at most: it takes a golden file to tell them apart.
  CHECK(changed("neox", [](nn::model& m) { m.config.activation = nn::activation_kind::gelu_tanh; }) > 1e-4);
}

TEST_CASE("transformer: the trained example models equal the trainer's reference logits to 1e-4") {
  for (const std::string name : {"small", "medium", "large", "deep"}) {
    const std::string folder = source_dir + "/examples/models/";
    if (!std::filesystem::exists(folder + name + ".safetensors") ||
        !std::filesystem::exists(folder + "golden_" + name + ".safetensors")) {
      MESSAGE("skipped: examples/models/" << name << ".safetensors or its golden file is absent");
      continue;
    }
    CAPTURE(name);
    const nn::model m = nn::load_model(folder + name + ".safetensors");
    const double error = logits_error(m, folder + "golden_" + name + ".safetensors");
    CAPTURE(error);
    CHECK(error < 1e-4);
    nn::linear_options w8;
    w8.blocks.weights = qtype::w8_g64;
    const double quantized = logits_error(m, folder + "golden_" + name + ".safetensors", nn::kv_kind::f32, w8);
    CAPTURE(quantized);
    CHECK(quantized < 0.1);
    CHECK(quantized > 1e-4);  // it is really quantized
  }
}
