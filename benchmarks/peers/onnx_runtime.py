#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""ONNX Runtime: MatMulNBits, 4 and 8 bits in blocks of 32 and 128, symmetric, through the packages onnxruntime and onnx.

integer is accuracy_level 4, activations quantized to bytes inside; weight_only is accuracy_level 0, float."""

import common

KINDS = [f"onnxruntime_w{bits}_g{block}/{computation}"
         for bits in (4, 8) for block in (32, 128) for computation in ("integer", "weight_only")]
TOLERANCE = {4: 0.19, 8: 0.016}  # 1.7 times the error that right products have on normal values


def quantize(w, bits, block):
    """Codes [N, K / block, bytes], low half first, and scales [N, K / block]; value = scale * (code - 2^(bits - 1))."""
    import numpy
    N, K = w.shape
    groups = w.reshape(N, K // block, block)
    half = 1 << (bits - 1)
    scales = numpy.abs(groups).max(axis=2) / (half - 1)
    codes = (numpy.rint(groups / scales[..., None]) + half).astype(numpy.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return codes, scales.astype(numpy.float32)


class Library:
    def __init__(self):
        import onnx
        import onnxruntime
        self.onnx, self.ort = onnx, onnxruntime
        self.ort.set_default_logger_severity(3)  # errors only
        self.key = self.made = None

    def context(self):
        return {"peer onnxruntime": f"{self.ort.__version__}, {self.ort.get_device()}"}

    def session(self, kind, N, K, copies, threads):
        """A session over `copies` products, each with weights of its own that the session packs, and one input for all;
        names of the outputs; bytes of one matrix; the floats."""
        import numpy
        key = kind, N, K, copies, threads
        if self.key == key:
            return self.made
        self.key = self.made = None
        name, computation = kind.removeprefix("onnxruntime_w").split("/")
        bits, block = (int(part) for part in name.split("_g"))
        w = common.weights(N, K)
        codes, scales = quantize(w, bits, block)
        helper, types = self.onnx.helper, self.onnx.TensorProto
        nodes, initializers, outputs = [], [], []
        for i in range(copies):
            initializers += [self.onnx.numpy_helper.from_array(codes, f"codes{i}"),
                             self.onnx.numpy_helper.from_array(scales.reshape(-1), f"scales{i}")]
            nodes.append(helper.make_node("MatMulNBits", ["X", f"codes{i}", f"scales{i}"], [f"Y{i}"],
                                          domain="com.microsoft", K=K, N=N, bits=bits, block_size=block,
                                          accuracy_level=4 if computation == "integer" else 0))
            outputs.append(helper.make_tensor_value_info(f"Y{i}", types.FLOAT, ["M", N]))
        graph = helper.make_graph(nodes, "product", [helper.make_tensor_value_info("X", types.FLOAT, ["M", K])], outputs,
                                  initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
                                  ir_version=8)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = self.ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.key, self.made = key, (session, codes.nbytes + scales.nbytes, w, TOLERANCE[bits])
        return self.made


def measure(library, case, min_time):
    import numpy
    bits = 4 if "_w4" in case.kind else 8
    # Distinct weights are distinct products of one model. Half of what the others cycle through: the limit of a model is
    # 2 GB, and until the session is made its weights exist three times.
    copies = common.cold_bytes() * 4 // (case.N * case.K * (bits + 2)) + 1 if case.cold and case.M == 1 else 1
    if case.cold and case.M != 1:
        return common.failure(case, "cold is measured at M = 1 only: a model gives all its results at once")
    try:
        session, weight_bytes, w, tolerance = library.session(case.kind, case.N, case.K, copies, case.threads)
    except Exception as error:  # the package raises many kinds, all of them "this cannot be run"
        return common.failure(case, str(error).splitlines()[0])
    x = common.tokens(case.M, case.K)
    y = numpy.empty((case.M, case.N), numpy.float32)
    names = [output.name for output in session.get_outputs()]
    binding = session.io_binding()
    binding.bind_cpu_input("X", x)
    results = [library.ort.OrtValue.ortvalue_from_numpy(y) for _ in names]
    for name, result in zip(names, results):
        binding.bind_ortvalue_output(name, result)
    session.run_with_iobinding(binding)
    error = common.relative_error(results[-1].numpy(), x, w)
    if not error <= tolerance:
        return common.failure(case, f"wrong product: relative error {error:.3g}, at most {tolerance} allowed")
    times = common.time_calls(lambda: session.run_with_iobinding(binding), min_time)
    return common.entry(case, times, copies, weight_bytes, f"onnxruntime {library.ort.__version__}")


def open_library():
    library = Library()
    return library.context(), lambda case, min_time: measure(library, case, min_time)


if __name__ == "__main__":
    common.main(__doc__, common.cases(KINDS), open_library)
