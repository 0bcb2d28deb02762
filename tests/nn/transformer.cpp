// SPDX-License-Identifier: MIT
#include <nibble/nn/sampling.hpp>
#include <nibble/nn/transformer.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>

#include "support/tiny_model.hpp"

// The global allocation functions of this program, so that allocations can be counted.
namespace {

std::atomic<std::size_t> allocations{0};

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, rounded == 0 ? alignment : rounded)) return p;
  throw std::bad_alloc{};
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

using namespace nibble;
using nn::kv_cache;
using nn::kv_kind;
using nn::token;

constexpr kv_kind all_kinds[] = {kv_kind::f32, kv_kind::f16, kv_kind::int8, kv_kind::int8_static};

/// Weight formats that take different ways through the library: float, grouped, integer, offsets, codebook in panels,
/// flat blocks that cross rows (K = 56 is no multiple of 64) and so have no panels.
std::vector<nn::linear_format> all_weight_formats() {
  return {{},
          {qtype::w4_g32},
          {qtype::w8_channel, computation::integer},
          {qtype::w4a_g32, computation::integer},
          {qtype::w3o_g128, computation::integer},
          {qtype::w5m_channel},
          {qtype::nf4_g64},
          {qtype::nf4_flat64_dq}};
}
std::string describe(const nn::linear_format& f) {
  return f.weights ? std::string{quant::name_of(*f.weights)} + (f.computation == computation::integer ? " integer" : "")
                   : "float";
}
nn::linear_options everywhere(const nn::linear_format& f) {
  nn::linear_options o;
  o.blocks = o.head = f;
  return o;
}

/// Cache options of a kind; the static form is fitted to the tokens.
template <class Backend>
nn::kv_cache_options options_for(kv_kind kind, nn::transformer<Backend>& t, std::span<const token> tokens) {
  nn::kv_cache_options o;
  if (kind != kv_kind::int8_static) return o;
  kv_cache cache(t.config(), kv_kind::f32);
  t.prefill(tokens, cache);
  o.static_scales = cache.fit_static_scales(false);
  return o;
}

