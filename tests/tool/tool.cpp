// SPDX-License-Identifier: MIT
// The program nibble as its users call it: arguments, files and exit codes.

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
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
#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"
#include "support/temporary_folder.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NIBBLE_TEST_SANITIZED 1
#endif
#endif

namespace {

using nibble::ggml_type;
using nibble::test::temporary_file;
using nibble::test::text_of;

using result = nibble::test::tool_result;
const auto run = [](const auto&... arguments) { return nibble::test::run_tool(arguments...); };

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
  CHECK(wide.size() == 7);
  double last = 100.0;
  for (const char* type : {"Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K"}) {
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
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "' Q8_0 --size 1MB").code == 2);
  CHECK(run("quantize '" + m.file.path + "' '" + to.path + "'").code == 2);
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
  const auto of_iq4 = nlohmann::json::parse(
      run("quantize --json --imatrix '" + matrix.path + "' '" + m.file.path + "' '" + to.path + "' IQ4_XS").out);
  const auto& weighed = of_iq4["tensors"][2];
  CHECK(weighed["weighted_sqnr_db"].get<double>() > weighed["sqnr_db"].get<double>() + 1.0);
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

TEST_CASE("nibble quantize and convert: what was killed midway continues, and the old file stays until then") {
  const small_model m;
  for (const std::string& command :
       {"quantize '" + m.file.path + "' '%' Q8_0", "convert '" + m.file.path + "' '%' --to F16"}) {
    CAPTURE(command);
    const temporary_file to{"to.gguf"}, partial{"to.gguf.partial"}, journal{"to.gguf.partial.journal"},
        whole{"whole.gguf"};
    const auto with = [&](const std::string& path) { return std::string{command}.replace(command.find('%'), 1, path); };
    CHECK(run(with(whole.path)).code == 0);
    std::ofstream(to.path) << "old";
    // A file of more than 300 blocks of 512 bytes ends the process by a signal, as kill does; the first tensors are whole then.
    const result killed = run(with(to.path), "ulimit -c 0; ulimit -f 300;");
    CHECK((killed.code == -1 || killed.code > 128));
    CHECK(text_of(to.path) == "old");
    CHECK(std::filesystem::exists(partial.path));
    const result resumed = run(with(to.path) + " --resume --json");
    CHECK(resumed.code == 0);
    CHECK(resumed.says("bytes are taken over"));
    CHECK(text_of(to.path) == text_of(whole.path));
    CHECK_FALSE(std::filesystem::exists(partial.path));
    CHECK_FALSE(std::filesystem::exists(journal.path));
    // What was lost by the tensors that were taken over is known, too.
    const auto a = nlohmann::json::parse(resumed.out), b = nlohmann::json::parse(run(with(whole.path) + " --json").out);
    CHECK(a["tensors"] == b["tensors"]);
  }
}

TEST_CASE("nibble quantize: SIGKILL at any moment leaves the old file, and --resume ends with the same bytes") {
  const temporary_file from{"from.gguf"}, to{"killed.gguf"}, partial{"killed.gguf.partial"},
      journal{"killed.gguf.partial.journal"}, whole{"whole.gguf"};
  const auto values = nibble::test::gaussian(512 * 1024, 1, 0.02f);
  nibble::io::gguf_writer w;
  w.set("general.architecture", "llama");
  for (int i = 0; i < 12; ++i)
    w.add("blk." + std::to_string(i) + ".attn_v.weight", ggml_type::f32, {1024, 512}, std::as_bytes(std::span{values}));
  w.save(from.path);
  const std::string arguments = "quantize --least-error --threads 1 '" + from.path + "' '";
  REQUIRE(run(arguments + whole.path + "' Q2_K").code == 0);
  std::ofstream(to.path) << "old";
  for (const char* const bytes : {"1", "300000", "900000"}) {
    CAPTURE(bytes);
    const std::string killed = "'" NIBBLE_TOOL "' " + arguments + to.path +
                               "' Q2_K --resume >/dev/null 2>&1 & p=$!; "
                               "while kill -0 $p && [ \"$(stat -c %s '" +
                               partial.path + "' || echo 0)\" -lt " + bytes +
                               " ]; do :; done 2>/dev/null; kill -KILL $p; wait $p";
    const int status = std::system(killed.c_str());
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 128 + SIGKILL);
    CHECK(text_of(to.path) == "old");
  }
  const result resumed = run(arguments + to.path + "' Q2_K --resume");
  CHECK(resumed.code == 0);
  CHECK(resumed.says("bytes are taken over"));
  CHECK(text_of(to.path) == text_of(whole.path));
}

