// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include <nibble/io/checksum.hpp>
#include <nibble/io/config_facts.hpp>
#include <nibble/io/ggml_budget.hpp>
#include <nibble/io/ggml_mixture.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/imatrix.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/tensor_role.hpp>
#include <nibble/tensor/ggml_rows.hpp>

#include "quantize.hpp"

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

/// Whether GGUF files cannot have the tensor as it is, but have its values: quantized layers and 8-bit floats.
bool is_remade(const tensor& t) { return t.layer != nullptr || (t.readable && t.type.starts_with("F8_")); }

/// The tensors of a file as a GGUF file has them. Names are those of the model file, which outlives them.
std::vector<nibble::io::gguf_tensor> tensors_of(const model_file& file) {
  if (file.gguf() != nullptr) return {file.gguf()->tensors().begin(), file.gguf()->tensors().end()};
  std::vector<nibble::io::gguf_tensor> all;
  for (const tensor& t : file.tensors()) {
    nibble::io::gguf_tensor g;
    g.name = t.name;
    if (!t.scaled_by.empty())
      nibble::core::fail(nibble::errc::unsupported_format, "tensor '", nibble::io::printable(t.name), "' is ", t.type,
                         ", and ", t.why_not());
    const auto type = is_remade(t) ? ggml_type::f32 : nibble::quant::ggml_type_from_name(t.type);
    if (!type)
      nibble::core::fail(nibble::errc::unsupported_format, "tensor '", nibble::io::printable(t.name), "' is ", t.type,
                         ", which GGUF files do not have");
    if (t.shape.empty() || t.shape.size() > g.dims.size())
      nibble::core::fail(nibble::errc::unsupported_format, "tensor '", nibble::io::printable(t.name), "' has ",
                         t.shape.size(), " extents; GGUF files have 1 to 4");
    g.type = *type;
    g.n_dims = t.shape.size();
    for (std::size_t d = 0; d < g.n_dims; ++d) g.dims[d] = t.shape[g.n_dims - 1 - d];
    g.elements = t.elements;
    g.bytes = t.bytes;
    all.push_back(g);
  }
  return all;
}

/// What a mixture asks of the model: of a GGUF file its metadata, of safetensors files the config.json beside them, which is
/// read only for a mixture that knows tensors of the model's layers.
nibble::io::model_facts facts_for(const model_file& file, const quantize_options& what,
                                  const nibble::io::type_plan& plan, std::span<const nibble::io::gguf_tensor> tensors) {
  if (file.gguf() != nullptr) return nibble::io::facts_of(*file.gguf());
  nibble::io::model_facts facts{.architecture = what.architecture};
  const auto of_layer = [](const nibble::io::gguf_tensor& t) {
    return nibble::io::role_of(t.name).value_or("").find("blk.") != std::string::npos;
  };
  if (!plan.is_mixture() || std::none_of(tensors.begin(), tensors.end(), of_layer)) return facts;
  const std::filesystem::path from(what.from);
  std::error_code unused;
  const std::filesystem::path folder = std::filesystem::is_directory(from, unused) ? from : from.parent_path();
  const auto said = nibble::io::find_model_facts(folder.string());
  if (!said) return facts;
  std::string own = std::move(facts.architecture);
  facts = *said;
  if (own != quantize_options{}.architecture || facts.architecture.empty()) facts.architecture = std::move(own);
  return facts;
}

std::vector<std::string> texts_of(std::span<const nibble::io::type_rule* const> rules) {
  std::vector<std::string> texts;
  for (const nibble::io::type_rule* const rule : rules) texts.push_back(rule->text);
  return texts;
}

