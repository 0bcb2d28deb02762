// SPDX-License-Identifier: MIT
#include <nibble/io/tensor_role.hpp>

#include <string>
#include <string_view>

#include <doctest/doctest.h>

namespace {

std::string role(std::string_view name) { return nibble::io::role_of(name).value_or("none"); }

}  // namespace

TEST_CASE("tensor_role: tensors of dense decoders") {
  CHECK(role("model.embed_tokens.weight") == "token_embd.weight");
  CHECK(role("model.norm.weight") == "output_norm.weight");
  CHECK(role("lm_head.weight") == "output.weight");
  CHECK(role("model.layers.3.self_attn.q_proj.weight") == "blk.3.attn_q.weight");
  CHECK(role("model.layers.3.self_attn.k_proj.bias") == "blk.3.attn_k.bias");
  CHECK(role("model.layers.31.self_attn.v_proj.weight") == "blk.31.attn_v.weight");
  CHECK(role("model.layers.3.self_attn.o_proj.weight") == "blk.3.attn_output.weight");
  CHECK(role("model.layers.3.self_attn.q_norm.weight") == "blk.3.attn_q_norm.weight");
  CHECK(role("model.layers.3.self_attn.k_norm.weight") == "blk.3.attn_k_norm.weight");
  CHECK(role("model.layers.0.mlp.gate_proj.weight") == "blk.0.ffn_gate.weight");
  CHECK(role("model.layers.0.mlp.up_proj.weight") == "blk.0.ffn_up.weight");
  CHECK(role("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight");
  CHECK(role("model.layers.0.input_layernorm.weight") == "blk.0.attn_norm.weight");
  CHECK(role("model.layers.0.post_attention_layernorm.weight") == "blk.0.ffn_norm.weight");
  CHECK(role("model.layers.0.self_attn.qkv_proj.weight") == "blk.0.attn_qkv.weight");
  CHECK(role("model.layers.0.mlp.gate_up_proj.weight") == "blk.0.ffn_up.weight");
  CHECK(role("model.layers.0.mlp.fc2.weight") == "blk.0.ffn_down.weight");
}

TEST_CASE("tensor_role: experts of a layer share one role, and routers have their own") {
  CHECK(role("model.layers.2.block_sparse_moe.gate.weight") == "blk.2.ffn_gate_inp.weight");
  CHECK(role("model.layers.2.block_sparse_moe.experts.0.w1.weight") == "blk.2.ffn_gate_exps.weight");
  CHECK(role("model.layers.2.block_sparse_moe.experts.7.w2.weight") == "blk.2.ffn_down_exps.weight");
  CHECK(role("model.layers.2.block_sparse_moe.experts.7.w3.weight") == "blk.2.ffn_up_exps.weight");
  CHECK(role("model.layers.2.mlp.gate.weight") == "blk.2.ffn_gate_inp.weight");
  CHECK(role("model.layers.2.mlp.experts.127.gate_proj.weight") == "blk.2.ffn_gate_exps.weight");
  CHECK(role("model.layers.2.mlp.experts.127.down_proj.weight") == "blk.2.ffn_down_exps.weight");
  CHECK(role("model.layers.2.mlp.shared_expert.down_proj.weight") == "blk.2.ffn_down_shexp.weight");
  CHECK(role("model.layers.2.mlp.shared_expert_gate.weight") == "blk.2.ffn_gate_inp_shexp.weight");
}

TEST_CASE("tensor_role: the language model of a larger one, and one without 'model.'") {
  for (const char* const prefix : {"", "model.", "language_model.", "language_model.model.", "model.language_model."}) {
    CAPTURE(prefix);
    CHECK(role(prefix + std::string{"layers.4.self_attn.v_proj.weight"}) == "blk.4.attn_v.weight");
    CHECK(role(prefix + std::string{"embed_tokens.weight"}) == "token_embd.weight");
  }
  CHECK(role("language_model.lm_head.weight") == "output.weight");
}

TEST_CASE("tensor_role: names of GGUF files are their own role") {
  for (const char* const name : {"token_embd.weight", "output.weight", "output_norm.weight", "blk.0.attn_v.weight",
                                 "blk.11.ffn_down.7.weight", "blk.0.anything", "enc.blk.3.attn_v.weight"}) {
    CAPTURE(name);
    CHECK(role(name) == name);
  }
}

TEST_CASE("tensor_role: names of other families and broken ones have none") {
  for (const char* const name : {"",
                                 ".",
                                 "weight",
                                 ".weight",
                                 "model.",
                                 "model..weight",
                                 "layers.0.weight",
                                 "model.layers.weight",
                                 "model.layers..self_attn.v_proj.weight",
                                 "model.layers.x.self_attn.v_proj.weight",
                                 "model.layers.3self_attn.v_proj.weight",
                                 "model.layers.3.self_attn.v_proj",
                                 "model.layers.3.v_proj.weight",
                                 "model.layers.3.self_attn.v_proj.weight_scale",
                                 "model.layers.3.self_attn.v_proj.weight.",
                                 "xmodel.norm.weight",
                                 "model.layers.3.mlp.experts.gate_proj.weight",
                                 "model.layers.3.mlp.experts..gate_proj.weight",
                                 "model.layers.3.mlp.experts.1gate_proj.weight",
                                 "model.layers.3.mlp.experts.1",
                                 "model.layers.3.mlp.experts.",
                                 "transformer.h.0.attn.c_attn.weight",
                                 "gpt_neox.layers.0.attention.dense.weight",
                                 "vision_tower.encoder.layers.0.self_attn.v_proj.weight",
                                 "model.visual.layers.0.mlp.fc1.weight",
                                 "blk",
                                 "blk.",
                                 "blk.x.attn_v.weight",
                                 "xblk.0.attn_v.weight",
                                 "blk.1"}) {
    CAPTURE(name);
    CHECK(role(name) == "none");
  }
}
