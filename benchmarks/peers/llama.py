#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""llama.cpp: the matrix products of ggml's CPU backend, and its way from floats to blocks and back, through the shared
libraries of the package llama-cpp-python.

Each format of a product twice: rows as they lie in a file, and in the order of the extra buffer type that the backend offers
for it (repacked, AMX), where there is one; an engine uses the latter. Tokens are quantized inside the product. Blocks are made
and read by ggml's base library, whose instructions are those that it was compiled for."""

import ctypes
import itertools
import os
import re
import subprocess
import sys

import common

TYPES = {"q4_0": 2, "q5_0": 6, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13, "q6_K": 14, "iq4_nl": 20}
BLOCKS = {**{name.upper(): number for name, number in TYPES.items()}, "Q4_1": 3, "Q5_1": 7, "IQ4_XS": 23, "MXFP4": 39}
F32 = 0
# Error of the products against those of the floats: 1.7 times what right ones have on normal values. That of the weights
# themselves is below it.
TOLERANCE = {"q2": 0.53, "q3": 0.25, "q4": 0.14, "q5": 0.067, "q6": 0.034, "q8": 0.014, "iq": 0.13, "mx": 0.2}
PACKED = "_packed"
KINDS = [f"llama_{name}{order}/integer" for name in TYPES for order in ("", PACKED)]
# 1 MiB of floats, as of nibble-bench: the searches take tens of nanoseconds for a value.
CODECS = [common.Codec(topic, f"llama_{name}", 64, 4096) for topic in ("quantize", "dequantize") for name in BLOCKS]

P, I, L, S, Z = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_char_p


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", S), ("mem_buffer", P), ("no_alloc", ctypes.c_bool)]


class Traits(ctypes.Structure):
    _fields_ = [("name", Z), ("block", L), ("interleave", L), ("bytes", S), ("quantized", ctypes.c_bool),
                ("to_float", ctypes.CFUNCTYPE(None, P, P, L))]


def declare(library, functions):
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


class Ggml:
    def __init__(self):
        import importlib.util
        spec = importlib.util.find_spec("llama_cpp")  # not imported: that would load all of the engine
        if spec is None:
            raise ImportError("the package llama-cpp-python is not installed")
        self.folder = os.path.join(os.path.dirname(spec.origin), "lib")
        self.base = self.load("ggml-base")
        self.cpu = self.load("ggml-cpu")
        declare(self.base, {
            "ggml_version": (Z,), "ggml_init": (P, InitParams), "ggml_free": (None, P), "ggml_tensor_overhead": (S,),
            "ggml_graph_overhead_custom": (S, S, ctypes.c_bool), "ggml_row_size": (S, I, L), "ggml_get_data": (P, P),
            "ggml_new_tensor_2d": (P, P, I, L, L), "ggml_mul_mat": (P, P, P, P), "ggml_nbytes": (S, P),
            "ggml_new_graph_custom": (P, P, S, ctypes.c_bool), "ggml_build_forward_expand": (None, P, P),
            "ggml_quantize_chunk": (S, I, P, P, L, L, L, P), "ggml_get_type_traits": (ctypes.POINTER(Traits), I),
            "ggml_backend_graph_compute": (I, P, P),
            "ggml_backend_alloc_ctx_tensors_from_buft": (P, P, P), "ggml_backend_buffer_free": (None, P),
            "ggml_backend_buft_name": (Z, P), "ggml_backend_tensor_set": (None, P, P, S, S),
            "ggml_backend_tensor_get": (None, P, P, S, S), "ggml_backend_reg_get_proc_address": (P, P, Z),
            "ggml_backend_reg_dev_get": (P, P, S), "ggml_backend_dev_supports_op": (ctypes.c_bool, P, P),
            "ggml_backend_get_default_buffer_type": (P, P),
        })
        declare(self.cpu, {
            "ggml_backend_cpu_init": (P,), "ggml_backend_cpu_reg": (P,), "ggml_backend_cpu_set_n_threads": (None, P, I),
            "ggml_cpu_has_avx2": (I,), "ggml_cpu_has_avx_vnni": (I,), "ggml_cpu_has_avx512": (I,),
            "ggml_cpu_has_avx512_vnni": (I,), "ggml_cpu_has_amx_int8": (I,), "ggml_cpu_has_neon": (I,),
            "ggml_cpu_has_llamafile": (I,),
        })
        self.backend = self.cpu.ggml_backend_cpu_init()
        registry = self.cpu.ggml_backend_cpu_reg()
        self.device = self.base.ggml_backend_reg_dev_get(registry, 0)
        self.plain = self.base.ggml_backend_get_default_buffer_type(self.backend)
        self.extra = []
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if address:
            types = ctypes.CFUNCTYPE(ctypes.POINTER(P), P)(address)(self.device)
            while types and types[len(self.extra)]:
                self.extra.append(types[len(self.extra)])
        self.isa = " ".join(name for name in ("avx2", "avx_vnni", "avx512", "avx512_vnni", "amx_int8", "neon", "llamafile")
                            if getattr(self.cpu, f"ggml_cpu_has_{name}")())
        self.weights_key = self.weights = None

    def load(self, name):
        for suffix in (".so", ".dylib"):
            path = os.path.join(self.folder, f"lib{name}{suffix}")
            if os.path.exists(path):
                return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        raise OSError(f"llama-cpp-python has no shared library lib{name}")

    def context(self):
        version = self.base.ggml_version().decode()
        package = ""
        try:
            from importlib.metadata import version as of
            package = f" (llama-cpp-python {of('llama-cpp-python')})"
        except ImportError:
            pass
        buffers = ", ".join(self.base.ggml_backend_buft_name(b).decode() for b in self.extra) or "none"
        return {"peer llama": f"ggml {version}{package}, {self.isa}; extra buffer types: {buffers}"}


