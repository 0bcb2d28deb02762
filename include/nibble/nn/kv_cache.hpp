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
/// Memory: codes of keys in panels of 16 slots, [layer][kv head][slot / 16][head_dim][slot % 16], codes of values in blocks of
/// 32, [layer][kv head][slot / 32][head_dim / 16][slot % 32][16], as kernels/attention.hpp wants them; for int8 also (scale,
/// zero) [layer][kv head][slot] of both. Slots are rounded up to whole blocks, values to whole rows of 16. All of it is
/// allocated by the constructor. Slot = token while the cache is not full; then the tokens after the sink take the window's
/// slots in turn.
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
    slots_ = round_up(capacity_, value_slots);
    if (slots_ > std::numeric_limits<std::size_t>::max() / vectors / (padded_dim() * 8))
      core::fail(errc::bad_shape, "kv_cache: ", layers_, " layers, ", heads_, " heads, ", capacity_,
                 " tokens overflow memory");
    vectors *= slots_;
    planes_[0].codes.resize(vectors * head_dim_ * code_bytes(kind_));
    planes_[1].codes.resize(vectors * padded_dim() * code_bytes(kind_));
    for (plane& p : planes_) {
      if (kind_ != kv_kind::int8) continue;
      p.scales.resize(vectors);
      p.zeros.resize(vectors);
    }
    vector_.resize(head_dim_ * code_bytes(kind_));
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
  /// Bytes of codes and scales of `capacity()` tokens; the memory has room for a multiple of 32 of them, values of 16 columns.
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
      switch (code_bytes(kind_)) {
        case 4: store<float>(layer, h, slot, k, v); break;
        case 2: store<half>(layer, h, slot, k, v); break;
        default: store<std::uint8_t>(layer, h, slot, k, v); break;
      }
    }
  }
  /// Reads the key in `place` (before RoPE) when `seen` tokens were written to the layer; out[head_dim].
  void read_key(std::size_t layer, std::size_t head, std::size_t seen, std::size_t place, float* out) const noexcept {
    load_key(layer, head, slot_of_place(seen, place), out);
  }
  void read_value(std::size_t layer, std::size_t head, std::size_t seen, std::size_t place, float* out) const noexcept {
    const std::size_t slot = slot_of_place(seen, place);
    for (std::size_t d = 0; d < head_dim_; d += value_columns) {
      const std::byte* const from = stored_value(layer, head, slot) + d * value_slots * code_bytes(kind_);
      const auto* const codes = reinterpret_cast<const std::uint8_t*>(from);
      const std::span<float> to{out + d, std::min(value_columns, head_dim_ - d)};
      switch (kind_) {
        case kv_kind::f32: std::memcpy(to.data(), from, to.size_bytes()); break;
        case kv_kind::f16:
          kernels::load_cached<isa::native>::halves(reinterpret_cast<const half*>(from), to.size(), to.data());
          break;
        case kv_kind::int8:
          decode_kv_online(codes, online_params(planes_[1], vector_index(layer, head, slot)), to);
          break;
        case kv_kind::int8_static: decode_kv_static(codes, static_params(planes_[1], layer), to); break;
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
  /// The scores of the keys in slots [16 * panel, 16 * panel + 16). `call` lacks K and the code that is wanted next: the
  /// panel `next_panel` of `next_head`, when there is one. Scores of slots without a token have no meaning.
  template <class Isa>
  void score_key_panel(kernels::score_call call, std::size_t layer, std::size_t head, std::size_t panel,
                       std::size_t next_head, std::size_t next_panel) const noexcept {
    using score = kernels::score_keys<Isa>;
    const plane& p = planes_[0];
    const std::size_t vector = vector_index(layer, head, panel * panel_slots);
    const std::byte* const from = key_panel(layer, head, panel * panel_slots);
    const auto* const codes = reinterpret_cast<const std::uint8_t*>(from);
    call.K = head_dim_;
    if (next_panel * panel_slots < slots_) {
      call.ahead = key_panel(layer, next_head, next_panel * panel_slots);
      prefetch_scales(p, vector_index(layer, next_head, next_panel * panel_slots), panel_slots);
    }
    switch (kind_) {
      case kv_kind::f32: return score::floats(call, reinterpret_cast<const float*>(from));
      case kv_kind::f16: return score::halves(call, reinterpret_cast<const half*>(from));
      case kv_kind::int8: return score::columns(call, codes, p.scales.data() + vector, p.zeros.data() + vector);
      case kv_kind::int8_static: {
        const kv_static_params fixed = static_params(p, layer);
        return score::bytes(call, codes, 128, fixed.scale, fixed.zero_point);
      }
    }
  }

  /// Where the values in places [first, first + count) begin, as kernels::weigh_rows wants them: rows[count]. Code is float,
  /// half or std::uint8_t, as kind() says.
  template <class Code>
  void value_rows(std::size_t layer, std::size_t head, std::size_t seen, std::size_t first, std::size_t count,
                  const Code** rows) const noexcept {
    NIBBLE_ASSERT(sizeof(Code) == code_bytes(kind_));
    for (std::size_t i = 0; i < count;) {
      const std::size_t slot = slot_of_place(seen, first + i);
      const auto* const from = reinterpret_cast<const Code*>(stored_value(layer, head, slot));
      const std::size_t run = std::min({count - i, run_of_place(seen, first + i), value_slots - slot % value_slots});
      for (std::size_t j = 0; j < run; ++j) rows[i + j] = from + j * value_columns;
      i += run;
    }
  }
  /// int8: scales[count] and zeros[count] of these values.
  void value_scales(std::size_t layer, std::size_t head, std::size_t seen, std::size_t first, std::size_t count,
                    float* scales, float* zeros) const noexcept {
    for (std::size_t i = 0; i < count;) {
      const std::size_t vector = vector_index(layer, head, slot_of_place(seen, first + i));
      const std::size_t run = std::min(count - i, run_of_place(seen, first + i));
      std::copy_n(planes_[1].scales.data() + vector, run, scales + i);
      std::copy_n(planes_[1].zeros.data() + vector, run, zeros + i);
      i += run;
    }
  }
  /// int8_static: what a layer's values are, code * scale + zero_point with code = byte - 128.
  kv_static_params value_params(std::size_t layer) const noexcept { return static_params(planes_[1], layer); }
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

  static constexpr std::size_t value_slots = kernels::value_slots, value_columns = 16;
  /// Columns of a stored value.
  std::size_t padded_dim() const noexcept { return round_up(head_dim_, value_columns); }
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
  /// Places from this one on whose slots follow each other.
  std::size_t run_of_place(std::size_t seen, std::size_t place) const noexcept {
    if (seen <= capacity_) return seen - place;
    return place < options_.sink ? options_.sink - place : capacity_ - slot_of_place(seen, place);
  }
  std::size_t vector_index(std::size_t layer, std::size_t head, std::size_t slot) const noexcept {
    return (layer * heads_ + head) * slots_ + slot;
  }
  /// The panel of a slot's key.
  const std::byte* key_panel(std::size_t layer, std::size_t head, std::size_t slot) const noexcept {
    const std::size_t panel = slot - slot % panel_slots;
    return planes_[0].codes.data() + vector_index(layer, head, panel) * head_dim_ * code_bytes(kind_);
  }
  /// The first row of 16 of a slot's value.
  const std::byte* stored_value(std::size_t layer, std::size_t head, std::size_t slot) const noexcept {
    const std::size_t in_block = slot % value_slots;
    const std::size_t at = vector_index(layer, head, slot - in_block) * padded_dim() + in_block * value_columns;
    return planes_[1].codes.data() + at * code_bytes(kind_);
  }
  void prefetch_scales(const plane& p, std::size_t vector, std::size_t count) const noexcept {
    if (kind_ != kv_kind::int8) return;
    for (std::size_t i = 0; i < count; i += 64 / sizeof(float)) {
      __builtin_prefetch(p.scales.data() + vector + i);
      __builtin_prefetch(p.zeros.data() + vector + i);
    }
  }
  /// Stores one head's key and value.
  template <class Code>
  void store(std::size_t layer, std::size_t head, std::size_t slot, const float* k, const float* v) {
    const auto* const codes = reinterpret_cast<const Code*>(vector_.data());
    encode(planes_[0], layer, head, slot, k + head * head_dim_, vector_.data());
    auto* key = reinterpret_cast<Code*>(const_cast<std::byte*>(key_panel(layer, head, slot))) + slot % panel_slots;
    for (std::size_t d = 0; d < head_dim_; ++d) key[d * panel_slots] = codes[d];
    encode(planes_[1], layer, head, slot, v + head * head_dim_, vector_.data());
    auto* value = reinterpret_cast<Code*>(const_cast<std::byte*>(stored_value(layer, head, slot)));
    for (std::size_t d = 0; d < head_dim_; d += value_columns)
      std::copy_n(codes + d, std::min(value_columns, head_dim_ - d), value + d * value_slots);
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
    const std::byte* const from = key_panel(layer, head, slot);
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
  std::size_t slots_ = 0;  // capacity_, rounded up to whole blocks of values
  std::size_t seen_ = 0;
  std::array<plane, 2> planes_;       // keys, values
  aligned_vector<std::byte> vector_;  // the key or value that is being written
};

}  // namespace nn
}  // namespace NIBBLE_ABI
}  // namespace nibble
