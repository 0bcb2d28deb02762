// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The element types of safetensors files: names, widths, and their values as floats.
/// Source: the safetensors format description; FP8: Micikevicius et al. 2022, "FP8 formats for deep learning"; E8M0: OCP
/// Microscaling Formats 1.0, section 5.4.1.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace io {

// clang-format off
/// Element types of a safetensors file, in the order of dtype_table.
enum class dtype : std::uint8_t {
  boolean, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64,
  c64, f4, f6_e2m3, f6_e3m2,
};
// clang-format on

/// The name of a dtype in the file and the width of one element.
struct dtype_entry {
  std::string_view name;
  std::size_t bits;
};
inline constexpr std::array<dtype_entry, 22> dtype_table{{
    {"BOOL", 8},        {"U8", 8},          {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},        {"F32", 32},    {"F64", 64},    {"I64", 64},    {"U64", 64},
    {"C64", 64},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6},
}};
constexpr std::string_view name_of(dtype type) noexcept { return dtype_table[static_cast<std::size_t>(type)].name; }
constexpr std::size_t bits_of(dtype type) noexcept { return dtype_table[static_cast<std::size_t>(type)].bits; }
static_assert(name_of(dtype::bf16) == "BF16" && name_of(dtype::f6_e3m2) == "F6_E3M2" && bits_of(dtype::f64) == 64);

/// Whether each value of the type is a float: F32 and shorter floats of whole bytes, integers of up to 16 bits.
constexpr bool fits_float(dtype type) noexcept {
  switch (type) {
    case dtype::u8:
    case dtype::i8:
    case dtype::f8_e5m2:
    case dtype::f8_e4m3:
    case dtype::f8_e8m0:
    case dtype::f8_e4m3fnuz:
    case dtype::f8_e5m2fnuz:
    case dtype::i16:
    case dtype::u16:
    case dtype::f16:
    case dtype::bf16:
    case dtype::f32: return true;
    default: return false;
  }
}
/// Whether the values are numbers that a float holds after rounding, if not exactly.
constexpr bool rounds_to_float(dtype type) noexcept {
  return fits_float(type) || type == dtype::i32 || type == dtype::u32 || type == dtype::i64 || type == dtype::u64 ||
         type == dtype::f64;
}

/// The value of a byte with 1 sign bit, 7 - Fraction exponent bits and Fraction bits of fraction; subnormals as in IEEE
/// 754. `bias` as the format has it; infinities and NaN are the caller's business.
template <int Fraction>
constexpr float float8_value(std::uint8_t byte, int bias) noexcept {
  const unsigned exponent = (byte & 0x7fu) >> Fraction, fraction = byte & ((1u << Fraction) - 1u);
  const unsigned significand = exponent == 0 ? fraction : fraction | 1u << Fraction;
  const int power = static_cast<int>(exponent == 0 ? 1u : exponent) - bias - Fraction;  // -17 .. 16
  const float unit = std::bit_cast<float>(static_cast<std::uint32_t>(127 + power) << 23);
  const float value = static_cast<float>(significand) * unit;
  return (byte & 0x80u) != 0 ? -value : value;
}
/// The value of an 8-bit float of the given type, exactly.
constexpr float float8_value(dtype type, std::uint8_t byte) noexcept {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  switch (type) {
    case dtype::f8_e5m2:
      if ((byte & 0x7cu) == 0x7cu) return (byte & 3u) != 0 ? nan : (byte & 0x80u) != 0 ? -infinity : infinity;
      return float8_value<2>(byte, 15);
    case dtype::f8_e4m3:  // no infinities; one NaN of each sign
      return (byte & 0x7fu) == 0x7fu ? nan : float8_value<3>(byte, 7);
    case dtype::f8_e4m3fnuz: return byte == 0x80u ? nan : float8_value<3>(byte, 8);  // NaN where others have -0
    case dtype::f8_e5m2fnuz: return byte == 0x80u ? nan : float8_value<2>(byte, 16);
    default:  // E8M0: 2^(byte - 127)
      if (byte == 0xffu) return nan;
      return std::bit_cast<float>(byte == 0 ? 0x00400000u : static_cast<std::uint32_t>(byte) << 23);
  }
}
static_assert(float8_value(dtype::f8_e4m3, 0x7e) == 448.0f && float8_value(dtype::f8_e4m3, 0x01) == 0x1p-9f);
static_assert(float8_value(dtype::f8_e5m2, 0x7b) == 57344.0f && float8_value(dtype::f8_e5m2, 0x81) == -0x1p-16f);
static_assert(float8_value(dtype::f8_e4m3fnuz, 0x7f) == 240.0f && float8_value(dtype::f8_e5m2fnuz, 0x7f) == 57344.0f);
static_assert(float8_value(dtype::f8_e8m0, 0) == 0x1p-127f && float8_value(dtype::f8_e8m0, 254) == 0x1p127f);

