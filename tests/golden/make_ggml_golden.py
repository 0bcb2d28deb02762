#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes ggml_golden.inc: what ggml and the Python package gguf make of seeded inputs in the block formats of GGUF files.

    python3 make_ggml_golden.py libggml.so > ggml_golden.inc

Written with gguf 0.19.0, numpy 2.4.6 and ggml 0.25.3 (as in llama-cpp-python 0.3.36). The library is made from ggml.c,
ggml.cpp, ggml-alloc.c, ggml-quants.c, ggml-backend.cpp, ggml-backend-meta.cpp, ggml-opt.cpp, ggml-threading.cpp and gguf.cpp
with gcc 12.2 and -O2 -DNDEBUG -ffp-contract=off: with contraction K-quants get other bytes. Values of random blocks are
asked of both programs, which must agree. The lines of IQ4_XS and MXFP4, and those of edges and importance, are of the
library in that package itself: its quantizers are compiled for SSE2, which has nothing to contract with; it gives all the
other lines, too.
"""
import ctypes
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants

FORMATS = {  # id, elements, bytes of a block
    "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136), "MXFP4": (39, 32, 17),
}
KINDS = 12
EDGES = [("IQ4_XS", 12), ("MXFP4", 12), ("MXFP4", 13), ("MXFP4", 14)]  # subnormal, exponents of all floats, below powers of 2
WEIGHTED = ("IQ4_NL", "IQ4_XS")
ELEMENTS = 16 * 256


def splitmix(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, n + 1, dtype=np.uint64)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return z ^ z >> np.uint64(31)


def values(kind):
    """Integers times powers of two: exact in float. tests/tensor/ggml_rows.cpp has the same in C++."""
    z = splitmix(1000 + kind, ELEMENTS)
    bell = sum((z >> np.uint64(16 * k) & np.uint64(0xFFFF)).astype(np.int64) for k in range(4)) - 131070
    i = np.arange(ELEMENTS)
    rare = (z % np.uint64(61)).astype(np.int64)
    group = splitmix(2000 + kind, ELEMENTS)[i // 16] % np.uint64(24)
    x = {
        0: bell,
        1: np.abs(bell) + 65536,
        2: -np.abs(bell) - 65536,
        3: rare % 17 - 8,
        4: np.where(rare < 2, bell, 0),
        5: bell[i // 32 * 32],
        6: np.zeros(ELEMENTS, np.int64),
        7: np.where(rare == 0, bell * 64, bell),
        8: i - ELEMENTS // 2,
        9: np.where(group < 8, 0, bell),
    }.get(kind, bell).astype(np.float64)
    block = (splitmix(4000 + kind, ELEMENTS)[i // 32] % np.uint64(255)).astype(np.int64)
    if kind == 14:
        x = (np.int64(1 << 24) - rare).astype(np.float64) * np.where(bell < 0, -1, 1) * np.where(rare < 30, 1, 2.0**-3)
    shift = {10: -17 - group.astype(np.int64), 11: np.full(ELEMENTS, -4), 12: np.full(ELEMENTS, -149),
             13: block - 145, 14: block - 151}.get(kind, np.full(ELEMENTS, -17))
    return np.ldexp(x, shift).astype(np.float32)


def importance():
    """Of 4 * 256 columns, from 0 to 2^24."""
    z = splitmix(5000, 4 * 256)
    return np.where(z % np.uint64(7) == 0, 0, (z >> np.uint64(40)) >> (z % np.uint64(23))).astype(np.float32)


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data.tobytes():
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def pointer(a):
    return a.ctypes.data_as(ctypes.c_void_p)


def encoded(ggml, name, x, columns=None):
    number, elements, size = FORMATS[name]
    out = np.zeros(x.size // elements * size, np.uint8)
    of_row = x.size if columns is None else columns.size
    ggml.ggml_quantize_chunk(number, pointer(x), pointer(out), ctypes.c_int64(0), ctypes.c_int64(x.size // of_row),
                             ctypes.c_int64(of_row), None if columns is None else pointer(columns))
    return out


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    print("// SPDX-License-Identifier: MIT")
    print("// Written by make_ggml_golden.py.")
    print("inline constexpr golden_bytes golden_encoded[] = {  // FNV-1a of the bytes, for each kind of values")
    blocks = {}
    for name, (_, _, size) in FORMATS.items():
        digests = []
        for kind in range(KINDS):
            out = encoded(ggml, name, values(kind))
            digests.append(fnv(out))
            if kind == 0:
                blocks[name] = out[:size]
        print(f'    {{"{name}", {{{", ".join(f"0x{d:016x}" for d in digests)}}}}},')
    print("};")
    print("inline constexpr golden_edge golden_edges[] = {  // the same for one kind")
    for name, kind in EDGES:
        print(f'    {{"{name}", {kind}, 0x{fnv(encoded(ggml, name, values(kind))):016x}}},')
    print("};")
    print("inline constexpr golden_bytes golden_weighted[] = {  // the same with importance, rows of 4 * 256")
    for name in WEIGHTED:
        digests = [fnv(encoded(ggml, name, values(kind), importance())) for kind in range(KINDS)]
        print(f'    {{"{name}", {{{", ".join(f"0x{d:016x}" for d in digests)}}}}},')
    print("};")
    print("inline constexpr golden_block golden_blocks[] = {  // the first block of kind 0")
    for name, b in blocks.items():
        print(f'    {{"{name}", "{b.tobytes().hex()}"}},')
    print("};")
    print("inline constexpr golden_values golden_decoded[] = {  // FNV-1a of the values of random blocks, each NaN as 7fc00000")
    for name, (number, elements, size) in FORMATS.items():
        count = ELEMENTS // elements
        raw = (splitmix(3000 + number, count * size) & np.uint64(0xFF)).astype(np.uint8).reshape(count, size)
        with np.errstate(all="ignore"):
            y = quants.dequantize(raw, GGMLQuantizationType(number)).astype(np.float32).reshape(-1).view(np.uint32).copy()
        other = np.zeros(ELEMENTS, np.float32)
        row = name[:-1] + "K" if name.endswith("_K") else name.lower()
        row = row if row[0].islower() else row[0].lower() + row[1:]
        getattr(ggml, "dequantize_row_" + row)(pointer(raw), pointer(other), ctypes.c_int64(ELEMENTS))
        other = other.view(np.uint32)
        for v in (y, other):
            v[(v & 0x7FFFFFFF) > 0x7F800000] = 0x7FC00000
        assert (y == other).all(), name
        print(f'    {{"{name}", 0x{fnv(y):016x}}},')
    print("};")


main()
