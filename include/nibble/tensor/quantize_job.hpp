// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// How a matrix of floats is quantized: options, what becomes of values that are not finite, and the one run of fitting and
/// encoding over all groups, in parallel, with the same bits for any number of threads.

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/half.hpp>
#include <nibble/core/round.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/kernels.hpp>
#include <nibble/kernels/panel_params.hpp>
#include <nibble/quant/codebook.hpp>
#include <nibble/quant/double_quant.hpp>
#include <nibble/quant/fit.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/group_codec.hpp>
#include <nibble/quant/range.hpp>
#include <nibble/quant/scale.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {

/// What quantize does with NaN and infinities.
enum class non_finite : std::uint8_t {
  error,     ///< raises bad_value naming row, column and value
  saturate,  ///< infinities become the greatest finite magnitude of their group, NaN becomes 0
  zero,      ///< all become 0
};

/// How quantize works.
struct quantize_options {
  fit_options fit{};
  nibble::non_finite non_finite = nibble::non_finite::error;
  const float* table = nullptr;  ///< user tables: 2^bits values by code, in any order
};

inline namespace NIBBLE_ABI {
namespace detail {

/// The elements of one group of a strided matrix, row by row. With a policy other than `error` a run that holds NaN or
/// infinities is handed out as a repaired copy, piece by piece.
struct matrix_source {
  span2d<const float> W;
  quant::group_extent extent;
  non_finite policy = non_finite::error;
  float saturated = 0.0f;  ///< what infinities become under `saturate`: greatest_finite() of the whole group

  std::size_t count() const noexcept { return extent.count; }

  template <class F>
  void for_each_raw_run(F&& f) const {
    std::size_t n = extent.n, k = extent.k;
    for (std::size_t left = extent.count; left != 0; ++n, k = 0) {
      const std::size_t run = left < W.cols - k ? left : W.cols - k;
      f(row(W, n) + k, run);
      left -= run;
    }
  }

  template <class F>
  void for_each_run(F&& f) const {
    for_each_raw_run([&](const float* x, std::size_t n) {
      if (policy == non_finite::error) return f(x, n);
      constexpr std::size_t piece = 256;
      float copy[piece];
      for (std::size_t i = 0; i < n; i += piece) {
        const std::size_t m = n - i < piece ? n - i : piece;
        repair(x + i, m, copy);
        f(static_cast<const float*>(copy), m);
      }
    });
  }

  void repair(const float* x, std::size_t n, float* y) const noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      y[i] = x[i];
      if (is_finite(x[i])) continue;
      y[i] = policy == non_finite::zero || x[i] != x[i] ? 0.0f : x[i] > 0.0f ? saturated : -saturated;
    }
  }

  float greatest_finite() const noexcept {
    // Magnitude bits order like the numbers; those that are not finite count as 0.
    std::uint32_t greatest = 0;
    for_each_raw_run([&](const float* x, std::size_t n) {
      for (std::size_t i = 0; i < n; ++i) {
        const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu, a = bits < 0x7f800000u ? bits : 0;
        greatest = a > greatest ? a : greatest;
      }
    });
    return std::bit_cast<float>(greatest);
  }

  quant::range_scan scan() const {
    quant::range_scan s;
    for_each_run([&](const float* x, std::size_t n) { s.add(x, n); });
    return s;
  }
};

/// Lowers `least` to `value`.
inline void lower(std::atomic<std::size_t>& least, std::size_t value) noexcept {
  for (std::size_t seen = least.load(std::memory_order_relaxed);
       value < seen && !least.compare_exchange_weak(seen, value, std::memory_order_relaxed);) {}
}

/// Writes the parameters of groups first, first + 1, ... to the planes.
inline void store_groups(any_qmatrix& m, std::size_t first, const quant::group_params* params, std::size_t n) noexcept {
  const format_desc& f = m.format();
  constexpr std::size_t at_once = 64;
  float values[at_once];
  const auto store = [&](scale_storage storage, float quant::group_params::*member, std::byte* plane) {
    std::byte* const to = plane + first * quant::scale_bytes(storage);
    for (std::size_t i = 0; i < n; i += at_once) {
      const std::size_t count = n - i < at_once ? n - i : at_once;
      for (std::size_t j = 0; j < count; ++j) values[j] = params[i + j].*member;
      kernels::encode_scales(storage, values, count, to + i * quant::scale_bytes(storage));
    }
  };
  const bool two_levels = quant::has_two_levels(f.scale);  // scales all at once, when every group is fitted
  if (!two_levels) store(f.scale, &quant::group_params::scale, m.scale_plane().data());
  if (f.rule == code_rule::asymmetric_offset && f.scale != scale_storage::super_block)
    store(two_levels ? scale_storage::f32 : f.scale, &quant::group_params::zero, m.zero_plane().data());
  if (f.rule != code_rule::asymmetric) return;
  auto* const zeros = reinterpret_cast<std::uint8_t*>(m.zero_plane().data()) + first;
  for (std::size_t i = 0; i < n; ++i) zeros[i] = static_cast<std::uint8_t>(params[i].zero);
}

