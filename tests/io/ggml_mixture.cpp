// SPDX-License-Identifier: MIT
#include <nibble/io/ggml_mixture.hpp>

#include <array>
#include <chrono>
#include <deque>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <nibble/io/gguf_writer.hpp>

#include "support/refusal.hpp"
#include "support/temporary_file.hpp"

namespace {

using namespace nibble::io;
using nibble::errc;
using nibble::ggml_type;
using nibble::test::refusal_of;
namespace quant = nibble::quant;

/// Names and extents of a model.
struct model {
  std::deque<std::string> names;
  std::vector<gguf_tensor> tensors;
  model_facts facts;

  void add(std::string name, std::size_t row, std::size_t rows = 0) {
    names.push_back(std::move(name));
    gguf_tensor t;
    t.name = names.back();
    t.n_dims = rows == 0 ? 1 : 2;
    t.dims = {row, rows == 0 ? 1 : rows, 1, 1};
    t.elements = t.dims[0] * t.dims[1];
    tensors.push_back(t);
  }
  std::string type_of(const type_plan& plan, std::string_view name) const {
    const auto choices = plan.choose(facts, tensors);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].name == name) return std::string{quant::name_of(choices[i].type)};
    return "none";
  }
  std::size_t bytes(const type_plan& plan) const {
    const auto choices = plan.choose(facts, tensors);
    std::size_t sum = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const quant::ggml_type_info& info = quant::info_of(choices[i].type);
      sum += tensors[i].elements / info.block_elements * info.block_bytes;
    }
    return sum;
  }
};

/// The shapes of Qwen3-0.6B.
model qwen3(bool separate_output, std::size_t hidden = 1024) {
  model m;
  m.facts = {"qwen3", 28, 16, 8, 0};
  m.add("token_embd.weight", hidden, 151936);
  for (std::size_t i = 0; i < 28; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    m.add(layer + "attn_norm.weight", hidden);
    m.add(layer + "attn_q.weight", hidden, 2048);
    m.add(layer + "attn_k.weight", hidden, 1024);
    m.add(layer + "attn_v.weight", hidden, 1024);
    m.add(layer + "attn_output.weight", 2048, hidden);
    m.add(layer + "attn_q_norm.weight", 128);
    m.add(layer + "attn_k_norm.weight", 128);
    m.add(layer + "ffn_norm.weight", hidden);
    m.add(layer + "ffn_gate.weight", hidden, 3072);
    m.add(layer + "ffn_up.weight", hidden, 3072);
    m.add(layer + "ffn_down.weight", 3072, hidden);
  }
  m.add("output_norm.weight", hidden);
  if (separate_output) m.add("output.weight", hidden, 151936);
  return m;
}

/// A model under the names of a Hugging Face checkpoint beside the same under GGUF's: dense, or of experts, which are matrices of
/// their own in the former.
struct model_pair {
  model gguf, own;

