// SPDX-License-Identifier: MIT
#include <nibble/nn/attention.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/core/thread_pool.hpp>

#include "support/tiny_model.hpp"

namespace {

using namespace nibble;

/// The definition in double: softmax(rope(q) rope(k)^T / sqrt(head_dim)) v for the last of `tokens` keys.
std::vector<double> attend(const nn::model_config& c, const nn::rope& table, const float* q,
                           const std::vector<float>& k, const std::vector<float>& v, std::size_t tokens) {
  const std::size_t group = c.n_heads / c.n_kv_heads, kv = c.n_kv_heads * c.head_dim;
  std::vector<double> out(c.n_heads * c.head_dim);
  for (std::size_t h = 0; h < c.n_heads; ++h) {
    std::vector<float> query(q + h * c.head_dim, q + (h + 1) * c.head_dim);
    table.rotate(query.data(), tokens - 1);
    std::vector<double> weight(tokens);
    double sum = 0.0;
    for (std::size_t j = 0; j < tokens; ++j) {
      const float* from = k.data() + j * kv + h / group * c.head_dim;
      std::vector<float> key(from, from + c.head_dim);
      table.rotate(key.data(), j);
      double score = 0.0;
      for (std::size_t d = 0; d < c.head_dim; ++d) score += static_cast<double>(query[d]) * key[d];
      weight[j] = std::exp(score / std::sqrt(static_cast<double>(c.head_dim)));
      sum += weight[j];
    }
    for (std::size_t j = 0; j < tokens; ++j)
      for (std::size_t d = 0; d < c.head_dim; ++d)
        out[h * c.head_dim + d] += weight[j] / sum * v[j * kv + h / group * c.head_dim + d];
  }
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("attention: equals its definition in double for ragged heads, groups and lengths", Isa, isa::native,
                   isa::scalar) {
  for (const std::size_t head_dim : {2u, 16u, 20u, 33u, 64u}) {
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 1}, {6, 2}, {70, 1}}) {
      nn::model_config c = test::llama_config();
      c.head_dim = head_dim;
      c.rope_dims = head_dim / 2 * 2;
      c.n_heads = static_cast<std::size_t>(heads);
      c.n_kv_heads = static_cast<std::size_t>(kv_heads);
      c.n_layers = 1;
      CAPTURE(head_dim);
      CAPTURE(c.n_heads);
      constexpr std::size_t tokens = 70;
      const std::size_t nq = c.n_heads * head_dim, nkv = c.n_kv_heads * head_dim;
      std::mt19937 random(static_cast<unsigned>(head_dim));
      std::normal_distribution<float> normal;
      std::vector<float> q(tokens * nq), k(tokens * nkv), v(tokens * nkv), out(tokens * nq, -1.0f);
      for (auto* x : {&q, &k, &v})
        for (float& e : *x) e = normal(random);
      nn::rope table(c.rope_dims, 100.0);
      table.reserve(tokens);
      nn::kv_cache cache(c, nn::kv_kind::f32, {.capacity = tokens});
      nn::attention<Isa> attention(c);
      attention.reserve(10, 1);  // grows later
      attention.reserve(tokens, 1);
      const auto part = [](std::vector<float>& x, std::size_t width, std::size_t first, std::size_t count) {
        return make_span2d(x.data() + first * width, count, width);
      };
      // In two pieces, so that the second sees keys of the first.
      for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>{0, 45}, {45, 25}}) {
        attention.run(table, cache, 0, part(q, nq, first, count), part(k, nkv, first, count),
                      part(v, nkv, first, count), part(out, nq, first, count), {});
        cache.advance(count);
      }
      double error = 0.0;
      for (std::size_t t = 0; t < tokens; ++t) {
        const auto expected = attend(c, table, q.data() + t * nq, k, v, t + 1);
        for (std::size_t i = 0; i < nq; ++i) error = std::max(error, std::fabs(out[t * nq + i] - expected[i]));
      }
      CHECK(error < 3e-6);
    }
  }
}

