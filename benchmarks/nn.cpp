// SPDX-License-Identifier: MIT
// The parts of a decode step between the linear layers, at d = 4096, 32 query heads over 8 key/value heads of 128, d_ff =
// 14336, a context of 2048 tokens; and the whole step of one block, with the share of the linear layers.

#include <array>
#include <cstddef>
#include <ctime>
#include <string_view>
#include <vector>

#include <nibble/isa/tags.hpp>
#include <nibble/nn/activation.hpp>
#include <nibble/nn/attention.hpp>
#include <nibble/nn/kv_cache.hpp>
#include <nibble/nn/norm.hpp>
#include <nibble/nn/rope.hpp>
#include <nibble/nn/transformer.hpp>

#include "bench.hpp"

namespace nibble::bench {
namespace {

constexpr std::size_t context_tokens = 2048;

nn::model_config config() {
  nn::model_config c;
  c.d_model = 4096;
  c.n_heads = 32;
  c.n_kv_heads = 8;
  c.head_dim = 128;
  c.d_ff = 14336;
  c.vocab_size = 64;  // the head is small: a step is one block
  c.max_seq_len = context_tokens + 64;
  c.rope_dims = 128;
  return c;
}

/// A cache that has seen context_tokens - 1 tokens: the next one makes the context full.
nn::kv_cache filled(const nn::model_config& c, nn::kv_kind kind) {
  nn::kv_cache_options options;
  if (kind == nn::kv_kind::int8_static) options.static_scales = {{{0.03f, 0.0f}, {0.03f, 0.0f}}};
  nn::kv_cache cache(c, kind, options);
  const std::vector<float> kv = values(2 * c.n_kv_heads * c.head_dim, 3);
  for (std::size_t t = 0; t + 1 < context_tokens; ++t)
    cache.write(0, t, kv.data(), kv.data() + c.n_kv_heads * c.head_dim);
  cache.advance(context_tokens - 1);
  return cache;
}

void run_rms_norm(benchmark::State& state) {
  const std::size_t d = config().d_model;
  const std::vector<float> x = values(d, 1), weight = values(d, 2);
  std::vector<float> y(d);
  time_loop(state, [&] {
    nn::rms_norm(x.data(), weight.data(), 1e-5f, d, y.data());
    const float* out = y.data();
    keep(out);
  });
}

void run_activation(benchmark::State& state, nn::activation_kind kind) {
  const std::vector<float> x = values(config().d_ff, 1);
  std::vector<float> y = x;
  time_loop(state, [&] {
    y = x;
    nn::activate(kind, y.data(), y.size());
    const float* out = y.data();
    keep(out);
  });
}

void run_rope(benchmark::State& state) {
  const nn::model_config c = config();
  nn::rope table(c.rope_dims, c.rope_theta);
  table.reserve(context_tokens);
  std::vector<float> heads = values(c.n_heads * c.head_dim, 1), cosines(table.pairs()), sines(table.pairs());
  time_loop(state, [&] {
    table.copy(5, cosines.data(), sines.data());
    for (std::size_t h = 0; h < c.n_heads; ++h)
      kernels::rotate_pairs<isa::native>::run(heads.data() + h * c.head_dim, table.pairs(), cosines.data(),
                                              sines.data());
    const float* out = heads.data();
    keep(out);
  });
}

void run_kv_append(benchmark::State& state, nn::kv_kind kind) {
  const nn::model_config c = config();
  nn::kv_cache cache = filled(c, kind);
  const std::vector<float> kv = values(2 * c.n_kv_heads * c.head_dim, 3);
  time_loop(state, [&] {
    cache.write(0, context_tokens - 1, kv.data(), kv.data() + c.n_kv_heads * c.head_dim);
    nn::kv_cache* out = &cache;
    keep(out);
  });
}

void run_attention(benchmark::State& state, nn::kv_kind kind, std::size_t threads) {
  const nn::model_config c = config();
  nn::kv_cache cache = filled(c, kind);
  nn::rope table(c.rope_dims, c.rope_theta);
  table.reserve(cache.capacity());
  const context ctx = pool_of(threads).context();
  nn::attention<gemm::simd::isa_type> attention(c);
  attention.reserve(cache.capacity(), threads);
  const std::size_t kv = c.n_kv_heads * c.head_dim;
  const std::vector<float> q = values(c.d_model, 1), k = values(kv, 2), v = values(kv, 3);
  std::vector<float> out(c.d_model);
  time_loop(state, [&] {
    attention.run(table, cache, 0, make_span2d(q.data(), 1, c.d_model), make_span2d(k.data(), 1, kv),
                  make_span2d(v.data(), 1, kv), make_span2d(out.data(), 1, c.d_model), ctx);
    const float* y = out.data();
    keep(y);
  });
}

/// linear_share: time of the linear layers alone, one after the other, over the time of the whole step: medians of both. On
/// one thread it is the processor's time, which a neighbour cannot take while a step lasts; on more, the clock's.
void run_decode(benchmark::State& state, nn::kv_kind kind, std::size_t threads) {
  const nn::model_config c = config();
  const context ctx = pool_of(threads).context();
  using transformer = nn::transformer<gemm::simd>;
  auto& t = input_cache::get<std::unique_ptr<transformer>>(text("nn/decode/", threads), [&] {
    nn::model m = nn::model_without_values(c);
    nn::for_each_tensor(m, [&](const nn::tensor_slot& slot, aligned_vector<float>& to) {
      const std::size_t size = slot.shape[0] * (slot.shape.size() == 2 ? slot.shape[1] : 1);
      if (slot.optional) return;
      const std::vector<float> from = values(size, 1, 0.02f);
      to.assign(from.begin(), from.end());
    });
    nn::linear_options options;
    options.blocks.weights = qtype::w4_g128;
    options.blocks.computation = computation::integer;
    options.max_batch = 1;
    return std::make_unique<transformer>(m, options, ctx);
  });
  const nn::kv_cache start = filled(c, kind);
  nn::kv_cache cache = start;
  const std::vector<float> x = values(c.d_ff + 64, 2);
  std::vector<float> y(c.d_ff);
  std::size_t bytes = 0;
  t->for_each_linear([&](const std::string&, const auto& l) { bytes = std::max(bytes, l.scratch_bytes(1, threads)); });
  aligned_vector<std::byte> scratch(bytes);
  context with_scratch = ctx;
  with_scratch.scratch = scratch.data();
  with_scratch.scratch_bytes = bytes;
  with_scratch.concurrency = threads;
  std::vector<double> linear, whole;
  const stopwatch watch;
  const auto now = [&] { return threads == 1 ? static_cast<double>(std::clock()) / CLOCKS_PER_SEC : watch.seconds(); };
  time_loop(state, [&] {
    if (!(cache.seen() < cache.capacity())) cache = start;
    const double begin = now();
    t->decode(1, cache);
    const double between = now();
    whole.push_back(between - begin);
    t->for_each_linear([&](const std::string&, const auto& l) {
      l.multiply(make_span2d(x.data(), 1, l.K(), round_up(l.K(), std::size_t{32})), make_span2d(y.data(), 1, l.N()),
                 with_scratch);
    });
    linear.push_back(now() - between);
  });
  state.counters["linear_share"] = median(linear) / median(whole);
}

}  // namespace

void register_nn() {
  add("nn/rms_norm", run_rms_norm);
  add("nn/silu", [](benchmark::State& s) { run_activation(s, nn::activation_kind::silu); });
  add("nn/gelu_tanh", [](benchmark::State& s) { run_activation(s, nn::activation_kind::gelu_tanh); });
  add("nn/gelu", [](benchmark::State& s) { run_activation(s, nn::activation_kind::gelu); });
  add("nn/rope", run_rope);
  for (const nn::kv_kind kind : {nn::kv_kind::f32, nn::kv_kind::f16, nn::kv_kind::int8, nn::kv_kind::int8_static}) {
    const std::string name(nn::kv_kind_names[static_cast<std::size_t>(kind)]);
    add("nn/kv_append/" + name, [=](benchmark::State& s) { run_kv_append(s, kind); });
    for (const std::size_t threads : thread_counts()) {
      add(text("nn/attention/", name, "/threads:", threads),
          [=](benchmark::State& s) { run_attention(s, kind, threads); });
      if (kind == nn::kv_kind::f32 || kind == nn::kv_kind::int8)
        add(text("nn/decode/w4_g128/", name, "/threads:", threads),
            [=](benchmark::State& s) { run_decode(s, kind, threads); });
    }
  }
}

}  // namespace nibble::bench