  void add(const std::string& gguf_name, const std::string& own_name, std::size_t row, std::size_t rows = 0) {
    gguf.add(gguf_name, row, rows);
    own.add(own_name, row, rows);
  }
  model_pair(std::size_t layers, std::size_t experts, bool separate_output, const std::string& prefix = "model.") {
    gguf.facts = own.facts = {"llama", layers, 32, 8, experts};
    add("token_embd.weight", prefix + "embed_tokens.weight", 512, 1000);
    for (std::size_t i = 0; i < layers; ++i) {
      const std::string g = "blk." + std::to_string(i) + ".", h = prefix + "layers." + std::to_string(i) + ".";
      add(g + "attn_norm.weight", h + "input_layernorm.weight", 512);
      add(g + "attn_q.weight", h + "self_attn.q_proj.weight", 512, 512);
      add(g + "attn_q.bias", h + "self_attn.q_proj.bias", 512);
      add(g + "attn_k.weight", h + "self_attn.k_proj.weight", 512, 128);
      add(g + "attn_v.weight", h + "self_attn.v_proj.weight", 512, 128);
      add(g + "attn_output.weight", h + "self_attn.o_proj.weight", 512, 512);
      add(g + "ffn_norm.weight", h + "post_attention_layernorm.weight", 512);
      if (experts == 0) {
        add(g + "ffn_gate.weight", h + "mlp.gate_proj.weight", 512, 1024);
        add(g + "ffn_up.weight", h + "mlp.up_proj.weight", 512, 1024);
        add(g + "ffn_down.weight", h + "mlp.down_proj.weight", 1024, 512);
        continue;
      }
      const std::string moe = h + (experts == 8 ? "block_sparse_moe." : "mlp.");
      add(g + "ffn_gate_inp.weight", moe + "gate.weight", 512, experts);
      for (const auto& [role, mixtral, qwen] :
           {std::array{"gate", "w1", "gate_proj"}, std::array{"up", "w3", "up_proj"},
            std::array{"down", "w2", "down_proj"}}) {
        gguf.add(g + "ffn_" + role + "_exps.weight", 512, 512 * experts);
        for (std::size_t e = 0; e < experts; ++e)
          own.add(moe + "experts." + std::to_string(e) + "." + (experts == 8 ? mixtral : qwen) + ".weight", 512, 512);
      }
    }
    add("output_norm.weight", prefix + "norm.weight", 512);
    if (separate_output) add("output.weight", "lm_head.weight", 512, 1000);
  }
  /// Names of tensors of `own` whose type is not that of their role in `gguf`.
  std::string differences(const type_plan& plan) const {
    const auto choices = plan.choose(own.facts, own.tensors);
    std::string names;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const std::string role = role_of(own.tensors[i].name).value_or("");
      if (quant::name_of(choices[i].type) != gguf.type_of(plan, role)) names += own.names[i] + " ";
    }
    return names;
  }
};

}  // namespace

// The reference report gives 492.75 MiB, to which R0's byte ledger adds the other two.
TEST_CASE("ggml_mixture: bytes of Qwen3-0.6B with its own output matrix") {
  const model m = qwen3(true);
  CHECK(m.bytes(plan_of("Q4_K_M", parse_rules("attn_v = F16", "rules"))) == 516'688'896);
  CHECK(m.bytes(plan_of("Q4_K_M")) == 478'268'416);  // 456.11 MiB
  CHECK(m.bytes(plan_of("Q8_0")) == 798'801'920);    // 761.797 MiB
}

TEST_CASE("ggml_mixture: Q4_K_M gives values and down projections of half of the layers Q6_K") {
  const model m = qwen3(true);
  const type_plan plan = plan_of("Q4_K_M");
  std::string values, downs;
  for (std::size_t i = 0; i < 28; ++i) {
    values += m.type_of(plan, "blk." + std::to_string(i) + ".attn_v.weight")[1];
    downs += m.type_of(plan, "blk." + std::to_string(i) + ".ffn_down.weight")[1];
  }
  std::string want;
  for (std::size_t i = 0; i < 28; ++i) want += i < 3 || i >= 24 || (i - 3) % 3 == 2 ? '6' : '4';
  CHECK(values == want);
  CHECK(downs == want);
}

TEST_CASE("ggml_mixture: the output matrix is Q6_K, or the embedding where there is none") {
  for (const std::string_view name :
       {"Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M"}) {
    CAPTURE(name);
    CHECK(qwen3(true).type_of(plan_of(name), "output.weight") == "Q6_K");
    CHECK(qwen3(true).type_of(plan_of(name), "token_embd.weight") == std::string{name.substr(0, 4)});
    CHECK(qwen3(false).type_of(plan_of(name), "token_embd.weight") == "Q6_K");
  }
}