/// tokens[0, split) at once, then one by one: logits of all.
template <class Backend>
std::vector<float> in_two_parts(nn::transformer<Backend>& t, kv_cache& cache, std::span<const token> tokens,
                                std::size_t split) {
  cache.clear();
  const nn::logits_matrix first = t.prefill(tokens.first(split), cache);
  std::vector<float> all(first.values.begin(), first.values.end());
  for (std::size_t i = split; i < tokens.size(); ++i) {
    const auto next = t.decode(tokens[i], cache);
    all.insert(all.end(), next.begin(), next.end());
  }
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("transformer: decode equals prefill bit for bit, split at every position", Backend, gemm::simd,
                   gemm::scalar, gemm::reference) {
  // All models on the fast kernels; one each on the slow ones. More than 32 tokens: the values' second block begins.
  constexpr bool simd = std::is_same_v<Backend, gemm::simd>, reference = std::is_same_v<Backend, gemm::reference>;
  const auto configs = simd ? test::all_configs() : std::vector{reference ? test::neox_config() : test::llama_config()};
  for (const nn::model_config& c : configs) {
    const nn::model m = test::random_model(c, 1);
    const auto tokens = test::random_tokens(reference ? 6 : 36, c.vocab_size, 2);
    for (const nn::linear_format& format : all_weight_formats()) {
      CAPTURE(describe(format));
      nn::transformer<Backend> t(m, everywhere(format));
      for (const kv_kind kind : all_kinds) {
        CAPTURE(static_cast<int>(kind));
        kv_cache cache(c, kind, options_for(kind, t, tokens));
        const nn::logits_matrix whole = t.prefill(tokens, cache);
        CHECK(cache.seen() == tokens.size());
        // Every cut in the float cache; in the other forms, which share the code around it, some.
        const std::size_t step = kind == kv_kind::f32 ? 1 : 7;
        for (std::size_t split = 0; split <= tokens.size(); split += step) {
          CAPTURE(split);
          const bool same = test::same_bits(in_two_parts(t, cache, tokens, split), whole.values);
          REQUIRE(same);
        }
      }
    }
  }
}

TEST_CASE("transformer: the size of a batch does not change a bit") {
  for (const nn::model_config& c : test::all_configs()) {
    const nn::model m = test::random_model(c, 3);
    const auto tokens = test::random_tokens(50, c.vocab_size, 4);
    for (const nn::linear_format& format : all_weight_formats()) {
      CAPTURE(describe(format));
      std::vector<float> expected;
      for (const std::size_t max_batch : {std::size_t{256}, std::size_t{1}, std::size_t{7}, std::size_t{50}}) {
        nn::linear_options o = everywhere(format);
        o.max_batch = max_batch;
        nn::transformer<> t(m, o);
        kv_cache cache(c, kv_kind::f32);
        const nn::logits_matrix logits = t.prefill(tokens, cache);
        if (expected.empty()) expected.assign(logits.values.begin(), logits.values.end());
        CHECK(test::same_bits(logits.values, expected));
      }
    }
  }
}

TEST_CASE("transformer: threads do not change a bit") {
  thread_pool pool(3);
  for (const nn::model_config& c : test::all_configs()) {
    const nn::model m = test::random_model(c, 5);
    const auto tokens = test::random_tokens(60, c.vocab_size, 6);
    for (const nn::linear_format& format : all_weight_formats()) {
      CAPTURE(describe(format));
      nn::transformer<> serial(m, everywhere(format)), threaded(m, everywhere(format), pool.context());
      for (const std::size_t window : {std::size_t{0}, std::size_t{20}}) {
        nn::kv_cache_options o;
        o.window = window;
        kv_cache a(c, kv_kind::int8, o), b(c, kv_kind::int8, o);
        CHECK(test::same_bits(serial.prefill(tokens, a).values, threaded.prefill(tokens, b).values));
      }
    }
  }
}

TEST_CASE("transformer: a window at least as long as the sequence is the dense cache, bit for bit") {
  for (const nn::model_config& c : test::all_configs()) {
    const nn::model m = test::random_model(c, 7);
    nn::transformer<> t(m);
    const auto tokens = test::random_tokens(36, c.vocab_size, 8);
    for (const kv_kind kind : all_kinds) {
      CAPTURE(static_cast<int>(kind));
      nn::kv_cache_options o = options_for(kind, t, tokens);
      kv_cache dense(c, kind, o);
      const nn::logits_matrix expected = t.prefill(tokens, dense);
      for (const auto& [sink, window] : {std::pair{0, 36}, {4, 32}, {0, 100}, {4, 64}}) {
        o.sink = static_cast<std::size_t>(sink);
        o.window = static_cast<std::size_t>(window);
        CAPTURE(o.sink);
        CAPTURE(o.window);
        kv_cache cache(c, kind, o);
        CHECK(test::same_bits(t.prefill(tokens, cache).values, expected.values));
        CHECK(test::same_bits(in_two_parts(t, cache, tokens, 13), expected.values));
      }
    }
  }
}

TEST_CASE("transformer: prefill over a sliding window equals decode token by token, split at every position") {
  const nn::model_config c = test::llama_config();
  const nn::model m = test::random_model(c, 9);
  const auto tokens = test::random_tokens(70, c.vocab_size, 10);
  for (const nn::linear_format& format :
       {nn::linear_format{}, nn::linear_format{qtype::w8_channel, computation::integer}}) {
    nn::transformer<> t(m, everywhere(format));
    for (const kv_kind kind : all_kinds) {
      nn::kv_cache_options o = options_for(kind, t, std::span{tokens}.first(40));
      o.sink = 3;
      o.window = 34;
      kv_cache cache(c, kind, o);
      const nn::logits_matrix whole = t.prefill(tokens, cache);
      CHECK(cache.size() == 37);
      CHECK(cache.seen() == 70);
      for (std::size_t split = 0; split <= tokens.size(); split += kind == kv_kind::f32 ? 1 : 9) {
        CAPTURE(split);
        const bool same = test::same_bits(in_two_parts(t, cache, tokens, split), whole.values);
        REQUIRE(same);
      }
    }
  }
}

TEST_CASE("transformer: a full window computes exactly what a dense cache computes for sink + window") {
  // With one layer keys and values depend on their own token only, so the tokens kept, taken as a sequence of their own,
  // must give the same bits: positions are counted inside the cache and leave no gap, and the first `sink` tokens stay.
  const nn::model_config c = test::example_config();
  const nn::model m = test::random_model(c, 11);
  nn::transformer<> t(m);
  const auto tokens = test::random_tokens(64, c.vocab_size, 12);
  for (const auto& [sink, window] : {std::pair{0, 1}, {0, 9}, {4, 1}, {4, 16}, {1, 40}}) {
    const auto S = static_cast<std::size_t>(sink), W = static_cast<std::size_t>(window);
    CAPTURE(S);
    CAPTURE(W);
    nn::kv_cache_options o;
    o.sink = S;
    o.window = W;
    kv_cache cache(c, kv_kind::f32, o);
    for (std::size_t n = 1; n <= tokens.size(); ++n) {
      CAPTURE(n);
      const auto streamed = t.decode(tokens[n - 1], cache);
      const std::vector<float> got(streamed.begin(), streamed.end());
      std::vector<token> kept(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(std::min(n, S)));
      for (std::size_t i = std::max(S, n > W ? n - W : 0); i < n; ++i) kept.push_back(tokens[i]);
      CHECK(kept.size() == cache.size());
      kv_cache dense(c, kv_kind::f32);
      const nn::logits_matrix expected = t.prefill(kept, dense);
      REQUIRE(test::same_bits(got, expected[kept.size() - 1]));
    }
  }
}

TEST_CASE("transformer: the last row alone equals the last row of all") {
  const nn::model_config c = test::qwen3_config();
  nn::linear_options o;
  o.max_batch = 8;
  nn::transformer<> t(test::random_model(c, 13), o);
  const auto tokens = test::random_tokens(21, c.vocab_size, 14);
  kv_cache a(c, kv_kind::f32), b(c, kv_kind::f32);
  const nn::logits_matrix all = t.prefill(tokens, a);
  std::vector<float> last(c.vocab_size);
  t.prefill(tokens, b, make_span2d(last.data(), 1, last.size()));
  CHECK(test::same_bits(last, all[20]));
  CHECK(t.prefill({}, a).values.empty());
  CHECK(a.seen() == 21);
}

TEST_CASE("transformer: scalar and SIMD kernels give the same bits") {
  for (const nn::model_config& c : test::all_configs()) {
    const nn::model m = test::random_model(c, 15);
    const auto tokens = test::random_tokens(40, c.vocab_size, 16);
    for (const nn::linear_format& format : all_weight_formats()) {
      CAPTURE(describe(format));
      nn::transformer<gemm::simd> simd(m, everywhere(format));
      nn::transformer<gemm::scalar> scalar(m, everywhere(format));
      kv_cache a(c, kv_kind::f32), b(c, kv_kind::f32);
      CHECK(test::same_bits(simd.prefill(tokens, a).values, scalar.prefill(tokens, b).values));
    }
  }
}

TEST_CASE("transformer: quantized weights act as the float model with their decoded values") {
  const nn::model_config c = test::llama_config();
  const nn::model m = test::random_model(c, 17);
  const auto tokens = test::random_tokens(30, c.vocab_size, 18);
  for (const nn::linear_format& format : all_weight_formats()) {
    if (!format.weights || format.computation == computation::integer) continue;
    CAPTURE(describe(format));
    nn::model decoded = m;
    nn::for_each_linear(decoded, [&](const std::string&, nn::linear_weights& l) {
      const any_qmatrix q = quantize(*format.weights, l.matrix());
      dequantize(q.view(), make_span2d(l.weight.data(), l.out, l.in));
    });
    for (int reference = 0; reference < 2; ++reference) {
      nn::transformer<> as_float(decoded);
      kv_cache a(c, kv_kind::f32), b(c, kv_kind::f32);
      const nn::logits_matrix expected = as_float.prefill(tokens, a);
      nn::logits_matrix got;
      if (reference == 0) {
        nn::transformer<> quantized(m, everywhere(format));
        got = quantized.prefill(tokens, b);
      } else {
        nn::transformer<gemm::reference> quantized(m, everywhere(format));
        got = quantized.prefill(tokens, b);
      }
      float error = 0.0f;
      for (std::size_t i = 0; i < got.values.size(); ++i)
        error = std::max(error, std::fabs(got.values[i] - expected.values[i]));
      CHECK(error < 1e-4f);
    }
  }
}

TEST_CASE("transformer: each layer can have a format of its own") {
  const nn::model_config c = test::llama_config();
  const nn::model m = test::random_model(c, 19);
  std::vector<std::string> asked;
  nn::linear_options o;
  o.choose = [&](std::string_view name) {
    asked.emplace_back(name);
    nn::linear_format f;
    if (name.ends_with(".attn.v")) f.weights = qtype::w8_channel;
    if (name.ends_with(".mlp.down")) f.weights = qtype::w4_g32;
    if (name == "blocks.1.attn.o") f.make = [](span2d<const float> W) { return quantize(qtype::w3_g32, W); };
    return f;
  };
  const nn::transformer<> t(m, o);
  std::map<std::string, int> bits;
  std::vector<std::string> listed;
  t.for_each_linear([&](const std::string& name, const auto& l) {
    listed.push_back(name);
    bits[name] = l.is_float() ? 32 : l.weights()->format().bits;
  });
  CHECK(listed == asked);
  CHECK(listed.size() == 15);
  CHECK(listed.front() == "blocks.0.attn.q");
  CHECK(listed.back() == "head");
  CHECK(bits["blocks.0.attn.v"] == 8);
  CHECK(bits["blocks.1.mlp.down"] == 4);
  CHECK(bits["blocks.1.attn.o"] == 3);
  CHECK(bits["blocks.0.attn.o"] == 32);
  CHECK(bits["head"] == 32);
}

TEST_CASE("transformer: a NaN spoils the tokens that see it and no other") {
  nn::model_config c = test::llama_config();
  nn::model m = test::random_model(c, 21);
  auto tokens = test::random_tokens(40, c.vocab_size - 1, 22);
  const auto poison = static_cast<token>(c.vocab_size - 1);
  for (std::size_t i = 0; i < c.d_model; ++i)
    m.embed[static_cast<std::size_t>(poison) * c.d_model + i] = std::numeric_limits<float>::quiet_NaN();
  for (const nn::linear_format& format :
       {nn::linear_format{}, nn::linear_format{qtype::w4_g32, computation::integer}}) {
    for (const kv_kind kind : {kv_kind::f32, kv_kind::f16, kv_kind::int8}) {
      nn::transformer<> t(m, everywhere(format));
      auto poisoned = tokens;
      poisoned[25] = poison;
      kv_cache a(c, kind), b(c, kind);
      const nn::logits_matrix clean = t.prefill(tokens, a), dirty = t.prefill(poisoned, b);
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        CAPTURE(i);
        if (i < 25) CHECK(test::same_bits(clean[i], dirty[i]));
        else CHECK(std::all_of(dirty[i].begin(), dirty[i].end(), [](float x) { return std::isnan(x); }));
      }
    }
  }
}