TEST_CASE("nibble quantize: a full disk is one error, leaves the old file and what is whole") {
  const small_model m;
  const temporary_file to{"full.gguf"}, partial{"full.gguf.partial"}, journal{"full.gguf.partial.journal"};
  std::ofstream(to.path) << "old";
  // Without the signal the limit is an error of write(), as a full disk is.
  const result r = run("quantize '" + m.file.path + "' '" + to.path + "' Q8_0", "trap '' XFSZ; ulimit -f 300;");
  CHECK(r.code == 1);
  CHECK(r.says("cannot write '" + partial.path + "'"));
  CHECK(text_of(to.path) == "old");
  const result anew = run("quantize '" + m.file.path + "' '" + to.path + "' Q8_0");
  CHECK(anew.code == 0);
  CHECK(anew.says("of an earlier run is begun anew"));
  CHECK_FALSE(std::filesystem::exists(partial.path));
}

TEST_CASE("nibble quantize: --resume takes nothing over from another plan or another input") {
  const small_model m;
  const temporary_file to{"other.gguf"}, partial{"other.gguf.partial"}, journal{"other.gguf.partial.journal"};
  const std::string files = "quantize '" + m.file.path + "' '" + to.path + "' ", limit = "ulimit -c 0; ulimit -f 200;";
  CHECK(run(files + "Q8_0", limit).code != 0);
  CHECK(run(files + "Q5_0 --resume", limit).says("from something else and is begun anew"));
  std::filesystem::last_write_time(m.file.path,
                                   std::filesystem::last_write_time(m.file.path) + std::chrono::seconds(1));
  CHECK(run(files + "Q5_0 --resume").says("from something else and is begun anew"));
}

TEST_CASE("nibble convert: GGUF to safetensors and back changes no byte of a tensor or a value") {
  const small_model m;
  const temporary_file safe{"there.safetensors"}, back{"back.gguf"};
  CHECK(run("convert --strict '" + m.file.path + "' '" + safe.path + "'").code == 0);
  const nibble::io::safetensors_reader s{safe.path};
  CHECK(s.at("blk.0.attn_v.weight").shape == std::vector<std::size_t>{128, 512});
  CHECK(s.at("blk.0.attn_norm.weight").shape == std::vector<std::size_t>{512});
  CHECK(s.metadata().at("general.architecture") == "llama");
  CHECK(s.metadata().at("llama.block_count") == "1");
  CHECK(run("convert --strict '" + safe.path + "' '" + back.path + "'").code == 0);
  const nibble::io::gguf_reader a{m.file.path}, b{back.path};
  CHECK(b.get<int>("llama.block_count") == 1);
  CHECK(b.metadata().size() == a.metadata().size());
  for (const auto& t : a.tensors()) {
    const auto& u = b.at(t.name);
    CHECK(u.type == t.type);
    CHECK(u.dims == t.dims);
    CHECK(std::ranges::equal(a.bytes(t), b.bytes(u)));
  }
}

TEST_CASE("nibble convert: quantized tensors become floats when asked for: F32 exact, F16 with the error") {
  const small_model m;
  const temporary_file q{"q.gguf"}, safe{"f.safetensors"};
  CHECK(run("quantize '" + m.file.path + "' '" + q.path + "' Q8_0").code == 0);
  const result exact = run("convert --json --strict '" + q.path + "' '" + safe.path + "' --to f32");
  CHECK(exact.code == 0);
  const auto values = nibble::io::gguf_reader{q.path}.read_f32("output.weight");
  CHECK(nibble::io::safetensors_reader{safe.path}.read_f32("output.weight") == values);
  CHECK_FALSE(nlohmann::json::parse(exact.out).contains("sqnr_db"));

  CHECK(run("convert --strict '" + q.path + "' '" + safe.path + "' --to BF16").code == 4);
  const result rounded = run("convert --json '" + q.path + "' '" + safe.path + "' --to BF16");
  CHECK(rounded.code == 0);
  const auto j = nlohmann::json::parse(rounded.out);
  CHECK(j["sqnr_db"].get<double>() > 45.0);
  CHECK(j["sqnr_db"].get<double>() < 65.0);
  CHECK(nibble::io::safetensors_reader{safe.path}.at("output.weight").type == nibble::io::dtype::bf16);
}