TEST_CASE("ggml_mixture: Q2_K takes more bits for values, down and output projections") {
  model m = qwen3(true);
  const type_plan plan = plan_of("Q2_K");
  CHECK(m.type_of(plan, "blk.5.attn_v.weight") == "Q3_K");
  CHECK(m.type_of(plan, "blk.5.ffn_down.weight") == "Q3_K");
  CHECK(m.type_of(plan, "blk.5.attn_output.weight") == "Q3_K");
  CHECK(m.type_of(plan, "blk.5.attn_q.weight") == "Q2_K");
  m.facts.kv_heads = 4;  // four query heads for each
  CHECK(m.type_of(plan, "blk.5.attn_v.weight") == "Q4_K");
}

// As the tool of llama.cpp (in llama-cpp-python 0.3.36) wrote them for a model of 18 layers; Q2_K_S with an importance matrix,
// without which it refuses. A letter a layer: types by their bits.
TEST_CASE("ggml_mixture: what S, M and L give values, down and output projections") {
  struct fact {
    std::string_view name, values, downs, outputs;
  };
  constexpr fact facts[] = {
      {"Q2_K_S", "222222222222222222", "442222222222222222", "222222222222222222"},
      {"Q3_K_S", "333333333333333333", "333333333333333333", "333333333333333333"},
      {"Q3_K_M", "554444444444444444", "544444444444444444", "444444444444444444"},
      {"Q3_K_L", "555555555555555555", "555555555555555555", "555555555555555555"},
      {"Q4_K_S", "555544444444444444", "554444444444444444", "444444444444444444"},
      {"Q4_K_M", "664464464464464666", "664464464464464666", "444444444444444444"},
      {"Q5_K_S", "555555555555555555", "555555555555555555", "555555555555555555"},
      {"Q5_K_M", "665565565565565666", "665565565565565666", "555555555555555555"},
  };
  model m;
  m.facts = {"llama", 18, 8, 8, 0};
  for (std::size_t i = 0; i < 18; ++i)
    for (const char* what : {"attn_v.weight", "ffn_down.weight", "attn_output.weight", "attn_q.weight"})
      m.add("blk." + std::to_string(i) + "." + what, 256, 256);
  for (const fact& f : facts) {
    CAPTURE(f.name);
    const auto choices = plan_of(f.name).choose(m.facts, m.tensors);
    std::string types[4];
    for (std::size_t i = 0; i < choices.size(); ++i) types[i % 4] += quant::name_of(choices[i].type)[1];
    CHECK(types[0] == f.values);
    CHECK(types[1] == f.downs);
    CHECK(types[2] == f.outputs);
    CHECK(types[3] == std::string(18, f.name[1]));
  }
}

TEST_CASE("ggml_mixture: files say which mixture they hold") {
  CHECK(plan_of("Q2_K_S").file_type() == 21);
  CHECK(plan_of("Q3_K_S").file_type() == 11);
  CHECK(plan_of("Q3_K_L").file_type() == 13);
  CHECK(plan_of("Q4_K_S").file_type() == 14);
  CHECK(plan_of("Q5_K_S").file_type() == 16);
  CHECK(plan_of("IQ4_XS").file_type() == 30);
  CHECK(plan_of("MXFP4").file_type() == 38);
}

TEST_CASE("ggml_mixture: values of a 70B model, and attention of eight experts, get more bits") {
  model m = qwen3(true);
  m.facts = {"llama", 80, 64, 8, 0};
  CHECK(m.type_of(plan_of("Q4_K_M"), "blk.4.attn_v.weight") == "Q5_K");
  CHECK(m.type_of(plan_of("Q4_K_M"), "blk.5.attn_v.weight") == "Q6_K");
  m.facts = {"llama", 32, 32, 8, 8};
  CHECK(m.type_of(plan_of("Q4_K_M"), "blk.4.attn_v.weight") == "Q8_0");
  CHECK(m.type_of(plan_of("Q4_K_M"), "blk.4.attn_k.weight") == "Q8_0");
  CHECK(m.type_of(plan_of("Q4_K_M"), "blk.4.attn_output.weight") == "Q5_K");
}

