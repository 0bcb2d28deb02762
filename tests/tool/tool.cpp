// SPDX-License-Identifier: MIT
// The program nibble as its users call it: arguments, files and exit codes.

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/safetensors.hpp>

#include "support/random.hpp"
#include "support/temporary_file.hpp"

namespace {

using nibble::ggml_type;
using nibble::test::temporary_file;

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct result {
  int code;
  std::string out, err;
  bool says(std::string_view part) const { return err.find(part) != std::string::npos; }
};

result run(const std::string& arguments) {
  const temporary_file out{"out"}, err{"err"};
  const int status =
      std::system(("'" NIBBLE_TOOL "' " + arguments + " >'" + out.path + "' 2>'" + err.path + "' </dev/null").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(out.path), text_of(err.path)};
}

/// A model of one layer; rows of `ffn_down` are no multiple of 256.
struct small_model {
  temporary_file file{"model.gguf"};
  std::vector<float> values = nibble::test::gaussian(512 * 512, 1, 0.02f);

  small_model() {
    nibble::io::gguf_writer w;
    w.set("general.architecture", "llama");
    w.set("llama.block_count", 1u);
    w.set("llama.note", "kept");
    const auto add = [&](const char* name, std::size_t row, std::size_t rows) {
      const auto bytes = std::as_bytes(std::span{values}.first(row * rows));
      w.add(name, ggml_type::f32, rows == 1 ? std::vector{row} : std::vector{row, rows}, bytes);
    };
    add("token_embd.weight", 512, 100);
    add("blk.0.attn_norm.weight", 512, 1);
    add("blk.0.attn_v.weight", 512, 128);
    add("blk.0.ffn_down.weight", 96, 512);
    add("output.weight", 512, 100);
    w.save(file.path);
  }
};

}  // namespace

TEST_CASE("nibble inspect: types, sizes and statistics of a GGUF file") {
  const small_model m;
  const result r = run("inspect --json --metadata '" + m.file.path + "'");
  CHECK(r.code == 0);
  const auto j = nlohmann::json::parse(r.out);
  CHECK(j["container"] == "GGUF");
  CHECK(j["metadata"]["llama.note"] == "kept");
  CHECK(j["tensors"].size() == 5);
  const auto& t = j["tensors"][2];
  CHECK(t["name"] == "blk.0.attn_v.weight");
  CHECK(t["shape"] == nlohmann::json::array({128, 512}));
  CHECK(t["bytes"] == 128 * 512 * 4);
  CHECK(t["rms"].get<double>() == doctest::Approx(0.02).epsilon(0.02));
  CHECK(t["kurtosis"].get<double>() == doctest::Approx(3.0).epsilon(0.05));
  CHECK(t["dead_rows"] == 0);
}

