# SPDX-License-Identifier: Apache-2.0
"""The packed layout and the operators in numpy, written from the contract alone: what the C++ is pinned to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Weights:
    """A random matrix W [k, n] as integers, with its packed form and the tables it was decoded from."""

    bits: int
    integers: np.ndarray  # int8 [k, n]
    codes: np.ndarray  # uint8 [panels, units, 8 * bits]
    selectors: np.ndarray  # uint8 [panels, groups, 8], or [1, 1, 8] for one table
    table: np.ndarray  # int8 [tables, 2**bits]
    scales: np.ndarray  # float32 [n]

    @property
    def k(self) -> int:
        return self.integers.shape[0]

    @property
    def n(self) -> int:
        return self.integers.shape[1]


def fields(bits: int) -> list[int]:
    return [width for width in (8, 4, 2, 1) if bits & width]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Field by field, as the layout is worded."""
    k, n = codes.shape
    packed = np.zeros((-(-n // 16), -(-k // 4), 8 * bits), np.uint8)
    row, column = np.indices((k, n))
    p = column % 16 * 4 + row % 4
    start, rest = 0, codes.astype(np.uint8)
    for width in fields(bits):
        size = 8 * width
        field = rest & np.uint8((1 << width) - 1)
        shifted = field << (width * (p // size)).astype(np.uint8)
        np.bitwise_or.at(packed, (column // 16, row // 4, start + p % size), shifted)
        rest = rest >> np.uint8(width) if width < 8 else rest
        start += size
    return packed


def pack_selectors(selectors: np.ndarray, tables: int) -> np.ndarray:
    if tables == 1:
        return np.zeros((1, 1, 8), np.uint8)
    groups, n = selectors.shape
    padded = np.zeros((groups, -(-n // 16) * 16), np.uint8)
    padded[:, :n] = selectors
    panels = padded.reshape(groups, -1, 16).transpose(1, 0, 2)
    return np.ascontiguousarray(panels[:, :, :8] | panels[:, :, 8:] << 4)


def shift_table(bits: int) -> np.ndarray:
    levels = np.maximum(np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)), 1 - 2 ** (bits - 1))
    return np.stack([levels << shift for shift in range(9 - bits)]).astype(np.int8)


def random_weights(rng: np.random.Generator, k: int, n: int, bits: int, method: str = "lut") -> Weights:
    """Weights of `method`: `rtn`, `shift`, `shapes` (factors times two shapes), or `lut` (any tables, all used)."""
    if method == "rtn":
        table = shift_table(bits)[:1]
    elif method == "shift":
        table = shift_table(bits)
    elif method == "shapes":
        shapes = rng.integers(-31, 32, (2, 2**bits))
        table = np.concatenate([shapes * factor for factor in (4, 3, 2, 1)]).astype(np.int8)
    else:
        tables = min(16, 256 >> bits)
        table = rng.integers(-127, 128, (tables, 2**bits)).astype(np.int8)
        table[0, :2] = (-127, 127)
    codes = rng.integers(0, 2**bits, (k, n)).astype(np.uint8)
    selectors = rng.integers(0, len(table), (-(-k // 32), n)).astype(np.uint8)
    spread = selectors.repeat(32, axis=0)[:k]
    scales = rng.uniform(0.5, 2, n).astype(np.float32)
    return Weights(bits, table[spread, codes], pack(codes, bits), pack_selectors(selectors, len(table)), table, scales)


NO_SHIFTS = np.zeros(1, np.uint8)


def quantize(
    x: np.ndarray, low: int, high: int, x_scale: float, shifts: np.ndarray = NO_SHIFTS
) -> tuple[np.ndarray, np.ndarray]:
    """Operands int32 [m, k] and row scales float32 [m]; shifts uint8 [k] or [1]."""
    steps = np.float32(2) ** shifts
    if x_scale > 0:
        scale = np.full(len(x), x_scale, np.float32)
    else:
        absmax = np.abs(x / steps).max(axis=1, initial=0).astype(np.float32)
        scale = np.where(absmax <= np.float32(1e-30), np.float32(0), absmax / np.float32(high)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(np.inf))
    codes = np.clip(np.rint(x / (divisor[:, None] * steps)), low, high).astype(np.int32)
    return codes << shifts, scale


def random_shifts(rng: np.random.Generator, channels: int, low: int, high: int) -> np.ndarray:
    """Shifts uint8 [channels], all that keep the codes low..high within a byte, the largest among them."""
    most = int(np.log2((127 if low < 0 else 255) // high))
    shifts = rng.integers(0, most + 1, channels).astype(np.uint8)
    shifts[channels // 2] = most
    return shifts


def shift_matmul(
    x: np.ndarray,
    weights: Weights,
    bias: np.ndarray,
    x_scale: float,
    low: int,
    high: int,
    shifts: np.ndarray = NO_SHIFTS,
) -> np.ndarray:
    """What ShiftMatMul computes, bit for bit where activations are quantized; else in float64."""
    rows = x.reshape(-1, weights.k)
    if high == 0:
        y = (rows.astype(np.float64) @ weights.integers.astype(np.float64)) * weights.scales + bias
    else:
        codes, scale = quantize(rows, low, high, x_scale, shifts)
        acc = codes @ weights.integers.astype(np.int32)
        y = acc.astype(np.float32) * (scale[:, None] * weights.scales) + bias
        assert y.dtype == np.float32
    return y.reshape(*x.shape[:-1], weights.n).astype(np.float32)
