// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// Seeded matrices for kernel tests: quantized ones with every bit of their planes random, so that no test depends on
/// what a quantizer would choose.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <nibble/tensor/qmatrix.hpp>

namespace nibble::test {

/// Every format of the run-time description at one width: rules x granularities x scale storages.
inline std::vector<format_desc> all_formats(int bits, std::vector<std::uint32_t> group_sizes = {8, 32, 64}) {
  std::vector<format_desc> out;
  for (const code_rule rule : {code_rule::symmetric, code_rule::symmetric_full, code_rule::mid_rise,
                               code_rule::asymmetric, code_rule::asymmetric_offset, code_rule::codebook}) {
    for (const scale_storage scale :
         {scale_storage::f32, scale_storage::f16, scale_storage::bf16, scale_storage::double_quant}) {
      format_desc f{rule, static_cast<std::uint8_t>(bits), granularity_kind::per_tensor, scale, 0};
      out.push_back(f);
      f.granularity = granularity_kind::per_channel;
      out.push_back(f);
      for (const std::uint32_t size : group_sizes) {
        f.group_size = size;
        f.granularity = granularity_kind::grouped;
        out.push_back(f);
        f.granularity = granularity_kind::flat;
        out.push_back(f);
      }
    }
    for (const std::uint32_t size : group_sizes)
      if (quant::super_block_k % size == 0)
        out.push_back(
            {rule, static_cast<std::uint8_t>(bits), granularity_kind::grouped, scale_storage::super_block, size});
  }
  return out;
}

/// For CAPTURE: bits, rule, granularity, group size, scale storage.
inline std::string describe(const format_desc& f) {
  return std::to_string(f.bits) + " bits, rule " + std::to_string(static_cast<int>(f.rule)) + ", granularity " +
         std::to_string(static_cast<int>(f.granularity)) + ", group " + std::to_string(f.group_size) + ", scales " +
         std::to_string(static_cast<int>(f.scale));
}

/// Random codes; scales about `scale`, of both signs; random zero points and offsets.
inline any_qmatrix random_qmatrix(const format_desc& f, std::size_t N, std::size_t K, unsigned seed,
                                  float scale = 0.02f) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> unit(0.25f, 1.0f), both(-1.0f, 1.0f);
  std::vector<float> table(std::size_t{1} << f.bits);
  for (float& t : table) t = both(rng);
  any_qmatrix m =
      f.rule == code_rule::codebook ? any_qmatrix(f, N, K, std::span<const float>(table)) : any_qmatrix(f, N, K);
  for (std::byte& b : m.codes()) b = static_cast<std::byte>(rng());
  const auto fill = [&](std::span<std::byte> plane, scale_storage storage, float size) {
    for (std::size_t at = 0; at < plane.size(); at += quant::scale_bytes(storage)) {
      const float v = size * unit(rng) * (rng() % 8 == 0 ? -1.0f : 1.0f);
      if (storage == scale_storage::f32) std::memcpy(&plane[at], &v, 4);
      if (storage == scale_storage::f16) {
        const half h = to_half(v);
        std::memcpy(&plane[at], &h, 2);
      }
      if (storage == scale_storage::bf16) {
        const bfloat16 h = to_bfloat16(v);
        std::memcpy(&plane[at], &h, 2);
      }
      if (quant::has_two_levels(storage)) plane[at] = static_cast<std::byte>(rng());
    }
  };
  fill(m.scale_plane(), f.scale, scale);
  for (float& s : m.super_scales()) s = scale * unit(rng);
  for (half& s : m.block_scales()) s = to_half(scale / 64.0f * unit(rng));
  if (f.rule == code_rule::asymmetric)
    for (std::byte& z : m.zero_plane()) z = static_cast<std::byte>(rng() & ((1u << f.bits) - 1u));
  if (f.rule == code_rule::asymmetric_offset)
    fill(m.zero_plane(), f.scale == scale_storage::double_quant ? scale_storage::f32 : f.scale,
         scale * static_cast<float>(1 << f.bits) / -2.0f);
  return m;
}

inline std::vector<float> normal_values(std::size_t count, unsigned seed, float sigma = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<float> v(count);
  for (float& x : v) x = normal(rng);
  return v;
}

/// True when both hold the same bits (NaN equals NaN of the same bits, +0 differs from -0).
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}
inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// A matrix with all bits of its codes set and all scales equal; float scales.
inline any_qmatrix full_qmatrix(const format_desc& f, std::size_t N, std::size_t K, float scale) {
  any_qmatrix m(f, N, K);
  std::fill(m.codes().begin(), m.codes().end(), std::byte{255});
  for (std::size_t i = 0; i < m.scale_count(); ++i)
    std::memcpy(&m.scale_plane()[i * sizeof scale], &scale, sizeof scale);
  return m;
}

}  // namespace nibble::test