TEST_CASE("ggml_mixture: norms, biases, routers and positions stay as they are, whatever a rule says") {
  model m;
  m.add("blk.0.attn_norm.weight", 256, 256);
  m.add("blk.0.attn_q.bias", 256);
  m.add("blk.0.ffn_gate_inp.weight", 256, 8);
  m.add("position_embd.weight", 256, 512);
  m.add("blk.0.attn_q.weight", 256, 256);
  const type_plan plan = plan_of("Q8_0", parse_rules(".* = Q4_0", "rules"));
  const auto choices = plan.choose(m.facts, m.tensors);
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(m.tensors[i].name);
    CHECK(choices[i].kept);
    CHECK(choices[i].type == ggml_type::f32);
  }
  CHECK(choices[4].type == ggml_type::q4_0);
}

TEST_CASE("ggml_mixture: rows that are no whole blocks get another type, and the choice says so") {
  model m;
  m.add("blk.0.attn_q.weight", 96, 4);
  m.add("blk.1.attn_q.weight", 40, 4);
  m.add("blk.2.attn_q.weight", 512, 4);
  const auto types = [&](ggml_type type) {
    std::string names;
    for (const type_choice& c : type_plan(type).choose(m.facts, m.tensors))
      names += std::string{quant::name_of(c.type)} + (c.substituted() ? "! " : " ");
    return names;
  };
  CHECK(types(ggml_type::q2_k) == "IQ4_NL! F16! Q2_K ");
  CHECK(types(ggml_type::q3_k) == "IQ4_NL! F16! Q3_K ");
  CHECK(types(ggml_type::q4_k) == "Q5_0! F16! Q4_K ");
  CHECK(types(ggml_type::q5_k) == "Q5_1! F16! Q5_K ");
  CHECK(types(ggml_type::q6_k) == "Q8_0! F16! Q6_K ");
  CHECK(types(ggml_type::iq4_xs) == "IQ4_NL! F16! IQ4_XS ");
  CHECK(types(ggml_type::q4_0) == "Q4_0 F16! Q4_0 ");
  CHECK(types(ggml_type::mxfp4) == "MXFP4 F16! MXFP4 ");
  CHECK(types(ggml_type::bf16) == "BF16 BF16 BF16 ");
}

TEST_CASE("ggml_mixture: the first rule that finds a name decides") {
  const model m = qwen3(true);
  const type_plan plan = plan_of("Q4_K_M", parse_rules("# values\n  blk\\.(0|1)\\.attn_v = Q8_0 # first ones\r\n\n"
                                                       "attn_v=F16\nattn_v=Q4_0",
                                                       "rules"));
  CHECK(plan.rules().size() == 3);
  CHECK(m.type_of(plan, "blk.1.attn_v.weight") == "Q8_0");
  CHECK(m.type_of(plan, "blk.11.attn_v.weight") == "F16");
  CHECK(m.type_of(plan, "blk.11.attn_q.weight") == "Q4_K");
}

TEST_CASE("ggml_mixture: bad rules and names are refused with their place") {
  CHECK(refusal_of([] { parse_rules("a = Q4_K\nb Q4_K", "'r.txt'"); }).says("'r.txt', line 2: 'b Q4_K' is not"));
  CHECK(refusal_of([] { parse_rules("a = Q4_X", "r"); }).says("r, line 1: there is no type 'Q4_X'"));
  CHECK(refusal_of([] { parse_rules("a = IQ1_S", "r"); }).code == errc::unsupported_format);
  CHECK(refusal_of([] { parse_rules("(a = Q4_K", "r"); }).says("'(a' is no regular expression"));
  CHECK(refusal_of([] { plan_of("Q4_K_X"); }).says("'Q4_K_X' is neither a mixture"));
  CHECK(refusal_of([] { plan_of("IQ1_M"); }).code == errc::unsupported_format);
}

