// SPDX-License-Identifier: MIT
#pragma once
// The command quantize: encoding rows, what that loses, and types for a size.

#include <optional>
#include <span>
#include <vector>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/io/ggml_budget.hpp>
#include <nibble/io/ggml_mixture.hpp>
#include <nibble/io/imatrix.hpp>
#include <nibble/quant/ggml_type.hpp>
#include <nibble/tensor/ggml_rows.hpp>

#include "tool.hpp"

namespace tool {

/// What is quantized, and how.
struct quantizer {
  const model_file* file;
  const nibble::io::imatrix* importance;  ///< or null
  nibble::ggml_search search;

  /// Rows from `first` on that share their importance.
  std::size_t rows_alike(std::size_t i, std::size_t first) const;
  /// The importance of the columns of row `first`; empty where none is known.
  std::span<const float> importance_of(std::size_t i, std::size_t first) const;
  bool knows(std::size_t i) const { return !importance_of(i, 0).empty(); }
};

/// Room for some rows, kept from one piece to the next.
struct rows_room {
  nibble::aligned_vector<float> values, back;
  nibble::aligned_vector<double> exact;  ///< the values of F64
  nibble::aligned_vector<std::byte> blocks;
  std::vector<loss> each;
};

/// Bytes of so many elements, in whole blocks.
std::size_t block_bytes(std::size_t elements, nibble::ggml_type type);
/// Rows [first, first + n) of tensor i, which share their importance, as blocks at the beginning of room.blocks. What is lost
/// counts from the values in the file, F64 included.
loss encode_rows(const options& o, const quantizer& q, std::size_t i, nibble::ggml_type type, std::size_t first,
                 std::size_t n, rows_room& room);
/// Writes tensor i as its bytes are, which leave memory once they are written.
void copy_bytes(const model_file& file, std::size_t i, nibble::io::tensor_sink& sink);
/// Reads tensor i in pieces, writes it as `type` and measures what that lost. Rows leave memory once they are written.
void requantize(const options& o, const quantizer& q, std::size_t i, nibble::ggml_type type, rows_room& room,
                nibble::io::tensor_sink& sink, loss& lost);
/// What a type loses on rows all over a tensor: at most about 2^17 values, eight places.
loss sample(const options& o, const quantizer& q, std::size_t i, nibble::ggml_type type);
/// Puts types into the choices that neither a rule nor the tensor's kind decides, so that the file has at most `budget` bytes,
/// `header` of them before the data. `predicted` gets each tensor's share of noise, measured on rows all over it.
nibble::io::size_allocation choose_types(const options& o, const quantizer& q,
                                         std::span<const nibble::io::gguf_tensor> tensors, std::size_t header,
                                         std::size_t alignment, std::size_t budget,
                                         std::vector<nibble::io::type_choice>& choices, std::vector<double>& predicted);

}  // namespace tool
