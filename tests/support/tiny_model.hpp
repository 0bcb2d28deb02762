// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Tiny random transformers of the block kinds that nn/ serves.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <nibble/nn/model.hpp>

namespace nibble::test {

/// LLaMA: RMSNorm, full RoPE, gated SiLU, grouped queries.
inline nn::model_config llama_config() {
  nn::model_config c;
  c.n_layers = 2;
  c.d_model = 32;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 8;
  c.d_ff = 56;
  c.vocab_size = 40;
  c.max_seq_len = 64;
  c.rope_dims = 8;
  return c;
}
/// Qwen3: the same with q/k norm, wider heads and a tied head.
inline nn::model_config qwen3_config() {
  nn::model_config c = llama_config();
  c.head_dim = 20;
  c.rope_dims = 20;
  c.rope_theta = 1e6;
  c.qk_norm = true;
  c.tied_head = true;
  return c;
}
/// GPT-NeoX: LayerNorm, biases (see random_model), partial RoPE, plain GELU, parallel residual.
inline nn::model_config neox_config() {
  nn::model_config c = llama_config();
  c.n_heads = c.n_kv_heads = 3;
  c.d_model = 48;
  c.head_dim = 16;
  c.rope_dims = 4;
  c.norm = nn::norm_kind::layer;
  c.activation = nn::activation_kind::gelu;
  c.gated = false;
  c.parallel_residual = true;
  return c;
}
/// The block of the trained example models: ungated tanh GELU, one key/value head.
inline nn::model_config example_config() {
  nn::model_config c = llama_config();
  c.n_layers = 1;
  c.n_kv_heads = 1;
  c.gated = false;
  c.activation = nn::activation_kind::gelu_tanh;
  return c;
}
inline std::vector<nn::model_config> all_configs() {
  return {llama_config(), qwen3_config(), neox_config(), example_config()};
}

/// Weights of such a size that every part shows in the logits. Layers with LayerNorm, and every MLP, have biases.
inline nn::model random_model(const nn::model_config& c, unsigned seed) {
  nn::model m(c);
  nn::for_each_linear(m, [&](const std::string& name, nn::linear_weights& l) {
    if (c.norm == nn::norm_kind::layer ? name != "head" : name.find(".mlp.") != name.npos) l.bias.resize(l.out);
  });
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, aligned_vector<float>& values) {
    const bool norm_weight = slot.name.ends_with("norm.weight");
    const float size = slot.shape.size() == 2 && slot.name != "embed.weight"
                           ? 1.2f / std::sqrt(static_cast<float>(slot.shape[1]))
                           : 0.4f;
    for (float& v : values) v = (norm_weight ? 1.0f : 0.0f) + size * normal(random);
  });
  return m;
}

inline std::vector<nn::token> random_tokens(std::size_t n, std::size_t vocab, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<nn::token> tokens(n);
  for (nn::token& t : tokens) t = static_cast<nn::token>(random() % vocab);
  return tokens;
}

/// The same bits (NaN equals itself).
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

}  // namespace nibble::test
