// SPDX-License-Identifier: MIT
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <nibble/io/checksum.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/file_text.hpp>

#include "tool.hpp"

namespace tool {
namespace {

/// Whether a tensor's values are the numbers of a layer: floats of all widths. Integers are data: positions, masks, codes.
bool is_float(nibble::io::dtype type) {
  using enum nibble::io::dtype;
  switch (type) {
    case f64:
    case f32:
    case f16:
    case bf16:
    case f8_e4m3:
    case f8_e5m2:
    case f8_e4m3fnuz:
    case f8_e5m2fnuz: return true;
    default: return false;
  }
}

}  // namespace

std::string tensor::why_not() const {
  if (scaled_by.empty()) return "nibble cannot compute its values";
  return nibble::core::message("its values are to be multiplied by the scales in '", nibble::io::printable(scaled_by),
                               "', a format that nibble does not read");
}

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
  std::fprintf(stderr, "\r\033[K%s %3d %%  %s", what_.c_str(), percent,
               nibble::io::printable(now.substr(0, 60)).c_str());
}

model_file::model_file(const std::string& path) : path_(path) {
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
                 .readable = nibble::can_decode_ggml(t.type) || t.type == nibble::ggml_type::f64,
                 .wide = t.type == nibble::ggml_type::f64,
                 .scaled_by = {}};
      for (std::size_t d = t.n_dims; d-- > 0;) own.shape.push_back(t.dims[d]);
      tensors_.push_back(std::move(own));
    }
    return;
  }
  // What is neither is refused by this reader, with the reason.
  try {
    checkpoint_.emplace(path);
  } catch (const nibble::error& e) {
    plain_.emplace(path);  // throws where the files themselves are at fault
    std::fprintf(stderr, "nibble: quantized layers are taken as the tensors that they consist of: %s\n", e.what());
  }
  const auto plain = [&](const nibble::io::tensor_info& t) {
    tensor own{.name = t.name,
               .type = std::string{nibble::io::name_of(t.type)},
               .shape = t.shape,
               .elements = t.elements,
               .bytes = t.end - t.begin,
               .readable = is_float(t.type),
               .wide = t.type == nibble::io::dtype::f64,
               .scaled_by = {}};
    if (own.readable && nibble::io::bits_of(t.type) == 8)
      for (const char* const end : {"_scale", "_scale_inv"})
        if (set().contains(t.name + end)) own.scaled_by = t.name + end, own.readable = false;
    tensors_.push_back(std::move(own));
  };
  file_bytes_ = 0;
  for (const std::string& file : set().paths())
    file_bytes_ += static_cast<std::size_t>(std::filesystem::file_size(file, error));
  for (const nibble::io::safetensors_reader& shard : set().shards())
    strings_.insert(shard.metadata().begin(), shard.metadata().end());
  if (!checkpoint_) {
    for (const nibble::io::tensor_info& t : set().tensors()) plain(t);
    return;
  }
  for (const nibble::io::tensor_info* const t : checkpoint_->others()) plain(*t);
  for (const nibble::io::checkpoint_layer& l : checkpoint_->layers()) {
    const bool own = l.layout == nibble::io::layer_layout::nibble;
    tensor t{.name = own ? l.name : l.name + ".weight",
             .type = nibble::core::message(name_of(l.layout), " ", l.bits, " bits"),
             .shape = {l.N, l.K},
             .elements = l.N * l.K,
             .bytes = 0,
             .readable = true,
             .wide = false,
             .scaled_by = {},
             .layer = &l};
    if (l.group_size != 0) t.type += nibble::core::message(" in ", l.group_size, "s");
    for (const nibble::io::tensor_info* const part : l.tensors) t.bytes += part->end - part->begin;
    tensors_.push_back(std::move(t));
  }
}

const nibble::io::checkpoint_matrix& model_file::layer(std::size_t i) const {
  if (!layer_ || layer_of_ != i) {
    layer_.reset();
    layer_ = checkpoint_->read(*tensors_[i].layer);
    layer_of_ = i;
  }
  return *layer_;
}

