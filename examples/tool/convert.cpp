// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <string_view>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/io/dtype.hpp>
#include <nibble/io/file_text.hpp>
#include <nibble/io/gguf_text.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/quantized_tensors.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/tensor/convert.hpp>
#include <nibble/tensor/ggml_matrix.hpp>

#include "quantize.hpp"

namespace tool {
namespace {

/// The dtype of that name, if safetensors has one.
std::optional<nibble::io::dtype> dtype_of(std::string_view name) {
  for (std::size_t i = 0; i < nibble::io::dtype_table.size(); ++i)
    if (nibble::io::dtype_table[i].name == name) return static_cast<nibble::io::dtype>(i);
  return {};
}

/// Types that both containers have carry the same name in both.
bool has_type(bool gguf, std::string_view name) {
  return gguf ? nibble::quant::ggml_type_from_name(name).has_value() : dtype_of(name).has_value();
}

/// What becomes of one tensor.
struct outcome {
  std::string type;
  std::vector<std::size_t> shape;
  bool copied = false;                           ///< the bytes stay as they are
  bool planes = false;                           ///< codes and scales as nibble's own tensors of a safetensors file
  std::optional<nibble::ggml_type> blocks = {};  ///< the codes and scales of a layer as blocks
  bool whole = false;                            ///< the type holds the values as they are

  bool exact() const { return copied || planes || blocks || whole; }
};

/// Whether `type` (F32, F16 or BF16) holds each value of a tensor of another type; those of F64 have to be looked at.
bool holds(std::string_view type, const tensor& t) { return !t.wide && (type == "F32" || t.type.starts_with("F8_")); }

/// What floats would make of tensor i, which is `wide`.
nibble::io::rounding_report rounding_of(const model_file& file, std::size_t i) {
  const tensor& t = file.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  nibble::aligned_vector<float> values(most * cols);
  nibble::io::rounding_report all;
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    const nibble::io::rounding_report part = file.round_rows(i, first, std::span{values}.first(n * cols));
    all.rounded += part.rounded;
    all.overflowed += part.overflowed;
    all.greatest_error = std::max(all.greatest_error, part.greatest_error);
    all.greatest_relative = std::max(all.greatest_relative, part.greatest_relative);
    file.release_rows(i, first, n);
  }
  file.release(i);
  return all;
}

/// Tensor i as a matrix without loss, if it is one: a quantized layer or blocks.
std::optional<nibble::io::checkpoint_matrix> matrix_of(const model_file& file, std::size_t i,
                                                       const nibble::context& ctx) {
  const tensor& t = file.tensors()[i];
  if (t.layer != nullptr) return file.layer(i);
  if (file.gguf() == nullptr || t.shape.size() != 2) return {};
  const nibble::ggml_type type = file.gguf()->tensors()[i].type;
  if (!nibble::can_be_matrix(type)) return {};
  return nibble::io::checkpoint_matrix{
      nibble::matrix_from_ggml(type, file.bytes(i), t.rows(), t.cols(), ctx), {}, {}, {}};
}

/// The blocks that hold layer i without loss, if there are such: those of which it was made, or plain ones.
std::optional<nibble::ggml_type> blocks_for(const model_file& file, std::size_t i) {
  const nibble::io::checkpoint_matrix& m = file.layer(i);
  if (!m.column_order.empty() || !m.row_absmax.empty()) return {};
  using enum nibble::ggml_type;
  const nibble::quantized_view W = m.matrix.view();
  for (const nibble::ggml_type type :
       {q4_0, iq4_nl, q4_1, q5_0, q5_1, q8_0, mxfp4, iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k}) {
    if (W.K % nibble::quant::info_of(type).block_elements != 0) continue;
    try {
      static_cast<void>(nibble::convert_to_ggml(W, type));
      return type;
    } catch (const nibble::error&) {  // another format, or scales that these blocks cannot write
    }
  }
  return {};
}

/// Writes the values of tensor i as F32, which holds them or is what F64 is rounded to. Infinities and NaN stay what they are.
void write_floats(const options& o, const model_file& file, std::size_t i, nibble::io::tensor_sink& sink, loss& lost) {
  const tensor& t = file.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  nibble::aligned_vector<float> values(most * cols);
  nibble::aligned_vector<double> exact(t.wide ? values.size() : 0);
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    const std::span<float> piece = std::span{values}.first(n * cols);
    file.read_rows(i, first, piece, o.ctx);
    sink.write(std::as_bytes(piece));
    if (t.wide) {
      file.read_rows(i, first, std::span{exact}.first(n * cols));
      for (std::size_t k = 0; k < n * cols; ++k) {
        if (!std::isfinite(exact[k])) continue;
        const double e = exact[k] - static_cast<double>(values[k]);
        lost.signal += exact[k] * exact[k];
        lost.noise += e * e;
      }
    }
    file.release_rows(i, first, n);
  }
}