TEST_CASE("nibble inspect: --errors has what types lose beside what they lose of normal values") {
  const small_model m;
  const auto j = nlohmann::json::parse(run("inspect --json --errors '" + m.file.path + "'").out);
  const auto& wide = j["tensors"][2]["sqnr_db"];
  CHECK(wide.size() == 6);
  double last = 100.0;
  for (const char* type : {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"}) {
    CAPTURE(type);
    CHECK(wide[type]["measured"].get<double>() == doctest::Approx(wide[type]["normal"].get<double>()).epsilon(0.02));
    CHECK(wide[type]["measured"].get<double>() < last);
    last = wide[type]["measured"].get<double>();
  }
  CHECK(j["tensors"][3]["sqnr_db"].contains("Q4_0"));  // rows of 96
  CHECK_FALSE(j["tensors"][1].contains("sqnr_db"));    // a norm
  const auto k = nlohmann::json::parse(run("inspect --json --errors --least-error '" + m.file.path + "'").out);
  CHECK(k["tensors"][2]["sqnr_db"]["Q2_K"]["measured"].get<double>() > last + 0.8);
}

TEST_CASE("nibble inspect: --no-statistics reads no values") {
  const small_model m;
  const auto j = nlohmann::json::parse(run("inspect --json --no-statistics '" + m.file.path + "'").out);
  CHECK_FALSE(j["tensors"][0].contains("rms"));
}

TEST_CASE("nibble quantize: a mixture with a rule; what does not fit is said, metadata are kept") {
  const small_model m;
  const temporary_file to{"q4.gguf"};
  const result r =
      run("quantize '" + m.file.path + "' '" + to.path + "' Q4_K_M --rule 'attn_v = F16' --json --threads 2");
  CHECK(r.code == 0);
  CHECK(r.says("blk.0.ffn_down.weight: rows of 96 are no whole blocks of Q6_K; Q8_0 instead"));
  const nibble::io::gguf_reader file{to.path};
  CHECK(file.at("token_embd.weight").type == ggml_type::q4_k);
  CHECK(file.at("blk.0.attn_norm.weight").type == ggml_type::f32);
  CHECK(file.at("blk.0.attn_v.weight").type == ggml_type::f16);
  CHECK(file.at("blk.0.ffn_down.weight").type == ggml_type::q8_0);
  CHECK(file.at("output.weight").type == ggml_type::q6_k);
  CHECK(file.get<std::string_view>("llama.note") == "kept");
  CHECK(file.get<int>("general.file_type") == 15);
  const auto j = nlohmann::json::parse(r.out);
  CHECK(j["bytes_after"] == 100 * 2 * 144 + 512 * 4 + 128 * 512 * 2 + 512 * 3 * 34 + 100 * 2 * 210);
  CHECK(j["tensors"][2]["rule"] == "attn_v");
  CHECK(j["tensors"][4]["sqnr_db"].get<double>() > 30.0);
}

TEST_CASE("nibble quantize: --strict refuses what does not fit and leaves the old file") {
  const small_model m;
  const temporary_file to{"old.gguf"};
  std::ofstream(to.path) << "old";
  const result r = run("quantize --strict '" + m.file.path + "' '" + to.path + "' Q4_K_M");
  CHECK(r.code == 4);
  CHECK(r.says("--strict refuses 1 substitutions"));
  CHECK(text_of(to.path) == "old");
}

TEST_CASE("nibble quantize: --dry-run writes nothing") {
  const small_model m;
  const temporary_file to{"none.gguf"};
  CHECK(run("quantize --dry-run '" + m.file.path + "' '" + to.path + "' Q8_0").code == 0);
  CHECK_FALSE(std::filesystem::exists(to.path));
}

TEST_CASE("nibble quantize: the number of threads changes no byte") {
  const small_model m;
  const temporary_file one{"one.gguf"}, four{"four.gguf"};
  CHECK(run("quantize --threads 1 '" + m.file.path + "' '" + one.path + "' Q5_K_M").code == 0);
  CHECK(run("quantize --threads 4 '" + m.file.path + "' '" + four.path + "' Q5_K_M").code == 0);
  CHECK(text_of(one.path) == text_of(four.path));
}

TEST_CASE("nibble quantize: a value that is not finite is named, and the old file stays") {
  small_model m;
  m.values[5 * 512 + 7] = std::nanf("");
  nibble::io::gguf_writer w;
  w.add("blk.0.attn_q.weight", ggml_type::f32, {512, 16}, std::as_bytes(std::span{m.values}.first(512 * 16)));
  w.save(m.file.path);
  const temporary_file to{"nan.gguf"};
  std::ofstream(to.path) << "old";
  const result r = run("quantize '" + m.file.path + "' '" + to.path + "' Q4_0");
  CHECK(r.code == 1);
  CHECK(r.says("tensor 'blk.0.attn_q.weight'"));
  CHECK(r.says("row 5, column 7 is nan"));
  CHECK(text_of(to.path) == "old");
}

TEST_CASE("nibble quantize: --size keeps the file within its bytes, and more bytes leave less noise") {
  const small_model m;
  const temporary_file to{"sized.gguf"};
  double before = 1e9;
  for (const std::size_t bytes : {120'000u, 150'000u, 200'000u, 300'000u}) {
    CAPTURE(bytes);
    const result r = run("quantize '" + m.file.path + "' '" + to.path + "' --json --size " + std::to_string(bytes));
    CHECK(r.code == 0);
    CHECK(std::filesystem::file_size(to.path) <= bytes);
    const auto j = nlohmann::json::parse(r.out);
    CHECK(j["budget"]["file_bytes"] == std::filesystem::file_size(to.path));
    CHECK(j["budget"]["predicted_noise_share"].get<double>() >= j["budget"]["least_possible"].get<double>());
    CHECK(j["budget"]["predicted_noise_share"].get<double>() < before);
    before = j["budget"]["predicted_noise_share"].get<double>();
    CHECK(nibble::io::gguf_reader{to.path}.at("blk.0.attn_norm.weight").type == ggml_type::f32);
  }
}

TEST_CASE("nibble quantize: a size that no types fit names the least one, which then works") {
  const small_model m;
  const temporary_file to{"sized.gguf"};
  const result r = run("quantize '" + m.file.path + "' '" + to.path + "' --size 10KiB");
  CHECK(r.code == 1);
  const std::size_t at = r.err.find("the least is ");
  REQUIRE(at != std::string::npos);
  const std::size_t least = std::stoul(r.err.substr(at + 13));
  CHECK(r.says("no types make a file of 10240 bytes"));
  CHECK_FALSE(std::filesystem::exists(to.path));
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' --size " + std::to_string(least - 1)).code == 1);
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' --size " + std::to_string(least)).code == 0);
  CHECK(std::filesystem::file_size(to.path) == least);
}

TEST_CASE("nibble quantize: a rule holds inside a size, and a plan beside it is a mistake") {
  const small_model m;
  const temporary_file to{"sized.gguf"};
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' --bits 6 --rule 'attn_v = Q8_0'").code == 0);
  CHECK(nibble::io::gguf_reader{to.path}.at("blk.0.attn_v.weight").type == ggml_type::q8_0);
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' Q8_0 --size 1MB").code == 1);
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "'").code == 1);
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' --size much").says("'much' is no size"));
}

