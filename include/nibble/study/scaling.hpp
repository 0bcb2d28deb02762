// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Fidelity of quantized transformers on text sampled from the float model itself: the exact KL divergence at every
/// position over the whole vocabulary, with checks that need no second opinion.
///
/// If x is drawn from p, E[log p(x) - log q(x)] is the KL divergence of q from p, so the sampled and the exact figure must
/// agree; and the float model's negative log-likelihood on its own samples must equal its mean entropy.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/nn/kv_cache.hpp>
#include <nibble/nn/model.hpp>
#include <nibble/nn/sampling.hpp>
#include <nibble/nn/transformer.hpp>
#include <nibble/study/byte_ledger.hpp>
#include <nibble/study/error_metrics.hpp>
#include <nibble/study/parallel.hpp>
#include <nibble/study/statistics.hpp>
#include <nibble/tensor/quantize.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace study {

/// Sequences of equal length: tokens[s * (length + 1) ...]; token i + 1 is predicted from tokens 0..i.
struct token_sequences {
  std::size_t sequences = 0;
  std::size_t length = 0;  ///< predictions in each
  std::vector<nn::token> tokens;

  std::span<const nn::token> inputs(std::size_t s) const noexcept { return {tokens.data() + s * (length + 1), length}; }
  nn::token target(std::size_t s, std::size_t i) const noexcept { return tokens[s * (length + 1) + i + 1]; }
  std::size_t positions() const noexcept { return sequences * length; }
};

/// Draws sequences from the float model at temperature 1, each from its own seed and first token (cyclic over
/// `first_tokens`), so that the result does not depend on the threads.
inline token_sequences sample_sequences(const nn::model& m, std::size_t sequences, std::size_t length,
                                        std::span<const nn::token> first_tokens, std::uint64_t seed,
                                        const context& ctx) {
  if (sequences == 0 || length == 0 || first_tokens.empty())
    core::fail(errc::bad_shape, "sample_sequences: ", sequences, " sequences of ", length, " from ",
               first_tokens.size(), " first tokens");
  token_sequences out{sequences, length, std::vector<nn::token>(sequences * (length + 1))};
  const std::size_t workers = core::slots_of(ctx, sequences);
  parallel_items(ctx, workers, [&](std::size_t worker) {
    nn::linear_options options;
    options.max_batch = 1;
    nn::transformer<> t(m, options);
    for (std::size_t s = worker; s < sequences; s += workers) {
      nn::kv_cache cache(m.config, nn::kv_kind::f32, {.capacity = length});
      nn::sampler draw({.temperature = 1.0, .top_k = 0, .seed = seed + s});
      nn::token* const to = out.tokens.data() + s * (length + 1);
      to[0] = first_tokens[s % first_tokens.size()];
      for (std::size_t i = 0; i < length; ++i) to[i + 1] = draw(t.decode(to[i], cache));
    }
  });
  return out;
}

/// At most `most` sequences cut from a text at equal distances, one byte a token, not overlapping.
inline token_sequences cut_sequences(std::span<const std::byte> text, std::size_t length, std::size_t most) {
  const std::size_t room = text.empty() ? 0 : (text.size() - 1) / length, count = std::min(most, room);
  token_sequences out{count, length, {}};
  for (std::size_t s = 0; s < count; ++s) {
    const std::size_t first = room * s / count * length;
    for (std::size_t i = 0; i <= length; ++i) out.tokens.push_back(static_cast<nn::token>(text[first + i]));
  }
  return out;
}

/// The float model's log-probabilities over a set of sequences, and what follows from them alone.
struct reference_run {
  std::size_t vocab_size = 0;
  std::vector<double> log_p, p;      ///< [positions, vocab_size]
  std::vector<float> logits;         ///< [positions, vocab_size]
  std::vector<double> centred;       ///< [positions], sum over the vocabulary of (logit - mean logit)^2
  std::vector<double> entropy, nll;  ///< sums over each sequence, nats
  double surprise_squares = 0.0;     ///< sum of (-log p(x) - entropy)^2 over all positions

  /// Standard error of the mean over positions of -log p(x) - entropy, which is 0 on the model's own samples.
  double surprise_error() const noexcept { return std::sqrt(surprise_squares) / static_cast<double>(centred.size()); }
};