TEST_CASE("ggml_mixture: facts come from a file's metadata, arrays by their greatest number") {
  const nibble::test::temporary_file file{"facts.gguf"};
  gguf_writer w;
  w.set("general.architecture", "llama");
  w.set("llama.block_count", 80u);
  w.set("llama.attention.head_count", 64u);
  const std::vector<std::uint32_t> kv{4, 8, 2};
  w.set_array("llama.attention.head_count_kv", std::span<const std::uint32_t>{kv});
  w.save(file.path);
  const model_facts facts = facts_of(gguf_reader{file.path});
  CHECK(facts.architecture == "llama");
  CHECK(facts.layers == 80);
  CHECK(facts.heads == 64);
  CHECK(facts.kv_heads == 8);
  CHECK(facts.experts == 0);
}

TEST_CASE("ggml_mixture: a pattern that would take exponential time, or stack without end, does neither") {
  const std::string name(100, 'a');
  const auto begin = std::chrono::steady_clock::now();
  for (const char* pattern : {"(a+)+b", "(a|a)*b", "(a*)*(a*)*(a*)*z"}) {
    CAPTURE(pattern);
    const std::regex compiled = type_rule(pattern, ggml_type::q8_0).pattern;
    CHECK_FALSE(std::regex_search(name, compiled));
  }
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));

  const auto refused = [](const std::string& pattern) {
    return refusal_of([&] { static_cast<void>(type_rule(pattern, ggml_type::q8_0)); });
  };
  CHECK(refused(std::string(100000, '(')).says("has 100000 bytes; at most 500"));
  CHECK(refused("((a{100}){100}){2}").says("more than 2000"));
  CHECK(refused("a{2,4000}").says("more than 2000"));
  CHECK(refused("a{99999999999999999999}").says("more than 2000"));
  CHECK(refused("a{99999999999999999999").says("more than 2000"));
  CHECK(refused("(a)\\1").says("has a back-reference, \\1"));
  CHECK(refused("[\\44444444444]").code == errc::bad_value);
  CHECK(refused("\\\\1").code == errc::ok);
  CHECK(refused("blk\\.[0-9]{1,3}\\..*").code == errc::ok);
  CHECK(refused(std::string(249, '(') + "a" + std::string(249, ')')).code == errc::ok);
}

TEST_CASE("ggml_mixture: a checkpoint under Hugging Face's names gets the types of the same model under GGUF's") {
  for (const mixture_info& m : ggml_mixtures) {
    CAPTURE(m.name);
    for (const std::size_t layers : {1u, 9u, 28u, 80u})
      for (const bool separate : {false, true}) {
        CAPTURE(layers);
        CHECK(model_pair(layers, 0, separate).differences(m.mixture) == "");
      }
    CHECK(model_pair(18, 8, true).differences(m.mixture) == "");
    CHECK(model_pair(18, 16, true).differences(m.mixture) == "");
    CHECK(model_pair(18, 0, false, "model.language_model.").differences(m.mixture) == "");
  }
  const model_pair dense(18, 0, true);
  CHECK(dense.own.type_of(plan_of("Q4_K_M"), "model.layers.0.self_attn.v_proj.weight") == "Q6_K");
  CHECK(dense.own.type_of(plan_of("Q4_K_M"), "model.layers.2.self_attn.v_proj.weight") == "Q4_K");
  CHECK(dense.own.type_of(plan_of("Q4_K_M"), "lm_head.weight") == "Q6_K");
}

