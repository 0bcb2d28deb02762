// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Codes that index a table: value = scale * table[u]. A table is a type with the values by code, the thresholds between
/// them and the rule that normalises a group; at run time the same facts are a `codebook_desc`.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <nibble/core/config.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/round.hpp>
#include <nibble/quant/format.hpp>
#include <nibble/quant/granularity.hpp>
#include <nibble/quant/policy.hpp>
#include <nibble/quant/range.hpp>
#include <nibble/quant/scale.hpp>

namespace nibble {

/// How a group is scaled to a codebook.
enum class codebook_scaling : std::uint8_t {
  absmax_reciprocal,  ///< scale = absmax; v = x * f32(1 / scale); codes against the scale before double quantization:
                      ///< the rule of bitsandbytes, whose bits NF4 and FP4 copy
  absmax,             ///< scale = absmax / greatest |table value|; v = x / scale
  rms,                ///< scale = root mean square; v = x / scale: tables made for a unit Gaussian
};

/// A codebook as plain data; points into a table that outlives it.
struct codebook_desc {
  int bits = 0;
  codebook_scaling scaling = codebook_scaling::absmax;
  bool sign_magnitude = false;        ///< the top code bit is x < 0 and thresholds count on |v|
  const float* values = nullptr;      ///< 2^bits values, by code
  const float* thresholds = nullptr;  ///< ascending; 2^bits - 1, or 2^(bits-1) - 1 when sign_magnitude
  /// Code by rank, the number of thresholds strictly below v; nullptr: the same number.
  const std::uint8_t* code_of_rank = nullptr;
  float greatest = 1.0f;  ///< greatest |value|
};

inline namespace NIBBLE_ABI {
namespace quant {

/// A table of 2^Bits ascending values whose codes are their ranks; thresholds are the midpoints, rounded to float as
/// bitsandbytes has them, and a tie goes to the lower code.
template <int Bits>
struct sorted_table {
  static constexpr std::size_t size = std::size_t{1} << Bits;
  std::array<float, size> values{};
  std::array<float, size - 1> thresholds{};
  float greatest = 0.0f;

  constexpr explicit sorted_table(const std::array<float, size>& v) : values(v) {
    for (std::size_t i = 0; i < size; ++i) {
      const float a = v[i] < 0.0f ? -v[i] : v[i];
      greatest = a > greatest ? a : greatest;
      if (i + 1 < size) thresholds[i] = (v[i] + v[i + 1]) * 0.5f;
    }
  }
  constexpr codebook_desc desc(codebook_scaling scaling) const noexcept {
    return {Bits, scaling, false, values.data(), thresholds.data(), nullptr, greatest};
  }
};

/// NormalFloat4 of QLoRA, the exact values of bitsandbytes.
struct nf4_table {
  static constexpr int bits = 4;
  static constexpr sorted_table<4> table{{-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                                          -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                          0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f,
                                          0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                                          0.7229568362236023f, 1.0f}};
  static constexpr codebook_desc desc() noexcept { return table.desc(codebook_scaling::absmax_reciprocal); }
};

/// FP4 (sign, 2 exponent bits, 1 fraction bit) of bitsandbytes, divided by 12 so that the greatest value is 1. Not sorted
/// by code. The thresholds are the literals of the original; five of the seven differ from the float midpoints.
struct fp4_table {
  static constexpr int bits = 4;
  static constexpr std::array<float, 16> values{
      0.0f,  0.0625f / 12.0f,  8.0f / 12.0f,  1.0f,  4.0f / 12.0f,  0.5f,  2.0f / 12.0f,  0.25f,
      -0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -0.5f, -2.0f / 12.0f, -0.25f};
  static constexpr std::array<float, 7> thresholds{0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                                   0.4166667f,  0.583333f,  0.8333333f};
  static constexpr std::array<std::uint8_t, 8> code_of_rank{0, 1, 6, 7, 4, 5, 2, 3};
  static constexpr codebook_desc desc() noexcept {
    return {4, codebook_scaling::absmax_reciprocal, true, values.data(), thresholds.data(), code_of_rank.data(), 1.0f};
  }
};

/// A table that the caller supplies at run time (quantize_options::table): 2^Bits finite values in any order.
template <int Bits>
struct user_table {
  static_assert(Bits >= 2 && Bits <= 8, "user_table<Bits>: Bits must be 2..8");
  static constexpr int bits = Bits;
};

// clang-format off
/// A type that names a table: one known at compile time, or the placeholder of a user's own.
template <class T>
concept codebook_table = requires { { T::desc() } noexcept -> std::same_as<codebook_desc>; } ||
                         std::same_as<T, user_table<T::bits>>;
// clang-format on

/// A user's table made ready for encoding: sorts the values, keeps which code each has.
class run_time_table {
 public:
  /// `values`: 2^bits finite values, not all zero, by code. Raises bad_shape or bad_value.
  run_time_table(std::span<const float> values, int bits) : bits_(bits) {
    if (bits < 2 || bits > 8 || values.size() != std::size_t{1} << bits)
      core::fail(errc::bad_shape, "codebook: ", values.size(), " values for ", bits,
                 " bits; 2^bits are needed, bits 2..8");
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!is_finite(values[i])) core::fail(errc::bad_value, "codebook: value of code ", i, " is ", values[i]);
      values_[i] = values[i];
      // Insertion by rank; equal values keep the order of their codes.
      std::size_t r = i;
      for (; r > 0 && values_[code_of_rank_[r - 1]] > values[i]; --r) code_of_rank_[r] = code_of_rank_[r - 1];
      code_of_rank_[r] = static_cast<std::uint8_t>(i);
      const float a = values[i] < 0.0f ? -values[i] : values[i];
      greatest_ = a > greatest_ ? a : greatest_;
    }
    if (greatest_ == 0.0f) core::fail(errc::bad_value, "codebook: all values are 0");
    for (std::size_t r = 0; r + 1 < values.size(); ++r)
      thresholds_[r] = static_cast<float>((static_cast<double>(values_[code_of_rank_[r]]) +  // in double: no overflow
                                           static_cast<double>(values_[code_of_rank_[r + 1]])) *
                                          0.5);
  }
  /// Points into this object.
  codebook_desc desc(codebook_scaling scaling = codebook_scaling::absmax) const noexcept {
    return {bits_, scaling, false, values_.data(), thresholds_.data(), code_of_rank_.data(), greatest_};
  }
  int bits() const noexcept { return bits_; }

 private:
  int bits_;
  std::array<float, 256> values_{};
  std::array<float, 255> thresholds_{};
  std::array<std::uint8_t, 256> code_of_rank_{};
  float greatest_ = 0.0f;
};

namespace detail {

/// The number of thresholds strictly below v, of `count` = 2^k - 1 ascending ones.
constexpr int rank_of(const float* thresholds, int count, float v) noexcept {
  int rank = 0;
  for (int step = (count + 1) / 2; step != 0; step /= 2) rank += thresholds[rank + step - 1] < v ? step : 0;
  return rank;
}

/// What x is multiplied by, or 0 when it must be divided: the reciprocal of a tiny scale is infinite.
constexpr float reciprocal_for(const codebook_desc& book, float scale) noexcept {
  if (book.scaling != codebook_scaling::absmax_reciprocal || scale == 0.0f) return 0.0f;
  const float inverse = 1.0f / scale;
  return is_finite(inverse) ? inverse : 0.0f;
}

constexpr int threshold_count(const codebook_desc& book) noexcept {
  return (1 << (book.sign_magnitude ? book.bits - 1 : book.bits)) - 1;
}

constexpr int code_of_normalised(const codebook_desc& book, float v) noexcept {
  const float counted = book.sign_magnitude && v < 0.0f ? -v : v;
  const int rank = rank_of(book.thresholds, threshold_count(book), counted);
  const int code = book.code_of_rank == nullptr ? rank : book.code_of_rank[rank];
  return book.sign_magnitude && v < 0.0f ? code | 1 << (book.bits - 1) : code;
}

}  // namespace detail

/// The stored code of a finite x.
constexpr int codebook_code(const codebook_desc& book, float x, group_params p) noexcept {
  if (p.scale == 0.0f) return detail::code_of_normalised(book, 0.0f);
  const float inverse = detail::reciprocal_for(book, p.scale);
  return detail::code_of_normalised(book, inverse != 0.0f ? x * inverse : x / p.scale);
}

/// The value of a stored code.
constexpr float codebook_value(const codebook_desc& book, int u, group_params p) noexcept {
  return p.scale * book.values[u];
}

/// The parameters, as stored, by the codebook's own rule: from the greatest magnitude of a range, or from the mean square
/// of the group. A scale that overflows its storage type is returned as infinity.
constexpr group_params codebook_params(const codebook_desc& book, scale_storage storage, value_range range,
                                       double mean_square) noexcept {
  if (book.scaling == codebook_scaling::rms)
    return {as_stored(storage, static_cast<float>(__builtin_sqrt(mean_square))), 0.0f};
  return {as_stored(storage, greatest_magnitude(range) / book.greatest), 0.0f};
}

/// Codebook codes as a policy.
template <codebook_table Table, granularity Granularity, scale_type Scale = float>
struct codebook : detail::per_element_blocks<codebook<Table, Granularity, Scale>, Granularity::group_size> {
  using table = Table;
  using granularity = Granularity;
  using scale_type = Scale;
  using zero_type = void;
  using params = group_params;
  static constexpr int bits = Table::bits;
  static constexpr code_rule rule = code_rule::codebook;

