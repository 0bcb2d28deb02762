// SPDX-License-Identifier: MIT
#include <cmath>
#include <iostream>
#include <map>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/core/round.hpp>
#include <nibble/io/file_text.hpp>

#include <nibble/study/gaussian.hpp>

#include "quantize.hpp"

namespace tool {
namespace {

using nibble::ggml_type;

/// Moments of a tensor's values. Rows are added up one by one and then in their order, whatever the number of threads.
struct moments {
  double sum_2 = 0.0, sum_4 = 0.0, greatest = 0.0;
  std::size_t count = 0, not_finite = 0, dead_rows = 0;

  void add(const moments& m) {
    sum_2 += m.sum_2;
    sum_4 += m.sum_4;
    greatest = m.greatest > greatest ? m.greatest : greatest;
    count += m.count;
    not_finite += m.not_finite;
    dead_rows += m.dead_rows;
  }
  double rms() const { return count == 0 ? 0.0 : std::sqrt(sum_2 / static_cast<double>(count)); }
  /// Of normal values 3, without taking off their mean.
  double kurtosis() const {
    const double square = count == 0 ? 0.0 : sum_2 / static_cast<double>(count);
    return square == 0.0 ? 0.0 : sum_4 / static_cast<double>(count) / (square * square);
  }
};

template <class T>
moments of_row(const T* x, std::size_t n) {
  moments m;
  m.count = n;
  for (std::size_t k = 0; k < n; ++k) {
    const double v = static_cast<double>(x[k]);
    if (!std::isfinite(v)) {
      ++m.not_finite;
      continue;
    }
    m.sum_2 += v * v;
    m.sum_4 += v * v * v * v;
    m.greatest = std::abs(v) > m.greatest ? std::abs(v) : m.greatest;
  }
  m.dead_rows = m.greatest == 0.0 && m.not_finite == 0 ? 1 : 0;
  return m;
}

/// `T`: float, or double for a tensor of such values.
template <class T>
moments of_tensor(const options& o, const model_file& file, std::size_t i) {
  const tensor& t = file.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  nibble::aligned_vector<T> values(most * cols);
  std::vector<moments> each(most);
  moments all;
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    file.read_rows(i, first, std::span{values}.first(n * cols));
    nibble::core::for_each_item(o.ctx, n,
                                [&](std::size_t r, std::size_t) { each[r] = of_row(values.data() + r * cols, cols); });
    for (std::size_t r = 0; r < n; ++r) all.add(each[r]);
    file.release_rows(i, first, n);
  }
  file.release(i);
  return all;
}

/// Types whose errors are shown for rows of so many elements, from many bits to few.
std::vector<ggml_type> types_shown(std::size_t cols) {
  using enum ggml_type;
  if (cols % 256 == 0) return {q8_0, q6_k, q5_k, q4_k, iq4_xs, q3_k, q2_k};
  if (cols % 32 == 0) return {q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl, mxfp4};
  return {};
}

/// The SQNR of a type on independent normal values: what a tensor without outliers and without structure has.
double predicted_sqnr(ggml_type type, nibble::ggml_search search) {
  constexpr std::size_t n = std::size_t{1} << 16;
  static std::map<ggml_type, double> known;
  if (const auto found = known.find(type); found != known.end()) return found->second;
  std::vector<float> x(n), y(n);
  nibble::study::normal_source(1).fill(x);
  std::vector<std::byte> blocks(block_bytes(n, type));
  nibble::encode_ggml(type, nibble::make_span2d<const float>(x.data(), 1, n), blocks,
                      {.search = search, .importance = {}});
  nibble::decode_ggml(type, blocks, y);
  loss l;
  for (std::size_t i = 0; i < n; ++i) {
    const double v = x[i], e = v - y[i];
    l.signal += v * v;
    l.noise += e * e;
  }
  return known[type] = l.sqnr();
}

json value_json(const nibble::io::gguf_value& v) {
  using nibble::io::gguf_type;
  if (const auto s = v.as<std::string_view>()) return *s;
  if (const auto b = v.as<bool>()) return *b;
  if (const auto u = v.as<std::uint64_t>()) return *u;
  if (const auto i = v.as<std::int64_t>()) return *i;
  if (const auto d = v.as<double>()) return *d;
  // Arrays by type and size: vocabularies have hundreds of thousands of words.
  return json{{"array_of", nibble::io::name_of(v.element_type())}, {"size", v.size()}};
}

json metadata_json(const model_file& file) {
  json all = json::object();
  if (file.gguf() != nullptr) {
    for (const auto& entry : file.gguf()->metadata()) all[std::string{entry.key}] = value_json(entry.value);
  } else {
    for (const auto& [key, value] : file.strings()) all[key] = value;
  }
  return all;
}

}  // namespace

