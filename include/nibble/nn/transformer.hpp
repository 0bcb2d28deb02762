// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The decoder-only transformer: prefill and decode over a KV cache, every linear layer in a format of its own.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/gemm/gemm.hpp>
#include <nibble/nn/activation.hpp>
#include <nibble/nn/attention.hpp>
#include <nibble/nn/config.hpp>
#include <nibble/nn/kv_cache.hpp>
#include <nibble/nn/linear.hpp>
#include <nibble/nn/model.hpp>
#include <nibble/nn/norm.hpp>
#include <nibble/nn/rope.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// Which format each linear layer gets.
struct linear_options {
  linear_format blocks = {};  ///< the layers inside the blocks
  linear_format head = {};    ///< the output head, tied or not
  /// When set, decides for each layer by its canonical name ("blocks.0.attn.q", ..., "head") instead of the two above.
  std::function<linear_format(std::string_view name)> choose = {};
  /// Tokens computed at once; longer prompts are cut, without any effect on the result.
  std::size_t max_batch = 256;
};

/// Logits [rows, cols], one row for each token, one column for each word of the vocabulary.
struct logits_matrix {
  std::size_t rows = 0, cols = 0;
  aligned_vector<float> values;

  std::span<const float> operator[](std::size_t r) const noexcept { return {values.data() + r * cols, cols}; }
  span2d<const float> view() const noexcept { return make_span2d(values.data(), rows, cols); }
};

/// A model ready to run on one backend. Owns its weights in the chosen formats and its work memory: the model that it was
/// made from may go. One call at a time; several sequences take turns with a kv_cache each.
///
/// Everything that is computed for a token has one order of operations, whatever tokens it is computed with: prefill in
/// one piece, in pieces, and token by token give the same bits, in every weight format and cache form. Bits may differ
/// between targets with and without FMA, and between C libraries (erf; pow, cos and sin for RoPE).
template <gemm::backend Backend = gemm::simd>
class transformer {
 public:
  using backend = Backend;

  /// Quantizes and packs. `ctx` names the caller's threads for all later calls too, so what it points to must live as
  /// long; its scratch memory is not used. Throws what check(), quantize and linear throw, and bad_shape when a tensor of
  /// the model does not have the extents of its configuration.
  explicit transformer(const model& m, const linear_options& options = {}, const context& ctx = {})
      : config_(m.config),
        max_batch_(options.max_batch),
        ctx_(ctx),
        rope_(config_.rope_dims, config_.rope_theta),
        attention_(checked(m).config) {
    if (max_batch_ == 0 || max_batch_ > (std::size_t{1} << 20))
      core::fail(errc::bad_value, "transformer: max_batch is ", max_batch_, "; it must be in 1..2^20");
    ctx_.scratch = nullptr;
    ctx_.scratch_bytes = 0;
    embed_ = m.embed;
    final_norm_ = m.final_norm;
    const auto make = [&](const std::string& name, const linear_weights& w, bool head) {
      const linear_format format = options.choose ? options.choose(name) : (head ? options.head : options.blocks);
      return linear<Backend>(name, head ? m.head_matrix() : w.matrix(), w.bias, format, ctx_);
    };
    blocks_ = std::vector<block>(m.blocks.size());
    for (std::size_t i = 0; i < m.blocks.size(); ++i) {
      const block_weights& w = m.blocks[i];
      const std::string name = "blocks." + std::to_string(i);
      block& b = blocks_[i];
      b.attn_norm = w.attn_norm;
      b.mlp_norm = w.mlp_norm;
      b.q_norm = w.q_norm;
      b.k_norm = w.k_norm;
      b.q = make(name + ".attn.q", w.q, false);
      b.k = make(name + ".attn.k", w.k, false);
      b.v = make(name + ".attn.v", w.v, false);
      b.o = make(name + ".attn.o", w.o, false);
      if (config_.gated) b.gate = make(name + ".mlp.gate", w.gate, false);
      b.up = make(name + ".mlp.up", w.up, false);
      b.down = make(name + ".mlp.down", w.down, false);
    }
    head_ = make("head", m.head, true);
    allocate();
  }

