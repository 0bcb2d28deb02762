// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Rows of a matrix in a type of GGUF files: bytes to values and values to bytes, with the type known at run time.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/isa/tags.hpp>
#include <nibble/kernels/ggml_blocks.hpp>
#include <nibble/kernels/quantize_row.hpp>
#include <nibble/kernels/scalar/ggml_blocks.hpp>
#include <nibble/kernels/simd/ggml_blocks.hpp>
#include <nibble/quant/ggml_block256.hpp>
#include <nibble/quant/ggml_block32.hpp>
#include <nibble/quant/ggml_codec.hpp>
#include <nibble/quant/ggml_fit.hpp>
#include <nibble/quant/ggml_type.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {

/// How encode_ggml finds scales and codes.
enum class ggml_search : std::uint8_t {
  reference,    ///< ggml's own search, its bytes
  least_error,  ///< less squared error in as many bytes (quant/ggml_fit.hpp)
};

/// What encode_ggml is told beside the type.
struct ggml_encoding {
  ggml_search search = ggml_search::reference;
  /// A number >= 0 for each column, such as the mean square of the activations that meet it: least_error weighs squared errors
  /// with them; IQ4_NL and IQ4_XS weigh by them in any search, as ggml does with an importance matrix. Empty: all columns count the
  /// same.
  std::span<const float> importance = {};
};

namespace detail {

/// Calls f with a value of the format's type; false when nibble has no code for the type.
template <class F>
constexpr bool with_ggml_format(ggml_type type, F&& f) {
  namespace g = quant::ggml;
  switch (type) {
    case ggml_type::f32: f(g::f32{}); return true;
    case ggml_type::f16: f(g::f16{}); return true;
    case ggml_type::bf16: f(g::bf16{}); return true;
    case ggml_type::q8_0: f(g::q8_0{}); return true;
    case ggml_type::q4_0: f(g::q4_0{}); return true;
    case ggml_type::q4_1: f(g::q4_1{}); return true;
    case ggml_type::q5_0: f(g::q5_0{}); return true;
    case ggml_type::q5_1: f(g::q5_1{}); return true;
    case ggml_type::iq4_nl: f(g::iq4_nl{}); return true;
    case ggml_type::mxfp4: f(g::mxfp4{}); return true;
    case ggml_type::q2_k: f(g::q2_k{}); return true;
    case ggml_type::q3_k: f(g::q3_k{}); return true;
    case ggml_type::q4_k: f(g::q4_k{}); return true;
    case ggml_type::q5_k: f(g::q5_k{}); return true;
    case ggml_type::q6_k: f(g::q6_k{}); return true;
    case ggml_type::iq4_xs: f(g::iq4_xs{}); return true;
    default: return false;
  }
}
template <class Format>
inline constexpr bool encodes_ggml = requires(const float* x, std::byte* b) {
  Format::encode(x, b);
};

/// Blocks that a thread takes at once: their values, 32 KiB, stay in L1 from their check to their codes.
template <class Format>
inline constexpr std::size_t ggml_run = 8192 / Format::block_elements;

/// Formats without a search: scale and minimum are no more than the range of the values.
template <class Format>
inline constexpr bool ggml_of_range = Format::block_elements == 32 && !quant::ggml::weighted_block<Format>;

/// Encodes blocks from x on, and returns how many went well before the first that is refused. `importance` is for `fit` and
/// for formats that ggml weighs.
template <class Format>
std::size_t encode_ggml_run(const float* x, std::size_t count, [[maybe_unused]] bool fit,
                            [[maybe_unused]] const kernels::ggml_importance& importance, std::byte* out) noexcept {
  using quant::ggml::refusal;
  const std::uint32_t largest = kernels::greatest_magnitude_bits(x, count * Format::block_elements);
  std::size_t good = largest <= std::bit_cast<std::uint32_t>(Format::greatest) ? count : 0;
  while (good < count && Format::check_values(x + good * Format::block_elements) == refusal::none) ++good;
  if constexpr (quant::ggml::fitted_block<Format>) {
    if (fit) kernels::fit_ggml_blocks<isa::native, Format>::run(x, good, importance, out);
    else kernels::encode_ggml_blocks<isa::native, Format>::run(x, good, out);
  } else if constexpr (quant::ggml::weighted_block<Format>) {
    kernels::encode_ggml_blocks<isa::native, Format>::run(x, good, importance, out);
  } else {
    kernels::encode_ggml_blocks<isa::native, Format>::run(x, good, out);
  }
  if (ggml_of_range<Format> && largest <= std::bit_cast<std::uint32_t>(0x1p14f))
    return good;  // half has them below 0x1p16
  for (std::size_t i = 0; i < good; ++i)
    if (Format::check_block(out + i * Format::block_bytes) != refusal::none) return i;
  return good;
}

/// Says why the block from column `first` of a row on was refused.
template <class Format>
[[noreturn]] void refuse_ggml(const float* values, std::size_t r, std::size_t first) {
  if (Format::check_values(values + first) == quant::ggml::refusal::not_finite) {
    std::size_t k = first;
    while (is_finite(values[k])) ++k;
    core::fail(errc::bad_value, "encode_ggml: row ", r, ", column ", k, " is ", values[k]);
  }
  core::fail(errc::scale_overflow, "encode_ggml: row ", r, ", columns ", first, " to ",
             first + Format::block_elements - 1, " are too large for ", quant::name_of(Format::type));
}

/// Refuses importance whose weights would overflow.
template <quant::ggml::weighted_block Format>
void check_weights(std::span<const float> importance) {
  for (std::size_t k = 0; k < importance.size(); ++k)
    if (importance[k] > quant::ggml::importance_greatest)
      core::fail(errc::bad_value, "encode_ggml: the importance of column ", k, " is ", importance[k], "; ",
                 quant::name_of(Format::type), " takes at most ", quant::ggml::importance_greatest);
}

/// Bytes of n values in whole blocks; bad_shape, in the name of `who`, when they are none.
inline std::size_t ggml_bytes(ggml_type type, std::size_t n, std::string_view who) {
  const quant::ggml_type_info& info = quant::info_of(type);
  if (n % info.block_elements != 0)
    core::fail(errc::bad_shape, who, ": ", n, " values; ", info.name, " has blocks of ", info.block_elements);
  return n / info.block_elements * info.block_bytes;
}

}  // namespace detail

