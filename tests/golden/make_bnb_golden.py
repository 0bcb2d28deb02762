#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes bnb_golden.inc: NF4, FP4, the signed dynamic map and double quantization as bitsandbytes defines them, written
down independently of the C++ code. Needs numpy only:

    python3 make_bnb_golden.py > bnb_golden.inc

With `--compare` it runs bitsandbytes itself on the same data instead and reports every difference. Result with 0.50.2 on a
CPU: NF4 and the map are equal. FP4 differs at ties and in the sign of zero, because the CPU code bisects float midpoints
where the GPU kernels compare with the literals below; 2 of 600 scale codes differ, where its table look-up returns the
farther neighbour.
"""
import sys
from fractions import Fraction

import numpy as np

f32 = np.float32

NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], f32)
NF4_THRESHOLDS = (NF4[:-1] + NF4[1:]) / f32(2)
FP4_MAGNITUDES = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], f32) / f32(12)  # by the low three bits of the code
FP4_THRESHOLDS = np.array([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], f32)
FP4_CODES = np.array([0, 1, 6, 7, 4, 5, 2, 3], np.uint8)
FP4 = np.concatenate([FP4_MAGNITUDES, -FP4_MAGNITUDES])
BLOCK = 64


def fused(a, b, c):
    """a * b + c, rounded once to float32, ties to even."""
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    near = f32(float(exact))
    around = [np.nextafter(near, f32(-np.inf)), near, np.nextafter(near, f32(np.inf))]
    return min(around, key=lambda q: (abs(Fraction(float(q)) - exact), int(q.view(np.uint32)) & 1))


def dynamic_map():
    """2^i + 1 points linear in [0.1, 1], midpoints, times 10^(i-6); the linspace is torch's: symmetric and fused."""
    values = [f32(0), f32(1)]
    for i in range(7):
        n = 2**i + 1
        step = (f32(1) - f32(0.1)) / f32(n - 1)
        points = [fused(step, k, f32(0.1)) if k < n // 2 else fused(-step, n - 1 - k, 1) for k in range(n)]
        for a, b in zip(points, points[1:]):
            v = (a + b) / f32(2) * f32(10.0**(i - 6))
            values += [v, -v]
    return np.sort(np.array(values, f32))


def encode_blocks(x, code_of):
    absmax, codes = [], []
    for first in range(0, len(x), BLOCK):
        block = x[first:first + BLOCK]
        m = np.max(np.abs(block))
        absmax.append(m)
        codes.append(code_of(block * (f32(1) / m) if m > 0 else block))
    return np.array(absmax, f32), np.concatenate(codes)


def nf4_code(v):
    return np.searchsorted(NF4_THRESHOLDS, v, side='left').astype(np.uint8)  # thresholds strictly below v


def fp4_code(v):
    return FP4_CODES[np.searchsorted(FP4_THRESHOLDS, np.abs(v), side='left')] | np.where(v < 0, 8, 0).astype(np.uint8)


def double_quantize(scales, table):
    offset = f32(np.mean(scales.astype(np.float64)))
    thresholds = (table[:-1] + table[1:]) / f32(2)
    centred = scales - offset
    codes, absmax = [], []
    for first in range(0, len(scales), 256):
        block = centred[first:first + 256]
        m = np.max(np.abs(block))
        absmax.append(m)
        codes.append(np.searchsorted(thresholds, block * (f32(1) / m), side='left').astype(np.uint8))
    codes, absmax = np.concatenate(codes), np.array(absmax, f32)
    rebuilt = table[codes] * absmax[np.arange(len(scales)) // 256] + offset
    return offset, absmax, codes, rebuilt.astype(f32)


def inputs():
    """7 x 203 values: blocks of 64 run across rows and the last one is short. Some values sit exactly on thresholds."""
    rng = np.random.default_rng(20231)
    x = rng.standard_normal(7 * 203).astype(f32)
    x[64:128] = 0  # a block of zeros
    x[128:192] = np.resize(np.concatenate([NF4_THRESHOLDS, NF4, [f32(1)]]), 64)  # absmax 1: v is x, ties
    x[192:256] = np.resize(np.concatenate([FP4_THRESHOLDS, -FP4_THRESHOLDS, FP4, [f32(-1)]]), 64)
    x[256:320] *= f32(1e-30)
    x[320:384] *= f32(1e30)
    x[384:448:3] = f32(-0.0)
    x[448:512] = np.nextafter(np.resize(np.concatenate([NF4_THRESHOLDS, [f32(1)]]), 64), f32(-2))
    x[448] = 1
    scales = np.exp(rng.standard_normal(600)).astype(f32)
    scales[100:110] = 0
    return x, scales


def emit(name, kind, values, per_line):
    text = [f'{v:#x}' for v in values] if kind != 'std::uint8_t' else [str(v) for v in values]
    print(f'inline constexpr {kind} {name}[] = {{')
    for i in range(0, len(text), per_line):
        print('    ' + ', '.join(text[i:i + per_line]) + ',')
    print('};')


def bits(a):
    return np.ascontiguousarray(a, f32).view(np.uint32)


def compare():
    import bitsandbytes.functional as F
    import torch
    x, scales = inputs()
    t = torch.from_numpy(x.copy())
    table = dynamic_map()
    print('dynamic map:', int(np.sum(bits(F.create_dynamic_map().numpy()) != bits(table))), 'of 256 differ')
    for kind, code_of, values in (('nf4', nf4_code, NF4), ('fp4', fp4_code, FP4)):
        absmax, codes = encode_blocks(x, code_of)
        packed, state = F.quantize_4bit(t, blocksize=BLOCK, quant_type=kind, compress_statistics=False)
        p = packed.numpy().reshape(-1)
        theirs = np.stack([p >> 4, p & 15], 1).reshape(-1)[:len(x)]
        print(kind, 'absmax:', int(np.sum(state.absmax.numpy() != absmax)), 'differ; codes:',
              [(i, float(x[i]), int(codes[i]), int(theirs[i])) for i in np.nonzero(theirs != codes)[0]])
        back = F.dequantize_4bit(packed, state).numpy()
        ours = values[codes] * np.repeat(absmax, BLOCK)[:len(x)]
        print(kind, 'values:', int(np.sum(back != ours)), 'differ')
    offset, absmax, codes, rebuilt = double_quantize(scales, table)
    s = torch.from_numpy(scales.copy())
    print('offset:', float(s.mean()), float(offset))
    q, state = F.quantize_blockwise(s - float(offset), blocksize=256)
    print('scale codes:', int(np.sum(q.numpy() != codes)), 'differ; absmax:',
          int(np.sum(state.absmax.numpy() != absmax)), 'differ; scales:',
          int(np.sum((F.dequantize_blockwise(q, state) + float(offset)).numpy() != rebuilt)), 'differ')


def main():
    if '--compare' in sys.argv:
        return compare()
    x, scales = inputs()
    table = dynamic_map()
    offset, super_scales, scale_codes, rebuilt = double_quantize(scales, table)
    print('// SPDX-License-Identifier: MIT')
    print('// Written by make_bnb_golden.py; float arrays hold their bits.')
    emit('golden_x', 'std::uint32_t', bits(x), 10)
    for name, code_of, values in (('nf4', nf4_code, NF4), ('fp4', fp4_code, FP4)):
        absmax, codes = encode_blocks(x, code_of)
        emit(f'golden_{name}_absmax', 'std::uint32_t', bits(absmax), 10)
        emit(f'golden_{name}_codes', 'std::uint8_t', codes, 36)
        emit(f'golden_{name}_values', 'std::uint32_t', bits(values[codes] * np.repeat(absmax, BLOCK)[:len(x)]), 10)
    emit('golden_dynamic_map', 'std::uint32_t', bits(table), 10)
    emit('golden_scales', 'std::uint32_t', bits(scales), 10)
    emit('golden_scale_codes', 'std::uint8_t', scale_codes, 28)
    emit('golden_super_scales', 'std::uint32_t', bits(np.append(super_scales, offset)), 10)
    emit('golden_rebuilt_scales', 'std::uint32_t', bits(rebuilt), 10)


main()