/// Parameters of groups first, ..., first + n - 1 of a view.
inline void read_params(const quantized_view& v, std::size_t first, std::size_t n,
                        quant::group_params* params) noexcept {
  const format_desc& f = v.format;
  if (n < 4 || quant::has_two_levels(f.scale)) {
    for (std::size_t i = 0; i < n; ++i) params[i] = quant::params_at(v, first + i);
    return;
  }
  constexpr std::size_t at_once = 64;
  float values[at_once];
  const auto read = [&](const void* plane, float quant::group_params::*member) {
    const std::byte* const from = static_cast<const std::byte*>(plane) + first * quant::scale_bytes(f.scale);
    for (std::size_t i = 0; i < n; i += at_once) {
      const std::size_t count = n - i < at_once ? n - i : at_once;
      kernels::decode_scales(f.scale, from + i * quant::scale_bytes(f.scale), count, values);
      for (std::size_t j = 0; j < count; ++j) params[i + j].*member = values[j];
    }
  };
  read(v.scales, &quant::group_params::scale);
  if (f.rule == code_rule::asymmetric_offset) return read(v.zeros, &quant::group_params::zero);
  for (std::size_t i = 0; i < n; ++i) params[i].zero = quant::zero_at(v, first + i);
}

/// The first of n groups whose parameters are not finite, or n.
inline std::size_t first_not_finite(const quant::group_params* params, std::size_t n) noexcept {
  // Together first: magnitude bits that reach those of infinity.
  std::uint32_t greatest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t a = std::bit_cast<std::uint32_t>(params[i].scale) & 0x7fffffffu;
    const std::uint32_t b = std::bit_cast<std::uint32_t>(params[i].zero) & 0x7fffffffu;
    greatest = a > greatest ? a : greatest;
    greatest = b > greatest ? b : greatest;
  }
  if (greatest < 0x7f800000u) return n;
  std::size_t i = 0;
  while (quant::detail::finite(params[i])) ++i;
  return i;
}

/// One run of the quantizer over a matrix.
template <class Isa>
class quantize_job {
 public:
  quantize_job(const quant::group_codec& codec, span2d<const float> W, const quantize_options& options,
               any_qmatrix& out)
      : codec_(codec), W_(W), options_(options), out_(out), view_(out.view()), encode_(codec) {
    by_own_rule_ = options.non_finite == non_finite::error && options.fit.method == fitter::min_max;
    if (options.non_finite != non_finite::error || options.fit.method != fitter::mse_search ||
        options.fit.clips > static_cast<int>(kernels::clip_bounds::most))
      return;
    float clips[kernels::clip_bounds::most];
    for (int i = 0; i < options.fit.clips; ++i)
      clips[static_cast<std::size_t>(i)] = quant::detail::clip_at(i, options.fit.clips);
    search_.emplace(codec, clips, static_cast<std::size_t>(options.fit.clips));
  }

  /// Fits and encodes all groups. Returns the first group that failed, or no_group.
  std::size_t run(const context& ctx) {
    const format_desc& f = codec_.format;
    const std::size_t groups = quant::scale_count(f, W_.rows, W_.cols);
    const bool two_levels = quant::has_two_levels(f.scale);
    if (two_levels) fitted_.resize(groups);
    if (!two_levels && f.granularity != granularity_kind::per_tensor) {
      // Scales and codes of an item in one go, while its values are in the cache.
      const bool together = fits_in_tiles();
      for_each_chunk(ctx, [&](const chunk& c) {
        if (together) return fit_and_encode(c);
        fit(c);
        if (first_failed_.load(std::memory_order_relaxed) == no_group) encode(c);
      });
      return first_failed_;
    }
    if (f.granularity == granularity_kind::per_tensor) fit_group(0, {0, 0, W_.rows * W_.cols});
    else for_each_chunk(ctx, [&](const chunk& c) { fit(c); });
    if (first_failed_ != no_group) return first_failed_;
    if (f.scale == scale_storage::super_block) {
      if (const std::size_t failed = quantize_super_blocks(ctx); failed != no_group) return failed;
    } else if (two_levels) {
      std::vector<float> scales(groups);
      for (std::size_t g = 0; g < groups; ++g) scales[g] = fitted_[g].scale;
      quant::quantize_scales(scales.data(), groups, reinterpret_cast<std::uint8_t*>(out_.scale_plane().data()),
                             out_.super_scales().data(),
                             has_zero_level() ? quant::zero_scale::nearest : quant::zero_scale::exact);
      view_ = out_.view();  // the offset is known now
    }
    for_each_chunk(ctx, [&](const chunk& c) { encode(c); });
    return no_group;
  }

