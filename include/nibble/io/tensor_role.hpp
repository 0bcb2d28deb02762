// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a tensor is in its model, told by its name: the name that GGUF files have for it. Source: llama.cpp's tensor names and
/// those of Hugging Face's transformers for Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma, Phi and StarCoder 2.

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <nibble/core/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {
namespace detail {

struct role_name {
  std::string_view own, gguf;
};

/// Tensors that a model has once.
inline constexpr std::array<role_name, 3> model_roles = {{
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
}};

/// Tensors of a layer.
inline constexpr std::array<role_name, 35> layer_roles = {{
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.dense", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"input_layernorm", "attn_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.fc1", "ffn_up"},
    {"mlp.fc2", "ffn_down"},
    {"mlp.c_fc", "ffn_up"},
    {"mlp.c_proj", "ffn_down"},
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
    {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
    {"mlp.experts.#.gate_proj", "ffn_gate_exps"},
    {"mlp.experts.#.up_proj", "ffn_up_exps"},
    {"mlp.experts.#.down_proj", "ffn_down_exps"},
    {"block_sparse_moe.gate", "ffn_gate_inp"},
    {"block_sparse_moe.experts.#.w1", "ffn_gate_exps"},
    {"block_sparse_moe.experts.#.w3", "ffn_up_exps"},
    {"block_sparse_moe.experts.#.w2", "ffn_down_exps"},
}};

/// How many digits s begins with.
constexpr std::size_t digits_of(std::string_view s) noexcept {
  std::size_t n = 0;
  while (n < s.size() && s[n] >= '0' && s[n] <= '9') ++n;
  return n;
}

/// Whether a name is `pattern`, whose '#' stands for digits.
constexpr bool is_name(std::string_view name, std::string_view pattern) noexcept {
  const std::size_t mark = pattern.find('#');
  if (mark == pattern.npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, mark))) return false;
  name.remove_prefix(mark);
  const std::size_t digits = digits_of(name);
  return digits != 0 && name.substr(digits) == pattern.substr(mark + 1);
}

/// Whether a name is one that GGUF files have: of a layer ("blk.3.", "enc.blk.3."), or of the model.
constexpr bool is_gguf_name(std::string_view name) noexcept {
  for (const std::string_view whole : {"token_embd.", "output.", "output_norm.", "position_embd.", "token_types."})
    if (name.starts_with(whole)) return true;
  for (std::size_t at = name.find("blk."); at != name.npos; at = name.find("blk.", at + 1)) {
    if (at != 0 && name[at - 1] != '.') continue;
    const std::string_view rest = name.substr(at + 4);
    if (const std::size_t digits = digits_of(rest); digits != 0 && rest.substr(digits).starts_with('.')) return true;
  }
  return false;
}

}  // namespace detail

/// The GGUF name of what a tensor is: "blk.3.attn_v.weight" for "model.layers.3.self_attn.v_proj.weight", with or without a
/// "language_model" before it, and for itself. The experts of a layer, which one tensor holds in GGUF files, share the name of
/// that. A norm behind the attention is "ffn_norm", though it is another norm in Gemma 2. Nothing for names of other families.
inline std::optional<std::string> role_of(std::string_view name) {
  if (detail::is_gguf_name(name)) return std::string{name};
  for (const std::string_view prefix : {"model.language_model.", "language_model.model.", "language_model.", "model."})
    if (name.starts_with(prefix)) {
      name.remove_prefix(prefix.size());
      break;
    }
  const std::size_t dot = name.rfind('.');
  if (dot == name.npos) return std::nullopt;
  const std::string_view end = name.substr(dot);
  if (end != ".weight" && end != ".bias") return std::nullopt;
  name = name.substr(0, dot);
  const auto named = [&](std::string_view layer, std::string_view gguf) {
    std::string role;
    if (!layer.empty()) role.append("blk.").append(layer).append(".");
    return role.append(gguf).append(end);
  };
  if (!name.starts_with("layers.")) {
    for (const detail::role_name& r : detail::model_roles)
      if (name == r.own) return named({}, r.gguf);
    return std::nullopt;
  }
  name.remove_prefix(std::string_view{"layers."}.size());
  const std::size_t digits = detail::digits_of(name);
  if (digits == 0 || !name.substr(digits).starts_with('.')) return std::nullopt;
  for (const detail::role_name& r : detail::layer_roles)
    if (detail::is_name(name.substr(digits + 1), r.own)) return named(name.substr(0, digits), r.gguf);
  return std::nullopt;
}

}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