class Weights:
    """Copies of one quantized matrix in one buffer type; `rows` is their quantized form, `name` that of the buffer."""

    def __init__(self, g, kind, N, K, copies):
        self.g = g
        name = kind.removeprefix("llama_").removesuffix("/integer")
        packed, self.type = name.endswith(PACKED), TYPES[name.removesuffix(PACKED)]
        self.tolerance = TOLERANCE[name[:2]]
        self.w = common.weights(N, K)
        self.ctx = self.buffer = None
        for buffer_type in (g.extra if packed else [g.plain]):
            self.make(buffer_type, N, K, copies)
            if not packed or self.supported(K):
                break
            self.free()
        if self.ctx is None:
            return
        row = g.base.ggml_row_size(self.type, K)
        block = ctypes.create_string_buffer(row * common.PERIOD)
        source = self.w.ctypes.data_as(P)
        g.base.ggml_quantize_chunk(self.type, source, block, 0, common.PERIOD, K, None)
        rows = block.raw * (N // common.PERIOD)
        self.bytes = len(rows)
        g.base.ggml_backend_tensor_set(self.tensors[0], rows, 0, len(rows))
        # The other copies get the first one's memory, which is in the buffer's own order already.
        first, size = g.base.ggml_get_data(self.tensors[0]), g.base.ggml_nbytes(self.tensors[0])
        for tensor in self.tensors[1:]:
            ctypes.memmove(g.base.ggml_get_data(tensor), first, size)

    def make(self, buffer_type, N, K, copies):
        base = self.g.base
        self.ctx = base.ggml_init(InitParams(base.ggml_tensor_overhead() * (copies + 8), None, True))
        self.tensors = [base.ggml_new_tensor_2d(self.ctx, self.type, K, N) for _ in range(copies)]
        self.buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(self.ctx, buffer_type)
        if not self.buffer:
            raise MemoryError("ggml: no memory for the weights")
        self.name = base.ggml_backend_buft_name(buffer_type).decode()

    def supported(self, K):
        """Whether the backend multiplies with this type in this buffer: asked before anything is written to it."""
        base = self.g.base
        ctx = base.ggml_init(InitParams(base.ggml_tensor_overhead() * 8, None, True))
        x = base.ggml_new_tensor_2d(ctx, F32, K, 1)
        yes = base.ggml_backend_dev_supports_op(self.g.device, base.ggml_mul_mat(ctx, self.tensors[0], x))
        base.ggml_free(ctx)
        return yes

    def free(self):
        if self.buffer:
            self.g.base.ggml_backend_buffer_free(self.buffer)
        if self.ctx:
            self.g.base.ggml_free(self.ctx)
        self.ctx = self.buffer = None


def weights_for(g, case):
    key = case.kind, case.N, case.K, case.cold
    if g.weights_key != key:
        if g.weights is not None:
            g.weights.free()
        g.weights_key = None
        row = g.base.ggml_row_size(TYPES[case.kind.removeprefix("llama_").split("/")[0].removesuffix(PACKED)], case.K)
        copies = common.cold_bytes() // (row * case.N) + 2 if case.cold else 1
        g.weights = Weights(g, case.kind, case.N, case.K, copies)
        g.weights_key = key
    return g.weights


def fatal_signal(case):
    """The signal that ends a process which runs nothing but this entry, or 0. With AMX, builds by gcc 12 and clang 14 were
    seen to fault where they load the tiles' shapes: an entry must not take the others' results with it."""
    if "NIBBLE_PROBE" in os.environ:
        return 0
    command = [sys.executable, __file__, "--filter", f"^{re.escape(case.name)}$", "--min-time", "0"]
    run = subprocess.run(command, env={**os.environ, "NIBBLE_PROBE": "1"}, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, check=False)
    return max(0, -run.returncode)


def measure(g, case, min_time):
    import numpy
    base, w = g.base, weights_for(g, case)
    if w.ctx is None:
        return common.failure(case, "no extra buffer type takes this format on this CPU")
    if w.name == "AMX" and case.M > 1 and (signal := fatal_signal(case)):
        return common.failure(case, f"llama.cpp is ended by signal {signal} in this product")
    # Graphs of several products, as an engine's are, so that a call's fixed cost is shared.
    together = max(1, 16 // case.M)
    tensors = w.tensors if case.cold else w.tensors * together
    chunks = [tensors[i:i + together] for i in range(0, len(tensors) - together + 1, together)]
    size = len(chunks) * (base.ggml_graph_overhead_custom(together + 8, False)
                          + base.ggml_tensor_overhead() * (together + 1)) + 8 * base.ggml_tensor_overhead()
    ctx = base.ggml_init(InitParams(size, None, True))
    x = common.tokens(case.M, case.K)
    X = base.ggml_new_tensor_2d(ctx, F32, case.K, case.M)
    graphs = []
    for chunk in chunks:
        graphs.append(base.ggml_new_graph_custom(ctx, together + 8, False))
        for tensor in chunk:
            result = base.ggml_mul_mat(ctx, tensor, X)
            base.ggml_build_forward_expand(graphs[-1], result)
    buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(ctx, g.plain)
    base.ggml_backend_tensor_set(X, x.ctypes.data_as(P), 0, x.nbytes)
    g.cpu.ggml_backend_cpu_set_n_threads(g.backend, case.threads)
    in_turn = itertools.cycle(graphs[::-1])  # the last one first: its result is checked

    def call():
        status = base.ggml_backend_graph_compute(g.backend, next(in_turn))
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")

    call()
    y = numpy.empty((case.M, case.N), numpy.float32)
    base.ggml_backend_tensor_get(result, y.ctypes.data_as(P), 0, y.nbytes)
    error = common.relative_error(y, x, w.w)
    if error <= w.tolerance:
        found = common.entry(case, common.time_calls(call, min_time), together, w.bytes, f"{w.name} {g.isa}")
    else:
        found = common.failure(case, f"wrong product: relative error {error:.3g}, at most {w.tolerance} allowed")
    base.ggml_backend_buffer_free(buffer)
    base.ggml_free(ctx)
    return found


def measure_codec(g, case, min_time):
    import numpy
    name = case.kind.removeprefix("llama_")
    rows = numpy.random.default_rng(1).normal(0.0, 0.02, (case.N, case.K)).astype(numpy.float32)
    blocks = ctypes.create_string_buffer(g.base.ggml_row_size(BLOCKS[name], case.K) * case.N)
    back = numpy.empty_like(rows)
    to_float = g.base.ggml_get_type_traits(BLOCKS[name]).contents.to_float

    def encode():
        g.base.ggml_quantize_chunk(BLOCKS[name], rows.ctypes.data, blocks, 0, case.N, case.K, None)

    def decode():
        to_float(ctypes.addressof(blocks), back.ctypes.data, back.size)

    encode()
    decode()
    error = float(numpy.sqrt(((back - rows) ** 2).sum() / (rows**2).sum()))
    if not error <= TOLERANCE[name[:2].lower()]:
        return common.failure(case, f"wrong values: relative error {error:.3g}")
    return common.codec_entry(case, common.time_calls(encode if case.topic == "quantize" else decode, min_time), "ggml-base")


def open_library():
    g = Ggml()

    def measure_any(case, min_time):
        return (measure_codec if isinstance(case, common.Codec) else measure)(g, case, min_time)

    return g.context(), measure_any


if __name__ == "__main__":
    common.main(__doc__, common.cases(KINDS) + CODECS, open_library)
