// SPDX-License-Identifier: MIT
#pragma once
/// @file
/// What a GEMM call is given, and the concept of a backend.

#include <concepts>
#include <cstddef>
#include <string_view>

#include <nibble/core/config.hpp>
#include <nibble/core/context.hpp>
#include <nibble/core/error.hpp>
#include <nibble/core/span2d.hpp>
#include <nibble/quant/integer_image.hpp>
#include <nibble/tensor/packed_view.hpp>

namespace nibble {

/// How activations take part.
enum class computation : unsigned char {
  weight_only,  ///< float activations, float accumulation
  integer,      ///< activations quantized per token to s8 on the fly, exact integer sums over each group; codebooks
                ///< take part through their gemm_options::image
  /// Activations and weights rounded to bfloat16, products added in float over all of K: what matrix units multiply. A weight
  /// is its decoded value, scale * (u - z) (+ offset) or scale * table[u], rounded to float and then to bfloat16. Rounding is
  /// to the nearest finite number, ties to even: a finite value beyond 0x1.fep127, the greatest, becomes that.
  ///
  /// Stated error against the exact product with the decoded weights, where no sum leaves the range of float:
  ///
  ///   |y - exact| <= (2^-7 + 2^-15 + (2 K + 8) 2^-24) * sum |x| |w|  +  2^-126 * (sum |x| + sum |w| + 2 K + 8)
  ///
  /// (derived in kernels/README.md). A float path: not the same bits on every instruction set, but on each of them whatever
  /// the threads, the split of M and the batch.
  bfloat16,
};

/// Scales of activations in integer computation.
enum class activation_scales : unsigned char {
  per_token,            ///< one for each row of X, from its greatest magnitude
  per_token_and_group,  ///< one for each row and group of W, which must be a grouped format
  fixed,  ///< gemm_options::x_scale for all of X (static quantization): what lies beyond 127 steps is clamped
};

/// Options of one product or batch. Plain data.
struct gemm_options {
  nibble::computation computation = nibble::computation::weight_only;
  const float* bias = nullptr;  ///< [N] or nullptr: added to every row
  float beta = 0.0f;            ///< Y = X * transpose(W) + bias + beta * Y; with 0, Y is not read
  activation_scales activations = activation_scales::per_token;
  float x_scale = 0.0f;                   ///< of activation_scales::fixed: finite and greater than 0
  table_image image = table_image::none;  ///< what integer computation takes in place of a codebook's values
};

inline namespace NIBBLE_ABI {
namespace gemm {

/// Y[M, N] = X[M, K] * transpose(W[N, K]) (+ bias + beta * Y). A backend is an empty tag.
///
/// `can_multiply` is asked first and answers without guessing: errc::ok, unsupported_format, unsupported_layout or
/// unsupported_isa. `multiply` is noexcept, allocates nothing, and needs scratch_bytes() of ctx.scratch. Rows of X and Y
/// have strides; M = 0 is legal and does nothing. A non-finite activation makes its own row of Y NaN and no other.
template <class B>
concept backend = requires(span2d<const float> x, const packed_view& w, span2d<float> y, const gemm_options& o,
                           const context& ctx) {
  typename B::isa_type;
  { B::name } -> std::convertible_to<std::string_view>;
  { B::runs_here() }
  noexcept->std::same_as<bool>;
  { B::can_multiply(w, o) }
  noexcept->std::same_as<errc>;
  { B::scratch_bytes(w, x.rows, o, ctx.concurrency) }
  noexcept->std::same_as<std::size_t>;
  { B::multiply(x, w, y, o, ctx) }
  noexcept;
};

}  // namespace gemm
}  // namespace NIBBLE_ABI
}  // namespace nibble
