// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The tensor types of GGUF files: their ids, names and block sizes. What the bytes of a block mean is in ggml_block32.hpp
/// and ggml_block256.hpp. Source: the GGUF specification; ids and sizes are those
/// that ggml 0.25.3 reports.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <nibble/core/config.hpp>

namespace nibble {

/// Types by the id that files store. Ids 4, 5, 31 to 33 and 36 to 38 were in use once and are not types any more.
enum class ggml_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};

inline namespace NIBBLE_ABI {
namespace quant {

/// What a type is called and how many elements of a row lie in how many bytes.
struct ggml_type_info {
  ggml_type type;
  std::string_view name;       ///< as the specification writes it, "Q4_K"
  std::size_t block_elements;  ///< a row holds whole blocks
  std::size_t block_bytes;
  bool quantized;  ///< a block format, for which files carry general.quantization_version
};

namespace detail {

// clang-format off
inline constexpr ggml_type_info ggml_types[] = {
    {ggml_type::f32,     "F32",     1,   4,   false},
    {ggml_type::f16,     "F16",     1,   2,   false},
    {ggml_type::q4_0,    "Q4_0",    32,  18,  true},
    {ggml_type::q4_1,    "Q4_1",    32,  20,  true},
    {ggml_type::q5_0,    "Q5_0",    32,  22,  true},
    {ggml_type::q5_1,    "Q5_1",    32,  24,  true},
    {ggml_type::q8_0,    "Q8_0",    32,  34,  true},
    {ggml_type::q8_1,    "Q8_1",    32,  36,  true},
    {ggml_type::q2_k,    "Q2_K",    256, 84,  true},
    {ggml_type::q3_k,    "Q3_K",    256, 110, true},
    {ggml_type::q4_k,    "Q4_K",    256, 144, true},
    {ggml_type::q5_k,    "Q5_K",    256, 176, true},
    {ggml_type::q6_k,    "Q6_K",    256, 210, true},
    {ggml_type::q8_k,    "Q8_K",    256, 292, true},
    {ggml_type::iq2_xxs, "IQ2_XXS", 256, 66,  true},
    {ggml_type::iq2_xs,  "IQ2_XS",  256, 74,  true},
    {ggml_type::iq3_xxs, "IQ3_XXS", 256, 98,  true},
    {ggml_type::iq1_s,   "IQ1_S",   256, 50,  true},
    {ggml_type::iq4_nl,  "IQ4_NL",  32,  18,  true},
    {ggml_type::iq3_s,   "IQ3_S",   256, 110, true},
    {ggml_type::iq2_s,   "IQ2_S",   256, 82,  true},
    {ggml_type::iq4_xs,  "IQ4_XS",  256, 136, true},
    {ggml_type::i8,      "I8",      1,   1,   false},
    {ggml_type::i16,     "I16",     1,   2,   false},
    {ggml_type::i32,     "I32",     1,   4,   false},
    {ggml_type::i64,     "I64",     1,   8,   false},
    {ggml_type::f64,     "F64",     1,   8,   false},
    {ggml_type::iq1_m,   "IQ1_M",   256, 56,  true},
    {ggml_type::bf16,    "BF16",    1,   2,   false},
    {ggml_type::tq1_0,   "TQ1_0",   256, 54,  true},
    {ggml_type::tq2_0,   "TQ2_0",   256, 66,  true},
    {ggml_type::mxfp4,   "MXFP4",   32,  17,  true},
    {ggml_type::nvfp4,   "NVFP4",   64,  36,  true},
    {ggml_type::q1_0,    "Q1_0",    128, 18,  true},
    {ggml_type::q2_0,    "Q2_0",    64,  18,  true},
};
// clang-format on

}  // namespace detail

inline constexpr std::size_t ggml_type_count = sizeof(detail::ggml_types) / sizeof(detail::ggml_types[0]);

/// The type with this id in a file, or null when no type has it.
constexpr const ggml_type_info* find_ggml_type(std::uint32_t id) noexcept {
  for (const ggml_type_info& t : detail::ggml_types)
    if (static_cast<std::uint32_t>(t.type) == id) return &t;
  return nullptr;
}

/// Name and block size of a type; `type` must be one of the list.
constexpr const ggml_type_info& info_of(ggml_type type) noexcept {
  return *find_ggml_type(static_cast<std::uint32_t>(type));
}
constexpr std::string_view name_of(ggml_type type) noexcept { return info_of(type).name; }

/// The type of a name as the specification writes it, such as "Q4_K", or nothing.
constexpr std::optional<ggml_type> ggml_type_from_name(std::string_view name) noexcept {
  for (const ggml_type_info& t : detail::ggml_types)
    if (t.name == name) return t.type;
  return std::nullopt;
}

static_assert(name_of(ggml_type::q4_k) == "Q4_K" && find_ggml_type(4) == nullptr);

}  // namespace quant
}  // namespace NIBBLE_ABI
}  // namespace nibble
