// SPDX-License-Identifier: MIT
#include <nibble/io/config_facts.hpp>

#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "support/refusal.hpp"
#include "support/temporary_folder.hpp"

namespace {

using namespace nibble::io;
using nibble::errc;
using nibble::test::refusal_of;

model_facts parsed(const std::string& text) { return parse_model_facts(nlohmann::json::parse(text), "'c.json'"); }

}  // namespace

TEST_CASE("config_facts: layers, heads and experts of a configuration") {
  const model_facts f = parsed(R"({"model_type": "mixtral", "num_hidden_layers": 32, "num_attention_heads": 32,
                                   "num_key_value_heads": 8, "num_local_experts": 8, "vocab_size": 32000})");
  CHECK(f.architecture == "llama");
  CHECK(f.layers == 32);
  CHECK(f.heads == 32);
  CHECK(f.kv_heads == 8);
  CHECK(f.experts == 8);
  const model_facts qwen = parsed(R"({"model_type": "qwen3_moe", "num_hidden_layers": 48, "num_attention_heads": 32,
                                      "num_key_value_heads": 4, "num_experts": 128})");
  CHECK(qwen.architecture == "qwen3_moe");
  CHECK(qwen.experts == 128);
}

TEST_CASE("config_facts: without key heads each head has its own, without experts the model is dense") {
  const model_facts f = parsed(R"({"num_hidden_layers": 2, "num_attention_heads": 4, "num_local_experts": null})");
  CHECK(f.architecture == "");
  CHECK(f.kv_heads == 4);
  CHECK(f.experts == 0);
}

TEST_CASE("config_facts: the language model of a larger one is in text_config") {
  const model_facts f = parsed(R"({"model_type": "gemma3", "vision_config": {"num_hidden_layers": 27},
      "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 34, "num_attention_heads": 8}})");
  CHECK(f.architecture == "gemma3_text");
  CHECK(f.layers == 34);
  const auto r = refusal_of([] { parsed(R"({"text_config": {"num_hidden_layers": 34}})"); });
  CHECK(r.says("'c.json', text_config: there is no 'num_attention_heads'"));
  CHECK(refusal_of([] { parsed(R"({"text_config": 1})"); }).says("'c.json', text_config: no object"));
}

TEST_CASE("config_facts: members that are missing or of wrong types are one error with key and place") {
  CHECK(refusal_of([] { parsed("{}"); }).says("'c.json': there is no 'num_hidden_layers'"));
  CHECK(refusal_of([] { parsed(R"({"num_hidden_layers": 2})"); }).says("there is no 'num_attention_heads'"));
  for (const char* const bad : {"0", "-1", "1000001", "18446744073709551615", "2.5", "\"2\"", "[2]", "true", "{}"}) {
    CAPTURE(bad);
    const auto r =
        refusal_of([&] { parsed(std::string{R"({"num_attention_heads": 2, "num_hidden_layers": )"} + bad + "}"); });
    CHECK(r.code == errc::bad_file);
    CHECK(r.says("'c.json': 'num_hidden_layers' is "));
  }
  const std::string rest = R"("num_attention_heads": 2, "num_hidden_layers": 2})";
  CHECK(
      refusal_of([&] { parsed(R"({"num_key_value_heads": [1, 2], )" + rest); }).says("'num_key_value_heads' is [1,2]"));
  CHECK(refusal_of([&] { parsed(R"({"num_experts": "8", )" + rest); }).says("'num_experts' is \"8\""));
  CHECK(refusal_of([&] { parsed(R"({"model_type": 3, )" + rest); }).says("'model_type' is no string"));
}

TEST_CASE("config_facts: a folder without the file has no facts; what is no JSON object names the file") {
  const nibble::test::temporary_folder folder{"config_facts"};
  CHECK_FALSE(find_model_facts(folder.path.string()).has_value());
  folder.write("config.json", R"({"num_attention_heads": 2, "num_hidden_layers": 3})");
  CHECK(find_model_facts(folder.path.string())->layers == 3);
  const std::string text = R"({"num_attention_heads": 2, "num_hidden_layers": 3})";
  for (std::size_t n = 0; n < text.size(); ++n) {
    CAPTURE(n);
    folder.write("config.json", text.substr(0, n));
    const auto r = refusal_of([&] { find_model_facts(folder.path.string()); });
    CHECK(r.code == errc::bad_file);
    if (n != 0) CHECK(r.says("config.json"));
  }
}

TEST_CASE("config_facts: a file that is too long to be a configuration is refused before it is parsed") {
  const nibble::test::temporary_folder folder{"config_facts_long"};
  folder.write("config.json", "{");
  std::filesystem::resize_file(folder.path / "config.json", (64u << 20) + 1);  // a hole
  const auto r = refusal_of([&] { find_model_facts(folder.path.string()); });
  CHECK(r.code == errc::bad_file);
  CHECK(r.says("the JSON text has 67108865 bytes; rule: at most 67108864"));
}
