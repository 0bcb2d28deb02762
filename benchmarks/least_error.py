#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Squared error of `nibble quantize --least-error` over that of ggml on the same values: Gaussian, Laplace, trained weights.

    python3 benchmarks/least_error.py build/release/bin/nibble examples/models/*.safetensors

Needs numpy and the package llama-cpp-python, whose ggml quantizes (ggml_quantize_chunk) and decodes both. Two tables: all columns
alike; and with a log-normal importance (sigma 1) of the columns, which ggml gets as its importance matrix and nibble by --imatrix."""
import ctypes
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

TYPES = {"Q2_K": (10, 84), "Q3_K": (11, 110), "Q4_K": (12, 144), "Q5_K": (13, 176), "Q6_K": (14, 210)}
COLS = 1024
P, L = ctypes.c_void_p, ctypes.c_int64


class Traits(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("block", L), ("interleave", L), ("bytes", ctypes.c_size_t),
                ("quantized", ctypes.c_bool), ("to_float", ctypes.CFUNCTYPE(None, P, P, L))]


def ggml():
    folder = os.path.dirname(importlib.util.find_spec("llama_cpp").origin)
    lib = ctypes.CDLL(os.path.join(folder, "lib", "libggml-base.so"))
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, P, P, L, L, L, P]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    return lib


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__" and len(t["shape"]) == 2 and t["shape"][1] % 256 == 0 and t["dtype"] == "F16":
            begin, end = t["data_offsets"]
            yield np.frombuffer(data[8 + n + begin:8 + n + end], np.float16).astype(np.float32)


def inputs(paths):
    random = np.random.default_rng(1)
    yield "Gaussian", random.standard_normal(1 << 20).astype(np.float32)
    yield "Laplace", random.laplace(size=1 << 20).astype(np.float32)
    trained = np.concatenate([x for path in paths for x in read_safetensors(path)])
    yield "trained", trained[:trained.size // COLS * COLS]


def nibble(tool, name, x, importance):
    """The bytes that the tool writes."""
    with tempfile.TemporaryDirectory() as folder:
        source, to, dat = (os.path.join(folder, f) for f in ("in.safetensors", "out.gguf", "imatrix.dat"))
        head = json.dumps({"w.weight": {"dtype": "F32", "shape": [x.size // COLS, COLS], "data_offsets": [0, x.nbytes]}})
        with open(source, "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head.encode() + x.tobytes())
        command = [tool, "quantize", "--quiet", source, to, name, "--least-error"]
        if importance is not None:
            with open(dat, "wb") as f:
                f.write(struct.pack("<II", 1, 8) + b"w.weight" + struct.pack("<II", 1, COLS) + importance.tobytes())
            command += ["--imatrix", dat]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        size = x.size // 256 * TYPES[name][1]
        with open(to, "rb") as f:
            f.seek(-(-size // 32) * -32, os.SEEK_END)
            return np.frombuffer(f.read(size), np.uint8)


def main():
    lib, tool = ggml(), sys.argv[1]
    importance = np.exp(np.random.default_rng(2).standard_normal(COLS)).astype(np.float32)
    data = list(inputs(sys.argv[2:]))
    for weights in (None, importance):
        print(f"\n| {'weighted' if weights is not None else 'plain'} | " + " | ".join(n for n, _ in data) + " |")
        print("|---|" + "--:|" * len(data))
        for name, (number, block) in TYPES.items():
            to_float = lib.ggml_get_type_traits(number).contents.to_float
            cells = []
            for _, x in data:
                theirs = np.zeros(x.size // 256 * block, np.uint8)
                lib.ggml_quantize_chunk(number, x.ctypes.data, theirs.ctypes.data, 0, x.size // COLS, COLS,
                                        None if weights is None else weights.ctypes.data)
                errors = []
                for blocks in (theirs, nibble(tool, name, x, weights)):
                    y = np.empty_like(x)
                    to_float(blocks.ctypes.data, y.ctypes.data, x.size)
                    e = (x.astype(np.float64) - y).reshape(-1, COLS) ** 2
                    errors.append((e if weights is None else e * weights).sum())
                cells.append(f"{errors[1] / errors[0]:.3f}")
            print(f"| {name} | " + " | ".join(cells) + " |")


main()
