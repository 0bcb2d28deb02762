// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The shape of a decoder-only transformer. LLaMA, Qwen3 and GPT-NeoX blocks are values of this struct, not code paths.

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

enum class norm_kind : std::uint8_t {
  rms,    ///< x / sqrt(mean(x^2) + eps) * weight
  layer,  ///< (x - mean) / sqrt(variance + eps) * weight + bias
};
enum class activation_kind : std::uint8_t { gelu, gelu_tanh, silu, relu };

/// A token id in [0, vocab_size).
using token = std::int32_t;

/// A block is
///   serial    x = x + attn(norm1 x);  x = x + mlp(norm2 x)
///   parallel  x = x + attn(norm1 x) + mlp(norm2 x)
/// with mlp(x) = down(act(up x)), or down(act(gate x) * up x) when gated. Attention is causal with scale
/// 1/sqrt(head_dim); query head h reads key/value head h / (n_heads / n_kv_heads).
struct model_config {
  std::size_t n_layers = 1;
  std::size_t d_model = 0;
  std::size_t n_heads = 0;
  std::size_t n_kv_heads = 0;  ///< divides n_heads
  std::size_t head_dim = 0;    ///< need not be d_model / n_heads
  std::size_t d_ff = 0;
  std::size_t vocab_size = 0;
  std::size_t max_seq_len = 0;  ///< positions the model was trained for; default capacity of a KV cache
  norm_kind norm = norm_kind::rms;
  float norm_eps = 1e-5f;
  double rope_theta = 10000.0;
  std::size_t rope_dims = 0;  ///< leading dimensions of each head that rotate: even, 0..head_dim
  activation_kind activation = activation_kind::silu;
  bool gated = true;
  bool tied_head = false;  ///< the head is the embedding
  bool parallel_residual = false;
  bool qk_norm = false;  ///< RMSNorm over each head's q and k before RoPE

  friend bool operator==(const model_config&, const model_config&) = default;
};

inline constexpr std::array<std::string_view, 2> norm_names{"rms", "layer"};
inline constexpr std::array<std::string_view, 4> activation_names{"gelu", "gelu_tanh", "silu", "relu"};
/// The value of "format" in the metadata of a model file.
inline constexpr std::string_view container_format = "nibble.transformer.v1";

/// Throws bad_value, naming the field, its value and the rule, when the configuration describes no model.
inline void check(const model_config& c) {
  const struct {
    const char* name;
    std::size_t value;
  } counts[] = {{"n_layers", c.n_layers},     {"d_model", c.d_model},        {"n_heads", c.n_heads},
                {"n_kv_heads", c.n_kv_heads}, {"head_dim", c.head_dim},      {"d_ff", c.d_ff},
                {"vocab_size", c.vocab_size}, {"max_seq_len", c.max_seq_len}};
  // No product of two extents and an element size can overflow below this limit.
  constexpr std::size_t limit = std::size_t{1} << 28;
  for (const auto& count : counts)
    if (count.value == 0 || count.value > limit)
      core::fail(errc::bad_value, "model_config: ", count.name, " is ", count.value, "; it must be in 1..", limit);
  if (c.n_heads > limit / c.head_dim)
    core::fail(errc::bad_value, "model_config: n_heads * head_dim is ", c.n_heads, " * ", c.head_dim, "; at most ",
               limit);
  if (c.n_heads % c.n_kv_heads != 0)
    core::fail(errc::bad_value, "model_config: n_kv_heads is ", c.n_kv_heads, "; it must divide n_heads, ", c.n_heads);
  if (c.rope_dims > c.head_dim || c.rope_dims % 2 != 0)
    core::fail(errc::bad_value, "model_config: rope_dims is ", c.rope_dims, "; it must be even and at most head_dim, ",
               c.head_dim);
  if (!(c.norm_eps >= 0.0f && c.norm_eps <= 1.0f))
    core::fail(errc::bad_value, "model_config: norm_eps is ", c.norm_eps, "; it must be in [0, 1]");
  if (!(c.rope_theta >= 1.0 && c.rope_theta <= 1e15))
    core::fail(errc::bad_value, "model_config: rope_theta is ", c.rope_theta, "; it must be in [1, 1e15]");
  if (c.vocab_size > static_cast<std::size_t>(std::numeric_limits<token>::max()))
    core::fail(errc::bad_value, "model_config: vocab_size is ", c.vocab_size, "; a token id has 31 bits");
}

