// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Keys and values of the tokens seen so far, in one of four storage forms, dense or with sink + window eviction.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/assert.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/nn/config.hpp>
#include <nibble/nn/kv_codec.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace nn {

enum class kv_kind : std::uint8_t {
  f32,
  f16,          ///< binary16, ties to even; beyond 65504 infinity
  int8,         ///< 8-bit codes, one scale and zero for each head and token (kv_codec.hpp, online form)
  int8_static,  ///< 8-bit codes, one scale and zero point for a layer's keys and one for its values (offline form)
};
inline constexpr std::array<std::string_view, 4> kv_kind_names{"f32", "f16", "int8", "int8_static"};

struct kv_cache_options {
  std::size_t capacity = 0;  ///< tokens a dense cache can hold; 0: the configuration's max_seq_len
  std::size_t sink = 0;      ///< with a window: the first tokens, kept for ever
  std::size_t window = 0;    ///< 0: dense. Else the newest `window` tokens are kept beside the sink
  std::vector<kv_static_scales> static_scales =
      {};  ///< int8_static: one for each layer, see kv_cache::fit_static_scales
};

/// The cache of one sequence. Keys are stored before RoPE: a token's position is its place in the cache, 0..size()-1, as
/// in StreamingLLM, so that eviction leaves no gap. Room for a new token is made before it is stored: a query sees at
/// most sink + window tokens, itself included, and no position reaches sink + window. Until then a cache with a window
/// is the dense cache, bit for bit. What is read back is always what was stored, also for the newest token.
///
/// Memory: codes of values [layer][kv head][slot][head_dim]; codes of keys in panels of 16 slots, [layer][kv head][slot /
/// 16][head_dim][slot % 16], as the kernels want them that compute the scores of 16 keys at once; for int8 also (scale,
/// zero) [layer][kv head][slot] of both. Slots are rounded up to whole panels. All of it is allocated by the constructor.
/// Slot = token while the cache is not full; then the tokens after the sink take the window's slots in turn.
class kv_cache {
 public:
  /// Throws bad_value when sink, window, capacity or static scales do not fit together.
  kv_cache(const model_config& c, kv_kind kind, kv_cache_options options = {})
      : kind_(kind), layers_(c.n_layers), heads_(c.n_kv_heads), head_dim_(c.head_dim), options_(std::move(options)) {
    check(c);
    const kv_cache_options& o = options_;
    constexpr std::size_t limit = std::size_t{1} << 32;
    if (o.window != 0 && o.capacity != 0)
      core::fail(errc::bad_value, "kv_cache: capacity ", o.capacity, " and window ", o.window,
                 "; a cache with a window holds sink + window tokens");
    if (o.window == 0 && o.sink != 0) core::fail(errc::bad_value, "kv_cache: sink ", o.sink, " without a window");
    if (o.capacity > limit || o.sink > limit || o.window > limit)
      core::fail(errc::bad_value, "kv_cache: capacity ", o.capacity, ", sink ", o.sink, ", window ", o.window,
                 "; at most ", limit);
    capacity_ = o.window != 0 ? o.sink + o.window : (o.capacity != 0 ? o.capacity : c.max_seq_len);
    if ((kind_ == kv_kind::int8_static) != !o.static_scales.empty())
      core::fail(errc::bad_value, "kv_cache: ", o.static_scales.size(), " static scales with kind ",
                 kv_kind_names[static_cast<std::size_t>(kind_)]);
    if (!o.static_scales.empty() && o.static_scales.size() != layers_)
      core::fail(errc::bad_value, "kv_cache: ", o.static_scales.size(), " static scales for ", layers_, " layers");
    for (const kv_static_scales& s : o.static_scales)
      for (const kv_static_params& p : {s.k, s.v})
        if (!(p.scale >= 0.0f) || !is_finite(p.scale) || !is_finite(p.zero_point))
          core::fail(errc::bad_value, "kv_cache: static scale ", p.scale, ", zero point ", p.zero_point);
    // The factors are at most 2^28, 2^28, 2^33 and 2^30: each product is checked.
    std::size_t vectors = layers_ * heads_;
    slots_ = round_up(capacity_, panel_slots);
    if (slots_ > std::numeric_limits<std::size_t>::max() / vectors / (head_dim_ * 8))
      core::fail(errc::bad_shape, "kv_cache: ", layers_, " layers, ", heads_, " heads, ", capacity_,
                 " tokens overflow memory");
    vectors *= slots_;
    for (plane& p : planes_) {
      p.codes.resize(vectors * stored_bytes());
      if (kind_ != kv_kind::int8) continue;
      p.scales.resize(vectors);
      p.zeros.resize(vectors);
    }
    key_.resize(stored_bytes());
  }