std::span<const std::byte> model_file::bytes_of_values(std::size_t i, std::size_t first, std::size_t count) const {
  return bytes(i).subspan(first * tensors_[i].cols() * sizeof(double), count * sizeof(double));
}
void model_file::read_rows(std::size_t i, std::size_t first, std::span<double> out) const {
  const std::span<const std::byte> in = bytes_of_values(i, first, out.size());
  if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());  // nothing is aligned
}
nibble::io::rounding_report model_file::round_rows(std::size_t i, std::size_t first, std::span<float> out) const {
  const std::span<const std::byte> in = bytes_of_values(i, first, out.size());
  return nibble::io::detail::round_floats(nibble::io::dtype::f64, in.data(), out.size(), out.data());
}
void model_file::read_rows(std::size_t i, std::size_t first, std::span<float> out, const nibble::context& ctx) const {
  const std::size_t at = first * tensors_[i].cols();
  const tensor& t = tensors_[i];
  if (t.wide) {
    static_cast<void>(round_rows(i, first, out));
    return;
  }
  if (gguf_) return gguf_->read_f32(gguf_->tensors()[i], at, out, ctx);
  if (t.layer == nullptr) return set().read_f32(set().at(t.name), at, out);
  nibble::io::dequantize_rows(layer(i), first, nibble::make_span2d(out.data(), out.size() / t.cols(), t.cols()), ctx);
}
std::span<const std::byte> model_file::bytes(std::size_t i) const {
  return gguf_ ? gguf_->bytes(gguf_->tensors()[i]) : set().bytes(set().at(tensors_[i].name));
}
void model_file::release_rows(std::size_t i, std::size_t first, std::size_t rows) const {
  const tensor& t = tensors_[i];
  if (t.layer != nullptr || t.rows() == 0) return;
  const std::size_t row_bytes = t.bytes / t.rows();
  const std::span<const std::byte> part = bytes(i).subspan(first * row_bytes, rows * row_bytes);
  if (gguf_) return gguf_->release(part);
  set().release(set().at(t.name), part);
}
void model_file::release(std::size_t i) const {
  if (gguf_) return gguf_->release(gguf_->tensors()[i]);
  if (tensors_[i].layer == nullptr) return set().release(set().at(tensors_[i].name));
  layer_.reset();
  checkpoint_->release(*tensors_[i].layer);
}

std::string model_file::fingerprint() const {
  std::string all;
  for (const std::string& path : gguf_ ? std::vector<std::string>{path_} : set().paths()) {
    struct ::stat info {};
    if (::stat(path.c_str(), &info) != 0)
      nibble::core::fail(nibble::errc::io_failed, "cannot look at '", path, "': ", std::strerror(errno));
    std::string first(std::size_t{4} << 20, '\0');
    std::ifstream in(path, std::ios::binary);
    in.read(first.data(), static_cast<std::streamsize>(first.size()));
    first.resize(static_cast<std::size_t>(in.gcount()));
    all +=
        nibble::core::message(all.empty() ? "" : " ", info.st_size, " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec,
                              " ", nibble::io::detail::checksum(std::as_bytes(std::span{first}), 0));
  }
  return all;
}

nibble::io::resumption resumption_of(const model_file& file, const std::string& plan, bool resume,
                                     std::vector<std::string> names, std::vector<loss>& losses,
                                     std::function<void(std::size_t)> taken_over) {
  std::map<std::string, std::size_t, std::less<>> places;
  for (std::size_t i = 0; i < names.size(); ++i) places.emplace(std::move(names[i]), i);
  nibble::io::resumption how;
  how.fingerprint = nibble::core::message("nibble ", NIBBLE_VERSION_MAJOR, ".", NIBBLE_VERSION_MINOR, ".",
                                          NIBBLE_VERSION_PATCH, " input ", file.fingerprint(), " plan ",
                                          nibble::io::detail::checksum(std::as_bytes(std::span{plan}), 0));
  how.resume = resume;
  how.say = [](std::string_view line) {
    std::fprintf(stderr, "nibble: %.*s\n", static_cast<int>(line.size()), line.data());
  };
  // Tensors of other names belong to layers, which are never rounded.
  how.note = [places, &losses](std::string_view tensor) {
    std::string text;
    const auto place = places.find(tensor);
    if (place == places.end()) return text;
    const loss& l = losses[place->second];
    for (const double sum : {l.noise, l.signal, l.weighted_noise, l.weighted_signal}) text += number_text("%a ", sum);
    return text;
  };
  how.restored = [places, &losses, taken_over = std::move(taken_over)](std::string_view tensor, std::string_view note) {
    const auto place = places.find(tensor);
    if (place == places.end()) return;
    const std::size_t i = place->second;
    const std::string text{note};
    const char* at = text.c_str();
    loss& l = losses[i];
    for (double* const sum : {&l.noise, &l.signal, &l.weighted_noise, &l.weighted_signal}) {
      char* rest = nullptr;
      *sum = std::strtod(at, &rest);
      at = rest;
    }
    taken_over(i);
  };
  return how;
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
std::string document_text(const json& document) {
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}
std::string bytes_text(std::size_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (b >= 0x1p30) return number_text("%.3f GiB", b * 0x1p-30);
  if (b >= 0x1p20) return number_text("%.3f MiB", b * 0x1p-20);
  if (b >= 0x1p10) return number_text("%.1f KiB", b * 0x1p-10);
  return std::to_string(bytes) + " B";
}
std::string table_text(const std::vector<std::vector<std::string>>& cells) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& row : cells) {
    rows.emplace_back();
    for (const std::string& cell : row) rows.back().push_back(nibble::io::printable(cell));
  }
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
