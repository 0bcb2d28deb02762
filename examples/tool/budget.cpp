// SPDX-License-Identifier: MIT
#include <algorithm>
#include <string_view>

#include <nibble/core/round.hpp>

#include "quantize.hpp"

namespace tool {

using nibble::ggml_type;

std::size_t quantizer::rows_alike(std::size_t i, std::size_t first) const {
  const tensor& t = file->tensors()[i];
  if (importance == nullptr || t.shape.size() < 3) return t.rows() - first;
  const std::size_t of_matrix = t.shape[t.shape.size() - 2];
  return of_matrix - first % of_matrix;
}

std::span<const float> quantizer::importance_of(std::size_t i, std::size_t first) const {
  const tensor& t = file->tensors()[i];
  if (importance == nullptr || t.elements == 0 || t.shape.size() < 2) return {};
  const std::size_t of_matrix = t.shape[t.shape.size() - 2];
  return importance->of(t.name, t.cols(), t.rows() / of_matrix, first / of_matrix);
}

std::size_t block_bytes(std::size_t elements, ggml_type type) {
  const nibble::quant::ggml_type_info& info = nibble::quant::info_of(type);
  return elements / info.block_elements * info.block_bytes;
}

namespace {

/// The message of an error without the library's name and the code's, for one that wraps it.
std::string_view reason_of(const nibble::error& e) {
  std::string_view text = e.what();
  if (text.starts_with("nibble: ")) text.remove_prefix(8);
  return text.substr(0, text.rfind(" ["));
}

}  // namespace

loss encode_rows(const options& o, const quantizer& q, std::size_t i, ggml_type type, std::size_t first, std::size_t n,
                 rows_room& room) {
  const tensor& t = q.file->tensors()[i];
  const std::size_t cols = t.cols(), row_bytes = block_bytes(cols, type);
  const auto grow = [](auto& v, std::size_t size) {
    if (v.size() < size) v.resize(size);
    return std::span{v}.first(size);
  };
  const auto values = grow(room.values, n * cols), back = grow(room.back, n * cols);
  const auto blocks = grow(room.blocks, n * row_bytes);
  room.each.assign(n, {});
  if (t.wide) {
    if (const std::size_t beyond = q.file->round_rows(i, first, values).overflowed; beyond != 0)
      nibble::core::fail(nibble::errc::bad_value, "tensor '", t.name, "' is ", t.type, " and has ", beyond,
                         " values beyond the greatest F32 in rows from ", first, " on");
    q.file->read_rows(i, first, grow(room.exact, n * cols));
  } else {
    q.file->read_rows(i, first, values, o.ctx);
  }
  const std::span<const float> weights = q.importance_of(i, first);
  try {
    nibble::encode_ggml(type, nibble::make_span2d<const float>(values.data(), n, cols), blocks,
                        {.search = q.search, .importance = weights}, o.ctx);
  } catch (const nibble::error& e) {  // its rows count from the piece's first one
    nibble::core::fail(e.code(), "tensor '", t.name, "', rows from ", first, " on: ", reason_of(e));
  }
  nibble::core::for_each_item(o.ctx, n, [&](std::size_t r, std::size_t) {
    nibble::decode_ggml(type, std::span<const std::byte>{blocks}.subspan(r * row_bytes, row_bytes),
                        back.subspan(r * cols, cols));
    loss& l = room.each[r];
    for (std::size_t k = 0; k < cols; ++k) {
      const double w = t.wide ? room.exact[r * cols + k] : values[r * cols + k], e = w - back[r * cols + k];
      l.signal += w * w;
      l.noise += e * e;
      if (weights.empty()) continue;
      l.weighted_signal += weights[k] * w * w;
      l.weighted_noise += weights[k] * e * e;
    }
  });
  loss all;
  for (const loss& l : room.each) all.add(l);  // in the order of the rows, whatever the threads
  return all;
}

loss sample(const options& o, const quantizer& q, std::size_t i, ggml_type type) {
  const tensor& t = q.file->tensors()[i];
  const std::size_t rows = t.rows();
  if (rows == 0 || t.cols() == 0) return {};
  const std::size_t most = std::max(std::size_t{8}, (std::size_t{1} << 17) / t.cols());
  loss all;
  rows_room room;
  if (rows <= most) {
    for (std::size_t first = 0; first < rows; first += q.rows_alike(i, first))
      all.add(encode_rows(o, q, i, type, first, q.rows_alike(i, first), room));
    return all;
  }
  for (std::size_t place = 0; place < 8; ++place) {
    const std::size_t first = rows * place / 8;
    all.add(encode_rows(o, q, i, type, first, std::min(most / 8, q.rows_alike(i, first)), room));
  }
  return all;
}

nibble::io::size_allocation choose_types(const options& o, const quantizer& q,
                                         std::span<const nibble::io::gguf_tensor> tensors, std::size_t header,
                                         std::size_t alignment, std::size_t budget,
                                         std::vector<nibble::io::type_choice>& choices,
                                         std::vector<double>& predicted) {
  std::size_t elements = 0;
  for (const nibble::io::gguf_tensor& t : tensors) elements += t.elements;
  progress say(o, "measure", elements);
  std::vector<std::vector<nibble::io::size_option>> options_of(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const nibble::io::gguf_tensor& t = tensors[i];
    const auto option = [&](ggml_type type, double cost) {
      options_of[i].push_back({type, nibble::round_up(block_bytes(t.elements, type), alignment), cost});
    };
    const bool decided = choices[i].kept || choices[i].rule != nullptr;
    if (!q.file->tensors()[i].readable) {  // as it is
      if (!decided) choices[i] = {.type = t.type, .wanted = t.type, .kept = true};
      option(choices[i].type, 0.0);
    } else if (decided) {
      option(choices[i].type, choices[i].type == t.type ? 0.0 : sample(o, q, i, choices[i].type).share());
    } else {
      if (t.type != ggml_type::f32 && t.type != ggml_type::bf16) option(t.type, 0.0);
      for (const ggml_type type : nibble::io::types_of_rows(t.dims[0])) {
        if (type == t.type) continue;
        try {
          option(type, sample(o, q, i, type).share());
        } catch (const nibble::error& e) {  // values too large for a type are no reason against the others
          if (e.code() != nibble::errc::scale_overflow) throw;
        }
      }
      if (t.type == ggml_type::f32 || t.type == ggml_type::bf16) option(t.type, 0.0);
    }
    q.file->release(i);
    say.add(t.elements, t.name);
  }
  std::size_t least = header;
  for (const auto& each : options_of) {
    const auto smaller = [](const auto& a, const auto& b) { return a.bytes < b.bytes; };
    least += std::min_element(each.begin(), each.end(), smaller)->bytes;
  }
  if (budget < least)
    nibble::core::fail(nibble::errc::bad_value, "no types make a file of ", budget, " bytes; the least is ", least);
  nibble::io::size_allocation all = nibble::io::allocate_sizes(options_of, budget - header);
  all.bytes += header;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const nibble::io::size_option& chosen = options_of[i][all.chosen[i]];
    predicted[i] = chosen.cost;
    if (choices[i].kept || choices[i].rule != nullptr) continue;
    choices[i].type = choices[i].wanted = chosen.type;
  }
  return all;
}

}  // namespace tool