  kv_kind kind() const noexcept { return kind_; }
  std::size_t n_layers() const noexcept { return layers_; }
  std::size_t n_kv_heads() const noexcept { return heads_; }
  std::size_t head_dim() const noexcept { return head_dim_; }
  std::size_t sink() const noexcept { return options_.sink; }
  std::size_t window() const noexcept { return options_.window; }
  /// Tokens held at most; also a bound for every position.
  std::size_t capacity() const noexcept { return capacity_; }
  /// Tokens ever taken in.
  std::size_t seen() const noexcept { return seen_; }
  /// Tokens held.
  std::size_t size() const noexcept { return places(seen_); }
  /// Bytes of codes and scales of `capacity()` tokens; the memory has room for a multiple of 16 of them.
  std::size_t bytes() const noexcept {
    return layers_ * capacity_ * bytes_per_token_and_layer(heads_, head_dim_, kind_);
  }
  /// Bytes that one token takes in one layer: 2 * n_kv_heads * (head_dim * bytes of a code, and 8 with int8).
  static constexpr std::size_t bytes_per_token_and_layer(std::size_t n_kv_heads, std::size_t head_dim,
                                                         kv_kind kind) noexcept {
    return 2 * n_kv_heads * (head_dim * code_bytes(kind) + (kind == kv_kind::int8 ? sizeof(kv_online_params) : 0));
  }

  /// Forgets all tokens; keeps the memory.
  void clear() noexcept { seen_ = 0; }

  /// Throws bad_shape when the cache cannot take n more tokens. With a window it always can.
  void check_room(std::size_t n) const {
    if (options_.window == 0 && n > capacity_ - seen_)
      core::fail(errc::bad_shape, "kv_cache: ", n, " more tokens, ", seen_, " held, capacity ", capacity_,
                 "; give it a larger capacity or a window");
  }

  // What a forward pass uses: it writes each layer's vectors of the new tokens, reads all back, and advances at the end.

