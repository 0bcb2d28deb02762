// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Causal grouped-query attention of new tokens over a KV cache.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/isa/tags.hpp>
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
/// Every sum has one order: dot over pairs ascending, both of a pair after each other, then over what does not rotate; the
/// sum of e in 32 lanes of j, in double; the values in blocks of 32 places (j / 32), one chain within a block, block sums
/// added ascending. The values of the 8-bit forms are code * scale + zero: e[j] * scale weighs codes, and the sum of e[j] *
/// zero, in 32 lanes, is added at the end; int8_static, with one scale and one zero, applies both at the end. So a token's
/// result depends on the cache's contents only, not on the tokens it is computed together with. Places after p are never
/// touched by a token's sums: a NaN there stays there.
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
    const plan p = layout(capacity_);
    const std::size_t floats = p.shared + p.total * slots;
    if (floats > scratch_.size()) scratch_.assign(floats, 0.0f);
  }

  /// Appends k, v [M, n_kv_heads * head_dim] to `layer` of the cache as tokens seen, seen + 1, ... and computes
  /// out[M, n_heads * head_dim] from q of the same shape; q and k are not yet rotated. The cache is not advanced.
  /// Needs reserve() for the cache's capacity and ctx.concurrency, and table.positions() >= the capacity. Throws what
  /// kv_cache::write throws.
  void run(const rope& table, kv_cache& cache, std::size_t layer, span2d<const float> q, span2d<const float> k,
           span2d<const float> v, span2d<float> out, const context& ctx);

 private:
  static constexpr std::size_t value_block = kernels::value_slots;
  static constexpr std::size_t few_rows = 12;    // above them values become floats once, not in each tile of rows
  static constexpr std::size_t item_panels = 8;  // of keys in an item of one_token: enough work to hand out
  static_assert(panel_columns == kv_cache::panel_slots);

  /// What the tokens of a call see.
  struct view {
    const rope& table;
    const kv_cache& cache;
    std::size_t layer, seen;

    std::size_t places() const noexcept { return cache.places(seen); }
    /// Whether slots are places, as until the cache is full.
    bool in_order() const noexcept { return seen <= cache.capacity(); }
  };

  /// Offsets in floats: of what all threads share, for one token and all heads, and of one thread's own memory.
  struct plan {
    std::size_t q_stride, score_stride;
    std::size_t shared_scores, shared;
    std::size_t queries, scores, angles, cosines, sines, panel, values, params, sums, lanes, inverse, total;
  };
  plan layout(std::size_t capacity) const noexcept {
    const std::size_t heads = n_kv_heads_ * group_, rows = tile_tokens_ * group_;
    plan p{};
    p.q_stride = round_up(head_dim_, std::size_t{16});
    p.score_stride = round_up(capacity, value_block);
    p.shared_scores = heads * p.q_stride;
    p.shared = p.shared_scores + heads * p.score_stride;
    std::size_t at = 0;
    const auto place = [&at](std::size_t floats) { return std::exchange(at, at + round_up(floats, std::size_t{16})); };
    p.queries = place(rows * p.q_stride);
    p.scores = place(rows * p.score_stride);
    p.angles = place(item_panels * panel_columns * head_dim_);
    p.cosines = place(head_dim_ / 2);
    p.sines = place(head_dim_ / 2);
    p.panel = place(panel_columns * head_dim_);
    p.values = place(value_block * p.q_stride);
    p.params = place(2 * value_block);
    p.sums = place(rows * p.q_stride);
    p.lanes = place(rows * value_block);
    p.inverse = place(rows);
    p.total = at;
    return p;
  }
  float* own(const plan& p, std::size_t slot) noexcept { return scratch_.data() + p.shared + slot * p.total; }

  /// One token, which sees every place. All heads of some places at once: they share the cosines and sines of a position,
  /// and their keys are as many streams from memory. Then head by head.
  void one_token(const view& at, span2d<const float> q, span2d<float> out, const context& ctx) {
    const plan p = layout(capacity_);
    const std::size_t places = at.places();
    float* const queries = scratch_.data();
    float* const scores = queries + p.shared_scores;
    rotate_queries(at, 0, n_kv_heads_, q, queries, p.q_stride, own(p, 0));
    const std::size_t panels = ceil_div(places, panel_columns);
    core::for_each_item(ctx, ceil_div(panels, item_panels), [&](std::size_t item, std::size_t slot) {
      float* const work = own(p, slot);
      const std::size_t begin = item * item_panels, end = std::min(panels, begin + item_panels);
      const float* angles[item_panels];
      for (std::size_t panel = begin; panel < end; ++panel)
        angles[panel - begin] = angles_of(at, panel, work + p.angles + (panel - begin) * at.table.panel_angles());
      // Head by head: the panels of a head are one stream from memory.
      for (std::size_t head = 0; head < n_kv_heads_; ++head) {
        for (std::size_t panel = begin; panel < end; ++panel) {
          const bool last = panel + 1 == end, last_head = head + 1 == n_kv_heads_;
          score_panel(at, p, angles[panel - begin], head, panel, group_, queries + head * group_ * p.q_stride,
                      scores + head * group_ * p.score_stride, work, last ? (last_head ? 0 : head + 1) : head,
                      last && !last_head ? begin : panel + 1);
        }
      }
    });
    core::for_each_item(ctx, n_kv_heads_, [&](std::size_t head, std::size_t slot) {
      weigh_values(at, p, head, scores + head * group_ * p.score_stride, out, own(p, slot));
    });
  }

  /// The query heads of one key/value head for consecutive tokens, the last of which is token number seen - 1 and sees
  /// every place. More than one token only while the cache is not full.
  void tile(const view& at, std::size_t head, span2d<const float> q, span2d<float> out, std::size_t slot) noexcept {
    const plan p = layout(capacity_);
    float* const work = own(p, slot);
    rotate_queries(at, head, 1, q, work + p.queries, p.q_stride, work);
    for (std::size_t panel = 0; panel * panel_columns < at.places(); ++panel)
      score_panel(at, p, angles_of(at, panel, work + p.angles), head, panel, q.rows * group_, work + p.queries,
                  work + p.scores, work, head, panel + 1);
    weigh_values(at, p, head, work + p.scores, out, work);
  }

  /// Row r holds head r % group of token r / group, which sees the places [0, visible(r)).
  std::size_t visible(const view& at, std::size_t tokens, std::size_t r) const noexcept {
    return at.places() - (tokens - 1) + r / group_;
  }

  /// The query heads of `heads` key/value heads, token by token.
  void rotate_queries(const view& at, std::size_t first_head, std::size_t heads, span2d<const float> q, float* queries,
                      std::size_t stride, float* work) const noexcept {
    const plan p = layout(capacity_);
    float *const cosines = work + p.cosines, *const sines = work + p.sines;
    for (std::size_t t = 0; t < q.rows; ++t) {
      at.table.copy(visible(at, q.rows, t * group_) - 1, cosines, sines);
      const float* from = row(q, t) + first_head * group_ * head_dim_;
      for (std::size_t h = 0; h < heads * group_; ++h, from += head_dim_, queries += stride) {
        std::copy_n(from, head_dim_, queries);
        kernels::rotate_pairs<Isa>::run(queries, at.table.pairs(), cosines, sines);
      }
    }
  }

  /// The angles of the positions of a panel's keys, in the form of rope::panel: those of the table, or copied to `room`.
  const float* angles_of(const view& at, std::size_t panel, float* room) const noexcept {
    if (at.in_order()) return at.table.panel(panel);
    const std::size_t first = panel * panel_columns;
    for (std::size_t j = 0; j < std::min(panel_columns, at.places() - first); ++j)
      at.table.copy_column(at.cache.place_of_slot(at.seen, first + j), room + j);
    return room;
  }

  /// The scores of a panel of keys for `rows` queries of a head. The next panel is asked for meanwhile.
  void score_panel(const view& at, const plan& p, const float* angles, std::size_t head, std::size_t panel,
                   std::size_t rows, const float* queries, float* scores, float* work, std::size_t next_head,
                   std::size_t next_panel) const noexcept {
    const std::size_t first = panel * panel_columns;
    const bool in_order = at.in_order();
    kernels::score_call call;
    call.pairs = at.table.pairs();
    call.angles = angles;
    call.queries = queries;
    call.query_stride = p.q_stride;
    call.M = rows;
    call.scores = in_order ? scores + first : work + p.sums;
    call.score_stride = in_order ? p.score_stride : panel_columns;
    call.work = work + p.panel;
    at.cache.template score_key_panel<Isa>(call, at.layer, head, panel, next_head, next_panel);
    if (in_order) return;
    for (std::size_t j = 0; j < panel_columns && first + j < at.places(); ++j) {
      const std::size_t place = at.cache.place_of_slot(at.seen, first + j);
      for (std::size_t r = 0; r < rows; ++r)
        scores[r * p.score_stride + place] = call.scores[r * call.score_stride + j];
    }
  }

  /// Softmax over the scores of a head's queries, and the values weighed by it.
  void weigh_values(const view& at, const plan& p, std::size_t head, float* scores, span2d<float> out,
                    float* work) const noexcept {
    const std::size_t rows = out.rows * group_, places = at.places();
    const kv_kind kind = at.cache.kind();
    float *const inverse = work + p.inverse, *const sums = work + p.sums, *const lanes = work + p.lanes;
    for (std::size_t r = 0; r < rows; ++r) inverse[r] = softmax(scores + r * p.score_stride, visible(at, out.rows, r));
    std::fill_n(sums, rows * p.q_stride, 0.0f);
    std::fill_n(lanes, rows * value_block, 0.0f);
    for (std::size_t first = 0; first < places; first += value_block) {
      const std::size_t count = std::min(value_block, places - first);
      // Rows of tokens that end inside the block see a part of it.
      const auto seen = [&](std::size_t r) {
        const std::size_t end = visible(at, out.rows, r);
        return end <= first ? 0 : std::min(count, end - first);
      };
      if (kind == kv_kind::int8) {
        float *const scales = work + p.params, *const zeros = scales + value_block;
        at.cache.value_scales(at.layer, head, at.seen, first, count, scales, zeros);
        for (std::size_t r = 0; r < rows; ++r)
          kernels::scale_weights<Isa>::run(scores + r * p.score_stride + first, seen(r), scales, zeros,
                                           lanes + r * value_block);
      }
      const auto weigh = [&](const auto* const* values) {
        const auto add = [&](std::size_t r, std::size_t some_rows, std::size_t some_places) {
          kernels::weigh_rows<Isa>::run(scores + r * p.score_stride + first, p.score_stride, some_rows, values,
                                        some_places, p.q_stride, sums + r * p.q_stride, p.q_stride);
        };
        std::size_t r = 0;
        for (; r < rows && seen(r) < count; r += group_)
          if (seen(r) > 0) add(r, group_, seen(r));
        if (r < rows) add(r, rows - r, count);
      };
      const float* floats[value_block];
      const auto convert = [&](const auto* const* values, const auto& to_floats) {
        for (std::size_t j = 0; j < count; ++j) {
          float* const to = work + p.values + j * panel_columns;
          for (std::size_t c = 0; c < p.q_stride * value_block; c += panel_columns * value_block)
            to_floats(values[j] + c, to + c);
          floats[j] = to;
        }
        weigh(floats);
      };
      const bool once = rows > few_rows;
      switch (kind) {
        case kv_kind::f32:
          at.cache.value_rows(at.layer, head, at.seen, first, count, floats);
          weigh(floats);
          break;
        case kv_kind::f16: {
          const half* halves[value_block];
          at.cache.value_rows(at.layer, head, at.seen, first, count, halves);
          if (!once) weigh(halves);
          else convert(halves, [](const half* h, float* x) { kernels::load_cached<Isa>::halves(h, panel_columns, x); });
          break;
        }
        case kv_kind::int8:
        case kv_kind::int8_static: {
          const std::uint8_t* codes[value_block];
          at.cache.value_rows(at.layer, head, at.seen, first, count, codes);
          if (!once) weigh(codes);
          else
            convert(codes, [](const std::uint8_t* u, float* x) {
              kernels::load_cached<Isa>::bytes(u, panel_columns, 0, 1.0f, 0.0f, x);
            });
          break;
        }
      }
    }
    for (std::size_t r = 0; r < rows; ++r) {
      float* const to = row(out, r / group_) + (head * group_ + r % group_) * head_dim_;
      const float* const from = sums + r * p.q_stride;
      switch (kind) {
        case kv_kind::f32:
        case kv_kind::f16:
          for (std::size_t d = 0; d < head_dim_; ++d) to[d] = from[d] * inverse[r];
          break;
        case kv_kind::int8: {
          quant::block_sum zeros;
          zeros.add(lanes + r * value_block, value_block, [](float z) { return static_cast<double>(z); });
          const auto zero = static_cast<float>(zeros.total());
          for (std::size_t d = 0; d < head_dim_; ++d) to[d] = (from[d] + zero) * inverse[r];
          break;
        }
        case kv_kind::int8_static: {
          const kv_static_params fixed = at.cache.value_params(at.layer);
          // 128 times a float is exact: contracted or not, the difference is the same.
          const float zero = fixed.zero_point - 128.0f * fixed.scale;
          for (std::size_t d = 0; d < head_dim_; ++d) to[d] = multiply_add(from[d] * inverse[r], fixed.scale, zero);
          break;
        }
      }
    }
  }

  /// s[j] becomes e[j], j in [0, count); returns 1 / sum of e. With a score that is NaN or +infinity it is NaN.
  float softmax(float* s, std::size_t count) const noexcept {
    // In lanes: a maximum has no order, and each comparison leaves NaN aside as one chain would. 32 of them, because gcc
    // unrolls loops of up to 16 steps before it looks for vectors.
    constexpr std::size_t lanes = 32;
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

// Outside of the class, so that a unit can leave it to another one (NIBBLE_EXTERN_KERNELS, see nn/instantiate.hpp).
template <class Isa>
void attention<Isa>::run(const rope& table, kv_cache& cache, std::size_t layer, span2d<const float> q,
                         span2d<const float> k, span2d<const float> v, span2d<float> out, const context& ctx) {
  const std::size_t M = q.rows, seen = cache.seen();
  // Until the cache is full a token's place is its index, and all tokens can be stored before the first one looks.
  const std::size_t room = cache.capacity() - std::min(seen, cache.capacity());
  const std::size_t together = M == 1 ? 0 : std::min(M, room);
  for (std::size_t m = 0; m < together; ++m) cache.write(layer, seen + m, row(k, m), row(v, m));
  const std::size_t tiles = ceil_div(together, tile_tokens_);
  core::for_each_item(ctx, tiles * n_kv_heads_, [&](std::size_t item, std::size_t slot) {
    const std::size_t first = item / n_kv_heads_ * tile_tokens_, count = std::min(tile_tokens_, together - first);
    tile({table, cache, layer, seen + first + count}, item % n_kv_heads_, rows_of(q, first, count),
         rows_of(out, first, count), slot);
  });
  // A token alone; and once the cache is full each token first takes the place of the oldest one after the sink, which
  // moves all others.
  for (std::size_t m = together; m < M; ++m) {
    cache.write(layer, seen + m, row(k, m), row(v, m));
    one_token({table, cache, layer, seen + m + 1}, rows_of(q, m, 1), rows_of(out, m, 1), ctx);
  }
}

#if NIBBLE_EXTERN_KERNELS
extern template void attention<isa::native>::run(const rope&, kv_cache&, std::size_t, span2d<const float>,
                                                 span2d<const float>, span2d<const float>, span2d<float>,
                                                 const context&);
extern template void attention<isa::scalar>::run(const rope&, kv_cache&, std::size_t, span2d<const float>,
                                                 span2d<const float>, span2d<const float>, span2d<float>,
                                                 const context&);
#endif

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