TEST_CASE("transformer: arguments are checked and a refused call leaves the cache as it was") {
  const nn::model_config c = test::llama_config();
  const nn::model m = test::random_model(c, 23);
  nn::transformer<> t(m);
  kv_cache cache(c, kv_kind::f32, {.capacity = 10});
  const auto tokens = test::random_tokens(10, c.vocab_size, 24);
  t.prefill(std::span{tokens}.first(8), cache);
  const std::vector<token> outside{1, 40}, negative{-1};
  CHECK_THROWS_WITH_AS(t.prefill(outside, cache), doctest::Contains("token 1 is 40, outside the vocabulary of 40"),
                       error);
  CHECK_THROWS_WITH_AS(t.prefill(negative, cache), doctest::Contains("token 0 is -1"), error);
  CHECK_THROWS_WITH_AS(t.decode(40, cache), doctest::Contains("token 0 is 40"), error);
  CHECK_THROWS_WITH_AS(t.prefill(std::span{tokens}.first(3), cache),
                       doctest::Contains("3 more tokens, 8 held, capacity 10"), error);
  std::vector<float> few(c.vocab_size - 1), two(2 * c.vocab_size);
  CHECK_THROWS_WITH_AS(t.prefill(std::span{tokens}.first(1), cache, make_span2d(few.data(), 1, few.size())),
                       doctest::Contains("logits are 1 x 39"), error);
  CHECK_THROWS_WITH_AS(t.prefill(std::span{tokens}.first(1), cache, make_span2d(two.data(), 2, c.vocab_size)),
                       doctest::Contains("logits are 2 x 40, stride 40, for 1 tokens"), error);
  kv_cache other(test::qwen3_config(), kv_kind::f32);
  CHECK_THROWS_WITH_AS(t.decode(0, other), doctest::Contains("a cache of 2 layers, 2 heads of 20"), error);
  CHECK(cache.seen() == 8);
  kv_cache fresh(c, kv_kind::f32);
  const nn::logits_matrix expected = t.prefill(tokens, fresh);
  const nn::logits_matrix rest = t.prefill(std::span{tokens}.last(2), cache);
  CHECK(test::same_bits(rest[1], expected[9]));

  nn::linear_options codebook;
  codebook.blocks = {qtype::nf4_g64, computation::integer};
  CHECK_THROWS_WITH_AS(nn::transformer<>(m, codebook), doctest::Contains("linear blocks.0.attn.q"), error);
  nn::linear_options none;
  none.max_batch = 0;
  CHECK_THROWS_WITH_AS(nn::transformer<>(m, none), doctest::Contains("max_batch is 0"), error);
  nn::model misfit = m;
  misfit.blocks[1].q_norm.clear();
  misfit.blocks[1].mlp_norm.weight.pop_back();
  CHECK_THROWS_WITH_AS(nn::transformer<>{misfit},
                       doctest::Contains("'blocks.1.mlp_norm.weight' has 31 values, expected 32"), error);
  misfit = m;
  misfit.blocks.pop_back();
  CHECK_THROWS_WITH_AS(nn::transformer<>{misfit}, doctest::Contains("the model has 1 blocks, its n_layers is 2"),
                       error);
  misfit = m;
  misfit.blocks[0].v.out = 15;
  CHECK_THROWS_WITH_AS(nn::transformer<>{misfit},
                       doctest::Contains("'blocks.0.attn.v' is 15 x 32, its configuration says 16 x 32"), error);
}

