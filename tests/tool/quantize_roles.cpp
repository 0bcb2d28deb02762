// SPDX-License-Identifier: MIT
// nibble quantize: mixtures of checkpoints under Hugging Face's names, and what of a plan has no effect.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/tensor_role.hpp>

#include "support/random.hpp"
#include "support/run_tool.hpp"
#include "support/temporary_file.hpp"
#include "support/temporary_folder.hpp"

namespace {

using nibble::ggml_type;
using nibble::test::temporary_file;
using nibble::test::temporary_folder;

using result = nibble::test::tool_result;

result run(const std::string& arguments) { return nibble::test::run_tool(arguments + " --threads 1"); }

constexpr const char* config = R"({"model_type": "mistral", "num_hidden_layers": 8, "num_attention_heads": 8,
                                   "num_key_value_heads": 2})";

/// A checkpoint of eight layers with 256 columns everywhere, as a folder; the same model as a GGUF file.
struct checkpoint {
  temporary_folder folder{"roles"};
  temporary_file gguf{"roles.gguf"}, to{"roles_q.gguf"};
  std::string from = folder.path.string();
  std::vector<float> values = nibble::test::gaussian(256 * 256, 3, 0.02f);

  explicit checkpoint(const std::string& prefix = "model.") {
    nibble::io::safetensors_writer own;
    nibble::io::gguf_writer same;
    same.set("general.architecture", "llama");
    same.set("llama.block_count", 8u);
    same.set("llama.attention.head_count", 8u);
    same.set("llama.attention.head_count_kv", 2u);
    const auto add = [&](const std::string& name, std::size_t rows) {
      const auto part = std::span<const float>{values}.first(rows * 256);
      const std::string role = nibble::io::role_of(name).value_or(name);
      if (rows == 1) own.add(name, {256}, part);
      else own.add(name, {rows, 256}, part);
      same.add(role, ggml_type::f32, rows == 1 ? std::vector<std::size_t>{256} : std::vector<std::size_t>{256, rows},
               std::as_bytes(part));
    };
    add(prefix + "embed_tokens.weight", 64);
    for (int i = 0; i < 8; ++i) {
      const std::string layer = prefix + "layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", 1);
      for (const char* const name : {"q_proj", "k_proj", "v_proj", "o_proj"})
        add(layer + "self_attn." + name + ".weight", 32);
      for (const char* const name : {"gate_proj", "up_proj", "down_proj"}) add(layer + "mlp." + name + ".weight", 32);
    }
    add(prefix + "norm.weight", 1);
    add(prefix == "model." ? "lm_head.weight" : prefix + "out.weight", 64);
    own.save(folder / "model.safetensors");
    same.save(gguf.path);
  }
  result quantize(const std::string& arguments) const {
    return run("quantize '" + from + "' '" + to.path + "' " + arguments);
  }
};

}  // namespace

TEST_CASE("nibble quantize: a Hugging Face checkpoint gets the types of the same model as GGUF, under its own names") {
  const checkpoint c;
  c.folder.write("config.json", config);
  const temporary_file same{"roles_same.gguf"};
  for (const std::string mixture : {"Q4_K_M", "Q2_K", "Q3_K_L"}) {
    CAPTURE(mixture);
    const result r = c.quantize(mixture + " --architecture llama --strict");
    CHECK(r.code == 0);
    CHECK(r.err == "");
    CHECK(run("quantize '" + c.gguf.path + "' '" + same.path + "' " + mixture).code == 0);
    const nibble::io::gguf_reader own{c.to.path}, gguf{same.path};
    REQUIRE(own.tensors().size() == gguf.tensors().size());
    for (const nibble::io::gguf_tensor& t : own.tensors()) {
      CAPTURE(t.name);
      CHECK(t.type == gguf.at(*nibble::io::role_of(t.name)).type);
    }
    CHECK(own.get<int>("general.file_type") == gguf.get<int>("general.file_type"));
  }
  // Q3_K_L is the last: values 5 bits, most 3, the output matrix 6.
  const nibble::io::gguf_reader own{c.to.path};
  CHECK(own.at("model.layers.3.self_attn.v_proj.weight").type == ggml_type::q5_k);
  CHECK(own.at("model.layers.3.self_attn.q_proj.weight").type == ggml_type::q3_k);
  CHECK(own.at("lm_head.weight").type == ggml_type::q6_k);
}