TEST_CASE("nibble convert: blocks become matrices of a safetensors file without loss, and the same blocks again") {
  const small_model m;
  for (const std::string plan : {"Q4_K_M", "Q8_0", "IQ4_NL", "IQ4_XS", "MXFP4"}) {
    CAPTURE(plan);
    const temporary_file q{"q.gguf"}, safe{"planes.safetensors"}, back{"again.gguf"};
    CHECK(run("quantize '" + m.file.path + "' '" + q.path + "' " + plan).code == 0);
    const result there = run("convert --strict --json '" + q.path + "' '" + safe.path + "'");
    CHECK(there.code == 0);
    CHECK(nlohmann::json::parse(there.out)["tensors"][0]["to"] == "nibble");
    CHECK(nibble::io::safetensors_reader{safe.path}.contains("output.weight.nibble.codes"));
    CHECK(run("compare --least-sqnr 300 '" + q.path + "' '" + safe.path + "'").code == 0);
    CHECK(run("convert --strict '" + safe.path + "' '" + back.path + "'").code == 0);
    const nibble::io::gguf_reader a{q.path}, b{back.path};
    for (const auto& t : a.tensors()) {
      CAPTURE(std::string{t.name});
      CHECK(b.at(t.name).type == t.type);
      CHECK(std::ranges::equal(a.bytes(t), b.bytes(b.at(t.name))));
    }
  }
}

TEST_CASE("nibble: a GPTQ checkpoint with act-order is inspected, quantized, converted and compared by its values") {
  const nibble::test::temporary_folder folder{"gptq"};
  std::filesystem::copy_file(std::string{NIBBLE_TEST_SOURCE_DIR} + "/tests/golden/checkpoint_gptq4.safetensors",
                             folder.path / "model.safetensors");
  const std::string at = "'" + folder.path.string() + "'";
  const result bare = run("inspect --json " + at);  // nothing says how its zero points are stored
  CHECK(bare.code == 0);
  CHECK(bare.says("quantized layers are taken as the tensors that they consist of"));
  CHECK(bare.out.find("l.qweight") != std::string::npos);

  folder.write("config.json", R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 16,
    "desc_act": true, "sym": false, "checkpoint_format": "gptq_v2"}})");
  const result seen = run("inspect --json " + at);
  CHECK(seen.code == 0);
  const auto tensors = nlohmann::json::parse(seen.out)["tensors"];
  REQUIRE(tensors.size() == 2);
  CHECK(tensors[1]["name"] == "l.weight");
  CHECK(tensors[1]["type"] == "gptq 4 bits in 16s");
  CHECK(tensors[1]["kurtosis"].get<double>() > 0.0);

  const temporary_file floats{"f.safetensors"}, own{"own.safetensors"}, gguf{"q.gguf"};
  CHECK(run("convert --strict --to F32 " + at + " '" + floats.path + "'").code == 0);
  const nibble::io::safetensors_reader f{floats.path};
  CHECK(f.read_f32("l.weight") == f.read_f32("dense"));  // what the format's formula gives
  CHECK(run("convert --strict " + at + " '" + own.path + "'").code == 0);
  CHECK(run("compare --least-sqnr 300 '" + floats.path + "' '" + own.path + "'").code == 0);
  CHECK(run("convert " + at + " '" + gguf.path + "'").code == 4);  // zero points of groups: no blocks hold them
  CHECK(run("quantize " + at + " '" + gguf.path + "' Q8_0 --architecture llama").code == 0);
  CHECK(run("compare --least-sqnr 30 '" + floats.path + "' '" + gguf.path + "'").code == 0);
}

TEST_CASE("nibble convert: what changes a shape is said, and refused by --strict") {
  const temporary_file from{"scalar.safetensors"}, to{"scalar.gguf"};
  const float one = 1.0f;
  nibble::io::safetensors_writer w;
  w.add<float>("scale", {}, std::span{&one, 1});
  w.save(from.path);
  CHECK(run("convert --strict '" + from.path + "' '" + to.path + "'").code == 4);
  const result r = run("convert '" + from.path + "' '" + to.path + "'");
  CHECK(r.code == 0);
  CHECK(r.out.find("tensor 'scale' has no extent; GGUF wants one: [1]") != std::string::npos);
  CHECK(nibble::io::gguf_reader{to.path}.read_f32("scale")[0] == 1.0f);
}

