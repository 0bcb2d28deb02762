#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/golden/original_*.safetensors: small layers quantized and packed by the tools that made these formats, beside
the dense values that each tool computes from its own tensors. What is made here is the input: weights, and for GPTQ and AWQ,
whose packing takes them, scales and zero points. Codes, words and values are the tools'.

    python3 make_original_golden.py <folder> <tool>...

Tools, each with the version that wrote the committed files (CPU, torch 2.8.0, numpy 2.4.6, safetensors 0.8.0):

    bitsandbytes         0.50.2             Linear4bit and Linear8bitLt: their state dicts
    auto_gptq            0.7.1              QuantLinear.pack of qlinear_cuda.py, which also runs without CUDA: version 1
    gptqmodel            7.7.0              TorchLinear.pack_original: version 2
    awq                  0.2.9              WQLinear_GEMM.from_linear and dequantize_gemm
    compressed_tensors   0.15.0.1           PackedQuantizationCompressor: whole codes in each word
                         0.20.0             the same with codes that straddle words, which came with 0.18

Packages whose __init__ imports a zoo of models (auto_gptq, awq, gptqmodel) are entered without it: the modules named above
are their files, unchanged. A file's metadata names the versions that wrote it.
"""
import importlib
import importlib.metadata
import importlib.util
import sys
import types

import torch
from safetensors.torch import save_file

f16, f32 = torch.float16, torch.float32


def bare(*packages):
    """Makes packages importable without running what stands in their __init__."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        module = types.ModuleType(name)
        module.__path__ = list(spec.submodule_search_locations)
        module.__spec__ = spec
        sys.modules[name] = module


def put(tensors, layer, state, dense):
    for key, value in state.items():
        tensors[f'{layer}.{key}'] = value.detach().contiguous().clone()
    tensors[f'{layer}.dequantized'] = dense.detach().contiguous().clone()


def bitsandbytes():
    import bitsandbytes as bnb
    from bitsandbytes import functional as F
    tensors = {}
    cases = [('nf4', 'nf4', False, f16, 64, 20, 50), ('nf4_nested', 'nf4', True, torch.bfloat16, 64, 136, 130),
             ('nf4_odd', 'nf4', False, f32, 64, 13, 21), ('fp4', 'fp4', False, f32, 64, 20, 50),
             ('fp4_nested', 'fp4', True, f16, 64, 24, 36), ('nf4_128', 'nf4', True, f32, 128, 9, 44)]
    for name, kind, nested, dtype, block, n_out, n_in in cases:
        layer = torch.nn.Linear(n_in, n_out, bias=False, dtype=dtype)
        torch.nn.init.normal_(layer.weight, std=0.05)
        quantized = bnb.nn.Linear4bit(n_in, n_out, bias=False, compress_statistics=nested, quant_type=kind)
        quantized.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, compress_statistics=nested,
                                             quant_type=kind, blocksize=block, module=quantized)
        quantized = quantized.to('cpu')
        dense = F.dequantize_4bit(quantized.weight.data, quantized.weight.quant_state)
        put(tensors, name, quantized.state_dict(), dense)
    for name, n_out, n_in in [('int8', 12, 40)]:
        weight = torch.randn(n_out, n_in).to(f16)
        weight[3] = 0
        quantized = bnb.nn.Linear8bitLt(n_in, n_out, bias=False, has_fp16_weights=False)
        quantized.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        quantized = quantized.to('cpu')
        state = quantized.state_dict()
        put(tensors, name, state, F.int8_vectorwise_dequant(state['weight'], state['SCB']))
    return {'bitsandbytes': (tensors, ['bitsandbytes'])}