TEST_CASE_TEMPLATE("attention: equals its definition over what each form of the cache gives back, many tokens or one",
                   Isa, isa::native, isa::scalar) {
  nn::model_config c = test::llama_config();
  c.head_dim = 40;
  c.rope_dims = 36;
  c.n_heads = 6;
  c.n_kv_heads = 2;
  c.n_layers = 1;
  constexpr std::size_t tokens = 70, nq = 6 * 40, nkv = 2 * 40;
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  std::vector<float> q(tokens * nq), k(tokens * nkv), v(tokens * nkv), out(tokens * nq);
  for (auto* x : {&q, &k, &v})
    for (float& e : *x) e = normal(random);
  for (float& e : v) e += 3.0f;  // zeros that count
  nn::rope table(c.rope_dims, 100.0);
  table.reserve(tokens);
  for (const nn::kv_kind kind : {nn::kv_kind::f16, nn::kv_kind::int8, nn::kv_kind::int8_static}) {
    CAPTURE(static_cast<int>(kind));
    nn::kv_cache_options o;
    o.capacity = tokens;
    if (kind == nn::kv_kind::int8_static) o.static_scales = {{{0.03f, 0.1f}, {0.025f, 2.75f}}};
    nn::kv_cache cache(c, kind, o);
    nn::attention<Isa> attention(c);
    attention.reserve(tokens, 1);
    const auto part = [](std::vector<float>& x, std::size_t width, std::size_t first, std::size_t count) {
      return make_span2d(x.data() + first * width, count, width);
    };
    for (std::size_t first = 0, count = 65; first < tokens; first += count, count = 1) {
      attention.run(table, cache, 0, part(q, nq, first, count), part(k, nkv, first, count), part(v, nkv, first, count),
                    part(out, nq, first, count), {});
      cache.advance(count);
    }
    std::vector<float> held_k(tokens * nkv), held_v(tokens * nkv);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t h = 0; h < 2; ++h) {
        cache.read_key(0, h, tokens, t, held_k.data() + t * nkv + h * 40);
        cache.read_value(0, h, tokens, t, held_v.data() + t * nkv + h * 40);
      }
    double error = 0.0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto expected = attend(c, table, q.data() + t * nq, held_k, held_v, t + 1);
      for (std::size_t i = 0; i < nq; ++i) error = std::max(error, std::fabs(out[t * nq + i] - expected[i]));
    }
    CHECK(error < 6e-6);
  }
}

TEST_CASE("attention: one visible token returns its value, scores of any size") {
  nn::model_config c = test::llama_config();
  c.n_layers = 1;
  c.n_heads = c.n_kv_heads = 1;
  nn::rope table(8, 10000.0);
  table.reserve(4);
  nn::kv_cache cache(c, nn::kv_kind::f32, {.capacity = 4});
  nn::attention<isa::native> attention(c);
  attention.reserve(4, 1);
  std::vector<float> q(8, 1e15f), k(8, -1e15f), v{1, 2, 3, 4, 5, 6, 7, 8}, out(8);
  attention.run(table, cache, 0, make_span2d(q.data(), 1, 8), make_span2d(k.data(), 1, 8), make_span2d(v.data(), 1, 8),
                make_span2d(out.data(), 1, 8), {});
  CHECK(out == v);
}

TEST_CASE("attention: a token alone, on any threads, has the bits that it has among others") {
  // More places than one thread takes at a time; the last blocks of keys and values are not whole.
  constexpr std::size_t tokens = 203;
  nn::model_config c = test::llama_config();
  c.n_layers = 1;
  c.n_heads = 6;
  c.n_kv_heads = 2;
  c.head_dim = 40;
  c.rope_dims = 36;
  const std::size_t nq = 6 * 40, nkv = 2 * 40;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> q(tokens * nq), k(tokens * nkv), v(tokens * nkv), together(tokens * nq), alone(tokens * nq);
  for (auto* x : {&q, &k, &v})
    for (float& e : *x) e = normal(random);
  nn::rope table(c.rope_dims, 100.0);
  table.reserve(tokens);
  thread_pool pool(3);
  const auto rows = [](std::vector<float>& x, std::size_t width, std::size_t first, std::size_t count) {
    return make_span2d(x.data() + first * width, count, width);
  };
  for (const nn::kv_kind kind : {nn::kv_kind::f32, nn::kv_kind::f16, nn::kv_kind::int8}) {
    nn::kv_cache at_once(c, kind, {.capacity = tokens}), one_by_one(c, kind, {.capacity = tokens});
    nn::attention<isa::native> attention(c);
    attention.reserve(tokens, 3);
    attention.run(table, at_once, 0, rows(q, nq, 0, tokens), rows(k, nkv, 0, tokens), rows(v, nkv, 0, tokens),
                  rows(together, nq, 0, tokens), {});
    for (std::size_t t = 0; t < tokens; ++t) {
      attention.run(table, one_by_one, 0, rows(q, nq, t, 1), rows(k, nkv, t, 1), rows(v, nkv, t, 1),
                    rows(alone, nq, t, 1), pool.context());
      one_by_one.advance(1);
    }
    CHECK(alone == together);
  }
}
