// SPDX-License-Identifier: MIT
// A small language model, byte by byte: load it, choose formats for its layers and its cache, read a prompt, go on writing.

#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nibble/core/thread_pool.hpp>
#include <nibble/nn/load_model.hpp>
#include <nibble/nn/sampling.hpp>
#include <nibble/nn/transformer.hpp>

namespace nn = nibble::nn;

int main(int argc, char** argv) {
  const nn::model m = nn::load_model(argc > 1 ? argv[1] : "examples/models/large.safetensors");
  const std::string_view text = "The history of the city begins in the";
  std::vector<nn::token> prompt;  // tokens are bytes in these models
  for (const char c : text) prompt.push_back(static_cast<unsigned char>(c));

  // 4-bit weights in groups of 64, exact integer sums over 8-bit activations; value projections and the head get 8 bits.
  nibble::thread_pool pool;
  nn::linear_options options;
  options.choose = [](std::string_view name) {
    const bool wide = name.ends_with(".attn.v") || name == "head";
    nn::linear_format f;
    f.weights = wide ? nibble::qtype::w8_channel : nibble::qtype::w4_g64;
    f.computation = nibble::computation::integer;
    return f;
  };
  nn::transformer<> model(m, options, pool.context());
  std::size_t bytes = 0, weights = 0;
  model.for_each_linear([&](const std::string&, const auto& layer) {
    bytes += nibble::total_bytes(layer.ledger());
    weights += layer.N() * layer.K();
  });
  std::printf("%zu weights in %zu bytes: %.3f bits per weight\n", weights, bytes,
              8.0 * static_cast<double>(bytes) / static_cast<double>(weights));

  // The cache keeps the first 4 tokens and the newest 124 in 8 bits: text of any length in constant memory.
  nn::kv_cache_options window;
  window.sink = 4;
  window.window = 124;
  nn::kv_cache cache(m.config, nn::kv_kind::int8, window);
  std::printf("cache: %zu tokens in %zu bytes\n\n%.*s", cache.capacity(), cache.bytes(), static_cast<int>(text.size()),
              text.data());

  nn::sampler sample({.temperature = 0.7, .top_k = 20, .seed = 1});
  std::vector<nn::token> all = prompt;
  std::vector<float> last(m.config.vocab_size);
  model.prefill(prompt, cache, nibble::make_span2d(last.data(), 1, last.size()));
  for (nn::token next = sample(last); all.size() < 300; next = sample(model.decode(next, cache))) {
    std::putchar(next);
    all.push_back(next);
  }
  std::printf("\n\n");

  // All at once or one by one, nibble computes the same bits: the text so far, read again in one piece.
  const nn::logits_matrix one_by_one = [&] {
    nn::kv_cache again(m.config, nn::kv_kind::int8, window);
    nn::logits_matrix logits{all.size(), m.config.vocab_size, {}};
    for (const nn::token t : all) {
      const std::span<const float> row = model.decode(t, again);
      logits.values.insert(logits.values.end(), row.begin(), row.end());
    }
    return logits;
  }();
  cache.clear();
  const bool same = model.prefill(all, cache).values == one_by_one.values;
  std::printf("prefill and decode agree bit for bit: %s\n", same ? "yes" : "no");
  return same ? 0 : 1;
}