TEST_CASE("nibble quantize: --least-error leaves less error in a file of the same size") {
  const small_model m;
  const temporary_file plain{"plain.gguf"}, fitted{"fitted.gguf"};
  const auto a = nlohmann::json::parse(run("quantize --json '" + m.file.path + "' '" + plain.path + "' Q4_K").out);
  const auto b =
      nlohmann::json::parse(run("quantize --json --least-error '" + m.file.path + "' '" + fitted.path + "' Q4_K").out);
  CHECK(b["search"] == "least error");
  CHECK(std::filesystem::file_size(plain.path) == std::filesystem::file_size(fitted.path));
  for (const std::size_t i : {0u, 2u, 4u})
    CHECK(b["tensors"][i]["mse"].get<double>() < 0.97 * a["tensors"][i]["mse"].get<double>());
}

TEST_CASE("nibble quantize: --imatrix lowers the error that importance weighs, and says where it knows none") {
  const small_model m;
  const temporary_file matrix{"imatrix.gguf"}, to{"out.gguf"};
  std::vector<float> sums(512);
  for (std::size_t k = 0; k < 512; ++k) sums[k] = k % 8 == 0 ? 5000.0f : 10.0f;
  const std::vector<float> count{100.0f};
  nibble::io::gguf_writer w;
  w.add("blk.0.attn_v.weight.in_sum2", ggml_type::f32, {512, 1}, std::as_bytes(std::span{sums}));
  w.add("blk.0.attn_v.weight.counts", ggml_type::f32, {1, 1}, std::as_bytes(std::span{count}));
  w.save(matrix.path);
  const auto j = nlohmann::json::parse(
      run("quantize --json --imatrix '" + matrix.path + "' '" + m.file.path + "' '" + to.path + "' Q4_K").out);
  const auto& known = j["tensors"][2];
  CHECK(known["importance"] == true);
  CHECK(known["weighted_sqnr_db"].get<double>() > known["sqnr_db"].get<double>() + 1.0);
  CHECK(j["tensors"][0]["importance"] == false);
  CHECK_FALSE(j["tensors"][0].contains("weighted_sqnr_db"));
  CHECK(run("quantize --imatrix '" + matrix.path + "' '" + m.file.path + "' '" + to.path + "' Q4_K")
            .out.find("without importance: token_embd.weight, blk.0.ffn_down.weight, output.weight") !=
        std::string::npos);
}

