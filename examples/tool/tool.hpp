// SPDX-License-Identifier: MIT
#pragma once
// The program nibble: what its commands share.

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <nibble/core/context.hpp>
#include <nibble/io/checkpoint.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/safetensors_set.hpp>

namespace tool {

using json = nlohmann::ordered_json;

/// What a command ends with: `mistaken` are the arguments.
enum exit_code : int { done = 0, failed = 1, mistaken = 2, differs = 3, refused = 4 };

/// Arguments that say nothing, or too much: the program ends with `mistaken`.
struct mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// read(), which reads what the arguments say: what it refuses is a mistake, but for files that cannot be read.
template <class F>
auto from_arguments(F&& read) {
  try {
    return read();
  } catch (const nibble::error& e) {
    if (e.code() == nibble::errc::io_failed) throw;
    throw mistake(e.what());
  }
}

/// What all commands are told.
struct options {
  nibble::context ctx;
  bool as_json = false;
  bool quiet = false;
};

/// A line on standard error that says how far long work is; nothing where that is no terminal.
class progress {
 public:
  progress(const options& o, std::string what, std::size_t total);
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  void add(std::size_t units, std::string_view now);

 private:
  std::string what_;
  std::size_t total_, done_ = 0;
  bool shown_;
  std::chrono::steady_clock::time_point last_{};
};

/// One tensor of a model file, whatever the container.
struct tensor {
  std::string name, type;
  std::vector<std::size_t> shape;  ///< rows first, elements along memory last
  std::size_t elements = 0, bytes = 0;
  bool readable = false;                                ///< nibble knows its values, and they are numbers of a layer
  bool wide = false;                                    ///< F64: floats hold its values after rounding only
  std::string scaled_by;                                ///< of 8-bit floats: the tensor that holds their scales
  const nibble::io::checkpoint_layer* layer = nullptr;  ///< of a quantized layer, which has several tensors in the file

  std::size_t cols() const noexcept { return shape.empty() ? 1 : shape.back(); }
  std::size_t rows() const noexcept { return cols() == 0 ? 0 : elements / cols(); }
  /// Why it is not readable.
  std::string why_not() const;
};

/// A GGUF file, or a safetensors file, an index of such or a folder of them, whose quantized layers count as one tensor each.
class model_file {
 public:
  explicit model_file(const std::string& path);
  std::string_view container() const noexcept { return gguf_ ? "GGUF" : "safetensors"; }
  const std::vector<tensor>& tensors() const noexcept { return tensors_; }
  std::size_t file_bytes() const noexcept { return file_bytes_; }
  /// Rows [first, first + out.size() / cols) of tensor i as floats, those of F64 rounded.
  void read_rows(std::size_t i, std::size_t first, std::span<float> out, const nibble::context& ctx = {}) const;
  /// The same as they are, of a tensor that is `wide`.
  void read_rows(std::size_t i, std::size_t first, std::span<double> out) const;
  /// Such values as floats, and what that cost.
  nibble::io::rounding_report round_rows(std::size_t i, std::size_t first, std::span<float> out) const;
  /// Layer i as a matrix; the one read last is kept.
  const nibble::io::checkpoint_matrix& layer(std::size_t i) const;
  /// The bytes of tensor i as they lie in the file; not of layers.
  std::span<const std::byte> bytes(std::size_t i) const;
  /// Drops the tensor's pages from memory.
  void release(std::size_t i) const;
  /// The same for rows [first, first + rows); a layer stays until release(i).
  void release_rows(std::size_t i, std::size_t first, std::size_t rows) const;
  /// One line that changes with the file: its size, time and first bytes.
  std::string fingerprint() const;
  /// The reader of a GGUF file, or null.
  const nibble::io::gguf_reader* gguf() const noexcept { return gguf_ ? &*gguf_ : nullptr; }
  /// __metadata__ of all safetensors files.
  const std::map<std::string, std::string>& strings() const noexcept { return strings_; }

 private:
  std::string path_;
  std::optional<nibble::io::gguf_reader> gguf_;
  std::span<const std::byte> bytes_of_values(std::size_t i, std::size_t first, std::size_t count) const;
  const nibble::io::safetensors_set& set() const noexcept { return checkpoint_ ? checkpoint_->files() : *plain_; }

  std::optional<nibble::io::checkpoint> checkpoint_;
  std::optional<nibble::io::safetensors_set> plain_;  ///< where the layers cannot be told
  std::map<std::string, std::string> strings_;
  std::vector<tensor> tensors_;
  mutable std::optional<nibble::io::checkpoint_matrix> layer_;
  mutable std::size_t layer_of_ = 0;
  std::size_t file_bytes_ = 0;
};

/// Rows of so many columns that are worked on at once: about 16 MiB of floats.
std::size_t rows_at_once(std::size_t cols) noexcept;
/// Extents as "4096 x 1024".
std::string shape_text(const std::vector<std::size_t>& shape);
/// Bytes as "1.25 GiB".
std::string bytes_text(std::size_t bytes);
std::string number_text(const char* format, double value);
/// A JSON document for standard output; bytes of file names that are not UTF-8 become U+FFFD.
std::string document_text(const json& document);
/// Lines of cells, aligned: the first column to the left, all others to the right. Cells are shown as nibble::io::printable
/// has them, for names come from files.
std::string table_text(const std::vector<std::vector<std::string>>& cells);

/// What quantizing values lost: sums of squares of the values and of the differences, plain and by importance.
struct loss {
  double noise = 0.0, signal = 0.0, weighted_noise = 0.0, weighted_signal = 0.0;

  void add(const loss& l) noexcept {
    noise += l.noise;
    signal += l.signal;
    weighted_noise += l.weighted_noise;
    weighted_signal += l.weighted_signal;
  }
  double sqnr() const { return noise == 0.0 ? INFINITY : 10.0 * std::log10(signal / noise); }
  double weighted_sqnr() const { return 10.0 * std::log10(weighted_signal / weighted_noise); }
  /// Of the energy of a product with activations of that importance, what becomes noise.
  double share() const {
    if (weighted_signal > 0.0) return weighted_noise / weighted_signal;
    return signal > 0.0 ? noise / signal : 0.0;
  }
};

/// How an output is written so that a command that was stopped can be taken up again: `plan` is all that beside `file` decides
/// the bytes. Losses travel with the tensors, of which `names` has the order; `taken_over(i)` is called for tensor i.
nibble::io::resumption resumption_of(const model_file& file, const std::string& plan, bool resume,
                                     std::vector<std::string> names, std::vector<loss>& losses,
                                     std::function<void(std::size_t)> taken_over);

struct inspect_options {
  std::string path;
  bool metadata = false, statistics = true, errors = false, least_error = false;
};
struct quantize_options {
  std::string from, to, plan, rules_path, imatrix_path, size, architecture = "unknown";
  std::vector<std::string> rules;
  double bits = 0.0;  ///< per weight; 0: not asked for
  bool strict = false, dry_run = false, least_error = false, resume = false;
};
struct convert_options {
  std::string from, to, type, container;
  bool strict = false, dry_run = false, resume = false;
};
struct compare_options {
  std::string a, b;
  double least_sqnr = 0.0;
  bool limited = false;
};
int inspect(const options& o, const inspect_options& what);
int quantize(const options& o, const quantize_options& what);
int convert(const options& o, const convert_options& what);
int compare(const options& o, const compare_options& what);

}  // namespace tool
