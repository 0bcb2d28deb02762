// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tool.hpp"

namespace tool {

progress::progress(const options& o, std::string what, std::size_t total)
    : what_(std::move(what)), total_(total), shown_(!o.quiet && ::isatty(STDERR_FILENO) != 0) {}
progress::~progress() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
}
void progress::add(std::size_t units, std::string_view now) {
  done_ += units;
  const auto time = std::chrono::steady_clock::now();
  if (!shown_ || time - last_ < std::chrono::milliseconds(100)) return;
  last_ = time;
  const int percent =
      total_ == 0 ? 100 : static_cast<int>(100.0 * static_cast<double>(done_) / static_cast<double>(total_));
  std::fprintf(stderr, "\r\033[K%s %3d %%  %.*s", what_.c_str(), percent,
               static_cast<int>(std::min(now.size(), std::size_t{60})), now.data());
}

model_file::model_file(const std::string& path) {
  std::array<char, 4> magic{};
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  std::error_code error;
  file_bytes_ = static_cast<std::size_t>(std::filesystem::file_size(path, error));
  if (std::string_view{magic.data(), magic.size()} == "GGUF") {
    gguf_.emplace(path);
    for (const nibble::io::gguf_tensor& t : gguf_->tensors()) {
      tensor own{.name = std::string{t.name},
                 .type = std::string{nibble::quant::name_of(t.type)},
                 .shape = {},
                 .elements = t.elements,
                 .bytes = t.bytes,
                 .readable = nibble::can_decode_ggml(t.type)};
      for (std::size_t d = t.n_dims; d-- > 0;) own.shape.push_back(t.dims[d]);
      tensors_.push_back(std::move(own));
    }
  } else {  // a file that is neither is refused by this reader, with the reason
    safe_.emplace(path);
    for (const nibble::io::tensor_info& t : safe_->tensors())
      tensors_.push_back({t.name, std::string{nibble::io::name_of(t.type)}, t.shape, t.elements, t.end - t.begin,
                          nibble::io::safetensors_reader::is_float(t)});
  }
}

void model_file::read_rows(std::size_t i, std::size_t first, std::span<float> out) const {
  const std::size_t at = first * tensors_[i].cols();
  if (gguf_) gguf_->read_f32(gguf_->tensors()[i], at, out);
  else safe_->read_f32(safe_->tensors()[i], at, out);
}
void model_file::release(std::size_t i) const {
  if (gguf_) gguf_->release(gguf_->tensors()[i]);
  else safe_->release(safe_->tensors()[i]);
}

std::size_t rows_at_once(std::size_t cols) noexcept {
  constexpr std::size_t floats = std::size_t{4} << 20;
  return cols == 0 ? 1 : std::max(floats / cols, std::size_t{1});
}

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text;
  for (const std::size_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text.empty() ? "scalar" : text;
}
std::string number_text(const char* format, double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}
std::string bytes_text(std::size_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (b >= 0x1p30) return number_text("%.3f GiB", b * 0x1p-30);
  if (b >= 0x1p20) return number_text("%.3f MiB", b * 0x1p-20);
  if (b >= 0x1p10) return number_text("%.1f KiB", b * 0x1p-10);
  return std::to_string(bytes) + " B";
}
std::string table_text(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width;
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (c == width.size()) width.push_back(0);
      width[c] = std::max(width[c], row[c].size());
    }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string blanks(width[c] - row[c].size(), ' ');
      line += c == 0 ? row[c] + blanks : "  " + blanks + row[c];
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace tool
