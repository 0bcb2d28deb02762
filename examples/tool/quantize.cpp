// SPDX-License-Identifier: MIT
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include <nibble/core/aligned_vector.hpp>
#include <nibble/io/ggml_mixture.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/tensor/ggml_rows.hpp>

#include "tool.hpp"

namespace tool {
namespace {

using nibble::ggml_type;
using nibble::quant::info_of;
using nibble::quant::name_of;

std::vector<nibble::io::type_rule> rules_of(const quantize_options& what) {
  std::string text;
  for (const std::string& rule : what.rules) text += rule + "\n";
  std::vector<nibble::io::type_rule> rules = nibble::io::parse_rules(text, "--rule");
  if (what.rules_path.empty()) return rules;
  std::ifstream in(what.rules_path, std::ios::binary);
  if (!in) nibble::core::fail(nibble::errc::io_failed, "cannot read the rules in '", what.rules_path, "'");
  const std::string written{std::istreambuf_iterator<char>(in), {}};
  for (nibble::io::type_rule& rule : nibble::io::parse_rules(written, "'" + what.rules_path + "'"))
    rules.push_back(std::move(rule));
  return rules;
}

std::size_t bytes_of(const nibble::io::gguf_tensor& t, ggml_type type) {
  return t.elements / info_of(type).block_elements * info_of(type).block_bytes;
}

}  // namespace

void requantize(const options& o, const model_file& file, std::size_t i, ggml_type type, nibble::io::tensor_sink& sink,
                loss& lost) {
  const tensor& t = file.tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  const std::size_t row_bytes = cols / info_of(type).block_elements * info_of(type).block_bytes;
  nibble::aligned_vector<float> values(most * cols), back(most * cols);
  nibble::aligned_vector<std::byte> blocks(most * row_bytes);
  std::vector<loss> each(most);
  for (std::size_t first = 0; first < rows; first += most) {
    const std::size_t n = std::min(most, rows - first);
    file.read_rows(i, first, std::span{values}.first(n * cols), o.ctx);
    const std::span<std::byte> out = std::span{blocks}.first(n * row_bytes);
    try {
      nibble::encode_ggml(type, nibble::make_span2d<const float>(values.data(), n, cols), out, o.ctx);
    } catch (const nibble::error& e) {  // its rows count from the piece's first one
      nibble::core::fail(e.code(), "tensor '", t.name, "', rows from ", first, " on: ", e.what());
    }
    nibble::core::for_each_item(o.ctx, n, [&](std::size_t r, std::size_t) {
      nibble::decode_ggml(type, out.subspan(r * row_bytes, row_bytes), std::span{back}.subspan(r * cols, cols));
      each[r] = {};
      for (std::size_t k = r * cols; k < (r + 1) * cols; ++k) {
        const double w = values[k], e = w - back[k];
        each[r].signal += w * w;
        each[r].noise += e * e;
      }
    });
    for (std::size_t r = 0; r < n; ++r) lost.signal += each[r].signal, lost.noise += each[r].noise;
    sink.write(out);
  }
  file.release(i);
}

int quantize(const options& o, const quantize_options& what) {
  const model_file file(what.from);
  if (file.gguf() == nullptr)
    nibble::core::fail(nibble::errc::unsupported_format, "quantize reads GGUF files; '", what.from, "' is ",
                       file.container());
  const nibble::io::gguf_reader& in = *file.gguf();
  const nibble::io::type_plan plan = nibble::io::plan_of(what.plan, rules_of(what));
  const std::vector<nibble::io::type_choice> choices = plan.choose(nibble::io::facts_of(in), in.tensors());

  std::vector<std::string> substituted;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const nibble::io::gguf_tensor& t = in.tensors()[i];
    if (choices[i].substituted())
      substituted.push_back(std::string{t.name} + ": rows of " + std::to_string(t.dims[0]) +
                            " are no whole blocks of " + std::string{name_of(choices[i].wanted)} + "; " +
                            std::string{name_of(choices[i].type)} + " instead");
    if (choices[i].type != t.type && !nibble::can_decode_ggml(t.type))
      nibble::core::fail(nibble::errc::unsupported_format, "tensor '", t.name, "' is ", name_of(t.type),
                         ", whose values nibble cannot compute");
  }
  for (const std::string& s : substituted) std::cerr << "nibble: " << s << "\n";
  if (what.strict && !substituted.empty()) {
    std::cerr << "nibble: --strict refuses " << substituted.size() << " substitutions; nothing was written\n";
    return refused;
  }