/// One pass of the model over the sequences, several tokens at once.
inline reference_run run_reference(nn::transformer<>& t, const token_sequences& text) {
  reference_run r;
  r.vocab_size = t.config().vocab_size;
  r.log_p.resize(text.positions() * r.vocab_size);
  r.p.resize(text.positions() * r.vocab_size);
  r.logits.resize(text.positions() * r.vocab_size);
  r.entropy.assign(text.sequences, 0.0);
  r.nll.assign(text.sequences, 0.0);
  r.centred.resize(text.positions());
  for (std::size_t s = 0; s < text.sequences; ++s) {
    nn::kv_cache cache(t.config(), nn::kv_kind::f32, {.capacity = text.length});
    float* const logits = r.logits.data() + s * text.length * r.vocab_size;
    t.prefill(text.inputs(s), cache, make_span2d(logits, text.length, r.vocab_size));
    for (std::size_t i = 0; i < text.length; ++i) {
      const std::size_t at = s * text.length + i;
      const std::span<const float> row{logits + i * r.vocab_size, r.vocab_size};
      const std::span<double> log_p{r.log_p.data() + at * r.vocab_size, r.vocab_size};
      nn::log_softmax(row, log_p);
      const std::span<double> p{r.p.data() + at * r.vocab_size, r.vocab_size};
      double entropy = 0.0, sum = 0.0, squares = 0.0;
      for (std::size_t v = 0; v < p.size(); ++v) entropy -= log_p[v] * (p[v] = std::exp(log_p[v]));
      for (const float x : row) sum += static_cast<double>(x);
      const double mean = sum / static_cast<double>(r.vocab_size);
      for (const float x : row)
        squares = std::fma(static_cast<double>(x) - mean, static_cast<double>(x) - mean, squares);
      r.centred[at] = squares;
      const double nll = -log_p[static_cast<std::size_t>(text.target(s, i))];
      r.entropy[s] += entropy;
      r.nll[s] += nll;
      r.surprise_squares = std::fma(nll - entropy, nll - entropy, r.surprise_squares);
    }
  }
  return r;
}

/// How a model's predictions differ from the reference. Sums over each sequence, in nats where they are nats.
struct fidelity {
  std::size_t positions = 0;
  std::vector<double> count;          ///< positions of each sequence
  std::vector<double> kl;             ///< exact KL(p || q)
  std::vector<double> log_ratio;      ///< log p(x) - log q(x) at the sampled token
  std::vector<double> agree;          ///< positions with the same most likely token
  std::vector<double> nll;            ///< of the model itself
  std::vector<double> output_error;   ///< sum over the vocabulary of the squared difference of mean-free logits
  std::vector<double> output_energy;  ///< the same sum of the reference
  double log_ratio_squares = 0.0;     ///< over all positions
  double excess_squares = 0.0;        ///< sum of (log p(x) - log q(x) - KL)^2 over all positions

  /// Mean over positions with its standard error by bootstrap over sequences.
  estimate mean(const std::vector<double>& sums) const { return bootstrap_ratio(sums, count); }
  /// |logits difference| / |logits|, both without their mean, which softmax does not see.
  double relative_output_error() const noexcept {
    double error = 0.0, energy = 0.0;
    for (std::size_t s = 0; s < output_error.size(); ++s) {
      error += output_error[s];
      energy += output_energy[s];
    }
    return std::sqrt(error / energy);
  }
  /// (sum of the sampled log-ratios - sum of KL) in standard errors: N(0, 1) if the evaluation is right. Given what came
  /// before, log p(x) - log q(x) - KL has mean 0 at each position, so the variances of all positions add up.
  double identity_z() const noexcept {
    double sum = 0.0;
    for (std::size_t s = 0; s < kl.size(); ++s) sum += log_ratio[s] - kl[s];
    return sum == 0.0 ? 0.0 : sum / std::sqrt(excess_squares);
  }
  /// Variance of the log-ratio over 2 KL: near 1 when q is near p.
  double variance_ratio() const {
    double sum = 0.0, divergence = 0.0;
    const double n = static_cast<double>(positions);
    for (std::size_t s = 0; s < kl.size(); ++s) {
      sum += log_ratio[s];
      divergence += kl[s];
    }
    return (log_ratio_squares / n - (sum / n) * (sum / n)) / (2.0 * divergence / n);
  }
};