int inspect(const options& o, const inspect_options& what) {
  const model_file file(what.path);
  std::size_t elements = 0, bytes = 0;
  std::map<std::string, std::pair<std::size_t, std::size_t>> by_type;  // tensors and bytes
  for (const tensor& t : file.tensors()) {
    elements += t.elements;
    bytes += t.bytes;
    by_type[t.type].first += 1;
    by_type[t.type].second += t.bytes;
  }
  const auto bits = [](std::size_t b, std::size_t n) {
    return n == 0 ? 0.0 : 8.0 * static_cast<double>(b) / static_cast<double>(n);
  };

  json out{{"file", what.path},
           {"container", file.container()},
           {"file_bytes", file.file_bytes()},
           {"tensors", json::array()}};
  std::vector<std::vector<std::string>> rows{{"tensor", "type", "shape", "bytes", "bits"}};
  if (what.statistics)
    for (const char* title : {"rms", "absmax/rms", "kurtosis", "dead rows"}) rows[0].emplace_back(title);
  const quantizer q{.file = &file,
                    .importance = nullptr,
                    .search = what.least_error ? nibble::ggml_search::least_error : nibble::ggml_search::reference};
  std::vector<std::vector<std::string>> errors;
  std::vector<std::string> notes;
  {
    progress say(o, "inspect", elements);
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      const tensor& t = file.tensors()[i];
      json entry{{"name", t.name},
                 {"type", t.type},
                 {"shape", t.shape},
                 {"bytes", t.bytes},
                 {"bits_per_weight", bits(t.bytes, t.elements)}};
      std::vector<std::string> row{t.name, t.type, shape_text(t.shape), std::to_string(t.bytes),
                                   number_text("%.4g", bits(t.bytes, t.elements))};
      if (what.statistics && t.readable) {
        const moments m = t.wide ? of_tensor<double>(o, file, i) : of_tensor<float>(o, file, i);
        const double rms = m.rms(), ratio = rms == 0.0 ? 0.0 : m.greatest / rms;
        entry["rms"] = rms;
        entry["absmax"] = m.greatest;
        entry["kurtosis"] = m.kurtosis();
        entry["dead_rows"] = m.dead_rows;
        entry["not_finite"] = m.not_finite;
        for (const auto& text :
             {number_text("%.4g", rms), number_text("%.2f", ratio), number_text("%.2f", m.kurtosis()),
              std::to_string(m.dead_rows) +
                  (m.not_finite == 0 ? "" : ", " + std::to_string(m.not_finite) + " not finite")})
          row.push_back(text);
        if (what.errors && m.not_finite == 0 && t.shape.size() >= 2 && rms > 0.0) {
          errors.push_back({t.name});
          for (const ggml_type type : types_shown(t.cols())) {
            const double measured = sample(o, q, i, type).sqnr(), predicted = predicted_sqnr(type, q.search);
            const std::string name{nibble::quant::name_of(type)};
            entry["sqnr_db"][name] = {{"normal", predicted}};
            if (std::isfinite(measured)) entry["sqnr_db"][name]["measured"] = measured;  // else it is exact
            errors.back().push_back(name + number_text(" %.2f", measured) + number_text(" (%.2f)", predicted));
          }
          file.release(i);
        }
      }
      if (!t.scaled_by.empty()) {
        entry["scaled_by"] = t.scaled_by;
        notes.push_back(
            nibble::core::message("'", nibble::io::printable(t.name), "' has no statistics: ", t.why_not()));
      }
      rows.push_back(std::move(row));
      out["tensors"].push_back(std::move(entry));
      say.add(t.elements, t.name);
    }
  }
  out["elements"] = elements;
  out["tensor_bytes"] = bytes;
  out["bits_per_weight"] = bits(bytes, elements);
  if (what.metadata) out["metadata"] = metadata_json(file);
  if (o.as_json) {
    std::cout << document_text(out);
    return done;
  }
  if (what.metadata)
    for (const auto& [key, value] : out["metadata"].items())
      std::cout << nibble::io::printable(key) << " = " << value.dump(-1, ' ', true) << "\n";
  std::cout << table_text(rows);
  if (!errors.empty())
    std::cout << "SQNR in dB by type, measured on a part of each tensor (and of independent normal values):\n"
              << table_text(errors);
  if (what.statistics)
    for (const std::string& note : notes) std::cout << note << "\n";
  for (const auto& [type, sum] : by_type)
    std::cout << type << ": " << sum.first << " tensors, " << bytes_text(sum.second) << "\n";
  std::cout << file.container() << ", " << file.tensors().size() << " tensors, " << elements << " elements, "
            << bytes_text(bytes) << " of tensors (" << number_text("%.4f", bits(bytes, elements))
            << " bits per weight), " << bytes_text(file.file_bytes()) << " in all\n";
  return done;
}

}  // namespace tool