  const model_config& config() const noexcept { return config_; }
  std::size_t max_batch() const noexcept { return max_batch_; }

  /// Takes in `tokens` after those that the cache has seen; logits[n, vocab_size] for each of them, or logits[1,
  /// vocab_size] for the last one only (n > 1: the head is then computed once). Allocates nothing, except that work memory
  /// grows when a cache has a larger capacity than any before. Throws bad_value for a token outside the vocabulary,
  /// bad_shape when the cache is full, belongs to another configuration, or logits has another shape; the cache is then
  /// as it was. An int8_static cache throws bad_value for a key or value that is not finite: clear it then.
  void prefill(std::span<const token> tokens, kv_cache& cache, span2d<float> logits) {
    check_call(tokens, cache);
    const std::size_t n = tokens.size(), vocab = config_.vocab_size;
    const bool last_only = logits.rows == 1;
    if (logits.cols != vocab || (logits.rows != n && !(last_only && n > 0)) ||
        (logits.rows > 1 && logits.stride < vocab))
      core::fail(errc::bad_shape, "transformer: logits are ", logits.rows, " x ", logits.cols, ", stride ",
                 logits.stride, ", for ", n, " tokens and a vocabulary of ", vocab);
    rope_.reserve(cache.capacity());
    attention_.reserve(cache.capacity(), slots());
    for (std::size_t first = 0; first < n; first += max_batch_) {
      const std::size_t count = std::min(max_batch_, n - first);
      run_blocks(tokens.subspan(first, count), cache);
      if (!last_only) run_head(0, rows_of(logits, first, count));
      else if (first + count == n) run_head(count - 1, logits);
    }
  }
  /// The same with memory of its own for the logits of every token.
  logits_matrix prefill(std::span<const token> tokens, kv_cache& cache) {
    check_call(tokens, cache);
    logits_matrix out{tokens.size(), config_.vocab_size, {}};
    out.values.resize(out.rows * out.cols);
    prefill(tokens, cache, make_span2d(out.values.data(), out.rows, out.cols));
    return out;
  }
  /// One token more; its logits [vocab_size], valid until the next call.
  std::span<const float> decode(token t, kv_cache& cache) {
    prefill({&t, 1}, cache, make_span2d(decoded_.data(), 1, decoded_.size()));
    return decoded_;
  }

