// SPDX-License-Identifier: MIT
#include <nibble/nn/kv_cache.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/nn/rope.hpp>

#include "support/tiny_model.hpp"

namespace {

using namespace nibble;
using nn::kv_cache;
using nn::kv_cache_options;
using nn::kv_kind;

nn::model_config config() {
  nn::model_config c = test::llama_config();  // 2 layers, 2 kv heads
  c.head_dim = c.rope_dims = 6;
  return c;
}

/// Writes one token whose keys and values tell its number, layer, head and dimension; returns them.
struct token_vectors {
  std::vector<float> k, v;
};
token_vectors vectors_of(std::size_t index, std::size_t layer) {
  token_vectors t{std::vector<float>(12), std::vector<float>(12)};
  for (std::size_t i = 0; i < 12; ++i) {
    t.k[i] = static_cast<float>(index * 100 + layer * 50 + i);
    t.v[i] = -t.k[i] - 0.5f;
  }
  return t;
}
void append(kv_cache& cache) {
  for (std::size_t layer = 0; layer < cache.n_layers(); ++layer) {
    const token_vectors t = vectors_of(cache.seen(), layer);
    cache.write(layer, cache.seen(), t.k.data(), t.v.data());
  }
  cache.advance(1);
}
/// The numbers of the tokens held, in the order of their places; checks all vectors.
std::vector<std::size_t> held(const kv_cache& cache) {
  std::vector<std::size_t> tokens;
  std::vector<float> x(cache.head_dim());
  for (std::size_t place = 0; place < cache.size(); ++place) {
    cache.read_key(0, 0, cache.seen(), place, x.data());
    const auto index = static_cast<std::size_t>(x[0]) / 100;
    tokens.push_back(index);
    for (std::size_t layer = 0; layer < cache.n_layers(); ++layer) {
      const token_vectors t = vectors_of(index, layer);
      for (std::size_t head = 0; head < cache.n_kv_heads(); ++head) {
        cache.read_key(layer, head, cache.seen(), place, x.data());
        for (std::size_t d = 0; d < x.size(); ++d) CHECK(x[d] == t.k[head * 6 + d]);
        cache.read_value(layer, head, cache.seen(), place, x.data());
        for (std::size_t d = 0; d < x.size(); ++d) CHECK(x[d] == t.v[head * 6 + d]);
      }
    }
  }
  return tokens;
}

}  // namespace

TEST_CASE("kv_cache: a dense cache holds the tokens in order and refuses one too many") {
  kv_cache cache(config(), kv_kind::f32, {.capacity = 5});
  for (std::size_t n = 1; n <= 5; ++n) {
    cache.check_room(1);
    append(cache);
    std::vector<std::size_t> expected;
    for (std::size_t i = 0; i < n; ++i) expected.push_back(i);
    CHECK(held(cache) == expected);
  }
  CHECK_THROWS_WITH_AS(cache.check_room(1), doctest::Contains("1 more tokens, 5 held, capacity 5"), error);
  cache.check_room(0);
  cache.clear();
  CHECK(cache.size() == 0);
  cache.check_room(5);
}

TEST_CASE("kv_cache: without a capacity the configuration's length counts") {
  CHECK(kv_cache(config(), kv_kind::f32).capacity() == 64);
}

TEST_CASE("kv_cache: eviction keeps the first `sink` tokens and the newest `window`, in order") {
  for (const auto& [sink, window] : {std::pair{0, 1}, {0, 4}, {1, 1}, {2, 3}, {4, 7}, {5, 1}}) {
    const auto S = static_cast<std::size_t>(sink), W = static_cast<std::size_t>(window);
    CAPTURE(S);
    CAPTURE(W);
    kv_cache_options o;
    o.sink = S;
    o.window = W;
    kv_cache cache(config(), kv_kind::f32, o);
    CHECK(cache.capacity() == S + W);
    for (std::size_t n = 1; n <= 40; ++n) {
      cache.check_room(1000);  // there is always room
      append(cache);
      CHECK(cache.seen() == n);
      CHECK(cache.size() == std::min(n, S + W));  // places, and so positions, never reach sink + window
      std::vector<std::size_t> expected;
      for (std::size_t i = 0; i < n; ++i)
        if (i < S || i + W >= n) expected.push_back(i);
      REQUIRE(held(cache) == expected);
    }
  }
}

