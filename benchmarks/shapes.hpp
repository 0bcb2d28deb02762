// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// The shapes, batches and formats that nibble-bench measures.

#include <array>
#include <cstddef>

#include <nibble/quant/qtype.hpp>

namespace nibble::bench {

/// Weights W[N, K].
struct shape {
  std::size_t N, K;
};

/// Linear layers of language models: attention and feed-forward of a 7B LLaMA, feed-forward of a 0.6B Qwen3, whose
/// 4-bit weights are a few L2 caches small.
inline constexpr std::array shapes{shape{4096, 4096}, shape{11008, 4096}, shape{1024, 3072}, shape{3072, 1024}};

/// Tokens in a batch: decoding, a few drafts or users, a small and a large prompt.
inline constexpr std::array<std::size_t, 5> batches{1, 5, 16, 128, 512};

/// Every width, short groups, zero points, a codebook.
inline constexpr std::array formats{qtype::w2_g128, qtype::w3_g128,    qtype::w4_g128,  qtype::w5_g128,
                                    qtype::w6_g128, qtype::w7_g128,    qtype::w8_g128,  qtype::w4_g32,
                                    qtype::w8_g32,  qtype::w8_channel, qtype::w4a_g128, qtype::nf4_g64};

/// What Q2_K to Q6_K of GGUF files become, beside the formats above in products: in integers, square.
inline constexpr std::array super_block_formats{qtype::w2o_g16_sb, qtype::w3f_g16_sb, qtype::w4o_g32_sb,
                                                qtype::w5o_g32_sb, qtype::w6f_g16_sb};

/// Of computation::bfloat16, which is for batches: after a code has become a bfloat16 weight, its format plays no part.
inline constexpr std::array bfloat16_formats{qtype::w4_g128, qtype::w8_channel, qtype::nf4_g64};
inline constexpr std::size_t least_bfloat16_batch = 16;

}  // namespace nibble::bench