  /// Calls f(name, linear) for each linear layer, the head included, tied or not.
  template <class F>
  void for_each_linear(F&& f) const {
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      const block& b = blocks_[i];
      const std::string name = "blocks." + std::to_string(i);
      f(name + ".attn.q", b.q);
      f(name + ".attn.k", b.k);
      f(name + ".attn.v", b.v);
      f(name + ".attn.o", b.o);
      if (config_.gated) f(name + ".mlp.gate", b.gate);
      f(name + ".mlp.up", b.up);
      f(name + ".mlp.down", b.down);
    }
    f(std::string{"head"}, head_);
  }

 private:
  struct block {
    norm_weights attn_norm, mlp_norm;
    aligned_vector<float> q_norm, k_norm;
    linear<Backend> q, k, v, o, gate, up, down;
  };
  /// Rows of activations, zero between cols and stride as panel kernels want it.
  struct activations {
    std::size_t cols = 0, stride = 0;
    aligned_vector<float> values;

    void allocate(std::size_t rows, std::size_t columns) {
      cols = columns;
      stride = padded_columns(columns);
      values.assign(rows * stride, 0.0f);
    }
    span2d<float> first(std::size_t rows) noexcept { return make_span2d(values.data(), rows, cols, stride); }
    span2d<const float> read(std::size_t rows) const noexcept { return make_span2d(values.data(), rows, cols, stride); }
  };

  static const model& checked(const model& m) {
    check(m.config);
    if (m.blocks.size() != m.config.n_layers)
      core::fail(errc::bad_shape, "transformer: the model has ", m.blocks.size(), " blocks, its n_layers is ",
                 m.config.n_layers);
    const model expected = model_without_values(m.config);
    std::vector<std::pair<std::size_t, std::size_t>> extents;
    nn::for_each_linear(expected,
                        [&](const std::string&, const linear_weights& w) { extents.emplace_back(w.out, w.in); });
    std::size_t i = 0;
    nn::for_each_linear(m, [&](const std::string& name, const linear_weights& w) {
      if (std::pair{w.out, w.in} != extents[i++])
        core::fail(errc::bad_shape, "transformer: '", name, "' is ", w.out, " x ", w.in, ", its configuration says ",
                   extents[i - 1].first, " x ", extents[i - 1].second);
    });
    for_each_tensor(m, [](const tensor_slot& slot, const aligned_vector<float>& values) {
      const std::size_t size = slot.shape[0] * (slot.shape.size() == 2 ? slot.shape[1] : 1);
      if (values.size() != size && !(slot.optional && values.empty()))
        core::fail(errc::bad_shape, "transformer: '", slot.name, "' has ", values.size(), " values, expected ", size);
    });
    return m;
  }

  void allocate() {
    const model_config& c = config_;
    x_.allocate(max_batch_, c.d_model);
    normed_.allocate(max_batch_, c.d_model);
    branch_.allocate(max_batch_, c.d_model);
    attended_.allocate(max_batch_, c.n_heads * c.head_dim);
    q_.allocate(max_batch_, c.n_heads * c.head_dim);
    k_.allocate(max_batch_, c.n_kv_heads * c.head_dim);
    v_.allocate(max_batch_, c.n_kv_heads * c.head_dim);
    up_.allocate(max_batch_, c.d_ff);
    if (c.gated) gate_.allocate(max_batch_, c.d_ff);
    decoded_.resize(c.vocab_size);
    std::size_t bytes = 0;
    for_each_linear([&](const std::string&, const linear<Backend>& l) {
      // Not monotone by contract: fewer tokens may be cut in another way.
      for (const std::size_t M : {std::size_t{1}, max_batch_}) bytes = std::max(bytes, l.scratch_bytes(M, slots()));
    });
    scratch_.resize(bytes);
    ctx_.concurrency = slots();
    rope_.reserve(c.max_seq_len);
    attention_.reserve(c.max_seq_len, slots());
  }

  std::size_t slots() const noexcept {
    return ctx_.parallel_for == nullptr ? 1 : std::max<std::size_t>(1, ctx_.concurrency);
  }
  context call_context() noexcept {
    context c = ctx_;
    c.scratch = scratch_.data();
    c.scratch_bytes = scratch_.size();
    return c;
  }

  void check_call(std::span<const token> tokens, const kv_cache& cache) const {
    const model_config& c = config_;
    if (cache.n_layers() != c.n_layers || cache.n_kv_heads() != c.n_kv_heads || cache.head_dim() != c.head_dim)
      core::fail(errc::bad_shape, "transformer: a cache of ", cache.n_layers(), " layers, ", cache.n_kv_heads(),
                 " heads of ", cache.head_dim(), " for a model of ", c.n_layers, ", ", c.n_kv_heads, ", ", c.head_dim);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= c.vocab_size)
        core::fail(errc::bad_value, "transformer: token ", i, " is ", tokens[i], ", outside the vocabulary of ",
                   c.vocab_size);
    cache.check_room(tokens.size());
  }

  /// f(m) for each row, a few rows an item: a row alone is too little work to hand out.
  template <class F>
  void for_each_row(std::size_t rows, F&& f) {
    constexpr std::size_t chunk = 8;
    core::for_each_item(ctx_, ceil_div(rows, chunk), [&](std::size_t item, std::size_t) {
      for (std::size_t m = item * chunk; m < std::min(rows, item * chunk + chunk); ++m) f(m);
    });
  }
  void normalize(const norm_weights& w, span2d<const float> from, span2d<float> to) {
    for_each_row(from.rows, [&](std::size_t m) {
      if (config_.norm == norm_kind::rms)
        rms_norm(row(from, m), w.weight.data(), config_.norm_eps, from.cols, row(to, m));
      else layer_norm(row(from, m), w.weight.data(), w.bias.data(), config_.norm_eps, from.cols, row(to, m));
    });
  }
  /// RMSNorm of each head of each row, in place.
  void normalize_heads(const aligned_vector<float>& weight, span2d<float> heads) {
    for_each_row(heads.rows, [&](std::size_t m) {
      for (float* head = row(heads, m); head != row(heads, m) + heads.cols; head += config_.head_dim)
        rms_norm(head, weight.data(), config_.norm_eps, config_.head_dim, head);
    });
  }
  void add(span2d<float> to, span2d<const float> from) {
    for_each_row(to.rows, [&](std::size_t m) {
      for (std::size_t i = 0; i < to.cols; ++i) row(to, m)[i] += row(from, m)[i];
    });
  }

  /// branch_ = attn(normed_)
  void attend(const block& b, std::size_t layer, std::size_t M, kv_cache& cache, const context& ctx) {
    b.q.multiply(normed_.read(M), q_.first(M), ctx);
    b.k.multiply(normed_.read(M), k_.first(M), ctx);
    b.v.multiply(normed_.read(M), v_.first(M), ctx);
    if (config_.qk_norm) {
      normalize_heads(b.q_norm, q_.first(M));
      normalize_heads(b.k_norm, k_.first(M));
    }
    attention_.run(rope_, cache, layer, q_.read(M), k_.read(M), v_.read(M), attended_.first(M), ctx);
    b.o.multiply(attended_.read(M), branch_.first(M), ctx);
  }
  /// branch_ = mlp(normed_)
  void feed_forward(const block& b, std::size_t M, const context& ctx) {
    b.up.multiply(normed_.read(M), up_.first(M), ctx);
    if (config_.gated) b.gate.multiply(normed_.read(M), gate_.first(M), ctx);
    for_each_row(M, [&](std::size_t m) {
      float* const up = row(up_.first(M), m);
      if (!config_.gated) return activate(config_.activation, up, config_.d_ff);
      float* const gate = row(gate_.first(M), m);
      activate(config_.activation, gate, config_.d_ff);
      for (std::size_t i = 0; i < config_.d_ff; ++i) up[i] *= gate[i];
    });
    b.down.multiply(up_.read(M), branch_.first(M), ctx);
  }

  /// x_ = output of the last block for tokens that the cache takes in.
  void run_blocks(std::span<const token> tokens, kv_cache& cache) {
    const std::size_t M = tokens.size(), d = config_.d_model;
    const context ctx = call_context();
    const span2d<float> x = x_.first(M);
    for (std::size_t m = 0; m < M; ++m)
      std::copy_n(embed_.data() + static_cast<std::size_t>(tokens[m]) * d, d, row(x, m));
    for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
      const block& b = blocks_[layer];
      normalize(b.attn_norm, x, normed_.first(M));
      attend(b, layer, M, cache, ctx);
      // In a parallel block both branches read the same x: norm2 comes before attention is added.
      if (config_.parallel_residual) normalize(b.mlp_norm, x, normed_.first(M));
      add(x, branch_.read(M));
      if (!config_.parallel_residual) normalize(b.mlp_norm, x, normed_.first(M));
      feed_forward(b, M, ctx);
      add(x, branch_.read(M));
    }
    cache.advance(M);
  }
  /// Logits of rows [first, first + logits.rows) of x_.
  void run_head(std::size_t first, span2d<float> logits) {
    const span2d<float> x = rows_of(x_.first(first + logits.rows), first, logits.rows);
    normalize(final_norm_, x, normed_.first(logits.rows));
    head_.multiply(normed_.read(logits.rows), logits, call_context());
  }

  model_config config_;
  std::size_t max_batch_;
  context ctx_;
  rope rope_;
  attention<typename Backend::isa_type> attention_;
  aligned_vector<float> embed_;
  std::vector<block> blocks_;
  norm_weights final_norm_;
  linear<Backend> head_;
  activations x_, normed_, branch_, attended_, q_, k_, v_, up_, gate_;
  aligned_vector<float> decoded_;
  aligned_vector<std::byte> scratch_;
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