/// Lines that say what of the plan has no effect, and why --strict refuses it: nothing where it has no reason to.
struct plan_report {
  std::vector<std::string> lines;
  std::vector<std::string> refusals;
};
plan_report report_of(const nibble::io::plan_gaps& gaps, const quantize_options& what,
                      std::span<const nibble::io::gguf_tensor> tensors,
                      std::span<const nibble::io::type_choice> choices) {
  using nibble::io::printable;
  plan_report report;
  const auto rule_text = [](const nibble::io::type_rule& rule) {
    return nibble::core::message("rule '", printable(rule.text), " = ", name_of(rule.type), "'");
  };
  for (const nibble::io::type_rule* const rule : gaps.without_tensor)
    report.lines.push_back(rule_text(*rule) + " finds no tensor");
  for (const nibble::io::type_rule* const rule : gaps.of_kept)
    report.lines.push_back(rule_text(*rule) + " finds only tensors that stay as they are: norms, biases, routers");
  if (const std::size_t rules = report.lines.size(); rules != 0)
    report.refusals.push_back(std::to_string(rules) + " rules without effect");
  if (gaps.unknown.empty()) return report;
  const std::size_t first = gaps.unknown.front();
  report.lines.push_back(nibble::core::message(
      what.plan, gaps.blind ? " tells no layers apart, for their names are of another family: " : " does not know ",
      gaps.unknown.size(), " of ", tensors.size(), " tensors by name, such as '", printable(tensors[first].name),
      "': ", name_of(choices[first].wanted), " for all of these"));
  if (gaps.blind) report.refusals.push_back("a mixture for names of another family");
  return report;
}

/// Metadata of the file to write: those of a GGUF file, or what --architecture says.
nibble::io::gguf_writer writer_for(const model_file& file, const quantize_options& what,
                                   std::optional<std::uint32_t> file_type, bool quantized) {
  nibble::io::gguf_writer out(file.gguf() != nullptr ? file.gguf()->alignment() : nibble::io::gguf_default_alignment);
  if (file.gguf() != nullptr) {
    for (const nibble::io::gguf_entry& entry : file.gguf()->metadata()) {
      if (entry.key == "general.alignment" || entry.key == "general.file_type" ||
          entry.key == "general.quantization_version")
        continue;
      out.set(std::string{entry.key}, entry.value);
    }
  } else {
    out.set("general.architecture", what.architecture);
    for (const auto& [key, value] : file.strings()) out.set("safetensors." + key, value);
  }
  if (file_type) out.set("general.file_type", *file_type);
  if (quantized) out.set("general.quantization_version", 2u);
  return out;
}

}  // namespace

void copy_bytes(const model_file& file, std::size_t i, nibble::io::tensor_sink& sink) {
  const tensor& t = file.tensors()[i];
  const std::span<const std::byte> all = file.bytes(i);
  const std::size_t rows = t.rows(), row_bytes = rows == 0 ? 0 : all.size() / rows, most = rows_at_once(t.cols());
  std::size_t first = 0;
  for (; rows - first > most; first += most) {
    sink.write(all.subspan(first * row_bytes, most * row_bytes));
    file.release_rows(i, first, most);
  }
  sink.write(all.subspan(first * row_bytes));
  file.release(i);
}

void requantize(const options& o, const quantizer& q, std::size_t i, ggml_type type, rows_room& room,
                nibble::io::tensor_sink& sink, loss& lost) {
  const tensor& t = q.file->tensors()[i];
  const std::size_t cols = t.cols(), rows = t.rows(), most = std::min(rows_at_once(cols), rows);
  const std::size_t row_bytes = block_bytes(cols, type);
  for (std::size_t first = 0; first < rows;) {
    // The rows of a piece share their importance.
    const std::size_t n = std::min({most, rows - first, q.rows_alike(i, first)});
    lost.add(encode_rows(o, q, i, type, first, n, room));
    sink.write(std::span{room.blocks}.first(n * row_bytes));
    q.file->release_rows(i, first, n);
    first += n;
  }
  q.file->release(i);
}