TEST_CASE("kv_cache: what each form gives back is what its codec gives") {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> k(12), v(12), x(6), y(6);
  for (float& e : k) e = normal(random);
  for (float& e : v) e = 3.0f + normal(random);
  kv_cache_options o;
  o.static_scales = {{{0.02f, 0.1f}, {0.05f, 3.0f}}, {{0.03f, 0.0f}, {0.04f, 2.5f}}};
  for (const kv_kind kind : {kv_kind::f32, kv_kind::f16, kv_kind::int8, kv_kind::int8_static}) {
    kv_cache cache(config(), kind, kind == kv_kind::int8_static ? o : kv_cache_options{});
    for (std::size_t layer = 0; layer < 2; ++layer) cache.write(layer, 0, k.data(), v.data());
    cache.advance(1);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t head = 0; head < 2; ++head) {
        for (const bool key : {true, false}) {
          const std::span<const float> from{(key ? k : v).data() + head * 6, 6};
          if (key) cache.read_key(layer, head, 1, 0, x.data());
          else cache.read_value(layer, head, 1, 0, x.data());
          std::vector<std::uint8_t> codes(6);
          if (kind == kv_kind::f32) y.assign(from.begin(), from.end());
          if (kind == kv_kind::f16)
            for (std::size_t i = 0; i < 6; ++i) y[i] = to_float(to_half(from[i]));
          if (kind == kv_kind::int8) nn::decode_kv_online(codes.data(), nn::encode_kv_online(from, codes.data()), y);
          if (kind == kv_kind::int8_static) {
            const nn::kv_static_params p = key ? o.static_scales[layer].k : o.static_scales[layer].v;
            nn::encode_kv_static(from, p, codes.data());
            nn::decode_kv_static(codes.data(), p, y);
          }
          CHECK(x == y);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("kv_cache: scores of a panel are those of its keys, rotated to their positions, in every form", Isa,
                   isa::native, isa::scalar) {
  nn::rope table(4, 100.0);  // the last two dimensions stay
  table.reserve(20);
  const std::vector<float> query{0.5f, -1.25f, 2.0f, 0.75f, -0.5f, 1.0f};
  kv_cache_options o;
  o.capacity = 20;
  for (const kv_kind kind : {kv_kind::f32, kv_kind::f16, kv_kind::int8, kv_kind::int8_static}) {
    CAPTURE(static_cast<int>(kind));
    if (kind == kv_kind::int8_static)
      o.static_scales = std::vector<nn::kv_static_scales>(2, {{20.0f, 1000.0f}, {20.0f, -1000.0f}});
    kv_cache cache(config(), kind, o);
    for (int i = 0; i < 20; ++i) append(cache);
    for (const std::size_t panel : {0u, 1u}) {
      std::vector<float> scores(16), work(16 * 6), key(6);
      kernels::score_call call;
      call.pairs = table.pairs();
      call.angles = table.panel(panel);
      call.queries = query.data();
      call.M = 1;
      call.scores = scores.data();
      call.work = work.data();
      cache.score_key_panel<Isa>(call, 1, 1, panel, 0, panel + 1);
      for (std::size_t j = 0; j < 16 && 16 * panel + j < 20; ++j) {
        cache.read_key(1, 1, 20, 16 * panel + j, key.data());
        table.rotate(key.data(), 16 * panel + j);
        float score = 0.0f;
        for (const std::size_t d : {0u, 2u, 1u, 3u, 4u, 5u}) score = multiply_add(query[d], key[d], score);
        CHECK(scores[j] == score);
      }
    }
  }
}

TEST_CASE("kv_cache: the place of a slot is where its token is read") {
  kv_cache_options o;
  o.sink = 2;
  o.window = 5;
  kv_cache cache(config(), kv_kind::f32, o);
  const float query[6] = {1.0f};
  for (std::size_t n = 1; n <= 30; ++n) {
    append(cache);
    std::vector<float> scores(16), work(16 * 6), key(6);
    kernels::score_call call;
    call.queries = query;
    call.M = 1;
    call.scores = scores.data();
    call.work = work.data();
    cache.score_key_panel<isa::native>(call, 0, 1, 0, 0, 1);
    for (std::size_t slot = 0; slot < cache.size(); ++slot) {
      cache.read_key(0, 1, n, cache.place_of_slot(n, slot), key.data());
      CHECK(key[0] == scores[slot]);
    }
  }
}

TEST_CASE_TEMPLATE("kv_cache: value_rows and value_scales give what is read from every run of places", Code, float,
                   half, std::uint8_t) {
  nn::model_config c = config();
  c.head_dim = 20;  // a row of 16 and a part of one
  const kv_kind kind =
      std::is_same_v<Code, float> ? kv_kind::f32 : (std::is_same_v<Code, half> ? kv_kind::f16 : kv_kind::int8);
  kv_cache_options o;
  o.sink = 2;
  o.window = 37;
  kv_cache cache(c, kind, o);
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> k(40), v(40), x(20);
  for (std::size_t n = 1; n <= 90; ++n) {
    for (float& e : k) e = normal(random);
    for (float& e : v) e = normal(random);
    for (std::size_t layer = 0; layer < 2; ++layer) cache.write(layer, n - 1, k.data(), v.data());
    cache.advance(1);
    for (std::size_t first = 0; first < cache.size(); first += 5) {
      const std::size_t count = std::min<std::size_t>(32, cache.size() - first);
      CAPTURE(n);
      CAPTURE(first);
      std::vector<const Code*> rows(count);
      std::vector<float> scales(count), zeros(count);
      cache.value_rows(1, 1, n, first, count, rows.data());
      if (kind == kv_kind::int8) cache.value_scales(1, 1, n, first, count, scales.data(), zeros.data());
      bool same = true;
      for (std::size_t j = 0; j < count; ++j) {
        cache.read_value(1, 1, n, first + j, x.data());
        for (std::size_t d = 0; d < 20; ++d) {
          const Code code = rows[j][d / 16 * 16 * kernels::value_slots + d % 16];
          if constexpr (std::is_same_v<Code, float>) same = same && x[d] == code;
          else if constexpr (std::is_same_v<Code, half>) same = same && x[d] == to_float(code);
          else same = same && x[d] == multiply_add(static_cast<float>(code), scales[j], zeros[j]);
        }
      }
      REQUIRE(same);
    }
  }
}

TEST_CASE("kv_cache: bytes are those of codes and scales") {
  const nn::model_config c = config();
  const std::size_t vectors = 2 * 2 * 2 * 64;  // K and V, layers, heads, tokens
  CHECK(kv_cache(c, kv_kind::f32).bytes() == vectors * 6 * 4);
  CHECK(kv_cache(c, kv_kind::f16).bytes() == vectors * 6 * 2);
  CHECK(kv_cache(c, kv_kind::int8).bytes() == vectors * (6 + 8));
  kv_cache_options o;
  o.static_scales.resize(2);
  CHECK(kv_cache(c, kv_kind::int8_static, o).bytes() == vectors * 6);
  // A 7B LLaMA: 32 layers, 4096 wide; 1024 MiB for 2048 tokens in FP16, half of it in 8 bits.
  CHECK(32 * 2048 * kv_cache::bytes_per_token_and_layer(32, 128, kv_kind::f16) == std::size_t{1024} << 20);
  CHECK(32 * 2048 * kv_cache::bytes_per_token_and_layer(32, 128, kv_kind::int8_static) == std::size_t{512} << 20);
}

TEST_CASE("kv_cache: static scales are fitted to each layer's keys and values") {
  kv_cache cache(config(), kv_kind::f32);
  CHECK_THROWS_WITH_AS(cache.fit_static_scales(true), doctest::Contains("empty"), error);
  for (int i = 0; i < 3; ++i) append(cache);
  const auto wide = cache.fit_static_scales(false), symmetric = cache.fit_static_scales(true);
  REQUIRE(wide.size() == 2);
  // Layer 1 holds keys 50..261 and values -50.5..-261.5.
  CHECK(wide[1].k.scale == (261.0f - 50.0f) / 255.0f);
  CHECK(wide[1].k.zero_point == (261.0f + 50.0f) / 2.0f);
  CHECK(wide[1].v.scale == (261.5f - 50.5f) / 255.0f);
  CHECK(wide[1].v.zero_point == -(261.5f + 50.5f) / 2.0f);
  CHECK(symmetric[0].k.scale == 211.0f / 127.0f);
  CHECK(symmetric[0].v.scale == 211.5f / 127.0f);
  CHECK(symmetric[0].v.zero_point == 0.0f);
}

TEST_CASE("kv_cache: the static form refuses what it cannot store") {
  kv_cache_options o;
  o.static_scales = std::vector<nn::kv_static_scales>(2, {{0.1f, 0.0f}, {0.1f, 0.0f}});
  kv_cache cache(config(), kv_kind::int8_static, o);
  std::vector<float> k(12, 1.0f), v(12, 1.0f);
  v[7] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS(cache.write(1, 0, k.data(), v.data()), doctest::Contains("value of layer 1, head 1 is"), error);
}

TEST_CASE("kv_cache: options that do not fit together are refused") {
  const auto refusal = [](kv_kind kind, kv_cache_options o) {
    try {
      const kv_cache cache(config(), kind, std::move(o));
      return std::string{};
    } catch (const error& e) {
      return std::string{e.what()};
    }
  };
  const auto says = [](const std::string& message, const char* part) { return message.find(part) != message.npos; };
  kv_cache_options o;
  o.capacity = o.window = 4;
  CHECK(says(refusal(kv_kind::f32, o), "capacity 4 and window 4"));
  o.window = 0;
  o.sink = 2;
  CHECK(says(refusal(kv_kind::f32, o), "sink 2 without a window"));
  o = {};
  CHECK(says(refusal(kv_kind::int8_static, o), "0 static scales with kind int8_static"));
  o.static_scales.resize(1);
  CHECK(says(refusal(kv_kind::int8, o), "1 static scales with kind int8"));
  CHECK(says(refusal(kv_kind::int8_static, o), "1 static scales for 2 layers"));
  o.static_scales.resize(2);
  o.static_scales[1].v.scale = std::numeric_limits<float>::quiet_NaN();
  CHECK(says(refusal(kv_kind::int8_static, o), "static scale nan"));
  o = {};
  o.window = std::size_t{1} << 33;
  CHECK(says(refusal(kv_kind::f32, o), "at most 4294967296"));
}