/// What reading values as floats cost.
struct rounding_report {
  std::size_t rounded = 0;         ///< values that no float is equal to, those that overflow among them
  std::size_t overflowed = 0;      ///< finite values that became infinite
  double greatest_error = 0.0;     ///< of the values that stay finite
  double greatest_relative = 0.0;  ///< the same, relative to the value
};

namespace detail {

template <class T>
T load_element(const std::byte* p) noexcept {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// out[i] = value i of `count` at p, a type of fits_float. Nothing need be aligned.
inline void read_floats(dtype type, const std::byte* p, std::size_t count, float* out) noexcept {
  const auto each = [&]<class T>(T) {
    for (std::size_t i = 0; i < count; ++i) {
      const T v = load_element<T>(p + sizeof(T) * i);
      if constexpr (std::is_same_v<T, half> || std::is_same_v<T, bfloat16>) out[i] = to_float(v);
      else out[i] = static_cast<float>(v);
    }
  };
  switch (type) {
    case dtype::u8: return each(std::uint8_t{});
    case dtype::i8: return each(std::int8_t{});
    case dtype::u16: return each(std::uint16_t{});
    case dtype::i16: return each(std::int16_t{});
    case dtype::f16: return each(half{});
    case dtype::bf16: return each(bfloat16{});
    case dtype::f32:
      if (count != 0) std::memcpy(out, p, count * sizeof(float));
      return;
    default:
      for (std::size_t i = 0; i < count; ++i) out[i] = float8_value(type, load_element<std::uint8_t>(p + i));
  }
}

/// The same for the wider numbers, rounded to nearest even, and what that cost.
inline rounding_report round_floats(dtype type, const std::byte* p, std::size_t count, float* out) noexcept {
  rounding_report report;
  const auto each = [&]<class T>(T) {
    for (std::size_t i = 0; i < count; ++i) {
      const T v = load_element<T>(p + sizeof(T) * i);
      const float f = static_cast<float>(v);
      out[i] = f;
      if (f != f) continue;  // NaN stays NaN
      // long double holds 64-bit integers on the targets of the library.
      const long double exact = static_cast<long double>(v), error = static_cast<long double>(f) - exact;
      if (exact == static_cast<long double>(f)) continue;  // infinities among them
      ++report.rounded;
      const double magnitude = static_cast<double>(error < 0 ? -error : error);
      if (magnitude > static_cast<double>(std::numeric_limits<float>::max())) {
        ++report.overflowed;
        continue;
      }
      const double relative = magnitude / static_cast<double>(exact < 0 ? -exact : exact);
      if (magnitude > report.greatest_error) report.greatest_error = magnitude;
      if (relative > report.greatest_relative) report.greatest_relative = relative;
    }
  };
  switch (type) {
    case dtype::i32: each(std::int32_t{}); break;
    case dtype::u32: each(std::uint32_t{}); break;
    case dtype::i64: each(std::int64_t{}); break;
    case dtype::u64: each(std::uint64_t{}); break;
    case dtype::f64: each(double{}); break;
    default: read_floats(type, p, count, out);
  }
  return report;
}

}  // namespace detail
}  // namespace io
}  // namespace NIBBLE_ABI
}  // namespace nibble
