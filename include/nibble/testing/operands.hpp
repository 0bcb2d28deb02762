// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The formats, shapes and operands of a conformance run. All values come from integer arithmetic: a seed means the same
/// operands on every machine.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <nibble/core/config.hpp>
#include <nibble/core/half.hpp>
#include <nibble/gemm/tiling.hpp>
#include <nibble/kernels/gemm_panel.hpp>
#include <nibble/tensor/qmatrix.hpp>

namespace nibble {
inline namespace NIBBLE_ABI {
namespace testing {

/// splitmix64 (Steele, Lea, Flood 2014).
class generator {
 public:
  explicit generator(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  /// In [0, n).
  std::size_t below(std::size_t n) noexcept { return static_cast<std::size_t>(next() % n); }
  bool one_in(std::size_t n) noexcept { return below(n) == 0; }
  float sign() noexcept { return (next() & 1) != 0 ? 1.0f : -1.0f; }
  /// A multiple of 2^-22 in [-2, 2): 24 bits, exact.
  float value() noexcept { return static_cast<float>(static_cast<std::int32_t>(next() >> 40) - (1 << 23)) * 0x1p-22f; }
  /// A multiple of 2^-12 in [1/4, 1).
  float positive() noexcept { return static_cast<float>(1024 + below(3072)) * 0x1p-12f; }
  /// 2^e for e in [lo, hi], built from its bits.
  float power(int lo, int hi) noexcept {
    const int e = lo + static_cast<int>(below(static_cast<std::size_t>(hi - lo + 1)));
    return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
  }

 private:
  std::uint64_t state_;
};

/// For messages: "4-bit asymmetric, groups of 32, half scales".
inline std::string describe(const format_desc& f) {
  constexpr std::array rules = {"symmetric",  "symmetric, full range",    "mid-rise",
                                "asymmetric", "asymmetric, float offset", "codebook"};
  constexpr std::array scales = {"float", "half", "bfloat16", "double-quantized", "super-block"};
  std::string s = std::to_string(f.bits) + "-bit " + rules[static_cast<std::size_t>(f.rule)] + ", ";
  switch (f.granularity) {
    case granularity_kind::per_tensor: s += "per tensor"; break;
    case granularity_kind::per_channel: s += "per channel"; break;
    case granularity_kind::grouped: s += "groups of " + std::to_string(f.group_size); break;
    case granularity_kind::flat: s += "flat blocks of " + std::to_string(f.group_size); break;
  }
  return s + ", " + scales[static_cast<std::size_t>(f.scale)] + " scales";
}

/// Formats that together hold every width with every rule, granularity, scale storage and kind of group size.
inline std::vector<format_desc> covering_formats() {
  using enum code_rule;
  using enum scale_storage;
  using g = granularity_kind;
  std::vector<format_desc> out;
  for (std::uint8_t b = 2; b <= 8; ++b) {
    for (const code_rule rule : {symmetric, mid_rise, asymmetric, asymmetric_offset, codebook})
      out.push_back({rule, b, g::per_channel, f32, 0});
    out.push_back({symmetric_full, b, g::per_tensor, f32, 0});
    out.push_back({asymmetric, b, g::per_tensor, f16, 0});
    out.push_back({asymmetric_offset, b, g::grouped, f32, 8});
    out.push_back({asymmetric, b, g::grouped, f32, 12});
    out.push_back({symmetric, b, g::grouped, f16, 32});
    if (b == 4 || b == 8) out.push_back({asymmetric, b, g::grouped, f16, 48});
    out.push_back({asymmetric, b, g::grouped, f16, 64});
    out.push_back({mid_rise, b, g::grouped, bf16, 64});
    out.push_back({codebook, b, g::grouped, f16, 64});
    out.push_back({symmetric, b, g::grouped, double_quant, 128});
    out.push_back({b % 2 == 0 ? asymmetric_offset : symmetric_full, b, g::grouped, super_block, b < 4 ? 16u : 32u});
    out.push_back({asymmetric_offset, b, g::grouped, f16, 256});
    out.push_back({symmetric_full, b, g::flat, f16, 32});
    out.push_back({codebook, b, g::flat, double_quant, 64});
  }
  return out;
}

struct shape {
  std::size_t M, N, K;
};

/// One element to beyond two panels and tiles, all kinds of rest.
inline std::vector<shape> ragged_shapes() {
  return {{1, 1, 1},   {1, 17, 32}, {2, 16, 33},   {3, 15, 31},  {4, 5, 200},  {5, 33, 100},  {7, 40, 64},
          {8, 16, 96}, {9, 1, 7},   {13, 31, 129}, {1, 48, 257}, {25, 18, 68}, {1, 16, 1100}, {6, 20, 1056}};
}
/// More rows than a block of the CPU drivers, and a sum longer than int32 holds. For a few formats.
inline std::vector<shape> great_shapes() {
  return {{gemm::mc + 3, 5, 36}, {1, 17, kernels::exact_k + 36}, {3, 2, 2 * kernels::exact_k + 5}};
}

/// What the operands of a product look like.
enum class operand_pattern : unsigned char {
  random,       ///< codes, activations and scales of usual size
  all_max,      ///< greatest codes, activations +127
  all_min,      ///< greatest codes, activations -127
  alternating,  ///< codes greatest and 0, activations +127 and -127 by turns
  pairs,        ///< greatest codes, +127 +127 -127 -127: each pair overflows 16 bits, all cancel
  one_hot,      ///< one activation in each row, the last k first
  zeros,        ///< activations +0 or -0
  denormals,    ///< subnormal activations, some so small that the token's scale is 0
  non_finite,   ///< NaN, +infinity and -infinity, each in a row among finite ones
  largest,      ///< activations of the greatest finite magnitude
  cancelling,   ///< activations and scales over many powers of two, of both signs: sums feel every change of order
};
inline constexpr std::array all_patterns = {
    operand_pattern::random,  operand_pattern::all_max,    operand_pattern::all_min,   operand_pattern::alternating,
    operand_pattern::pairs,   operand_pattern::one_hot,    operand_pattern::zeros,     operand_pattern::denormals,
    operand_pattern::largest, operand_pattern::non_finite, operand_pattern::cancelling};

constexpr const char* name_of(operand_pattern p) noexcept {
  switch (p) {
    case operand_pattern::random: return "random";
    case operand_pattern::all_max: return "all at the maximum";
    case operand_pattern::all_min: return "greatest codes, activations -127";
    case operand_pattern::alternating: return "alternating extremes";
    case operand_pattern::pairs: return "saturating pairs";
    case operand_pattern::one_hot: return "one activation a row";
    case operand_pattern::zeros: return "zeros of both signs";
    case operand_pattern::denormals: return "subnormal";
    case operand_pattern::non_finite: return "NaN and infinities in rows of their own";
    case operand_pattern::largest: return "greatest finite activations";
    case operand_pattern::cancelling: return "cancelling, many powers of two";
  }
  return "unknown";
}

/// X[M, K], dense.
inline std::vector<float> activations(operand_pattern pattern, std::size_t M, std::size_t K, std::uint64_t seed) {
  generator random(seed);
  std::vector<float> x(M * K);
  for (std::size_t m = 0; m < M; ++m) {
    float* row = x.data() + m * K;
    const std::size_t hot = K - 1 - m % K;
    for (std::size_t k = 0; k < K; ++k) {
      float& v = row[k];
      switch (pattern) {
        case operand_pattern::random:
        case operand_pattern::non_finite: v = random.value() * (random.one_in(32) ? 8.0f : 1.0f); break;
        case operand_pattern::all_max: v = 127.0f; break;
        case operand_pattern::all_min: v = -127.0f; break;
        case operand_pattern::alternating: v = (k + m) % 2 == 0 ? 127.0f : -127.0f; break;
        case operand_pattern::pairs: v = (k + m) / 2 % 2 == 0 ? 127.0f : -127.0f; break;
        case operand_pattern::one_hot: v = k == hot ? 3.5f * random.sign() : 0.0f; break;
        case operand_pattern::zeros: v = m % 2 == 0 ? 0.0f : -0.0f; break;
        case operand_pattern::denormals:
          v = random.sign() * static_cast<float>(random.below(m % 2 == 0 ? 100000 : 3)) *
              std::numeric_limits<float>::denorm_min();
          break;
        case operand_pattern::largest:
          v = random.sign() * (random.one_in(3) ? 1.0f : std::numeric_limits<float>::max());
          break;
        case operand_pattern::cancelling: v = random.value() * random.power(-10, 10); break;
      }
    }
    if (pattern != operand_pattern::non_finite) continue;
    if (m == M / 2) row[K - 1] = std::numeric_limits<float>::quiet_NaN();
    if (m + 1 == M && M >= 3) row[0] = std::numeric_limits<float>::infinity();
    if (m == 0 && M >= 4) row[K / 2] = -std::numeric_limits<float>::infinity();
  }
  return x;
}

/// W[N, K] with codes and parameters of the pattern; nothing in it depends on a quantizer.
inline any_qmatrix weights(operand_pattern pattern, const format_desc& f, std::size_t N, std::size_t K,
                           std::uint64_t seed) {
  generator random(seed);
  std::vector<float> table(std::size_t{1} << f.bits);
  for (float& t : table) t = random.value() * 0.5f;
  any_qmatrix m =
      f.rule == code_rule::codebook ? any_qmatrix(f, N, K, std::span<const float>(table)) : any_qmatrix(f, N, K);

  const bool extreme = pattern == operand_pattern::all_max || pattern == operand_pattern::all_min ||
                       pattern == operand_pattern::pairs || pattern == operand_pattern::alternating;
  const unsigned top = (1u << f.bits) - 1u;
  const bool flat = f.granularity == granularity_kind::flat;
  for (std::size_t n = 0; n < N; ++n)
    for (std::size_t k = 0; k < K; ++k) {
      unsigned code = static_cast<unsigned>(random.next()) & top;
      if (extreme) code = pattern == operand_pattern::alternating && (n + k) % 2 != 0 ? 0 : top;
      std::byte* const row = m.codes().data() + (flat ? 0 : n * m.row_stride_bytes());
      pack::put(row, flat ? n * K + k : k, f.bits, code);
    }

  const bool wide = pattern == operand_pattern::cancelling;
  const auto fill = [&](std::span<std::byte> plane, scale_storage storage, float size) {
    for (std::size_t at = 0; at < plane.size(); at += quant::scale_bytes(storage)) {
      // Half scales reach down into their subnormals; the others stay in the range of half, too.
      const float v =
          size * random.positive() * (random.one_in(8) ? -1.0f : 1.0f) * (wide ? random.power(-14, 10) : 1.0f);
      const half h = to_half(v);
      const bfloat16 b = to_bfloat16(v);
      switch (storage) {
        case scale_storage::f32: std::memcpy(&plane[at], &v, 4); break;
        case scale_storage::f16: std::memcpy(&plane[at], &h, 2); break;
        case scale_storage::bf16: std::memcpy(&plane[at], &b, 2); break;
        case scale_storage::double_quant:
        case scale_storage::super_block: plane[at] = static_cast<std::byte>(random.next()); break;
      }
    }
  };
  fill(m.scale_plane(), f.scale, 0x1p-5f);
  for (float& s : m.super_scales()) s = 0x1p-5f * random.positive();
  for (half& s : m.block_scales()) s = to_half(0x1p-11f * random.positive() * (wide ? random.power(-10, 10) : 1.0f));
  if (f.rule == code_rule::asymmetric)
    for (std::byte& z : m.zero_plane()) z = static_cast<std::byte>(random.next() & top);
  if (f.rule == code_rule::asymmetric_offset)
    fill(m.zero_plane(), f.scale == scale_storage::double_quant ? scale_storage::f32 : f.scale,
         -0x1p-6f * static_cast<float>(1u << f.bits));
  return m;
}

/// Values as a quantizer gets them, for `quantize` and `quantize_row`: all finite.
enum class value_pattern : unsigned char { random, ties, zeros, constant, denormals, outlier, one_sided };
inline constexpr std::array all_value_patterns = {
    value_pattern::random,    value_pattern::ties,    value_pattern::zeros,    value_pattern::constant,
    value_pattern::denormals, value_pattern::outlier, value_pattern::one_sided};

constexpr const char* name_of(value_pattern p) noexcept {
  switch (p) {
    case value_pattern::random: return "random";
    case value_pattern::ties: return "ties between two codes";
    case value_pattern::zeros: return "zeros of both signs";
    case value_pattern::constant: return "all equal";
    case value_pattern::denormals: return "subnormal";
    case value_pattern::outlier: return "one great value among small ones";
    case value_pattern::one_sided: return "all of one sign";
  }
  return "unknown";
}

inline std::vector<float> values(value_pattern pattern, std::size_t count, std::uint64_t seed) {
  generator random(seed);
  std::vector<float> x(count);
  for (std::size_t i = 0; i < count; ++i) {
    switch (pattern) {
      case value_pattern::random: x[i] = random.value(); break;
      // 127 makes the s8 scale 1, and the others lie half between two codes.
      case value_pattern::ties:
        x[i] = i == count / 2 ? 127.0f : static_cast<float>(static_cast<int>(random.below(253)) - 126) + 0.5f;
        break;
      case value_pattern::zeros: x[i] = random.one_in(2) ? 0.0f : -0.0f; break;
      case value_pattern::constant: x[i] = 0.7f; break;
      case value_pattern::denormals:
        x[i] = random.sign() * static_cast<float>(random.below(1000)) * std::numeric_limits<float>::denorm_min();
        break;
      case value_pattern::outlier: x[i] = i == count / 3 ? 100.0f : random.value() * 0x1p-6f; break;
      case value_pattern::one_sided: x[i] = 3.0f + random.value(); break;
    }
  }
  return x;
}

}  // namespace testing
}  // namespace NIBBLE_ABI
}  // namespace nibble