TEST_CASE("nibble convert: infinities are exact as F32, and one error with their place as F16") {
  const temporary_file from{"inf.safetensors"}, to{"inf.gguf"};
  const std::vector<nibble::bfloat16> values{nibble::to_bfloat16(1.0f), nibble::to_bfloat16(INFINITY)};
  nibble::io::safetensors_writer w;
  w.add<nibble::bfloat16>("w", {1, 2}, std::span{values});
  w.save(from.path);
  CHECK(run("convert '" + from.path + "' '" + to.path + "' --to F32").code == 0);
  CHECK(nibble::io::gguf_reader{to.path}.read_f32("w")[1] == INFINITY);
  const result r = run("convert '" + from.path + "' '" + to.path + "' --to F16");
  CHECK(r.code == 1);
  CHECK(r.says("tensor 'w'"));
  CHECK(r.says("row 0, column 1 is inf"));
  CHECK(nibble::io::gguf_reader{to.path}.at("w").type == ggml_type::f32);
}

TEST_CASE("nibble convert: types that the other container lacks, and names without an end, are refused") {
  const temporary_file from{"u8.safetensors"}, to{"u8.gguf"}, endless{"no_end"};
  const std::uint8_t byte = 1;
  nibble::io::safetensors_writer w;
  w.add<std::uint8_t>("codes", {1}, std::span{&byte, 1});
  w.save(from.path);
  const result r = run("convert '" + from.path + "' '" + to.path + "' --to F32");
  CHECK(r.code == 4);
  CHECK(r.says("tensor 'codes' is U8, a type that gguf does not have; nibble cannot compute its values"));
  CHECK(run("convert '" + from.path + "' '" + endless.path + "'").code == 2);
  CHECK(run("convert '" + from.path + "' '" + to.path + "' --to Q8_0").code == 2);
  CHECK(run("convert --dry-run '" + from.path + "' x --container safetensors").code == 0);
  CHECK_FALSE(std::filesystem::exists("x"));
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

#if !defined(__SANITIZE_ADDRESS__) && !defined(NIBBLE_TEST_SANITIZED)
TEST_CASE("nibble: a tensor of 256 MB is never in memory as a whole") {
  const std::string header =
      R"({"blk.0.ffn_up.weight":{"dtype":"F16","shape":[32768,4096],"data_offsets":[0,268435456]}})";
  const temporary_file model{"large.safetensors"}, out{"large.gguf"};
  const std::uint64_t size = header.size();
  std::ofstream(model.path, std::ios::binary).write(reinterpret_cast<const char*>(&size), 8) << header;
  std::filesystem::resize_file(model.path, 8 + size + 268435456);                // zeros, without a disk behind them
  CHECK(run("quantize '" + model.path + "' '" + out.path + "' F16").code == 0);  // a copy
  CHECK(std::filesystem::file_size(out.path) > 268435456);
  CHECK(run("quantize '" + model.path + "' '" + out.path + "' Q4_0").code == 0);
  CHECK(std::filesystem::file_size(out.path) < 100000000);
  CHECK(run("inspect '" + model.path + "'").code == 0);
  CHECK(run("compare '" + model.path + "' '" + out.path + "'").code == 0);
  ::rusage children{};  // the greatest of all programs that this test has run
  REQUIRE(::getrusage(RUSAGE_CHILDREN, &children) == 0);
  CHECK(children.ru_maxrss < 128 * 1024);
}
#endif

TEST_CASE("nibble: mistakes have an exit code each and one line that says what is wrong") {
  const temporary_file bad{"bad.gguf"};
  std::ofstream(bad.path) << "GGUFxxxx";
  CHECK(run("").code == 2);
  CHECK(run("inspect --no-such-flag x").code == 2);
  CHECK(run("quantize a b").says("or else --size or --bits"));
  CHECK(run("quantize a b").code == 2);
  CHECK(run("quantize a b Q4_K_X").code == 2);
  CHECK(run("quantize a b Q4_K_M --size 1GiB").code == 2);
  CHECK(run("quantize a b --size 1parsec").code == 2);
  CHECK(run("quantize a b Q4_K_M --rule 'no rule'").code == 2);
  CHECK(run("quantize a b Q4_K_M --rules /nowhere").code == 1);
  CHECK(run("--help").code == 0);
  const result r = run("inspect '" + bad.path + "'");
  CHECK(r.code == 1);
  CHECK(r.says(bad.path));
  CHECK_FALSE(r.says("nibble: nibble:"));
  CHECK(run("quantize '" + bad.path + "' x Q4_K_M").code == 1);
  CHECK(run("inspect /nowhere").says("/nowhere"));
}