int quantize(const options& o, const quantize_options& what) {
  const bool to_size = !what.size.empty() || what.bits > 0.0;
  if (to_size == !what.plan.empty()) throw mistake("quantize takes a mixture or type, or else --size or --bits");
  const auto plan = from_arguments([&] {
    return to_size ? nibble::io::type_plan(ggml_type::f16, rules_of(what))  // for what is kept, and for rules
                   : nibble::io::plan_of(what.plan, rules_of(what));
  });
  const std::size_t size = what.size.empty() ? 0 : from_arguments([&] { return nibble::io::parse_bytes(what.size); });
  const model_file file(what.from);
  const std::vector<nibble::io::gguf_tensor> in = tensors_of(file);
  std::optional<nibble::io::imatrix> importance;
  if (!what.imatrix_path.empty()) importance.emplace(what.imatrix_path);
  quantizer q{
      .file = &file,
      .importance = importance ? &*importance : nullptr,
      .search = what.least_error || importance ? nibble::ggml_search::least_error : nibble::ggml_search::reference};
  std::vector<nibble::io::type_choice> choices = plan.choose(facts_for(file, what, plan, in), in);
  const nibble::io::plan_gaps gaps = plan.gaps(in, choices);
  plan_report said = report_of(gaps, what, in, choices);
  std::optional<nibble::io::size_allocation> allocation;
  std::vector<double> predicted(in.size(), 0.0);
  std::optional<std::uint32_t> file_type = plan.file_type();
  if (gaps.blind) file_type.reset();  // it would name a mixture that the file is none of
  if (to_size) {
    file_type.reset();
    nibble::io::gguf_writer empty = writer_for(file, what, file_type, true);
    for (const nibble::io::gguf_tensor& t : in)
      empty.add(std::string{t.name}, ggml_type::f32, {t.shape().begin(), t.shape().end()}, nibble::io::tensor_fill{});
    const std::size_t alignment =
        file.gguf() != nullptr ? file.gguf()->alignment() : nibble::io::gguf_default_alignment;
    std::size_t header = empty.file_bytes(), elements = 0;
    for (const nibble::io::gguf_tensor& t : in) {
      header -= nibble::round_up(t.elements * sizeof(float), alignment);
      elements += t.elements;
    }
    const std::size_t budget =
        what.size.empty() ? header + static_cast<std::size_t>(what.bits * static_cast<double>(elements) / 8.0) : size;
    allocation = choose_types(o, q, in, header, alignment, budget, choices, predicted);
  }

  std::vector<std::string> substituted;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const nibble::io::gguf_tensor& t = in[i];
    if (choices[i].substituted())
      substituted.push_back(std::string{t.name} + ": rows of " + std::to_string(t.dims[0]) +
                            " are no whole blocks of " + std::string{name_of(choices[i].wanted)} + "; " +
                            std::string{name_of(choices[i].type)} + " instead");
    if (choices[i].type != t.type && !file.tensors()[i].readable)
      nibble::core::fail(nibble::errc::unsupported_format, "tensor '", t.name, "' is ", name_of(t.type),
                         ", whose values nibble cannot compute");
  }
  for (const std::string& s : said.lines) std::cerr << "nibble: " << s << "\n";
  for (const std::string& s : substituted) std::cerr << "nibble: " << s << "\n";
  if (!substituted.empty())
    said.refusals.insert(said.refusals.begin(), std::to_string(substituted.size()) + " substitutions");
  if (what.strict && !said.refusals.empty()) {
    std::cerr << "nibble: --strict refuses ";
    for (std::size_t i = 0; i < said.refusals.size(); ++i) std::cerr << (i == 0 ? "" : ", ") << said.refusals[i];
    std::cerr << "; nothing was written\n";
    return refused;
  }

  std::vector<loss> losses(choices.size());
  std::size_t total = 0;
  for (const nibble::io::gguf_tensor& t : in) total += t.elements;
  if (!what.dry_run) {
    rows_room room;
    progress say(o, "quantize", total);
    nibble::io::gguf_writer out = writer_for(file, what, file_type, to_size);
    for (std::size_t i = 0; i < choices.size(); ++i)
      out.add(std::string{in[i].name}, choices[i].type, {in[i].shape().begin(), in[i].shape().end()},
              [&, i](nibble::io::tensor_sink& sink) {
                if (choices[i].type == in[i].type && !is_remade(file.tensors()[i])) {
                  copy_bytes(file, i, sink);
                } else {
                  requantize(o, q, i, choices[i].type, room, sink, losses[i]);
                }
                say.add(in[i].elements, in[i].name);
              });
    std::string decided =
        what.plan + (q.search == nibble::ggml_search::least_error ? " least error " : " ") + what.architecture;
    if (importance)
      decided +=
          " " + std::to_string(nibble::io::detail::checksum(nibble::io::mapped_file(what.imatrix_path).bytes(), 0));
    std::vector<std::string> names;  // and rules included: what each tensor becomes
    for (std::size_t i = 0; i < choices.size(); ++i) {
      decided += " " + std::string{name_of(choices[i].type)};
      names.emplace_back(in[i].name);
    }
    out.save(what.to, resumption_of(file, decided, what.resume, names, losses,
                                    [&](std::size_t i) { say.add(in[i].elements, in[i].name); }));
  }

  json report{{"from", what.from},
              {"to", what.dry_run ? "" : what.to},
              {"plan", what.plan},
              {"search", q.search == nibble::ggml_search::least_error ? "least error" : "reference"},
              {"tensors", json::array()},
              {"substituted", substituted},
              {"rules_without_tensor", texts_of(gaps.without_tensor)},
              {"rules_of_kept_tensors", texts_of(gaps.of_kept)},
              {"mixture_knows_no_layer", gaps.blind},
              {"unknown_to_mixture", json::array()}};
  for (const std::size_t i : gaps.unknown) report["unknown_to_mixture"].push_back(in[i].name);
  std::vector<std::vector<std::string>> rows{{"tensor", "shape", "from", "to", "bytes", "SQNR dB"}};
  std::map<std::string, std::pair<std::size_t, std::size_t>> by_type;
  std::size_t before = 0, after = 0;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const nibble::io::gguf_tensor& t = in[i];
    const std::string from{file.tensors()[i].type}, to{name_of(choices[i].type)};
    const std::size_t bytes = block_bytes(t.elements, choices[i].type);
    json entry{{"name", t.name}, {"from", from}, {"to", to}, {"bytes", bytes}};
    if (choices[i].rule != nullptr) entry["rule"] = choices[i].rule->text;
    const bool measured = from != to && !what.dry_run;
    if (measured) {
      entry["mse"] = t.elements == 0 ? 0.0 : losses[i].noise / static_cast<double>(t.elements);
      if (losses[i].noise > 0.0) entry["sqnr_db"] = losses[i].sqnr();
      if (losses[i].weighted_noise > 0.0) entry["weighted_sqnr_db"] = losses[i].weighted_sqnr();
    }
    if (predicted[i] > 0.0) entry["predicted_noise_share"] = predicted[i];
    if (importance && !choices[i].kept) entry["importance"] = q.knows(i);
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
  if (allocation)
    report["budget"] = {{"file_bytes", allocation->bytes},
                        {"predicted_noise_share", allocation->cost},
                        {"least_possible", allocation->bound}};
  if (o.as_json) {
    std::cout << document_text(report);
    return done;
  }
  std::cout << table_text(rows);
  for (const auto& [type, sum] : by_type)
    std::cout << type << ": " << sum.first << " tensors, " << bytes_text(sum.second) << "\n";
  std::cout << bytes_text(before) << " of tensors before, " << bytes_text(after) << " after, "
            << number_text("%.4f", report["bits_per_weight"].get<double>()) << " bits per weight"
            << (what.dry_run ? "; nothing was written\n" : "\n");
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (importance && !choices[i].kept && choices[i].type != in[i].type && !q.knows(i))
      std::cout << (unknown++ == 0 ? "without importance: " : ", ") << in[i].name;
  if (unknown != 0) std::cout << "\n";
  if (allocation)
    std::cout << "file of " << allocation->bytes << " bytes; sum of the predicted shares of noise "
              << number_text("%.6g", allocation->cost) << ", no choice of that size has less than "
              << number_text("%.6g", allocation->bound) << "\n";
  return done;
}

}  // namespace tool