  /// Places that are filled once `seen` tokens were taken in.
  std::size_t places(std::size_t seen) const noexcept { return std::min(seen, capacity_); }
  /// Stores k and v [n_kv_heads * head_dim] of token number `index` in `layer`. Throws bad_value when int8_static would
  /// have to store a value that is not finite.
  void write(std::size_t layer, std::size_t index, const float* k, const float* v) {
    NIBBLE_ASSERT(layer < layers_);
    const std::size_t slot = slot_of_token(index);
    for (std::size_t h = 0; h < heads_; ++h) {
      encode(planes_[0], layer, h, slot, k + h * head_dim_, key_.data());
      std::byte* const panel = stored(planes_[0], layer, h, slot - slot % panel_slots);
      switch (code_bytes(kind_)) {
        case 4: scatter<float>(panel, slot % panel_slots); break;
        case 2: scatter<half>(panel, slot % panel_slots); break;
        default: scatter<std::uint8_t>(panel, slot % panel_slots); break;
      }
      encode(planes_[1], layer, h, slot, v + h * head_dim_, stored(planes_[1], layer, h, slot));
    }
  }
  /// Reads the key in `place` (before RoPE) when `seen` tokens were written to the layer; out[head_dim].
  void read_key(std::size_t layer, std::size_t head, std::size_t seen, std::size_t place, float* out) const noexcept {
    load_key(layer, head, slot_of_place(seen, place), out);
  }
  void read_value(std::size_t layer, std::size_t head, std::size_t seen, std::size_t place, float* out) const noexcept {
    read_values(layer, head, seen, place, 1, out);
  }
  /// The values in places [first, first + count); out[count][head_dim].
  void read_values(std::size_t layer, std::size_t head, std::size_t seen, std::size_t first, std::size_t count,
                   float* out) const noexcept {
    using cached = kernels::load_cached<isa::native>;
    const plane& p = planes_[1];
    for (std::size_t place = first; place < first + count; ++place, out += head_dim_) {
      const std::size_t slot = slot_of_place(seen, place);
      const std::byte* const from = stored(p, layer, head, slot);
      const auto* const codes = reinterpret_cast<const std::uint8_t*>(from);
      switch (kind_) {
        case kv_kind::f32: std::memcpy(out, from, head_dim_ * sizeof(float)); break;
        case kv_kind::f16: cached::halves(reinterpret_cast<const half*>(from), head_dim_, out); break;
        case kv_kind::int8: {
          const std::size_t vector = vector_index(layer, head, slot);
          cached::bytes(codes, head_dim_, 0, p.scales[vector], p.zeros[vector], out);
          break;
        }
        case kv_kind::int8_static: {
          const kv_static_params fixed = static_params(p, layer);
          cached::bytes(codes, head_dim_, 128, fixed.scale, fixed.zero_point, out);
          break;
        }
      }
    }
  }

  /// Slots of a panel of keys.
  static constexpr std::size_t panel_slots = 16;
  /// The place of the token in `slot` when `seen` tokens were written to the layer; slot < places(seen).
  std::size_t place_of_slot(std::size_t seen, std::size_t slot) const noexcept {
    NIBBLE_ASSERT(slot < places(seen));
    if (seen <= capacity_ || slot < options_.sink) return slot;
    const std::size_t oldest = (seen - capacity_) % options_.window;  // its slot after the sink
    const std::size_t after = slot - options_.sink;
    return options_.sink + (after >= oldest ? after - oldest : after + options_.window - oldest);
  }
  /// The keys in slots [16 * panel, 16 * panel + 16): x[d * 16 + j] of slot 16 * panel + j, rotated by `turn` with arrays
  /// of the same form, [pairs][16], and turn.half = 16 * pairs. Slots without a token give anything. `ahead` is asked for
  /// once for each pair.
  void read_key_panel(std::size_t layer, std::size_t head, std::size_t panel, const kernels::rotation& turn, float* x,
                      kernels::read_ahead ahead = {}) const noexcept {
    using cached = kernels::load_cached<isa::native>;
    const std::size_t slot = panel * panel_slots, n = panel_slots * head_dim_;
    const std::byte* const from = stored(planes_[0], layer, head, slot);
    const auto* const codes = reinterpret_cast<const std::uint8_t*>(from);
    switch (kind_) {
      case kv_kind::f32: cached::floats(reinterpret_cast<const float*>(from), n, x, turn, ahead); return;
      case kv_kind::f16: cached::halves(reinterpret_cast<const half*>(from), n, x, turn, ahead); return;
      case kv_kind::int8: {
        const std::size_t vector = vector_index(layer, head, slot);
        cached::columns(codes, n, planes_[0].scales.data() + vector, planes_[0].zeros.data() + vector, x, turn, ahead);
        return;
      }
      case kv_kind::int8_static: {
        const kv_static_params p = static_params(planes_[0], layer);
        cached::bytes(codes, n, 128, p.scale, p.zero_point, x, turn, ahead);
        return;
      }
    }
  }
  /// The values in places [first, first + count) as rows of head_dim floats where they lie; nullptr when they are stored
  /// in another form or not one after the other.
  const float* value_rows(std::size_t layer, std::size_t head, std::size_t seen, std::size_t first,
                          std::size_t count) const noexcept {
    const std::size_t slot = slot_of_place(seen, first);
    if (kind_ != kv_kind::f32 || slot_of_place(seen, first + count - 1) - slot != count - 1) return nullptr;
    return reinterpret_cast<const float*>(stored(planes_[1], layer, head, slot));
  }
  /// Where codes lie, for prefetches: of a panel of keys, and of the value in a place.
  const std::byte* stored_key_panel(std::size_t layer, std::size_t head, std::size_t panel) const noexcept {
    return stored(planes_[0], layer, head, panel * panel_slots);
  }
  const std::byte* stored_value(std::size_t layer, std::size_t head, std::size_t seen,
                                std::size_t place) const noexcept {
    return stored(planes_[1], layer, head, slot_of_place(seen, place));
  }
  /// Asks for what a panel of keys, or `count` values from a place on, need beside their codes.
  void prefetch_key_scales(std::size_t layer, std::size_t head, std::size_t panel) const noexcept {
    prefetch_scales(planes_[0], vector_index(layer, head, panel * panel_slots), panel_slots);
  }
  void prefetch_value_scales(std::size_t layer, std::size_t head, std::size_t seen, std::size_t place,
                             std::size_t count) const noexcept {
    prefetch_scales(planes_[1], vector_index(layer, head, slot_of_place(seen, place)), count);
  }
  /// Bytes of the codes of one head and token.
  std::size_t stored_bytes() const noexcept { return head_dim_ * code_bytes(kind_); }
  /// n tokens were written to every layer.
  void advance(std::size_t n) noexcept { seen_ += n; }

