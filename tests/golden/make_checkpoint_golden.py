#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/golden/checkpoint_*.safetensors: small quantized layers in the layouts of other tools, with the dense values
that each layout's own formula gives. Needs numpy and safetensors (0.8.0 wrote the files):

    python3 make_checkpoint_golden.py <folder>

Codes are packed bit by bit from Python integers: nothing here knows of bytes or shuffles. Each file is one layer `l` and
`dense` [out, in] in F32.
"""
import json
import sys

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(4711)
f32 = np.float32


def stream(codes, bits):
    """A list of codes as one number, the first lowest, cut into int32 words."""
    number = sum(int(c) << (bits * i) for i, c in enumerate(codes))
    total = len(codes) * bits
    assert total % 32 == 0
    return [number >> (32 * w) & 0xffffffff for w in range(total // 32)]


def by_word(codes, bits):
    """As many whole codes as fit in each word."""
    each = 32 // bits
    return [sum(int(c) << (bits * i) for i, c in enumerate(codes[first:first + each]))
            for first in range(0, len(codes), each)]


def words(rows):
    return np.array(rows, dtype=np.uint32).view(np.int32)


def half_scales(shape):
    return (rng.uniform(0.002, 0.05, shape) * rng.choice([1, 1, 1, -1], shape)).astype(np.float16)


def gptq(bits, version, act_order, group, n_in=64, n_out=32):
    groups = -(-n_in // group)
    q = rng.integers(0, 2**bits, (n_in, n_out))
    low, high = (1, 2**bits + 1) if version == 1 else (0, 2**bits)
    z = rng.integers(low, high, (groups, n_out))
    z[0, :4] = high - 1  # version 1: 2^bits, one bit wider than the codes
    s = half_scales((groups, n_out))
    if bits == 8:
        s = np.abs(s)  # as offsets, which have no -0
    g_idx = np.arange(n_in) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    stored = z - 1 if version == 1 else z
    tensors = {
        'l.qweight': words([stream(q[:, n], bits) for n in range(n_out)]).T.copy(),
        'l.qzeros': words([stream(stored[g], bits) for g in range(groups)]),
        'l.scales': s,
        'l.g_idx': g_idx.astype(np.int32),
        'dense': (s.astype(f32)[g_idx] * (q - z[g_idx]).astype(f32)).T.copy(),
    }
    return tensors


def awq(group=32, n_in=96, n_out=24):
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    groups = n_in // group
    q, z = rng.integers(0, 16, (n_in, n_out)), rng.integers(0, 16, (groups, n_out))
    s = half_scales((groups, n_out))

    def pack(rows):
        return words([[sum(int(row[8 * c + order[i]]) << (4 * i) for i in range(8)) for c in range(n_out // 8)]
                      for row in rows])
    w = (q - np.repeat(z, group, 0)).astype(f32) * np.repeat(s, group, 0).astype(f32)
    return {'l.qweight': pack(q), 'l.qzeros': pack(z), 'l.scales': s, 'dense': w.T.copy()}


def bfloat16_bits(x):
    return (x.astype(f32).view(np.uint32) >> 16).astype(np.uint16)


def pack_quantized(bits, symmetric, group, g_idx, n_out=20, n_in=76, channel=False):
    group = n_in if channel else group
    groups = -(-n_in // group)
    h = 2**(bits - 1)
    q = rng.integers(-h, h, (n_out, n_in))
    s = rng.uniform(0.002, 0.05, (n_out, groups)).astype(f32)
    z = np.zeros((n_out, groups), int) if symmetric else rng.integers(-h, h, (n_out, groups))
    index = np.arange(n_in) // group
    if g_idx:
        index = rng.permutation(index)
    tensors = {
        'l.weight_packed': words([by_word(row + h, bits) for row in q]),
        'l.weight_scale': s,
        'l.weight_shape': np.array([n_out, n_in], np.int64),
        'dense': (q - z[:, index]).astype(f32) * s[:, index],
    }
    if not symmetric:
        tensors['l.weight_zero_point'] = words([by_word(z[:, g] + h, bits) for g in range(groups)]).T.copy()
    if g_idx:
        tensors['l.weight_g_idx'] = index.astype(np.int32)
    return tensors


NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
                1.0], f32)
FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], f32) / f32(12)


def dynamic_map():
    """256 values, as formats of bitsandbytes define them; linspace as torch computes it in float32."""
    def fma(a, b, c):
        return f32(np.longdouble(a) * np.longdouble(b) + np.longdouble(c))

    values = [f32(0), f32(1)]
    for i in range(7):
        n = 2**i + 1
        step = (f32(1) - f32(0.1)) / f32(n - 1)
        points = np.array([fma(step, j, f32(0.1)) if j < n // 2 else fma(-step, n - 1 - j, f32(1)) for j in range(n)], f32)
        means = (points[:-1] + points[1:]) / f32(2)
        scaled = (f32(10.0**(i - 6)) * means).astype(f32)
        values += list(scaled) + list(-scaled)
    return np.array(sorted(values), f32)


def bnb(kind, nested, n_out, n_in, block=64):
    values = NF4 if kind == 'nf4' else FP4
    n = n_out * n_in
    codes = rng.integers(0, 16, n)
    blocks = -(-n // block)
    state = {'quant_type': kind, 'blocksize': block, 'dtype': 'float16', 'shape': [n_out, n_in]}
    padded = list(codes) + [0] * (n % 2)
    tensors = {
        'l.weight': np.array([padded[i] << 4 | padded[i + 1] for i in range(0, len(padded), 2)], np.uint8)[:, None],
        'l.weight.quant_map': values,
    }
    if nested:
        table = dynamic_map()
        stored = rng.integers(0, 256, blocks).astype(np.uint8)
        greatest = rng.uniform(0.01, 0.1, -(-blocks // 256)).astype(f32)
        offset = f32(0.0731)
        absmax = (table[stored] * greatest[np.arange(blocks) // 256]).astype(f32) + offset
        tensors['l.weight.absmax'] = stored
        tensors['l.weight.nested_absmax'] = greatest
        tensors['l.weight.nested_quant_map'] = table
        state.update(nested_blocksize=256, nested_dtype='float32', nested_offset=float(offset))
    else:
        absmax = rng.uniform(0.01, 0.1, blocks).astype(f32)
        tensors['l.weight.absmax'] = absmax
    text = json.dumps(state).encode()
    tensors['l.weight.quant_state.bitsandbytes__' + kind] = np.frombuffer(text, np.uint8).copy()
    tensors['dense'] = (values[codes] * absmax[np.arange(n) // block]).astype(f32).reshape(n_out, n_in)
    return tensors


def llm_int8(n_out=12, n_in=40):
    q = rng.integers(-127, 128, (n_out, n_in)).astype(np.int8)
    scb = np.concatenate([rng.uniform(0.1, 2, n_out - 2).astype(f32),
                          np.array([0x3ffffffd, 0x3ffffffe], np.uint32).view(f32)])  # two with one quotient by 127
    return {'l.weight': q, 'l.SCB': scb, 'l.weight_format': np.zeros((), np.uint8),
            'dense': (q.astype(f32) * scb[:, None]) / f32(127)}


def main():
    folder = sys.argv[1]
    files = {
        'gptq2': gptq(2, 1, False, 16),
        'gptq3': gptq(3, 1, True, 32),
        'gptq4': gptq(4, 2, True, 16),
        'gptq8': gptq(8, 1, False, 64, n_in=32),
        'awq': awq(),
        'packed3': pack_quantized(3, False, 16, False),
        'packed4': pack_quantized(4, True, 20, True),
        'packed8': pack_quantized(8, False, 0, False, channel=True),
        'nf4': bnb('nf4', False, 13, 21),
        'nf4_nested': bnb('nf4', True, 20, 50),
        'fp4': bnb('fp4', False, 10, 40, block=128),
        'int8': llm_int8(),
    }
    for name, tensors in files.items():
        save_file(tensors, f'{folder}/checkpoint_{name}.safetensors')


main()
