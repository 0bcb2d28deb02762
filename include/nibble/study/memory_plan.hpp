// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Bytes of a transformer in memory before it exists: tensors from an architecture, a storage format for each, the KV
/// cache, and labelled constants. Integer arithmetic throughout.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>

namespace nibble {

/// What a tensor does, as far as formats are chosen by it.
enum class tensor_role : int {
  token_embedding,
  output,
  attn_q,
  attn_k,
  attn_v,
  attn_o,
  mlp_gate,
  mlp_up,
  mlp_down,
  bias,
  norm
};

inline namespace NIBBLE_ABI {
namespace study {

/// A decoder-only transformer by its extents.
struct architecture {
  std::string name;
  std::size_t n_layers = 0, d_model = 0, d_ff = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0, vocab_size = 0;
  bool gated = true;       ///< three MLP matrices instead of two
  bool biases = false;     ///< every linear layer and every norm has one
  bool tied_head = false;  ///< the output matrix is the embedding
  bool qk_norm = false;    ///< two norms of head_dim a layer

  std::size_t kv_width() const noexcept { return n_kv_heads * head_dim; }
  std::size_t q_width() const noexcept { return n_heads * head_dim; }
};

/// One tensor [rows, cols]; vectors have one row. `layer` is n_layers for tensors outside the blocks.
struct planned_tensor {
  tensor_role role;
  std::size_t layer;
  std::size_t rows;
  std::size_t cols;
  std::uint64_t count() const noexcept { return std::uint64_t{rows} * cols; }
  /// A matrix of a linear layer inside a block.
  bool block_matrix() const noexcept { return role >= tensor_role::attn_q && role <= tensor_role::mlp_down; }
  bool matrix() const noexcept { return role <= tensor_role::mlp_down; }
};

/// Every tensor of the architecture, in the order of execution.
inline std::vector<planned_tensor> tensors_of(const architecture& a) {
  std::vector<planned_tensor> all;
  all.push_back({tensor_role::token_embedding, a.n_layers, a.vocab_size, a.d_model});
  const auto linear = [&](tensor_role role, std::size_t layer, std::size_t out, std::size_t in) {
    all.push_back({role, layer, out, in});
    if (a.biases) all.push_back({tensor_role::bias, layer, 1, out});
  };
  const auto norm = [&](std::size_t layer, std::size_t width) {
    all.push_back({tensor_role::norm, layer, 1, width});
    if (a.biases) all.push_back({tensor_role::bias, layer, 1, width});
  };
  for (std::size_t i = 0; i < a.n_layers; ++i) {
    norm(i, a.d_model);
    linear(tensor_role::attn_q, i, a.q_width(), a.d_model);
    linear(tensor_role::attn_k, i, a.kv_width(), a.d_model);
    linear(tensor_role::attn_v, i, a.kv_width(), a.d_model);
    if (a.qk_norm) {
      all.push_back({tensor_role::norm, i, 1, a.head_dim});
      all.push_back({tensor_role::norm, i, 1, a.head_dim});
    }
    linear(tensor_role::attn_o, i, a.d_model, a.q_width());
    norm(i, a.d_model);
    if (a.gated) linear(tensor_role::mlp_gate, i, a.d_ff, a.d_model);
    linear(tensor_role::mlp_up, i, a.d_ff, a.d_model);
    linear(tensor_role::mlp_down, i, a.d_model, a.d_ff);
  }
  norm(a.n_layers, a.d_model);
  if (!a.tied_head) all.push_back({tensor_role::output, a.n_layers, a.vocab_size, a.d_model});
  return all;
}

/// Parameters of the architecture.
inline std::uint64_t parameters_of(const architecture& a) {
  std::uint64_t n = 0;
  for (const planned_tensor& t : tensors_of(a)) n += t.count();
  return n;
}

/// A storage format as the bytes it takes: blocks of weights, plus bytes for each row.
struct weight_storage {
  std::uint64_t block_weights = 1;
  std::uint64_t block_bytes = 4;
  std::uint64_t row_bytes = 0;

  std::uint64_t bytes(std::uint64_t rows, std::uint64_t cols) const noexcept {
    return ceil_div(rows * cols * block_bytes, block_weights) + rows * row_bytes;
  }
};

namespace storage {
inline constexpr weight_storage f32{1, 4, 0};
inline constexpr weight_storage f16{1, 2, 0};
inline constexpr weight_storage int8_row{1, 1, 4};           ///< one FP32 scale a row
inline constexpr weight_storage int2_row{4, 1, 4};           ///< packed 2-bit codes, one FP32 scale a row
inline constexpr weight_storage int8_bare{1, 1, 0};          ///< codes only
inline constexpr weight_storage nf4_block64{64, 32 + 4, 0};  ///< FP32 scale for 64 codes
/// NF4 with double quantization: 64 codes and an 8-bit scale, one FP32 for 256 such scales: 4.127 bits.
inline constexpr weight_storage nf4_double_quant{64 * 256, 256 * (32 + 1) + 4, 0};
inline constexpr weight_storage q8_0{32, 34, 0};  ///< GGUF block formats
inline constexpr weight_storage q4_k{256, 144, 0};
inline constexpr weight_storage q6_k{256, 210, 0};
}  // namespace storage

/// Bytes of all weights; `assign(planned_tensor) -> weight_storage`.
template <class Assign>
std::uint64_t weight_bytes(const architecture& a, Assign&& assign) {
  std::uint64_t bytes = 0;
  for (const planned_tensor& t : tensors_of(a)) bytes += assign(t).bytes(t.rows, t.cols);
  return bytes;
}

/// Bytes of keys and values of one sequence: 2 * layers * tokens * kv_width * bytes_per_value.
inline std::uint64_t kv_cache_bytes(const architecture& a, std::uint64_t tokens,
                                    std::uint64_t bytes_per_value) noexcept {
  return 2 * std::uint64_t{a.n_layers} * tokens * a.kv_width() * bytes_per_value;
}

/// One addend of a memory plan. A fitted constant was chosen so that the plan meets reported figures; everything else
/// follows from the architecture.
struct memory_item {
  std::string name;
  double bytes = 0.0;
  bool fitted = false;
};

struct memory_plan {
  std::vector<memory_item> items;

  double total_bytes() const noexcept {
    double sum = 0.0;
    for (const memory_item& i : items) sum += i.bytes;
    return sum;
  }
  /// "weights 5.169 + KV 0.079 + workspace 0.071 (fitted) GiB", in units of `unit_bytes`.
  std::string text(double unit_bytes, const char* unit, int decimals) const {
    std::string s;
    for (const memory_item& i : items) {
      char number[64];
      std::snprintf(number, sizeof number, "%.*f", decimals, i.bytes / unit_bytes);
      s += (s.empty() ? "" : " + ") + i.name + " " + number + (i.fitted ? " (fitted)" : "");
    }
    return s + " " + unit;
  }
};

inline constexpr double MiB = 1048576.0, GiB = 1073741824.0, GB = 1e9, MB = 1e6;

/// Presets of the models the reference reports use.
namespace preset {
inline architecture qwen3_0_6b(bool tied = true) {
  return {.name = "Qwen3-0.6B",
          .n_layers = 28,
          .d_model = 1024,
          .d_ff = 3072,
          .n_heads = 16,
          .n_kv_heads = 8,
          .head_dim = 128,
          .vocab_size = 151'936,
          .tied_head = tied,
          .qk_norm = true};
}
inline architecture pythia_2_8b() {
  return {.name = "Pythia-2.8B",
          .n_layers = 32,
          .d_model = 2560,
          .d_ff = 10'240,
          .n_heads = 32,
          .n_kv_heads = 32,
          .head_dim = 80,
          .vocab_size = 50'304,
          .gated = false,
          .biases = true};
}
inline architecture llama_7b(std::size_t vocab_size = 32'000) {
  return {.name = "LLaMA-7B",
          .n_layers = 32,
          .d_model = 4096,
          .d_ff = 11'008,
          .n_heads = 32,
          .n_kv_heads = 32,
          .head_dim = 128,
          .vocab_size = vocab_size};
}
inline architecture llama_13b() {
  return {.name = "LLaMA-13B",
          .n_layers = 40,
          .d_model = 5120,
          .d_ff = 13'824,
          .n_heads = 40,
          .n_kv_heads = 40,
          .head_dim = 128,
          .vocab_size = 32'000};
}
}  // namespace preset

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