TEST_CASE("nibble quantize: a safetensors file becomes a GGUF file with its names") {
  const auto values = nibble::test::gaussian(64 * 256, 2);
  const temporary_file from{"model.safetensors"}, to{"model.gguf"};
  nibble::io::safetensors_writer w;
  w.add("layers.0.weight", {64, 256}, std::span<const float>{values});
  w.add("layers.0.bias", {64}, std::span<const float>{values}.first(64));
  w.save(from.path);
  const result r = run("quantize '" + from.path + "' '" + to.path + "' Q6_K --architecture llama");
  CHECK(r.code == 0);
  const nibble::io::gguf_reader file{to.path};
  CHECK(file.get<std::string_view>("general.architecture") == "llama");
  CHECK(file.at("layers.0.weight").type == ggml_type::q6_k);
  CHECK(file.at("layers.0.weight").dims[0] == 256);
  CHECK(file.at("layers.0.bias").type == ggml_type::f32);
  CHECK(run("compare --least-sqnr 30 '" + from.path + "' '" + to.path + "'").code == 0);
}

TEST_CASE("nibble compare: distances, and exit code 3 for what is no rounding") {
  const small_model m;
  const temporary_file to{"q8.gguf"};
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' Q8_0").code == 0);
  const result near = run("compare --json --least-sqnr 40 '" + m.file.path + "' '" + to.path + "'");
  CHECK(near.code == 0);
  const auto j = nlohmann::json::parse(near.out);
  CHECK(j["tensors"][2]["cosine"].get<double>() > 0.9999);
  CHECK(j["tensors"][2]["sqnr_db"].get<double>() > 40.0);
  CHECK(j["tensors"][2]["worst_row_sqnr_db"].get<double>() <= j["tensors"][2]["sqnr_db"].get<double>());
  CHECK_FALSE(j["tensors"][1].contains("sqnr_db"));  // the norm is the same
  CHECK(run("compare --least-sqnr 60 '" + m.file.path + "' '" + to.path + "'").code == 3);

  nibble::io::gguf_writer w;
  w.add("output.weight", ggml_type::f32, {100, 512}, std::as_bytes(std::span{m.values}.first(512 * 100)));
  w.save(to.path);
  const result far = run("compare '" + m.file.path + "' '" + to.path + "'");
  CHECK(far.code == 3);
  CHECK(far.says("'token_embd.weight' is in a only"));
  CHECK(far.says("'output.weight' is 100 x 512 in a and 512 x 100 in b"));
}

TEST_CASE("nibble: mistakes have an exit code each and one line that says what is wrong") {
  const temporary_file bad{"bad.gguf"};
  std::ofstream(bad.path) << "GGUFxxxx";
  CHECK(run("").code == 2);
  CHECK(run("inspect --no-such-flag x").code == 2);
  CHECK(run("--help").code == 0);
  const result r = run("inspect '" + bad.path + "'");
  CHECK(r.code == 1);
  CHECK(r.says(bad.path));
  CHECK(run("quantize '" + bad.path + "' x Q4_K_M").code == 1);
  CHECK(run("inspect /nowhere").says("/nowhere"));
}