  /// Raises the error of a group that failed; the first offending element names it.
  [[noreturn]] void raise(std::size_t g) const {
    const matrix_source source = source_of(extent_of(g));
    std::size_t n = source.extent.n, k = source.extent.k;
    std::size_t worst_n = n, worst_k = k;
    float greatest = -1.0f, lo = std::numeric_limits<float>::max(), hi = -lo;
    source.for_each_raw_run([&](const float* x, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        if (!is_finite(x[i]) && options_.non_finite == non_finite::error)
          core::fail(errc::bad_value, "quantize: W(", n, ", ", k + i, ") is ", x[i],
                     "; set quantize_options::non_finite to saturate or zero to accept it");
        const float a = x[i] < 0.0f ? -x[i] : x[i];
        if (!is_finite(a)) continue;
        if (a > greatest) greatest = a, worst_n = n, worst_k = k + i;
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
      }
      ++n;
      k = 0;
    });
    core::fail(errc::scale_overflow, "quantize: W(", worst_n, ", ", worst_k, ") = ", row(W_, worst_n)[worst_k],
               " needs a scale or offset that overflows ", name_of_storage(), "; the range of its group is [", lo, ", ",
               hi, "]");
  }

  static constexpr std::size_t no_group = std::numeric_limits<std::size_t>::max();

 private:
  /// Scales and offsets of all super-blocks, rows in parallel. Returns the first group of one that overflows, or no_group.
  std::size_t quantize_super_blocks(const context& ctx) {
    const format_desc& f = codec_.format;
    const std::size_t in_row = quant::groups_per_row(f, W_.cols), in_block = quant::super_block_k / f.group_size;
    const std::size_t blocks = ceil_div(W_.cols, quant::super_block_k);
    const auto store = [&](std::size_t n, std::size_t b, float quant::group_params::*member, quant::small_value small,
                           std::byte* plane, half* halves) {
      float values[quant::super_block_k];
      const std::size_t first = n * in_row + b * in_block, left = in_row - b * in_block;
      const std::size_t count = left < in_block ? left : in_block;
      for (std::size_t i = 0; i < count; ++i) values[i] = fitted_[first + i].*member;
      const half d = quant::quantize_super_block(values, count, small, reinterpret_cast<std::int8_t*>(plane) + first);
      halves[b] = d;
      if (!is_finite(to_float(d))) lower(first_failed_, first);
    };
    core::for_each_item(ctx, W_.rows, [&](std::size_t n, std::size_t) {
      half* const halves = out_.block_scales().data() + n * quant::block_scales_per_row(f, W_.cols);
      for (std::size_t b = 0; b < blocks; ++b) {
        store(n, b, &quant::group_params::scale, quant::small_value::step, out_.scale_plane().data(), halves);
        if (f.rule == code_rule::asymmetric_offset)
          store(n, b, &quant::group_params::zero, quant::small_value::zero, out_.zero_plane().data(), halves + blocks);
      }
    });
    return first_failed_;
  }

  /// The unit of parallel work: whole rows, or for flat formats a run of blocks.
  struct chunk {
    std::size_t first_group, end_group;  // its groups: none of its own for per_tensor, which is fitted apart
    std::size_t row;                     // not flat
  };

  // 8 codes are a whole number of bytes, so tiles of a multiple of 8 elements are packed independently.
  static constexpr std::size_t tile = quant::max_flat_block;
  static constexpr std::size_t most_groups =
      128;  // of a tile; few: arrays of parameters are set before they are filled
  static_assert(tile % 8 == 0 && most_groups % 2 == 0);
  /// Whole groups of a row in a tile, for groups of at most half a tile: an even number, because sizes are multiples of 4.
  std::size_t groups_in_tile() const noexcept {
    const std::size_t most = tile / quant_group_size() & ~std::size_t{1};
    return most < most_groups ? most : most_groups;
  }

  template <class F>
  void for_each_chunk(const context& ctx, F&& f) {
    const format_desc& format = codec_.format;
    if (format.granularity == granularity_kind::flat) {
      const std::size_t groups = quant::scale_count(format, W_.rows, W_.cols);
      const std::size_t most = quant::max_flat_block / format.group_size,
                        per_chunk = most < most_groups ? most : most_groups;
      core::for_each_item(ctx, ceil_div(groups, per_chunk), [&](std::size_t i, std::size_t) {
        const std::size_t first = i * per_chunk, end = first + per_chunk;
        f(chunk{first, end < groups ? end : groups, 0});
      });
      return;
    }
    const std::size_t in_row =
        format.granularity == granularity_kind::per_tensor ? 0 : quant::groups_per_row(format, W_.cols);
    core::for_each_item(ctx, W_.rows, [&](std::size_t n, std::size_t) { f(chunk{n * in_row, (n + 1) * in_row, n}); });
  }

  matrix_source source_of(const quant::group_extent& extent, float saturated = 0.0f) const noexcept {
    return {W_, extent, options_.non_finite, saturated};
  }
  /// What infinities of group g become under `saturate`. To be asked once for a group, not for each piece of it.
  float limit_of(std::size_t g) const noexcept {
    if (options_.non_finite != non_finite::saturate) return 0.0f;
    if (codec_.format.granularity == granularity_kind::per_tensor) return tensor_limit_;
    return source_of(extent_of(g)).greatest_finite();
  }
  /// True when some code is worth 0 whatever the scale.
  bool has_zero_level() const noexcept {
    if (codec_.format.rule != code_rule::codebook) return codec_.format.rule != code_rule::mid_rise;
    return codec_.book.values[quant::detail::code_of_normalised(codec_.book, 0.0f)] == 0.0f;
  }
  quant::group_extent extent_of(std::size_t g) const noexcept {
    return quant::extent_of(codec_.format, W_.rows, W_.cols, g);
  }

  /// Groups whose values lie one after the other, from group `first` at x on.
  struct run_of_groups {
    std::size_t first, count;
    const float* x;
  };

  /// Whether the parameters of groups that lie in one run come from a kernel.
  bool by_kernels() const noexcept { return by_own_rule_ || search_.has_value(); }
  void fit_groups(const float* x, std::size_t size, std::size_t count, quant::group_params* params) const noexcept {
    if (search_) return search_->run(x, size, count, params);
    kernels::fit_groups<Isa>::run(codec_, x, size, count, params);
  }

  /// Whether fit_and_encode does the work: groups that kernels fit and that lie whole in a tile.
  bool fits_in_tiles() const noexcept {
    const bool flat = codec_.format.granularity == granularity_kind::flat;
    return by_kernels() && (flat ? W_.stride == W_.cols : quant_group_size() <= tile / 2);
  }

  /// Scales and codes a tile at a time: the parameters need not be read back, nor the values a second time from L2.
  void fit_and_encode(const chunk& c) noexcept {
    const std::size_t size = quant_group_size(), bits = codec_.format.bits;
    run_of_groups r{c.first_group, c.end_group - c.first_group, nullptr};
    if (codec_.format.granularity == granularity_kind::flat) {  // a chunk is at most one tile
      const std::size_t first = c.first_group * size, rest = W_.rows * W_.cols - first;
      r.x = W_.data + first;
      return fit_and_encode(r, r.count * size < rest ? r.count * size : rest, out_.codes().data() + first / 8 * bits);
    }
    const std::size_t K = W_.cols, in_tile = groups_in_tile();
    std::byte* const packed = out_.codes().data() + c.row * out_.row_stride_bytes();
    for (std::size_t k = 0; k < K; k += in_tile * size, r.first += in_tile) {
      const std::size_t n = K - k < in_tile * size ? K - k : in_tile * size;
      r.x = row(W_, c.row) + k;
      r.count = ceil_div(n, size);
      fit_and_encode(r, n, packed + k / 8 * bits);
    }
  }
  /// n values: the last group may be short.
  void fit_and_encode(const run_of_groups& r, std::size_t n, std::byte* packed) noexcept {
    const std::size_t size = quant_group_size(), whole = n / size;
    quant::group_params params[most_groups];
    fit_groups(r.x, size, whole, params);
    if (whole < r.count) fit_groups(r.x + whole * size, n - whole * size, 1, params + whole);
    if (const std::size_t bad = first_not_finite(params, r.count); bad < r.count)
      return lower(first_failed_, r.first + bad);
    store_groups(out_, r.first, params, r.count);
    std::uint8_t codes[tile];
    encode_(params, r.x, size, n, codes);
    kernels::dense_codes<Isa>::pack(codes, n, codec_.format.bits, packed);
  }

  void fit(const chunk& c) {
    const std::size_t K = W_.cols, size = quant_group_size();
    const bool flat = codec_.format.granularity == granularity_kind::flat;
    std::size_t done = 0;
    // Whole groups side by side where kernels fit them.
    if (by_kernels() && (!flat || W_.stride == K))
      done = fit_run(flat ? run_of_groups{c.first_group, whole_groups(c), W_.data + c.first_group * size}
                          : run_of_groups{c.first_group, K / size, row(W_, c.row)});
    if (flat) {
      for (std::size_t g = c.first_group + done; g < c.end_group; ++g) fit_group(g, extent_of(g));
      return;
    }
    for (std::size_t g = c.first_group + done, k = done * size; g < c.end_group; ++g, k += size)
      fit_group(g, {c.row, k, K - k < size ? K - k : size});
  }

  /// Groups of a flat chunk that are not cut short by the matrix's end.
  std::size_t whole_groups(const chunk& c) const noexcept {
    const std::size_t whole = W_.rows * W_.cols / codec_.format.group_size;
    return (c.end_group < whole ? c.end_group : whole) - c.first_group;
  }
  /// Elements of a group that is not cut short.
  std::size_t quant_group_size() const noexcept {
    return codec_.format.group_size != 0 ? codec_.format.group_size : W_.cols;
  }

  std::size_t fit_run(const run_of_groups& r) noexcept {
    quant::group_params params[most_groups];
    const std::size_t size = quant_group_size();
    for (std::size_t i = 0; i < r.count; i += most_groups) {
      const std::size_t n = r.count - i < most_groups ? r.count - i : most_groups;
      fit_groups(r.x + i * size, size, n, params);
      store_groups(out_, r.first + i, params, n);
      if (const std::size_t bad = first_not_finite(params, n); bad < n) lower(first_failed_, r.first + i + bad);
      if (fitted_.empty()) continue;
      for (std::size_t j = 0; j < n; ++j) fitted_[r.first + i + j] = params[j];
    }
    return r.count;
  }

  void fit_group(std::size_t g, const quant::group_extent& extent) {
    // The common case apart: one run of a row, for the kernels.
    if (extent.count > W_.cols - extent.k || !by_kernels()) return fit_any_group(g, extent);
    quant::group_params p;
    fit_groups(row(W_, extent.n) + extent.k, extent.count, 1, &p);
    keep(g, p);
  }

  [[gnu::noinline]] void fit_any_group(std::size_t g, const quant::group_extent& extent) {
    matrix_source source = source_of(extent);
    if (options_.non_finite == non_finite::saturate) source.saturated = source.greatest_finite();
    if (codec_.format.granularity == granularity_kind::per_tensor) tensor_limit_ = source.saturated;
    const quant::range_scan scan = source.scan();
    if (!scan.finite()) return lower(first_failed_, g);
    keep(g, quant::fit_group(codec_, source, scan.range(), options_.fit));
  }

  void keep(std::size_t g, quant::group_params p) noexcept {
    if (!quant::detail::finite(p)) return lower(first_failed_, g);
    store_groups(out_, g, &p, 1);
    if (!fitted_.empty()) fitted_[g] = p;
  }

  /// The parameters that codes are chosen against: as stored, but for copies of bitsandbytes as fitted.
  quant::group_params params_of(std::size_t g) const noexcept {
    quant::group_params p = quant::params_at(view_, g);
    if (!fitted_.empty() && codec_.format.rule == code_rule::codebook &&
        codec_.book.scaling == codebook_scaling::absmax_reciprocal)
      p.scale = fitted_[g].scale;
    return p;
  }

  void encode(const chunk& c) {
    std::uint8_t codes[tile];
    const format_desc& f = codec_.format;
    const std::size_t bits = f.bits;
    if (f.granularity == granularity_kind::flat) {
      // A chunk is at most one tile and begins at a multiple of the block, itself a multiple of 8.
      if (options_.non_finite == non_finite::error && W_.stride == W_.cols) {
        const std::size_t first = c.first_group * f.group_size, rest = W_.rows * W_.cols - first;
        const std::size_t n = (c.end_group - c.first_group) * f.group_size;
        encode_run({c.first_group, c.end_group - c.first_group, W_.data + first}, n < rest ? n : rest, codes);
        kernels::dense_codes<Isa>::pack(codes, n < rest ? n : rest, f.bits, out_.codes().data() + first / 8 * bits);
        return;
      }
      std::uint8_t* at = codes;
      for (std::size_t g = c.first_group; g < c.end_group; ++g) {
        const quant::group_params p = params_of(g);
        source_of(extent_of(g), limit_of(g)).for_each_run([&](const float* x, std::size_t n) {
          quant::encode_group(codec_, p, x, n, at);
          at += n;
        });
      }
      kernels::dense_codes<Isa>::pack(codes, static_cast<std::size_t>(at - codes), f.bits,
                                      out_.codes().data() + c.first_group * f.group_size / 8 * bits);
      return;
    }
    const std::size_t K = W_.cols;
    const std::size_t size = f.granularity == granularity_kind::grouped ? f.group_size : K;
    std::byte* packed = out_.codes().data() + c.row * out_.row_stride_bytes();
    if (options_.non_finite == non_finite::error && size <= tile / 2) {
      const std::size_t in_tile = groups_in_tile();
      for (std::size_t first = 0, g = c.first_group; first < K; first += in_tile * size, g += in_tile) {
        const std::size_t n = K - first < in_tile * size ? K - first : in_tile * size;
        encode_run({g, ceil_div(n, size), row(W_, c.row) + first}, n, codes);
        kernels::dense_codes<Isa>::pack(codes, n, f.bits, packed + first / 8 * bits);
      }
      return;
    }
    std::size_t g = c.first_group, group_end = size < K ? size : K;
    quant::group_params p = params_of(g);
    float limit = limit_of(g);
    for (std::size_t first = 0; first < K; first += tile) {
      const std::size_t end = K - first < tile ? K : first + tile;
      for (std::size_t k = first; k < end;) {
        if (k == group_end) {
          p = params_of(++g);
          limit = limit_of(g);
          group_end = K - k < size ? K : k + size;
        }
        const std::size_t stop = group_end < end ? group_end : end;
        if (options_.non_finite == non_finite::error) {
          encode_(&p, row(W_, c.row) + k, stop - k, stop - k, codes + (k - first));
        } else {
          std::uint8_t* at = codes + (k - first);
          source_of({c.row, k, stop - k}, limit).for_each_run([&](const float* x, std::size_t n) {
            quant::encode_group(codec_, p, x, n, at);
            at += n;
          });
        }
        k = stop;
      }
      kernels::dense_codes<Isa>::pack(codes, end - first, f.bits, packed + first / 8 * bits);
    }
  }

  /// Codes of the first n values of a run, at most a tile.
  void encode_run(const run_of_groups& r, std::size_t n, std::uint8_t* codes) const noexcept {
    quant::group_params params[most_groups];
    if (fitted_.empty()) read_params(view_, r.first, r.count, params);
    else
      for (std::size_t i = 0; i < r.count; ++i) params[i] = params_of(r.first + i);
    encode_(params, r.x, quant_group_size(), n, codes);
  }

  std::string_view name_of_storage() const noexcept {
    switch (codec_.format.scale) {
      case scale_storage::f16: return "half";
      case scale_storage::bf16: return "bfloat16";
      case scale_storage::super_block: return "127 halves";
      case scale_storage::f32:
      case scale_storage::double_quant: break;
    }
    return "float";
  }

  const quant::group_codec& codec_;
  span2d<const float> W_;
  const quantize_options& options_;
  any_qmatrix& out_;
  quantized_view view_;  // of out_
  kernels::encode_groups<Isa> encode_;
  bool by_own_rule_;                                 // for kernels::fit_groups
  std::optional<kernels::clip_search<Isa>> search_;  // mse_search of groups that lie in one run
  float tensor_limit_ = 0.0f;                        // of a per_tensor group under `saturate`
  std::vector<quant::group_params> fitted_;          // scales on two levels before they are quantized themselves
  std::atomic<std::size_t> first_failed_{no_group};
};

}  // namespace detail
}  // namespace NIBBLE_ABI
}  // namespace nibble