void write_tensor(const options& o, const model_file& file, std::size_t i, const outcome& to,
                  nibble::io::tensor_sink& sink, loss& lost) {
  const tensor& t = file.tensors()[i];
  rows_room room;
  if (to.copied) copy_bytes(file, i, sink);
  else if (to.blocks) sink.write(nibble::convert_to_ggml(file.layer(i).matrix.view(), *to.blocks, o.ctx));
  else if (to.type == std::string_view{"F32"} && (to.whole || t.wide)) write_floats(o, file, i, sink, lost);
  else
    requantize(o, {.file = &file, .importance = nullptr, .search = nibble::ggml_search::reference}, i,
               *nibble::quant::ggml_type_from_name(to.type), room, sink, lost);
  file.release(i);
}

}  // namespace

int convert(const options& o, const convert_options& what) {
  std::string container = what.container;
  for (const char* name : {"gguf", "safetensors"})
    if (container.empty() && what.to.ends_with(std::string{"."} + name)) container = name;
  if (container.empty()) {
    std::cerr << "nibble: '" << nibble::io::printable(what.to)
              << "' ends neither in .gguf nor in .safetensors; name it with --container\n";
    return mistaken;
  }
  const bool to_gguf = container.front() == 'g';
  const model_file file(what.from);

  std::vector<outcome> outcomes;
  std::vector<std::string> changes, impossible;
  bool same_types = true;
  const auto quoted = [](const tensor& t) {
    return nibble::core::message("tensor '", nibble::io::printable(t.name), "'");
  };
  for (std::size_t i = 0; i < file.tensors().size(); ++i) {
    const tensor& t = file.tensors()[i];
    const bool rewritten = !what.type.empty() && t.readable && t.type != what.type;
    outcome to{.type = rewritten ? what.type : t.type, .shape = t.shape, .copied = !rewritten};
    to.whole = rewritten && holds(what.type, t);
    if (rewritten && t.wide) {
      const nibble::io::rounding_report as_floats = rounding_of(file, i);
      to.whole = what.type == "F32" && as_floats.rounded == 0;
      if (as_floats.overflowed != 0)
        impossible.push_back(quoted(t) + " is F64 and has " + std::to_string(as_floats.overflowed) +
                             " values beyond the greatest F32");
    }
    same_types = same_types && !rewritten;
    if (!rewritten && (t.layer != nullptr || !has_type(to_gguf, to.type))) {
      // Codes and scales stay what they are, under other names.
      if (to_gguf && t.layer != nullptr) to.blocks = blocks_for(file, i);
      if (to.blocks) to.type = nibble::quant::name_of(*to.blocks);
      to.planes = !to_gguf && matrix_of(file, i, o.ctx);
      if (to.planes) to.type = "nibble";
      to.copied = false;
      file.release(i);
    }
    if (!what.type.empty() && !t.scaled_by.empty())
      impossible.push_back(quoted(t) + " is " + t.type + ", and " + t.why_not());
    else if (!to.planes && !has_type(to_gguf, to.type))
      impossible.push_back(quoted(t) + " is " + t.type + ", a type that " + container + " does not have; " +
                           (!t.readable       ? t.why_not()
                            : holds("F16", t) ? "--to F32, F16 or BF16 writes its values exactly"
                                              : "--to F32 writes its values exactly, --to F16 or BF16 rounds them"));
    if (to_gguf && to.shape.empty()) {
      to.shape = {1};
      changes.push_back(quoted(t) + " has no extent; GGUF wants one: [1]");
    }
    if (!to.exact()) changes.push_back(quoted(t) + " is rounded from " + t.type + " to " + to.type);
    outcomes.push_back(std::move(to));
  }
  for (const std::string& s : impossible) std::cerr << "nibble: " << s << "\n";
  if (what.strict && !changes.empty()) {
    for (const std::string& s : changes) std::cerr << "nibble: " << s << "\n";
    std::cerr << "nibble: --strict refuses " << changes.size() << " changes\n";
  }
  if (!impossible.empty() || (what.strict && !changes.empty())) {
    std::cerr << "nibble: nothing was written\n";
    return refused;
  }

  // What a file says of its own types holds no longer when they change.
  std::vector<nibble::io::gguf_entry> metadata;
  if (file.gguf() != nullptr)
    for (const nibble::io::gguf_entry& entry : file.gguf()->metadata())
      if (entry.key != "general.alignment" &&
          (same_types || (entry.key != "general.file_type" && entry.key != "general.quantization_version")))
        metadata.push_back(entry);
  std::map<std::string, std::string> strings = file.strings();
  for (const tensor& t : file.tensors()) strings.erase("nibble." + t.name);  // those of layers are written anew
  if (!same_types)
    for (const char* key : {"general.file_type", "general.quantization_version"}) strings.erase(key);

  std::vector<loss> losses(outcomes.size());
  std::vector<std::string> names;
  std::size_t total = 0, taken_over = 0;
  for (const tensor& t : file.tensors()) {
    names.push_back(t.name);
    total += t.elements;
  }
  if (!what.dry_run) {
    progress say(o, "convert", total);
    const auto fill = [&](std::size_t i) {
      return [&, i](nibble::io::tensor_sink& sink) {
        write_tensor(o, file, i, outcomes[i], sink, losses[i]);
        say.add(file.tensors()[i].elements, file.tensors()[i].name);
      };
    };
    const nibble::io::resumption how = resumption_of(file, what.type, what.resume, names, losses, [&](std::size_t i) {
      say.add(file.tensors()[i].elements, file.tensors()[i].name);
      ++taken_over;
    });
    if (to_gguf) {
      nibble::io::gguf_writer out(file.gguf() != nullptr ? std::max(file.gguf()->alignment(), std::size_t{8})
                                                         : nibble::io::gguf_default_alignment);
      for (const nibble::io::gguf_entry& entry : metadata) out.set(std::string{entry.key}, entry.value);
      nibble::io::set_gguf_strings(out, strings);
      for (std::size_t i = 0; i < outcomes.size(); ++i)
        out.add(names[i], *nibble::quant::ggml_type_from_name(outcomes[i].type),
                {outcomes[i].shape.rbegin(), outcomes[i].shape.rend()}, fill(i));
      out.save(what.to, how);
    } else {
      nibble::io::safetensors_writer out;
      out.metadata = file.gguf() != nullptr ? nibble::io::gguf_strings(metadata) : strings;
      for (std::size_t i = 0; i < outcomes.size(); ++i) {
        if (outcomes[i].planes)
          nibble::io::add_quantized(out, names[i], [&file, &o, i] { return *matrix_of(file, i, o.ctx); });
        else out.add(names[i], *dtype_of(outcomes[i].type), outcomes[i].shape, fill(i));
      }
      out.save(what.to, how);
    }
  }

  json report{{"from", what.from},      {"to", what.dry_run ? "" : what.to},
              {"container", container}, {"taken_over", taken_over},
              {"changes", changes},     {"tensors", json::array()}};
  std::vector<std::vector<std::string>> rows{{"tensor", "shape", "from", "to", "SQNR dB"}};
  loss all;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    const tensor& t = file.tensors()[i];
    json entry{{"name", t.name}, {"shape", outcomes[i].shape}, {"from", t.type}, {"to", outcomes[i].type}};
    const bool measured = !outcomes[i].exact() && !what.dry_run;
    const bool rounded = measured && losses[i].noise > 0.0;
    entry["exact"] = outcomes[i].exact() || (measured && !rounded);
    if (measured) entry["mse"] = t.elements == 0 ? 0.0 : losses[i].noise / static_cast<double>(t.elements);
    if (rounded) entry["sqnr_db"] = losses[i].sqnr();
    all.noise += losses[i].noise;
    all.signal += losses[i].signal;
    report["tensors"].push_back(std::move(entry));
    rows.push_back({t.name, shape_text(outcomes[i].shape), t.type, outcomes[i].type,
                    rounded                                ? number_text("%.2f", losses[i].sqnr())
                    : outcomes[i].exact() || !what.dry_run ? "exact"
                                                           : ""});
  }
  if (all.noise > 0.0) report["sqnr_db"] = all.sqnr();
  if (o.as_json) {
    std::cout << document_text(report);
    return done;
  }
  std::cout << table_text(rows);
  for (const std::string& s : changes)
    if (s.find("is rounded") == s.npos) std::cout << s << "\n";
  std::cout << outcomes.size() << " tensors, " << total << " elements"
            << (all.noise > 0.0 ? ", rounded at " + number_text("%.2f", all.sqnr()) + " dB" : std::string{})
            << (what.dry_run ? "; nothing was written\n" : "\n");
  return done;
}

}  // namespace tool