TEST_CASE(
    "transformer: decode and prefill into the caller's memory allocate nothing, the sampler after its first token neither") {
  for (const nn::model_config& c : test::all_configs()) {
    for (const nn::linear_format& format :
         {nn::linear_format{}, nn::linear_format{qtype::w4_g32}, nn::linear_format{qtype::nf4_flat64},
          nn::linear_format{qtype::w8_channel, computation::integer}}) {
      nn::linear_options options;
      options.blocks = options.head = format;
      options.max_batch = 16;
      nn::transformer<> t(test::random_model(c, 1), options);
      for (const nn::kv_kind kind : {nn::kv_kind::f32, nn::kv_kind::f16, nn::kv_kind::int8}) {
        nn::kv_cache_options window;
        window.sink = 2;
        window.window = 10;
        nn::kv_cache dense(c, kind), sliding(c, kind, window);
        const auto tokens = test::random_tokens(20, c.vocab_size, 2);
        std::vector<float> logits(20 * c.vocab_size);
        nn::sampler sample({.temperature = 1.0, .top_k = 5, .seed = 3});
        nn::token next = sample(t.decode(tokens[0], dense));
        t.decode(tokens[0], sliding);
        const std::size_t before = allocations;
        t.prefill(tokens, dense, make_span2d(logits.data(), 20, c.vocab_size));
        t.prefill(tokens, sliding, make_span2d(logits.data(), 20, c.vocab_size));
        for (int i = 0; i < 8; ++i) {
          next = sample(t.decode(next, dense));
          t.decode(next, sliding);
        }
        const std::size_t during = allocations - before;
        CHECK(during == 0);
      }
    }
  }
  const std::size_t before = allocations;
  { const aligned_vector<float> counts(100); }
  CHECK(allocations - before == 1);  // the counter does count
}