  /// One (scale, zero point) for all keys and one for all values of each layer, from the tokens held: asymmetric over
  /// [min, max] or symmetric over absmax. Meant for an f32 cache that took in text like the text to come. Throws
  /// bad_value when the cache is empty or holds a value that is not finite.
  std::vector<kv_static_scales> fit_static_scales(bool symmetric) const {
    if (seen_ == 0) core::fail(errc::bad_value, "kv_cache: fit_static_scales of an empty cache");
    std::vector<kv_static_scales> scales(layers_);
    aligned_vector<float> x(head_dim_);
    for (std::size_t layer = 0; layer < layers_; ++layer) {
      for (std::size_t p = 0; p < 2; ++p) {
        float low = std::numeric_limits<float>::infinity(), high = -low;
        for (std::size_t h = 0; h < heads_; ++h) {
          for (std::size_t place = 0; place < size(); ++place) {
            if (p == 0) read_key(layer, h, seen_, place, x.data());
            else read_value(layer, h, seen_, place, x.data());
            for (const float v : x) {
              if (!is_finite(v))
                core::fail(errc::bad_value, "kv_cache: fit_static_scales: layer ", layer, " holds ", v);
              low = std::min(low, v);
              high = std::max(high, v);
            }
          }
        }
        (p == 0 ? scales[layer].k : scales[layer].v) =
            symmetric ? fit_kv_symmetric(std::max(-low, high)) : fit_kv_asymmetric(low, high);
      }
    }
    return scales;
  }

 private:
  struct plane {
    aligned_vector<std::byte> codes;
    aligned_vector<float> scales, zeros;
  };

