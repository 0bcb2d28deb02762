// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Causal grouped-query attention of new tokens over a KV cache.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/nn/config.hpp>
#include <nibble/nn/kv_cache.hpp>
#include <nibble/nn/panel_product.hpp>
#include <nibble/nn/rope.hpp>
#include <nibble/quant/group_codec.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

/// For query head h of token t, whose key has place p in the cache, and g = h / (n_heads / n_kv_heads):
///   s[j] = dot(rope(q, p), rope(k[g][j], j)),  j = 0..p
///   e[j] = exp((s[j] - max s) / sqrt(head_dim)),  out = (sum of e[j] * v[g][j]) * (1 / sum of e)
///
/// Every sum has one order: dot over d ascending; the sum of e in 32 lanes of j, in double; the values in blocks of 32
/// places (j / 32), one chain within a block, block sums added ascending. So a token's result depends on the cache's
/// contents only, not on the tokens it is computed together with. Places after p are never touched by a token's sums: a
/// NaN there stays there.
template <class Isa>
class attention {
 public:
  explicit attention(const model_config& c)
      : head_dim_(c.head_dim),
        n_kv_heads_(c.n_kv_heads),
        group_(c.n_heads / c.n_kv_heads),
        tile_tokens_(std::max<std::size_t>(1, 64 / group_)),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)))) {}

  /// Makes the scratch memory large enough for caches of `capacity` tokens and `slots` threads; allocates only to grow.
  void reserve(std::size_t capacity, std::size_t slots) {
    capacity_ = std::max(capacity_, capacity);
    const std::size_t floats = layout(capacity_).total * slots;
    if (floats > scratch_.size()) scratch_.assign(floats, 0.0f);
  }

  /// Appends k, v [M, n_kv_heads * head_dim] to `layer` of the cache as tokens seen, seen + 1, ... and computes
  /// out[M, n_heads * head_dim] from q of the same shape; q and k are not yet rotated. The cache is not advanced.
  /// Needs reserve() for the cache's capacity and ctx.concurrency, and table.positions() >= the capacity. Throws what
  /// kv_cache::write throws.
  void run(const rope& table, kv_cache& cache, std::size_t layer, span2d<const float> q, span2d<const float> k,
           span2d<const float> v, span2d<float> out, const context& ctx) {
    const std::size_t M = q.rows, seen = cache.seen();
    // Until the cache is full a token's place is its index, and all tokens can be stored before the first one looks.
    const std::size_t room = cache.capacity() - std::min(seen, cache.capacity());
    const std::size_t together = std::min(M, room);
    for (std::size_t m = 0; m < together; ++m) cache.write(layer, seen + m, row(k, m), row(v, m));
    const std::size_t tiles = ceil_div(together, tile_tokens_);
    core::for_each_item(ctx, tiles * n_kv_heads_, [&](std::size_t item, std::size_t slot) {
      const std::size_t first = item / n_kv_heads_ * tile_tokens_, count = std::min(tile_tokens_, together - first);
      tile(table, cache, layer, item % n_kv_heads_, seen + first + count, rows_of(q, first, count),
           rows_of(out, first, count), slot);
    });
    // Then each token first takes the place of the oldest one after the sink, which moves all others.
    for (std::size_t m = together; m < M; ++m) {
      cache.write(layer, seen + m, row(k, m), row(v, m));
      core::for_each_item(ctx, n_kv_heads_, [&](std::size_t head, std::size_t slot) {
        tile(table, cache, layer, head, seen + m + 1, rows_of(q, m, 1), rows_of(out, m, 1), slot);
      });
    }
  }

 private:
  static constexpr std::size_t value_block = 32;

  /// Offsets in floats of one thread's scratch memory.
  struct plan {
    std::size_t q_stride, score_stride, head_panels;
    std::size_t queries, scores, rotated, keys, values, acc, sums, total;
  };
  plan layout(std::size_t capacity) const noexcept {
    const std::size_t rows = tile_tokens_ * group_;
    plan p{};
    std::size_t at = 0;
    const auto place = [&at](std::size_t floats) { return std::exchange(at, at + round_up(floats, std::size_t{16})); };
    p.q_stride = padded_columns(head_dim_);
    p.score_stride = round_up(capacity, value_block);
    p.head_panels = ceil_div(head_dim_, panel_columns);
    p.queries = place(rows * p.q_stride);
    p.scores = place(rows * p.score_stride);
    p.rotated = place(p.head_panels * panel_columns * panel_columns);
    p.keys = place(head_dim_ * panel_columns);
    p.values = place(p.head_panels * value_block * panel_columns);
    p.acc = place(rows * panel_columns);
    p.sums = place(p.head_panels * rows * panel_columns);
    p.total = at;
    return p;
  }

  /// The query heads of one key/value head for consecutive tokens, the last of which is token number seen - 1 and sees
  /// every place. More than one token only while the cache is not full.
  void tile(const rope& table, const kv_cache& cache, std::size_t layer, std::size_t kv_head, std::size_t seen,
            span2d<const float> q, span2d<float> out, std::size_t slot) noexcept {
    const plan p = layout(capacity_);
    float* const base = scratch_.data() + slot * p.total;
    const std::size_t tokens = q.rows, rows = tokens * group_, places = cache.places(seen);
    // Row r holds head r % group of token r / group, which sees the places [0, visible(r)).
    const auto visible = [&](std::size_t r) { return places - (tokens - 1) + r / group_; };

    for (std::size_t r = 0; r < rows; ++r) {
      float* const query = base + p.queries + r * p.q_stride;
      std::copy_n(row(q, r / group_) + (kv_head * group_ + r % group_) * head_dim_, head_dim_, query);
      std::fill(query + head_dim_, query + p.q_stride, 0.0f);
      table.rotate(query, visible(r) - 1);
    }

    float* const keys = base + p.keys;
    float* const acc = base + p.acc;
    for (std::size_t first = 0; first < places; first += panel_columns) {
      const std::size_t count = std::min(panel_columns, places - first);
      if (count < panel_columns) std::fill_n(base + p.rotated, panel_columns * head_dim_, 0.0f);
      for (std::size_t j = 0; j < count; ++j) {
        float* const key = base + p.rotated + j * head_dim_;
        cache.read_key(layer, kv_head, seen, first + j, key);
        table.rotate(key, first + j);
      }
      kernels::panel_of_rows<Isa>::run(base + p.rotated, head_dim_, head_dim_, keys);
      std::fill_n(acc, rows * panel_columns, 0.0f);
      panel_product<Isa>(base + p.queries, p.q_stride, rows, head_dim_, keys, acc);
      for (std::size_t r = 0; r < rows; ++r)
        std::copy_n(acc + r * panel_columns, count, base + p.scores + r * p.score_stride + first);
    }

    for (std::size_t r = 0; r < rows; ++r) acc[r] = softmax(base + p.scores + r * p.score_stride, visible(r));

    std::fill(base + p.rotated + head_dim_, base + p.rotated + p.head_panels * panel_columns, 0.0f);
    float* const sums = base + p.sums;
    std::fill_n(sums, p.head_panels * rows * panel_columns, 0.0f);
    for (std::size_t first = 0; first < places; first += value_block) {
      const std::size_t count = std::min(value_block, places - first);
      for (std::size_t j = 0; j < count; ++j) {
        float* const value = base + p.rotated;  // zero from head_dim to a whole panel
        cache.read_value(layer, kv_head, seen, first + j, value);
        for (std::size_t h = 0; h < p.head_panels; ++h)
          std::memcpy(base + p.values + (h * value_block + j) * panel_columns, value + h * panel_columns,
                      panel_columns * sizeof(float));
      }
      // Rows that see the whole block go through the kernel; those that end inside it one by one, in the same order.
      std::size_t r = 0;
      for (; r < rows && visible(r) < first + value_block; ++r)
        if (visible(r) > first) partial_block(base, p, r, rows, first, visible(r) - first);
      for (std::size_t h = 0; r < rows && h < p.head_panels; ++h)
        panel_product<Isa>(base + p.scores + r * p.score_stride + first, p.score_stride, rows - r, value_block,
                           base + p.values + h * value_block * panel_columns, sums + (h * rows + r) * panel_columns);
    }

    for (std::size_t r = 0; r < rows; ++r) {
      float* const to = row(out, r / group_) + (kv_head * group_ + r % group_) * head_dim_;
      for (std::size_t d = 0; d < head_dim_; ++d)
        to[d] = sums[(d / panel_columns * rows + r) * panel_columns + d % panel_columns] * acc[r];
    }
  }

  /// sums of row r += the first `count` places of the value block.
  static void partial_block(float* base, const plan& p, std::size_t r, std::size_t rows, std::size_t first,
                            std::size_t count) noexcept {
    const float* const e = base + p.scores + r * p.score_stride + first;
    for (std::size_t h = 0; h < p.head_panels; ++h) {
      const float* const values = base + p.values + h * value_block * panel_columns;
      float block[panel_columns] = {};
      for (std::size_t j = 0; j < count; ++j)
        for (std::size_t c = 0; c < panel_columns; ++c)
          block[c] = multiply_add(e[j], values[j * panel_columns + c], block[c]);
      float* const sum = base + p.sums + (h * rows + r) * panel_columns;
      for (std::size_t c = 0; c < panel_columns; ++c) sum[c] += block[c];
    }
  }

  /// s[j] becomes e[j], j in [0, count); returns 1 / sum of e. With a score that is NaN or +infinity it is NaN.
  float softmax(float* s, std::size_t count) const noexcept {
    // In lanes: a maximum has no order, and each comparison leaves NaN aside as one chain would.
    constexpr std::size_t lanes = 16;
    float most[lanes];
    std::fill_n(most, lanes, -std::numeric_limits<float>::infinity());
    const std::size_t whole = count - count % lanes;
    for (std::size_t j = 0; j < whole; j += lanes)
      for (std::size_t i = 0; i < lanes; ++i) most[i] = s[j + i] > most[i] ? s[j + i] : most[i];
    for (std::size_t j = whole; j < count; ++j) most[0] = s[j] > most[0] ? s[j] : most[0];
    const float largest = *std::max_element(most, most + lanes);
    kernels::activation<Isa>::exp_scaled(s, count, largest, scale_);
    quant::block_sum sum;
    sum.add(s, count, [](float e) { return static_cast<double>(e); });
    return static_cast<float>(1.0 / sum.total());
  }

  std::size_t head_dim_, n_kv_heads_, group_, tile_tokens_;
  float scale_;
  std::size_t capacity_ = 0;
  aligned_vector<float> scratch_;
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
