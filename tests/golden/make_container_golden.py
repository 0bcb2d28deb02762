#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write the golden files of the containers: a GGUF file by the package gguf, and nibble's own layout by the package safetensors.

Run by hand (needs numpy, gguf, safetensors); no build and no test calls it:

    python make_container_golden.py [OUTPUT_FOLDER]

container_gguf.gguf has metadata of every type and two tensors, `f` in F32 and `q` in Q8_0, and `q.dense`, the values that the
package reads from `q`. container_own.safetensors has two matrices packed bit by bit from the drawing in include/nibble/io/README.md,
`w` and `c`, and `w.dense` and `c.dense`, their values by the formulas of include/nibble/quant/README.md.
The last run used numpy 2.4.6, gguf 0.19.0 and safetensors 0.8.0.
"""

import json
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file


def write_gguf(path):
    w = gguf.GGUFWriter(path, "golden")
    w.add_custom_alignment(64)
    w.add_uint8("t.u8", 200)
    w.add_int8("t.i8", -5)
    w.add_uint16("t.u16", 60000)
    w.add_int16("t.i16", -300)
    w.add_uint32("t.u32", 4000000000)
    w.add_int32("t.i32", -70000)
    w.add_float32("t.f32", 0.1)
    w.add_bool("t.bool", True)
    w.add_string("t.string", "caf\u00e9")
    w.add_uint64("t.u64", 2**64 - 1)
    w.add_int64("t.i64", -2**63)
    w.add_float64("t.f64", 0.1)
    w.add_array("t.numbers", [1, -2, 3])
    w.add_array("t.words", ["a", "", "bc"])
    values = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    q = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    w.add_tensor("f", np.arange(6, dtype=np.float32).reshape(2, 3) / 4)
    w.add_tensor("q", q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    w.add_tensor("q.dense", gguf.quants.dequantize(q, gguf.GGMLQuantizationType.Q8_0))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def pack(codes, bits):
    """Rows of codes as bytes: field k of a row at bit k bits, lowest first."""
    ones = (codes[..., None] >> np.arange(bits)) & 1
    return np.packbits(ones.reshape(codes.shape[0], -1).astype(np.uint8), axis=1, bitorder="little")


def write_own(path):
    rng = np.random.default_rng(2)
    N, K, G = 5, 40, 16
    groups = -(-K // G)
    codes = rng.integers(0, 8, (N, K))
    scales = rng.normal(size=(N, groups)).astype(np.float16)
    zeros = rng.integers(0, 8, (N, groups)).astype(np.uint8)
    order = rng.permutation(K).astype(np.uint32)
    g = np.arange(K) // G
    dense = np.empty((N, K), np.float32)
    dense[:, order] = scales[:, g].astype(np.float32) * (codes - zeros[:, g]).astype(np.float32)
    w = {"version": 1, "rule": "asymmetric", "bits": 3, "granularity": "grouped", "group_size": G, "scales": "f16", "N": N, "K": K}

    M, L, B = 3, 21, 32
    flat = rng.integers(0, 16, (1, M * L))
    table = np.sort(rng.normal(size=16)).astype(np.float32)
    absmax = np.abs(rng.normal(size=-(-M * L // B))).astype(np.float32)
    values = (absmax[np.arange(M * L) // B] * table[flat[0]]).reshape(M, L)
    c = {"version": 1, "rule": "codebook", "bits": 4, "granularity": "flat", "group_size": B, "scales": "f32", "N": M, "K": L}

    save_file({"w.nibble.codes": pack(codes, 3), "w.nibble.scales": scales, "w.nibble.zeros": zeros,
               "w.nibble.column_order": order, "w.dense": dense,
               "c.nibble.codes": pack(flat, 4)[0], "c.nibble.scales": absmax, "c.nibble.table": table, "c.dense": values},
              path, metadata={"nibble.w": json.dumps(w), "nibble.c": json.dumps(c)})


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    write_gguf(os.path.join(folder, "container_gguf.gguf"))
    write_own(os.path.join(folder, "container_own.safetensors"))