def gptq_input(bits, group, n_in, n_out, act_order):
    """Weights on the grid of random codes, zero points and half-precision scales: any way of rounding gives the codes."""
    groups = -(-n_in // group)
    scales = (torch.rand(groups, n_out) * 0.05 + 0.002).to(f16).to(f32)
    zeros = torch.randint(1, 2**bits, (groups, n_out)).to(f32)
    g_idx = torch.arange(n_in) // group
    if act_order:
        g_idx = g_idx[torch.randperm(n_in)]
    codes = torch.randint(0, 2**bits, (n_in, n_out)).to(f32)
    return scales, zeros, g_idx.to(torch.int32), (scales[g_idx] * (codes - zeros[g_idx])).t().contiguous()


GPTQ_CASES = [('w2', 2, 32, 64, False), ('w3', 3, 32, 96, True), ('w4', 4, 64, 96, False), ('w4_order', 4, 32, 96, True),
              ('w8', 8, 64, 96, True), ('w4_rows', 4, -1, 32, False)]


def linear_of(weight, dtype):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    layer.weight.data = weight.to(dtype)
    return layer


def auto_gptq():
    bare('auto_gptq', 'auto_gptq.nn_modules', 'auto_gptq.nn_modules.qlinear')
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear
    tensors = {}
    n_out = 32
    for name, bits, group, n_in, act_order in GPTQ_CASES:
        scales, zeros, g_idx, weight = gptq_input(bits, group if group > 0 else n_in, n_in, n_out, act_order)
        # Zero point 0, stored as -1. Only in the last output of a word: the tool shifts -1 into all that follow in it.
        zeros[:, 31] = 0
        weight[31] = scales[g_idx.long(), 31] * torch.randint(0, 2**bits, (n_in,))
        layer = QuantLinear(bits, group, n_in, n_out, bias=False, weight_dtype=f16)
        # float32 weights for exact codes; then scales as a file of a half-precision model has them
        layer.pack(linear_of(weight, f32), scales.t().contiguous(), zeros.t().contiguous(), g_idx)
        layer.scales = layer.scales.to(f16)
        dense = layer(torch.eye(n_in, dtype=f16)).t()
        put(tensors, name, layer.state_dict(), dense)
    return {'auto_gptq': (tensors, ['auto_gptq'])}


def gptqmodel():
    bare('gptqmodel', 'gptqmodel.models', 'gptqmodel.nn_modules', 'gptqmodel.quantization', 'gptqmodel.adapter')
    from gptqmodel.quantization.config import FORMAT, METHOD
    sys.modules['gptqmodel.quantization'].FORMAT, sys.modules['gptqmodel.quantization'].METHOD = FORMAT, METHOD
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    n_out, tensors = 32, {}
    for name, bits, group, n_in, act_order in GPTQ_CASES:
        scales, zeros, g_idx, weight = gptq_input(bits, group if group > 0 else n_in, n_in, n_out, act_order)
        zeros[0, :3] = 0  # version 2 has a code for it anywhere
        weight[:3] = scales[g_idx.long()].t()[:3] * (torch.randint(0, 2**bits, (3, n_in)) - zeros[g_idx.long()].t()[:3])
        layer = TorchLinear(bits, group, False, act_order, n_in, n_out, bias=False, format=FORMAT.GPTQ_V2)
        layer.pack_original(linear_of(weight, f32), scales.t().contiguous(), zeros.t().contiguous(), g_idx)
        dense = layer.dequantize_weight().t()
        put(tensors, name, layer.state_dict(), dense)
    return {'gptqmodel': (tensors, ['gptqmodel'])}


def awq():
    bare('awq', 'awq.modules', 'awq.modules.linear', 'awq.utils')
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm
    tensors = {}
    for name, group, n_in, n_out in [('groups', 32, 96, 32), ('rows', -1, 40, 64)]:
        size = group if group > 0 else n_in
        scales, zeros, _, weight = gptq_input(4, size, n_in, n_out, False)
        zeros[0, :4] = torch.tensor([0.0, 15.0, 0.0, 8.0])
        codes = torch.randint(0, 16, (n_in, n_out)).to(f32)
        group_of = torch.arange(n_in) // size
        weight = (scales[group_of] * (codes - zeros[group_of])).t().contiguous()
        layer = WQLinear_GEMM.from_linear(linear_of(weight, f32), 4, size, scales=scales, zeros=zeros)
        dense = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, size)
        put(tensors, name, layer.state_dict(), dense.t())
    return {'awq': (tensors, ['autoawq'])}


def compressed_tensors():
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams
    version = importlib.metadata.version('compressed-tensors')
    dense_words = tuple(int(part) for part in version.split('.')[:2]) >= (0, 18)
    cases = [(bits, symmetric, group, dtype) for bits in ([3, 5, 7] if dense_words else [3, 4, 8])
             for symmetric, group, dtype in ((True, 32, f32), (True, 0, f16), (False, 32, torch.bfloat16), (False, 0, f16))]
    tensors = {}
    for bits, symmetric, group, dtype in cases:
        n_out, n_in = 11, 96 if group else 74
        args = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy='group' if group else 'channel',
                                group_size=group or None)
        scheme = QuantizationScheme(targets=['Linear'], weights=args)
        weight = (torch.randn(n_out, n_in) * 0.05 + (0 if symmetric else 0.02)).to(dtype)
        groups = weight.reshape(n_out, -1, group or n_in)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
        state = {'weight': weight, 'weight_scale': scale.to(dtype)}
        state['weight_zero_point'] = zero.to(torch.int8)
        packed = Compressor.compress(state, scheme=scheme)
        name = f'w{bits}_{"sym" if symmetric else "asym"}_{group or "rows"}'
        put(tensors, name, packed, Compressor.decompress(packed, scheme=scheme)['weight'])
    return {'compressed_tensors' + ('_dense' if dense_words else ''): (tensors, ['compressed-tensors'])}


def main():
    folder = sys.argv[1]
    for tool in sys.argv[2:]:
        torch.manual_seed(4711)
        for name, (tensors, packages) in globals()[tool]().items():
            versions = {p: importlib.metadata.version(p) for p in packages + ['torch']}
            save_file(tensors, f'{folder}/original_{name}.safetensors', metadata=versions)


if __name__ == '__main__':
    main()