/// Runs a model over the sequences and compares it, position by position, with the reference.
inline fidelity compare(nn::transformer<>& t, const token_sequences& text, const reference_run& reference,
                        const context& ctx) {
  fidelity f;
  const std::size_t V = reference.vocab_size;
  f.positions = text.positions();
  for (std::vector<double>* v : {&f.count, &f.kl, &f.log_ratio, &f.agree, &f.nll, &f.output_error, &f.output_energy})
    v->assign(text.sequences, 0.0);
  struct at_position {
    double kl, log_q_target, output_error;
    bool agree;
  };
  std::vector<at_position> found(text.length);
  std::vector<float> logits(text.length * V);
  for (std::size_t s = 0; s < text.sequences; ++s) {
    nn::kv_cache cache(t.config(), nn::kv_kind::f32, {.capacity = text.length});
    t.prefill(text.inputs(s), cache, make_span2d(logits.data(), text.length, V));
    constexpr std::size_t chunk = 32;
    parallel_items(ctx, ceil_div(text.length, chunk), [&](std::size_t item) {
      std::vector<double> log_q(V);
      for (std::size_t i = item * chunk; i < std::min(text.length, (item + 1) * chunk); ++i) {
        const std::size_t at = s * text.length + i;
        const std::span<const float> q_row{logits.data() + i * V, V}, p_row{reference.logits.data() + at * V, V};
        const double *const log_p = reference.log_p.data() + at * V, *const p = reference.p.data() + at * V;
        nn::log_softmax(q_row, log_q);
        double kl = 0.0, shift = 0.0, squares = 0.0;
        for (std::size_t v = 0; v < V; ++v) kl = std::fma(p[v], log_p[v] - log_q[v], kl);
        for (std::size_t v = 0; v < V; ++v) shift += static_cast<double>(q_row[v]) - static_cast<double>(p_row[v]);
        shift /= static_cast<double>(V);
        for (std::size_t v = 0; v < V; ++v) {
          const double d = static_cast<double>(q_row[v]) - static_cast<double>(p_row[v]) - shift;
          squares = std::fma(d, d, squares);
        }
        const auto best = [](std::span<const float> row) {
          return std::max_element(row.begin(), row.end()) - row.begin();
        };
        found[i] = {kl, log_q[static_cast<std::size_t>(text.target(s, i))], squares, best(q_row) == best(p_row)};
      }
    });
    f.count[s] = static_cast<double>(text.length);
    for (std::size_t i = 0; i < text.length; ++i) {
      const std::size_t at = s * text.length + i;
      const double ratio =
          reference.log_p[at * V + static_cast<std::size_t>(text.target(s, i))] - found[i].log_q_target;
      f.kl[s] += found[i].kl;
      f.log_ratio[s] += ratio;
      f.log_ratio_squares = std::fma(ratio, ratio, f.log_ratio_squares);
      f.excess_squares = std::fma(ratio - found[i].kl, ratio - found[i].kl, f.excess_squares);
      f.nll[s] -= found[i].log_q_target;
      f.output_error[s] += found[i].output_error;
      f.output_energy[s] += reference.centred[at];
      f.agree[s] += found[i].agree ? 1.0 : 0.0;
    }
  }
  return f;
}

/// Weight errors and bytes of the blocks of a model in one format; biases and norms of the blocks are kept in FP16.
struct block_weights_error {
  metric_summary metrics;
  model_ledger ledger;
};

/// Quantizes the matrices of all blocks; embedding, head and final norm are no part of a block.
inline block_weights_error measure_blocks(const nn::model& m, qtype type, const quantize_options& options,
                                          const context& ctx) {
  block_weights_error e;
  nn::for_each_linear(m, [&](const std::string& name, const nn::linear_weights& l) {
    if (name == "head") return;
    const any_qmatrix q = quantize(type, l.matrix(), options, ctx);
    std::vector<float> values(l.weight.size());
    dequantize(q.view(), make_span2d(values.data(), l.out, l.in), ctx);
    error_sums sums;
    sums.add(l.weight, values);
    e.metrics.add(sums);
    e.ledger.add(q.ledger(), l.weight.size());
    e.ledger.fp16_parameters += l.bias.size();
  });
  for (const nn::block_weights& b : m.blocks)
    e.ledger.fp16_parameters += b.attn_norm.weight.size() + b.attn_norm.bias.size() + b.mlp_norm.weight.size() +
                                b.mlp_norm.bias.size() + b.q_norm.size() + b.k_norm.size();
  return e;
}

/// Seconds that `call` takes: the least of several repetitions over at least `least_seconds` in all.
template <class F>
double least_time(F&& call, double least_seconds = 0.05, int least_repeats = 5) {
  using clock = std::chrono::steady_clock;
  double best = 1e300, total = 0.0;
  for (int i = 0; i < least_repeats || total < least_seconds; ++i) {
    const auto begin = clock::now();
    call();
    const double seconds = std::chrono::duration<double>(clock::now() - begin).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

}  // namespace study
}  // namespace NIBBLE_ABI
}  // namespace nibble