/// Whether decode_ggml has code for a type.
constexpr bool can_decode_ggml(ggml_type type) noexcept {
  return detail::with_ggml_format(type, [](auto) {});
}
/// Whether encode_ggml has code for a type.
constexpr bool can_encode_ggml(ggml_type type) noexcept {
  bool can = false;
  detail::with_ggml_format(type, [&can]<class Format>(Format) { can = detail::encodes_ggml<Format>; });
  return can;
}

/// Whether encode_ggml has a search of least error for a type: Q2_K to Q6_K. It writes all others as ggml does, IQ4_NL and IQ4_XS
/// with importance or without.
constexpr bool can_fit_ggml(ggml_type type) noexcept {
  bool can = false;
  detail::with_ggml_format(type, [&can]<class Format>(Format) { can = quant::ggml::fitted_block<Format>; });
  return can;
}

/// The values of whole blocks, bit for bit those of ggml. `y` has as many values as `blocks` hold, in their order; `ctx` says on
/// which threads. Throws unsupported_format for a type that nibble has no code for, bad_shape when the sizes do not match.
inline void decode_ggml(ggml_type type, std::span<const std::byte> blocks, std::span<float> y,
                        const context& ctx = {}) {
  if (!can_decode_ggml(type))
    core::fail(errc::unsupported_format, "decode_ggml: no code for type ", quant::name_of(type));
  if (const std::size_t need = detail::ggml_bytes(type, y.size(), "decode_ggml"); blocks.size() != need)
    core::fail(errc::bad_shape, "decode_ggml: ", y.size(), " values of ", quant::name_of(type), " take ", need,
               " bytes; there are ", blocks.size());
  detail::with_ggml_format(type, [&]<class Format>(Format) {
    const std::size_t count = y.size() / Format::block_elements, run = detail::ggml_run<Format>;
    core::for_each_item(ctx, ceil_div(count, run), [&](std::size_t item, std::size_t) {
      const std::size_t first = item * run;
      kernels::decode_ggml_blocks<isa::native, Format>::run(blocks.data() + first * Format::block_bytes,
                                                            std::min(run, count - first),
                                                            y.data() + first * Format::block_elements);
    });
  });
}

