// SPDX-License-Identifier: MIT
// nibble: looks into model files, quantizes, converts and compares them.

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <streambuf>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include <nibble/core/thread_pool.hpp>

#include "tool.hpp"

namespace tool {
namespace {

int run(int argc, char** argv) {
  CLI::App app{"nibble: looks into model files (GGUF, safetensors), quantizes, converts and compares them."};
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  nibble inspect model.gguf\n"
      "  nibble quantize model-f16.gguf model-q4.gguf Q4_K_M --rule 'attn_v = F16'\n"
      "  nibble quantize model-f16.gguf model-small.gguf --size 400MiB --least-error\n"
      "  nibble convert model-q4.gguf model.safetensors --to F32\n"
      "  nibble compare model-f16.gguf model-q4.gguf --json\n\n"
      "Exit codes: 0 done, 1 an error, 2 wrong arguments, 3 compare found a difference that is no rounding (a missing tensor, "
      "another shape,\nanother byte of what is data, a value that is not finite in one file only, less than --least-sqnr), 4 refused: by "
      "--strict, or because\na loss has to be asked for. With --json 1, 2 and 4 come with {\"error\": ..., \"exit\": ...} on standard "
      "output. Output files appear under\ntheir names when they are whole; a run that was stopped leaves <to>.partial, which --resume "
      "continues.");
  options o;
  std::size_t threads = nibble::available_concurrency();
  const auto common = [&](CLI::App* command) {
    command->add_flag("--json", o.as_json, "One JSON document on standard output");
    command->add_flag("--quiet", o.quiet, "No progress on standard error");
    command->add_option("--threads", threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  };

  inspect_options inspect_what;
  bool names_only = false;
  CLI::App* const inspect_command = app.add_subcommand("inspect", "Tensors, types, sizes and statistics of a file");
  inspect_command->add_option("file", inspect_what.path, "A GGUF or safetensors file, an index or a folder of these")
      ->required();
  inspect_command->add_flag("--metadata", inspect_what.metadata, "The metadata, too; of arrays type and size");
  inspect_command->add_flag("--no-statistics", names_only, "Read no values: at once, whatever the size");
  inspect_command->add_flag("--errors", inspect_what.errors,
                            "What each type would lose: measured on a part of the tensor, beside normal values");
  inspect_command->add_flag("--least-error", inspect_what.least_error,
                            "That with the search of quantize --least-error");
  common(inspect_command);

  quantize_options quantize_what;
  CLI::App* const quantize_command = app.add_subcommand("quantize", "A model file as a GGUF file in other types");
  quantize_command->add_option("from", quantize_what.from, "The GGUF or safetensors file, index or folder to read")
      ->required();
  quantize_command->add_option("to", quantize_what.to, "The GGUF file to write, or to replace")->required();
  quantize_command->add_option(
      "plan", quantize_what.plan,
      "A mixture (Q2_K, Q2_K_S, Q3_K_S/M/L, Q4_K_S/M, Q5_K_S/M) or one type (F16, Q8_0, Q4_K, IQ4_XS, MXFP4 ...)");
  CLI::Option* const size_option =
      quantize_command
          ->add_option("--size", quantize_what.size,
                       "Instead of a plan: the types with least predicted noise in a file of at most so much")
          ->type_name("400MiB");
  quantize_command->add_option("--bits", quantize_what.bits, "The same by bits per weight, header left out")
      ->check(CLI::Range(0.5, 64.0))
      ->excludes(size_option);
  quantize_command->add_flag("--least-error", quantize_what.least_error,
                             "Q2_K to Q6_K with less squared error than the reference's search, in the same bytes");
  quantize_command
      ->add_option("--imatrix", quantize_what.imatrix_path,
                   "Importance of columns, from llama.cpp's imatrix tool; with it comes --least-error, but IQ4_NL "
                   "and IQ4_XS are searched as llama.cpp does")
      ->type_name("FILE");
  quantize_command
      ->add_option("--architecture", quantize_what.architecture, "general.architecture of a file made from safetensors")
      ->capture_default_str();
  quantize_command
      ->add_option("--rule", quantize_what.rules,
                   "'pattern = TYPE' for the tensors whose names it finds; the first one that does decides")
      ->type_name("RULE");
  quantize_command->add_option("--rules", quantize_what.rules_path, "A file of such lines, which come after --rule")
      ->type_name("FILE");
  quantize_command->add_flag("--strict", quantize_what.strict,
                             "Refuse where rows are no whole blocks, a rule has no effect or a mixture knows no layer");
  quantize_command->add_flag("--dry-run", quantize_what.dry_run, "Say what would be written");
  common(quantize_command);

  quantize_command->add_flag("--resume", quantize_what.resume, "Continue what an earlier run left in <to>.partial");

  convert_options convert_what;
  CLI::App* const convert_command =
      app.add_subcommand("convert", "A file in another container, without loss unless a type is named");
  convert_command->add_option("from", convert_what.from, "The GGUF or safetensors file, index or folder to read")
      ->required();
  convert_command->add_option("to", convert_what.to, "The file to write, or to replace")->required();
  convert_command
      ->add_option("--to", convert_what.type,
                   "The type of all tensors whose values are known: F32 is exact, F16 and BF16 round and say the error")
      ->type_name("TYPE")
      ->transform(CLI::IsMember(std::vector<std::string>{"F32", "F16", "BF16"}, CLI::ignore_case));
  convert_command
      ->add_option("--container", convert_what.container, "Of the output; without it the end of its name decides")
      ->transform(CLI::IsMember(std::vector<std::string>{"gguf", "safetensors"}, CLI::ignore_case));
  convert_command->add_flag("--strict", convert_what.strict, "Refuse what is not loss-free, the change of a shape too");
  convert_command->add_flag("--dry-run", convert_what.dry_run, "Say what would be written");
  convert_command->add_flag("--resume", convert_what.resume, "Continue what an earlier run left in <to>.partial");
  common(convert_command);

  compare_options compare_what;
  CLI::App* const compare_command = app.add_subcommand("compare", "Two files, tensor by tensor");
  compare_command->add_option("a", compare_what.a, "The reference")->required();
  compare_command->add_option("b", compare_what.b, "What is compared with it")->required();
  CLI::Option* const least =
      compare_command->add_option("--least-sqnr", compare_what.least_sqnr, "Exit with 3 where a tensor has less")
          ->type_name("DB");
  common(compare_command);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? done : mistaken;
  }
  inspect_what.statistics = !names_only;
  compare_what.limited = least->count() > 0;
  nibble::thread_pool pool(threads);
  o.ctx = pool.context();
  if (inspect_command->parsed()) return inspect(o, inspect_what);
  if (quantize_command->parsed()) return quantize(o, quantize_what);
  if (convert_command->parsed()) return convert(o, convert_what);
  return compare(o, compare_what);
}

/// One line on standard error. Messages of the library begin with its name already.
void complain(std::string_view text) { std::cerr << (text.starts_with("nibble: ") ? "" : "nibble: ") << text << "\n"; }

/// Keeps what standard error is told, for the document that --json has of an error.
class kept_complaints : public std::streambuf {
 public:
  kept_complaints() : to_(std::cerr.rdbuf(this)) {}
  ~kept_complaints() override { std::cerr.rdbuf(to_); }
  kept_complaints(const kept_complaints&) = delete;
  kept_complaints& operator=(const kept_complaints&) = delete;