/// The configuration as the metadata of a model file.
inline std::map<std::string, std::string> to_metadata(const model_config& c) {
  const auto text = [](bool b) { return std::string{b ? "true" : "false"}; };
  const auto number = [](auto x) {  // the shortest text that reads back as x
    std::array<char, 32> digits;
    return std::string{digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), x).ptr};
  };
  return {{"format", std::string{container_format}},
          {"n_layers", number(c.n_layers)},
          {"d_model", number(c.d_model)},
          {"n_heads", number(c.n_heads)},
          {"n_kv_heads", number(c.n_kv_heads)},
          {"head_dim", number(c.head_dim)},
          {"d_ff", number(c.d_ff)},
          {"vocab_size", number(c.vocab_size)},
          {"max_seq_len", number(c.max_seq_len)},
          {"norm", std::string{norm_names[static_cast<std::size_t>(c.norm)]}},
          {"norm_eps", number(c.norm_eps)},
          {"rope_theta", number(c.rope_theta)},
          {"rope_dims", number(c.rope_dims)},
          {"activation", std::string{activation_names[static_cast<std::size_t>(c.activation)]}},
          {"gated", text(c.gated)},
          {"tied_head", text(c.tied_head)},
          {"parallel_residual", text(c.parallel_residual)},
          {"qk_norm", text(c.qk_norm)}};
}

/// The configuration from the metadata of a model file; `place` names the file. Throws bad_file when a key is missing or
/// its value is not of its kind, bad_value (see check) when the values describe no model. Other keys are ignored.
inline model_config from_metadata(const std::map<std::string, std::string>& metadata, std::string_view place) {
  const auto value_of = [&](const char* key) -> const std::string& {
    const auto it = metadata.find(key);
    if (it == metadata.end()) core::fail(errc::bad_file, place, ": metadata key '", key, "' is missing");
    return it->second;
  };
  const auto refuse = [&](const char* key, std::string_view wanted) {
    core::fail(errc::bad_file, place, ": metadata '", key, "' is '", std::string_view{value_of(key)}.substr(0, 80),
               "', not ", wanted);
  };
  const auto read_number = [&](const char* key, auto& out, std::string_view wanted) {
    const std::string& s = value_of(key);
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), out);
    if (error != std::errc{} || end != s.data() + s.size()) refuse(key, wanted);
  };
  const auto read_count = [&](const char* key, std::size_t& out) { read_number(key, out, "an unsigned integer"); };
  const auto read_name = [&](const char* key, const auto& names, auto& out) {
    std::string all;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (value_of(key) == names[i]) return out = static_cast<std::remove_reference_t<decltype(out)>>(i), void();
      all += (i == 0 ? "'" : ", '") + std::string{names[i]} + "'";
    }
    refuse(key, "one of " + all);
  };
  const auto read_flag = [&](const char* key, bool& out) {
    if (value_of(key) != "true" && value_of(key) != "false") refuse(key, "'true' or 'false'");
    out = value_of(key) == "true";
  };
  if (value_of("format") != container_format) refuse("format", container_format);
  model_config c;
  read_count("n_layers", c.n_layers);
  read_count("d_model", c.d_model);
  read_count("n_heads", c.n_heads);
  read_count("n_kv_heads", c.n_kv_heads);
  read_count("head_dim", c.head_dim);
  read_count("d_ff", c.d_ff);
  read_count("vocab_size", c.vocab_size);
  read_count("max_seq_len", c.max_seq_len);
  read_count("rope_dims", c.rope_dims);
  read_number("norm_eps", c.norm_eps, "a number");
  read_number("rope_theta", c.rope_theta, "a number");
  read_name("norm", norm_names, c.norm);
  read_name("activation", activation_names, c.activation);
  read_flag("gated", c.gated);
  read_flag("tied_head", c.tied_head);
  read_flag("parallel_residual", c.parallel_residual);
  read_flag("qk_norm", c.qk_norm);
  check(c);
  return c;
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