TEST_CASE("nibble quantize: heads and experts come from the config.json beside the file") {
  const checkpoint c;
  const auto type_of_values = [&](const std::string& mixture) {
    CHECK(run("quantize '" + (c.folder / "model.safetensors") + "' '" + c.to.path + "' " + mixture).code == 0);
    return nibble::io::gguf_reader{c.to.path}.at("model.layers.3.self_attn.v_proj.weight").type;
  };
  CHECK(type_of_values("Q2_K") == ggml_type::q3_k);  // no file: heads are not known
  c.folder.write("config.json", config);             // four heads for each key head
  CHECK(type_of_values("Q2_K") == ggml_type::q4_k);
  c.folder.write("config.json", R"({"num_hidden_layers": 8, "num_attention_heads": 8, "num_local_experts": 8})");
  CHECK(type_of_values("Q2_K") == ggml_type::q8_0);
}

TEST_CASE(
    "nibble quantize: a config.json without counts or of wrong types is one error, but of no interest to one type") {
  const checkpoint c;
  c.folder.write("config.json", R"({"num_hidden_layers": "8", "num_attention_heads": 8})");
  const result wrong = c.quantize("Q4_K_M");
  CHECK(wrong.code == 1);
  CHECK(wrong.says("config.json': 'num_hidden_layers' is \"8\"; rule: 1 to 1000000"));
  c.folder.write("config.json", R"({"num_hidden_layers": 8})");
  const result missing = c.quantize("Q4_K_M");
  CHECK(missing.code == 1);
  CHECK(missing.says("config.json': there is no 'num_attention_heads', which a mixture asks for"));
  CHECK_FALSE(std::filesystem::exists(c.to.path));
  CHECK(c.quantize("Q4_K").code == 0);
}

TEST_CASE(
    "nibble quantize: a mixture for names of another family is said, refused by --strict, and names no file type") {
  const checkpoint c{"transformer.h_"};
  c.folder.write("config.json", "{}");  // not asked
  const result r = c.quantize("Q4_K_M --json");
  CHECK(r.code == 0);
  CHECK(r.says("Q4_K_M tells no layers apart, for their names are of another family"));
  CHECK(r.says("such as 'transformer.h_embed_tokens.weight': Q4_K for all of these"));
  const auto j = nlohmann::json::parse(r.out);
  CHECK(j["mixture_knows_no_layer"] == true);
  CHECK(j["unknown_to_mixture"].size() == 2 + 7 * 8);
  CHECK(nibble::io::gguf_reader{c.to.path}.find("general.file_type") == nullptr);
  std::filesystem::remove(c.to.path);
  const result strict = c.quantize("Q4_K_M --strict");
  CHECK(strict.code == 4);
  CHECK(strict.says("--strict refuses a mixture for names of another family; nothing was written"));
  CHECK_FALSE(std::filesystem::exists(c.to.path));
  CHECK(c.quantize("Q4_K --strict").code == 0);  // one type does not ask what a tensor is
  CHECK(c.quantize("Q4_K_M --strict --rule 'weight = Q5_K'").code == 0);
}

TEST_CASE("nibble quantize: rules that find no tensor, or only kept ones, are said and refused by --strict") {
  const checkpoint c;
  for (const std::string plan : {"Q8_0", "Q4_K_M", "--bits 6"}) {
    CAPTURE(plan);
    const std::string rules = plan + " --rule 'attn_v = F16' --rule 'norm = Q8_0' --rule 'v_proj = F16'";
    const result r = c.quantize(rules + " --json");
    CHECK(r.code == 0);
    CHECK(r.says("rule 'attn_v = F16' finds no tensor\n"));
    CHECK(r.says("rule 'norm = Q8_0' finds only tensors that stay as they are"));
    CHECK_FALSE(r.says("v_proj"));
    const auto j = nlohmann::json::parse(r.out);
    CHECK(j["rules_without_tensor"] == nlohmann::json::array({"attn_v"}));
    CHECK(j["rules_of_kept_tensors"] == nlohmann::json::array({"norm"}));
    std::filesystem::remove(c.to.path);
    const result strict = c.quantize(rules + " --strict");
    CHECK(strict.code == 4);
    CHECK(strict.says("--strict refuses 2 rules without effect; nothing was written"));
    CHECK_FALSE(std::filesystem::exists(c.to.path));
    CHECK(c.quantize(plan + " --strict --rule 'v_proj = F16'").code == 0);
  }
}
