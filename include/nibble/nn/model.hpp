// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The float master weights of a transformer, as plain data under their canonical names.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/nn/config.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// y = x * transpose(weight) + bias.
struct linear_weights {
  std::size_t out = 0, in = 0;
  aligned_vector<float> weight;  ///< [out, in], row-major
  aligned_vector<float> bias;    ///< [out], or empty

  span2d<const float> matrix() const noexcept { return make_span2d(weight.data(), out, in); }
};
struct norm_weights {
  aligned_vector<float> weight;  ///< [size]
  aligned_vector<float> bias;    ///< [size], empty for RMSNorm
};
struct block_weights {
  norm_weights attn_norm, mlp_norm;
  linear_weights q, k, v, o;
  aligned_vector<float> q_norm, k_norm;  ///< [head_dim] when qk_norm
  linear_weights gate, up, down;         ///< gate only when gated
};

/// A model in float: what a file holds and what every quantized form is made from. Public data: change it, then build a
/// transformer from it.
struct model {
  model_config config;
  aligned_vector<float> embed;  ///< [vocab_size, d_model]
  std::vector<block_weights> blocks;
  norm_weights final_norm;
  linear_weights head;  ///< empty when tied_head

  model() = default;
  /// All tensors of the configuration, zero; no linear layer has a bias. Throws bad_value, see check().
  explicit model(const model_config& c);

  /// The head's matrix [vocab_size, d_model], the embedding when tied.
  span2d<const float> head_matrix() const noexcept {
    return config.tied_head ? make_span2d(embed.data(), config.vocab_size, config.d_model) : head.matrix();
  }
};

/// One tensor of the container.
struct tensor_slot {
  std::string name;  ///< canonical, "blocks.0.attn.q.weight"
  std::vector<std::size_t> shape;
  bool optional = false;  ///< the bias of a linear layer
};

namespace detail {

/// What for_each_linear and for_each_tensor go over: compiled once in a unit, not for each of their functions.
inline std::vector<std::pair<std::string, const linear_weights*>> linears_of(const model& m) {
  std::vector<std::pair<std::string, const linear_weights*>> all;
  const auto add = [&](const std::string& name, const linear_weights& l) { all.emplace_back(name, &l); };
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    const block_weights& b = m.blocks[i];
    const std::string prefix = "blocks." + std::to_string(i);
    add(prefix + ".attn.q", b.q);
    add(prefix + ".attn.k", b.k);
    add(prefix + ".attn.v", b.v);
    add(prefix + ".attn.o", b.o);
    if (m.config.gated) add(prefix + ".mlp.gate", b.gate);
    add(prefix + ".mlp.up", b.up);
    add(prefix + ".mlp.down", b.down);
  }
  if (!m.config.tied_head) add("head", m.head);
  return all;
}

inline std::vector<std::pair<tensor_slot, const aligned_vector<float>*>> tensors_of(const model& m) {
  std::vector<std::pair<tensor_slot, const aligned_vector<float>*>> all;
  const model_config& c = m.config;
  const auto add = [&](std::string name, const aligned_vector<float>& values, std::vector<std::size_t> shape,
                       bool optional = false) {
    all.emplace_back(tensor_slot{std::move(name), std::move(shape), optional}, &values);
  };
  const auto norm = [&](const std::string& name, const norm_weights& n) {
    add(name + ".weight", n.weight, {c.d_model});
    if (c.norm == norm_kind::layer) add(name + ".bias", n.bias, {c.d_model});
  };
  add("embed.weight", m.embed, {c.vocab_size, c.d_model});
  for (std::size_t i = 0; i < m.blocks.size(); ++i) {
    const block_weights& b = m.blocks[i];
    const std::string prefix = "blocks." + std::to_string(i);
    norm(prefix + ".attn_norm", b.attn_norm);
    norm(prefix + ".mlp_norm", b.mlp_norm);
    if (c.qk_norm) {
      add(prefix + ".attn.q_norm.weight", b.q_norm, {c.head_dim});
      add(prefix + ".attn.k_norm.weight", b.k_norm, {c.head_dim});
    }
  }
  norm("final_norm", m.final_norm);
  for (const auto& [name, l] : linears_of(m)) {
    add(name + ".weight", l->weight, {l->out, l->in});
    add(name + ".bias", l->bias, {l->out}, true);
  }
  return all;
}

}  // namespace detail

/// Calls f(name, linear) for each linear layer in order of use; name has no suffix: "blocks.0.attn.q", ..., "head". The
/// embedding is no linear layer, a tied head neither.
template <class F>
void for_each_linear(const model& m, F&& f) {
  for (const auto& l : detail::linears_of(m)) f(l.first, *l.second);
}
template <class F>
void for_each_linear(model& m, F&& f) {
  for (const auto& l : detail::linears_of(m)) f(l.first, const_cast<linear_weights&>(*l.second));
}

/// Calls f(slot, values) for each tensor that the configuration has; values is the aligned_vector<float> of the model.
template <class F>
void for_each_tensor(const model& m, F&& f) {
  for (const auto& t : detail::tensors_of(m)) f(t.first, *t.second);
}
template <class F>
void for_each_tensor(model& m, F&& f) {
  for (const auto& t : detail::tensors_of(m)) f(t.first, const_cast<aligned_vector<float>&>(*t.second));
}

/// Extents only, no values: for_each_tensor then tells what a file must hold before anything is allocated.
inline model model_without_values(const model_config& c) {
  check(c);
  model m;
  m.config = c;
  m.blocks.resize(c.n_layers);
  const auto set = [](linear_weights& l, std::size_t out, std::size_t in) { l.out = out, l.in = in; };
  for (block_weights& b : m.blocks) {
    set(b.q, c.n_heads * c.head_dim, c.d_model);
    set(b.k, c.n_kv_heads * c.head_dim, c.d_model);
    set(b.v, c.n_kv_heads * c.head_dim, c.d_model);
    set(b.o, c.d_model, c.n_heads * c.head_dim);
    if (c.gated) set(b.gate, c.d_ff, c.d_model);
    set(b.up, c.d_ff, c.d_model);
    set(b.down, c.d_model, c.d_ff);
  }
  if (!c.tied_head) set(m.head, c.vocab_size, c.d_model);
  return m;
}

inline model::model(const model_config& c) : model(model_without_values(c)) {
  for_each_tensor(*this, [](const tensor_slot& slot, aligned_vector<float>& values) {
    if (!slot.optional) values.resize(slot.shape[0] * (slot.shape.size() == 2 ? slot.shape[1] : 1));
  });
}

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