  std::vector<loss> losses(choices.size());
  std::size_t total = 0;
  for (const nibble::io::gguf_tensor& t : in.tensors()) total += t.elements;
  if (!what.dry_run) {
    progress say(o, "quantize", total);
    nibble::io::gguf_writer out(in.alignment());
    for (const nibble::io::gguf_entry& entry : in.metadata()) {
      if (entry.key == "general.alignment" || entry.key == "general.file_type" ||
          entry.key == "general.quantization_version")
        continue;
      out.set(std::string{entry.key}, entry.value);
    }
    if (const auto type = plan.file_type()) out.set("general.file_type", *type);
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const nibble::io::gguf_tensor& t = in.tensors()[i];
      out.add(std::string{t.name}, choices[i].type, {t.shape().begin(), t.shape().end()},
              [&, i](nibble::io::tensor_sink& sink) {
                const nibble::io::gguf_tensor& own = in.tensors()[i];
                if (choices[i].type == own.type) {
                  sink.write(in.bytes(own));
                  in.release(own);
                } else {
                  requantize(o, file, i, choices[i].type, sink, losses[i]);
                }
                say.add(own.elements, own.name);
              });
    }
    std::string decided = what.plan;  // rules included: what each tensor becomes
    std::vector<std::string> names;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      decided += " " + std::string{name_of(choices[i].type)};
      names.emplace_back(in.tensors()[i].name);
    }
    out.save(what.to, resumption_of(file, decided, what.resume, names, losses,
                                    [&](std::size_t i) { say.add(in.tensors()[i].elements, in.tensors()[i].name); }));
  }

  json report{{"from", what.from},
              {"to", what.dry_run ? "" : what.to},
              {"plan", what.plan},
              {"tensors", json::array()},
              {"substituted", substituted}};
  std::vector<std::vector<std::string>> rows{{"tensor", "shape", "from", "to", "bytes", "SQNR dB"}};
  std::map<std::string, std::pair<std::size_t, std::size_t>> by_type;
  std::size_t before = 0, after = 0;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const nibble::io::gguf_tensor& t = in.tensors()[i];
    const std::string from{name_of(t.type)}, to{name_of(choices[i].type)};
    const std::size_t bytes = bytes_of(t, choices[i].type);
    json entry{{"name", t.name}, {"from", from}, {"to", to}, {"bytes", bytes}};
    if (choices[i].rule != nullptr) entry["rule"] = choices[i].rule->text;
    const bool measured = from != to && !what.dry_run;
    if (measured) {
      entry["mse"] = t.elements == 0 ? 0.0 : losses[i].noise / static_cast<double>(t.elements);
      if (losses[i].noise > 0.0) entry["sqnr_db"] = losses[i].sqnr();
    }
    report["tensors"].push_back(entry);
    rows.push_back({std::string{t.name}, shape_text(file.tensors()[i].shape), from, to, std::to_string(bytes),
                    !measured                ? ""
                    : losses[i].noise == 0.0 ? "exact"
                                             : number_text("%.2f", losses[i].sqnr())});
    by_type[to].first += 1;
    by_type[to].second += bytes;
    before += t.bytes;
    after += bytes;
  }
  report["bytes_before"] = before;
  report["bytes_after"] = after;
  report["bits_per_weight"] = total == 0 ? 0.0 : 8.0 * static_cast<double>(after) / static_cast<double>(total);
  if (o.as_json) {
    std::cout << report.dump(2) << "\n";
    return done;
  }
  std::cout << table_text(rows);
  for (const auto& [type, sum] : by_type)
    std::cout << type << ": " << sum.first << " tensors, " << bytes_text(sum.second) << "\n";
  std::cout << bytes_text(before) << " of tensors before, " << bytes_text(after) << " after, "
            << number_text("%.4f", report["bits_per_weight"].get<double>()) << " bits per weight"
            << (what.dry_run ? "; nothing was written\n" : "\n");
  return done;
}

}  // namespace tool
