// SPDX-License-Identifier: MIT
// Replaces the global allocation functions of this program, so that allocations can be counted.
#include <nibble/nn/sampling.hpp>
#include <nibble/nn/transformer.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

#include <doctest/doctest.h>

#include "support/tiny_model.hpp"

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

TEST_CASE(
    "transformer: decode and prefill into the caller's memory allocate nothing, the sampler after its first token neither") {
  using namespace nibble;
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