/// The rows of x, each in whole blocks: as the bytes that ggml without an importance matrix writes (built without contraction of
/// products into additions; IQ4_NL and IQ4_XS also those with one), or with less error where `how` says so and can_fit_ggml(type).
/// `blocks` has exactly the bytes of x. Throws unsupported_format for a type that nibble cannot write, bad_shape when the sizes
/// do not match; bad_value for a value that is not finite and scale_overflow where values are too large for the type, both with
/// row and column, of the first block that has such; bad_value for an importance that is negative or not finite, or above 2^56
/// for IQ4_NL and IQ4_XS. `ctx` says on which threads; the bytes and the errors are the same on any.
inline void encode_ggml(ggml_type type, span2d<const float> x, std::span<std::byte> blocks, const ggml_encoding& how,
                        const context& ctx = {}) {
  if (!can_encode_ggml(type))
    core::fail(errc::unsupported_format, "encode_ggml: no code that writes type ", quant::name_of(type));
  const std::size_t row_bytes = detail::ggml_bytes(type, x.cols, "encode_ggml");
  std::size_t need = 0;
  if (__builtin_mul_overflow(row_bytes, x.rows, &need) || blocks.size() != need)
    core::fail(errc::bad_shape, "encode_ggml: [", x.rows, ", ", x.cols, "] of ", quant::name_of(type), " takes ", need,
               " bytes; there are ", blocks.size());
  if (x.stride < x.cols && x.rows > 1)
    core::fail(errc::bad_shape, "encode_ggml: stride ", x.stride, " is less than the row of ", x.cols);
  if (!how.importance.empty() && how.importance.size() != x.cols)
    core::fail(errc::bad_shape, "encode_ggml: ", how.importance.size(), " importances; there are ", x.cols, " columns");
  for (std::size_t k = 0; k < how.importance.size(); ++k)
    if (!is_finite(how.importance[k]) || how.importance[k] < 0.0f)
      core::fail(errc::bad_value, "encode_ggml: the importance of column ", k, " is ", how.importance[k]);
  detail::with_ggml_format(type, [&]<class Format>(Format) {
    if constexpr (detail::encodes_ggml<Format>) {
      if constexpr (quant::ggml::weighted_block<Format>) detail::check_weights<Format>(how.importance);
      if (need == 0) return;
      // Rows without a gap are one.
      const bool dense = x.stride == x.cols;
      const std::size_t rows = dense ? 1 : x.rows, of_row = x.cols / Format::block_elements;
      const std::size_t count = dense ? x.rows * of_row : of_row, run = detail::ggml_run<Format>;
      const std::size_t runs = ceil_div(count, run), all = rows * count;
      const bool fit = how.search == ggml_search::least_error;
      std::atomic<std::size_t> refused{all};
      core::for_each_item(ctx, rows * runs, [&](std::size_t item, std::size_t) {
        const std::size_t r = item / runs, first = item % runs * run, n = std::min(run, count - first);
        const std::size_t good = detail::encode_ggml_run<Format>(
            row(x, r) + first * Format::block_elements, n, fit,
            {how.importance.empty() ? nullptr : how.importance.data(), of_row, first % of_row},
            blocks.data() + (r * count + first) * Format::block_bytes);
        if (good == n) return;
        const std::size_t at = r * count + first + good;
        for (std::size_t least = refused.load(); at < least && !refused.compare_exchange_weak(least, at);) {}
      });
      if (const std::size_t at = refused.load(); at != all)
        detail::refuse_ggml<Format>(row(x, at / of_row), at / of_row, at % of_row * Format::block_elements);
    }
  });
}
/// The same with ggml's own search.
inline void encode_ggml(ggml_type type, span2d<const float> x, std::span<std::byte> blocks, const context& ctx = {}) {
  encode_ggml(type, x, blocks, ggml_encoding{}, ctx);
}

}  // namespace NIBBLE_ABI
}  // namespace nibble