TEST_CASE("ggml_mixture: routers of experts stay as they are under Hugging Face's names, with one type too") {
  for (const std::size_t experts : {8u, 16u}) {
    const model_pair m(2, experts, true);
    CHECK(m.own.type_of(plan_of("Q8_0"), experts == 8 ? "model.layers.1.block_sparse_moe.gate.weight"
                                                      : "model.layers.1.mlp.gate.weight") == "F32");
  }
  model shared;  // one row, which GGUF files have as a vector
  shared.add("model.layers.1.mlp.shared_expert_gate.weight", 512, 1);
  CHECK(shared.type_of(plan_of("Q8_0"), "model.layers.1.mlp.shared_expert_gate.weight") == "F32");
}

TEST_CASE("ggml_mixture: where nothing says how many experts there are, those with a matrix of their own are counted") {
  for (const std::size_t experts : {0u, 8u, 16u}) {
    CAPTURE(experts);
    model_pair m(2, experts, true);
    m.own.facts.experts = 0;
    CHECK(m.own.type_of(plan_of("Q4_K_S"), "model.layers.1.self_attn.k_proj.weight") ==
          (experts == 8 ? "Q8_0" : "Q4_K"));
    CHECK(m.differences(plan_of("Q4_K_M")) == "");
  }
}

TEST_CASE("ggml_mixture: rules look at a tensor's own name, not at its role") {
  const model_pair m(2, 0, true);
  const type_plan plan = plan_of("Q4_K_M", parse_rules("v_proj = F16\nattn_v = Q8_0", "rules"));
  CHECK(m.own.type_of(plan, "model.layers.1.self_attn.v_proj.weight") == "F16");
  CHECK(m.gguf.type_of(plan, "blk.1.attn_v.weight") == "Q8_0");
}

TEST_CASE("ggml_mixture: rules that find no tensor, or only tensors that stay as they are, are named") {
  const model m = qwen3(true);
  const type_plan plan = plan_of(
      "Q4_K_M", parse_rules("attn_v = F16\nv_proj = F16\nattn_norm = Q8_0\nattn_v = Q8_0\nnorm|attn_q\\. = Q8_0", "r"));
  const plan_gaps gaps = plan.gaps(m.tensors, plan.choose(m.facts, m.tensors));
  REQUIRE(gaps.without_tensor.size() == 1);
  CHECK(gaps.without_tensor[0]->text == "v_proj");
  REQUIRE(gaps.of_kept.size() == 1);
  CHECK(gaps.of_kept[0]->text == "attn_norm");
  CHECK(gaps.unknown.empty());
  CHECK_FALSE(gaps.blind);
}

TEST_CASE("ggml_mixture: names of another family give the type of most tensors, and the gaps name them") {
  model m;
  m.add("lm_head.weight", 256, 256);
  m.add("transformer.h.0.attn.c_attn.weight", 256, 256);
  m.add("transformer.h.0.ln_1.weight", 256);
  m.add("transformer.h.0.ffn_down.weight", 256, 256);
  const auto gaps_with = [&](const type_plan& plan) { return plan.gaps(m.tensors, plan.choose(m.facts, m.tensors)); };
  CHECK(gaps_with(plan_of("Q4_K_M")).unknown == std::vector<std::size_t>{1, 3});
  CHECK(gaps_with(plan_of("Q4_K_M")).blind);
  CHECK(m.type_of(plan_of("Q4_K_M"), "transformer.h.0.ffn_down.weight") == "Q4_K");
  CHECK(m.type_of(plan_of("Q4_K_M"), "lm_head.weight") == "Q6_K");
  CHECK(gaps_with(plan_of("Q4_K")).unknown.empty());  // one type asks for no names
  CHECK_FALSE(gaps_with(plan_of("Q4_K")).blind);
  CHECK(gaps_with(plan_of("Q4_K_M", parse_rules("^transformer = Q8_0", "r"))).unknown.empty());
  m.add("model.layers.0.self_attn.v_proj.weight", 256, 256);
  CHECK(gaps_with(plan_of("Q4_K_M")).unknown.size() == 2);
  CHECK_FALSE(gaps_with(plan_of("Q4_K_M")).blind);
}
