#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the golden files of the transformer tests: tiny random models, run by Hugging Face transformers.

Run by hand (needs torch, transformers, safetensors); no build and no test calls it:

    python make_nn_golden.py [OUTPUT_FOLDER]

For each block kind it writes nn_KIND.safetensors, the weights under nibble's canonical names, and
nn_KIND_logits.safetensors: tokens [sequences, length] (I32) and the framework's logits [sequences, length, vocab]
(F32).  The stored weights are exactly the ones the framework computed with, whatever their storage type.
The last run used torch 2.15.0 and transformers 5.23.0.
"""

import os
import sys

import torch
from safetensors.torch import save_file
from transformers import (GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM)

SEQUENCES, LENGTH, VOCAB, MAX_SEQ_LEN = 3, 20, 96, 64
COMMON = dict(vocab_size=VOCAB, num_hidden_layers=2, max_position_embeddings=MAX_SEQ_LEN, attn_implementation="eager",
              bos_token_id=None, eos_token_id=None, pad_token_id=None)


def randomize(model, dtype, seed):
    """Weights large enough that every part of the block shows in the logits, rounded to the storage type."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                value = 0.3 * noise if name.endswith("bias") else 1.0 + 0.3 * noise
            elif p.dim() == 1:
                value = 0.3 * noise
            elif "embed" in name:
                value = (0.3 if model.config.tie_word_embeddings else 1.0) * noise
            else:
                value = 1.2 * noise / p.shape[1] ** 0.5
            p.copy_(value.to(dtype).float())
    return model.float().eval()


def metadata(c, rotary, **fields):
    """`rotary` is the framework's own module: rope_dims and theta are read from what it really computes."""
    heads = c.num_attention_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // heads
    dims = 2 * rotary.inv_freq.numel()
    theta = float(rotary.inv_freq.double()[1]) ** (-dims / 2.0)
    out = dict(format="nibble.transformer.v1", n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_heads=heads,
               n_kv_heads=getattr(c, "num_key_value_heads", None) or heads, head_dim=head_dim, d_ff=c.intermediate_size,
               vocab_size=c.vocab_size, rope_theta=f"{theta:.6g}", rope_dims=dims, max_seq_len=MAX_SEQ_LEN, **fields)
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in out.items()}


def llama_like(model, c):
    """LLaMA and Qwen3: the same module names; q_norm and k_norm only in the second."""
    out = {"embed.weight": model.model.embed_tokens.weight, "final_norm.weight": model.model.norm.weight}
    if not c.tie_word_embeddings:
        out["head.weight"] = model.lm_head.weight
    for i, layer in enumerate(model.model.layers):
        b = f"blocks.{i}."
        out[b + "attn_norm.weight"] = layer.input_layernorm.weight
        out[b + "mlp_norm.weight"] = layer.post_attention_layernorm.weight
        for x in "qkvo":
            out[b + f"attn.{x}.weight"] = getattr(layer.self_attn, x + "_proj").weight
        if hasattr(layer.self_attn, "q_norm"):
            out[b + "attn.q_norm.weight"] = layer.self_attn.q_norm.weight
            out[b + "attn.k_norm.weight"] = layer.self_attn.k_norm.weight
        for x in ("gate", "up", "down"):
            out[b + f"mlp.{x}.weight"] = getattr(layer.mlp, x + "_proj").weight
    return out


def neox(model, c):
    out = {"embed.weight": model.gpt_neox.embed_in.weight, "head.weight": model.get_output_embeddings().weight}
    heads, head_dim = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    for kind in ("weight", "bias"):
        out["final_norm." + kind] = getattr(model.gpt_neox.final_layer_norm, kind)
        for i, layer in enumerate(model.gpt_neox.layers):
            b = f"blocks.{i}."
            out[b + "attn_norm." + kind] = getattr(layer.input_layernorm, kind)
            out[b + "mlp_norm." + kind] = getattr(layer.post_attention_layernorm, kind)
            # The fused projection holds, head after head, that head's q, k and v rows.
            fused = getattr(layer.attention.query_key_value, kind)
            split = fused.reshape(heads, 3, head_dim, *fused.shape[1:])
            for j, x in enumerate("qkv"):
                out[b + f"attn.{x}.{kind}"] = split[:, j].reshape(heads * head_dim, *fused.shape[1:])
            out[b + "attn.o." + kind] = getattr(layer.attention.dense, kind)
            out[b + "mlp.up." + kind] = getattr(layer.mlp.dense_h_to_4h, kind)
            out[b + "mlp.down." + kind] = getattr(layer.mlp.dense_4h_to_h, kind)
    return out


def write(folder, kind, model, weights, dtype, meta, seed):
    tokens = torch.randint(0, VOCAB, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    stored = {}
    for name, value in weights.items():
        stored[name] = value.detach().to(dtype).contiguous()
        assert torch.equal(stored[name].float(), value), name
    save_file(stored, os.path.join(folder, f"nn_{kind}.safetensors"), metadata=meta)
    save_file({"tokens": tokens.to(torch.int32), "logits": logits.float().contiguous()},
              os.path.join(folder, f"nn_{kind}_logits.safetensors"))
    print(kind, meta, "logits: std", float(logits.std()), "entropy",
          float(torch.distributions.Categorical(logits=logits).entropy().mean()))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    torch.set_grad_enabled(False)

    c = LlamaConfig(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
                    tie_word_embeddings=False, **COMMON)
    m = randomize(LlamaForCausalLM(c), torch.float32, seed=1)
    meta = metadata(c, m.model.rotary_emb, norm="rms", norm_eps=c.rms_norm_eps, activation="silu", gated=True,
                    tied_head=False, parallel_residual=False, qk_norm=False)
    write(folder, "llama", m, llama_like(m, c), torch.float32, meta, seed=11)

    c = Qwen3Config(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                    rms_norm_eps=1e-6, tie_word_embeddings=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON)
    m = randomize(Qwen3ForCausalLM(c), torch.bfloat16, seed=2)
    meta = metadata(c, m.model.rotary_emb, norm="rms", norm_eps=c.rms_norm_eps, activation="silu", gated=True,
                    tied_head=True, parallel_residual=False, qk_norm=True)
    write(folder, "qwen3", m, llama_like(m, c), torch.bfloat16, meta, seed=12)

    c = GPTNeoXConfig(hidden_size=48, intermediate_size=96, num_attention_heads=3, hidden_act="gelu",
                      use_parallel_residual=True, layer_norm_eps=1e-5, tie_word_embeddings=False,
                      rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
                      **COMMON)
    m = randomize(GPTNeoXForCausalLM(c), torch.float16, seed=3)
    meta = metadata(c, m.gpt_neox.rotary_emb, norm="layer", norm_eps=c.layer_norm_eps, activation="gelu", gated=False,
                    tied_head=False, parallel_residual=c.use_parallel_residual, qk_norm=False)
    write(folder, "neox", m, neox(m, c), torch.float16, meta, seed=13)


if __name__ == "__main__":
    main()