  static constexpr format_desc format() noexcept {
    return {rule, static_cast<std::uint8_t>(bits), Granularity::kind, storage_of<Scale>, Granularity::group_size};
  }
  static constexpr int encode(float x, params p) noexcept { return codebook_code(Table::desc(), x, p); }
  static constexpr float decode(int u, params p) noexcept { return codebook_value(Table::desc(), u, p); }
  static constexpr params params_as_stored(params p) noexcept {
    p.scale = as_stored(storage_of<Scale>, p.scale);
    return p;
  }
  /// The table's own rule (codebook_scaling); scale 1 for an empty group.
  static params fit(std::span<const float> group) noexcept {
    if (group.empty()) return {};
    range_scan scan;
    lane_sum squares;
    scan.add(group.data(), group.size());
    squares.add(group.data(), group.size(), [](float x) { return static_cast<double>(x) * static_cast<double>(x); });
    return codebook_params(Table::desc(), storage_of<Scale>, scan.range(),
                           squares.total() / static_cast<double>(group.size()));
  }
};

/// Codebook codes whose table the caller supplies at run time: a matrix format, without element-wise encode and decode.
template <int Bits, granularity Granularity, scale_type Scale>
struct codebook<user_table<Bits>, Granularity, Scale> {
  using table = user_table<Bits>;
  using granularity = Granularity;
  using scale_type = Scale;
  using zero_type = void;
  static constexpr int bits = Bits;
  static constexpr code_rule rule = code_rule::codebook;

  static constexpr format_desc format() noexcept {
    return {rule, static_cast<std::uint8_t>(bits), Granularity::kind, storage_of<Scale>, Granularity::group_size};
  }
};

static_assert(policy<codebook<nf4_table, flat<64>>> && policy<codebook<fp4_table, grouped<64>, half>>);
static_assert(matrix_format<codebook<user_table<4>, grouped<64>>> && !policy<codebook<user_table<4>, grouped<64>>>);
static_assert(codebook<nf4_table, flat<64>>::encode(0.0f, {.scale = 0.0f}) == 7);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