  static constexpr std::size_t code_bytes(kv_kind kind) noexcept {
    return kind == kv_kind::f32 ? 4 : (kind == kv_kind::f16 ? 2 : 1);
  }
  std::size_t slot_of_token(std::size_t index) const noexcept {
    return index < capacity_ ? index : options_.sink + (index - options_.sink) % options_.window;
  }
  /// Places after the sink hold the newest tokens in order.
  std::size_t slot_of_place(std::size_t seen, std::size_t place) const noexcept {
    NIBBLE_ASSERT(place < places(seen));
    return slot_of_token(seen <= capacity_ || place < options_.sink ? place : place + (seen - capacity_));
  }
  std::size_t vector_index(std::size_t layer, std::size_t head, std::size_t slot) const noexcept {
    return (layer * heads_ + head) * slots_ + slot;
  }
  /// The codes of a slot; of keys only those of a whole panel lie together.
  const std::byte* stored(const plane& p, std::size_t layer, std::size_t head, std::size_t slot) const noexcept {
    return p.codes.data() + vector_index(layer, head, slot) * stored_bytes();
  }
  std::byte* stored(plane& p, std::size_t layer, std::size_t head, std::size_t slot) noexcept {
    return p.codes.data() + vector_index(layer, head, slot) * stored_bytes();
  }
  void prefetch_scales(const plane& p, std::size_t vector, std::size_t count) const noexcept {
    if (kind_ != kv_kind::int8) return;
    for (std::size_t i = 0; i < count; i += 64 / sizeof(float)) {
      __builtin_prefetch(p.scales.data() + vector + i);
      __builtin_prefetch(p.zeros.data() + vector + i);
    }
  }
  /// key_ becomes column j of a panel.
  template <class Code>
  void scatter(std::byte* panel, std::size_t j) noexcept {
    const auto* const from = reinterpret_cast<const Code*>(key_.data());
    auto* const to = reinterpret_cast<Code*>(panel) + j;
    for (std::size_t d = 0; d < head_dim_; ++d) to[d * panel_slots] = from[d];
  }
  kv_static_params static_params(const plane& p, std::size_t layer) const noexcept {
    const kv_static_scales& s = options_.static_scales[layer];
    return &p == &planes_[0] ? s.k : s.v;
  }
  void encode(plane& p, std::size_t layer, std::size_t head, std::size_t slot, const float* x, std::byte* to) {
    switch (kind_) {
      case kv_kind::f32: std::memcpy(to, x, head_dim_ * sizeof(float)); return;
      case kv_kind::f16: kernels::store_cached<isa::native>::halves(x, head_dim_, reinterpret_cast<half*>(to)); return;
      case kv_kind::int8: {
        const kv_online_params made = encode_kv_online({x, head_dim_}, reinterpret_cast<std::uint8_t*>(to));
        p.scales[vector_index(layer, head, slot)] = made.scale;
        p.zeros[vector_index(layer, head, slot)] = made.zero;
        return;
      }
      case kv_kind::int8_static:
        for (std::size_t i = 0; i < head_dim_; ++i)
          if (!is_finite(x[i]))
            core::fail(errc::bad_value, "kv_cache: ", &p == &planes_[0] ? "key" : "value", " of layer ", layer,
                       ", head ", head, " is ", x[i], "; int8_static stores finite values only");
        encode_kv_static({x, head_dim_}, static_params(p, layer), reinterpret_cast<std::uint8_t*>(to));
        return;
    }
  }
  kv_online_params online_params(const plane& p, std::size_t vector) const noexcept {
    return {p.scales[vector], p.zeros[vector]};
  }
  /// One column of a panel, value by value: for tests and statistics, not for attention.
  void load_key(std::size_t layer, std::size_t head, std::size_t slot, float* x) const noexcept {
    const std::size_t j = slot % panel_slots;
    const std::byte* const from = stored(planes_[0], layer, head, slot - j);
    for (std::size_t d = 0; d < head_dim_; ++d) {
      const std::size_t at = d * panel_slots + j;
      const auto* const code = reinterpret_cast<const std::uint8_t*>(from) + at;
      switch (kind_) {
        case kv_kind::f32: x[d] = reinterpret_cast<const float*>(from)[at]; break;
        case kv_kind::f16: x[d] = to_float(reinterpret_cast<const half*>(from)[at]); break;
        case kv_kind::int8:
          decode_kv_online(code, online_params(planes_[0], vector_index(layer, head, slot)), {x + d, 1});
          break;
        case kv_kind::int8_static: decode_kv_static(code, static_params(planes_[0], layer), {x + d, 1}); break;
      }
    }
  }

  kv_kind kind_;
  std::size_t layers_, heads_, head_dim_;
  kv_cache_options options_;
  std::size_t capacity_ = 0;
  std::size_t slots_ = 0;  // capacity_, rounded up to whole panels
  std::size_t seen_ = 0;
  std::array<plane, 2> planes_;    // keys, values
  aligned_vector<std::byte> key_;  // the key that is being written
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