  /// The lines, without the name of the program.
  std::string text() const {
    std::string lines;
    for (std::size_t at = 0; at < kept_.size();) {
      const std::size_t end = std::min(kept_.find('\n', at), kept_.size());
      std::string_view line = std::string_view{kept_}.substr(at, end - at);
      if (line.starts_with("nibble: ")) line.remove_prefix(8);
      if (!line.empty()) lines += (lines.empty() ? "" : "\n") + std::string{line};
      at = end + 1;
    }
    return lines;
  }

 protected:
  int_type overflow(int_type c) override {
    if (traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    kept_.push_back(traits_type::to_char_type(c));
    return to_->sputc(traits_type::to_char_type(c));
  }
  std::streamsize xsputn(const char* s, std::streamsize n) override {
    kept_.append(s, static_cast<std::size_t>(n));
    return to_->sputn(s, n);
  }
  int sync() override { return to_->pubsync(); }

 private:
  std::streambuf* to_;
  std::string kept_;
};

/// Whether the arguments ask for JSON, also where they are mistaken otherwise.
bool asks_for_json(int argc, char** argv) {
  return std::any_of(argv + 1, argv + std::max(argc, 1), [](const char* a) { return std::string_view{a} == "--json"; });
}

int run_and_complain(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const mistake& e) {
    complain(e.what());
    return mistaken;
  } catch (const std::exception& e) {
    complain(e.what());
    return failed;
  }
}

}  // namespace
}  // namespace tool

int main(int argc, char** argv) {
  const tool::kept_complaints complaints;
  int code = tool::run_and_complain(argc, argv);
  if (tool::asks_for_json(argc, argv) && (code == tool::failed || code == tool::mistaken || code == tool::refused))
    std::cout << tool::document_text({{"error", complaints.text()}, {"exit", code}});
  errno = 0;
  if (!std::cout.flush()) {
    tool::complain(std::string{"cannot write to standard output"} + (errno != 0 ? ": " : "") +
                   (errno != 0 ? std::strerror(errno) : ""));
    code = tool::failed;
  }
  return code;
}
