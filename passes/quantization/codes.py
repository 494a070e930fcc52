# SPDX-License-Identifier: Apache-2.0
"""Weight matrices as integer codes: the methods `rtn`, `shift` and `shift-lut` and the type that holds their result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.quantization.codebook import LUT_TABLES, Sample, learn_lut_tables, shift_tables, uniform_levels
from edgefold.passes.quantization.gptq import round_columns
from edgefold.passes.quantization.packing import packed_bytes
from edgefold.passes.quantization.selection import GROUP, Float, LevelLookup, Selection, cells_of, column_blocks, search

Method = Literal["rtn", "shift", "shift-lut"]
Rounding = Literal["nearest", "gptq"]

_LEARN_ELEMENTS = 1 << 17  # weights from which a codebook is learnt
_EXTREME_COLUMNS = 8
_FLOAT_MAX = np.finfo(np.float32).max


@dataclass(frozen=True)
class QuantizedMatrix:
    """A weight matrix W [K, N], held as ``scales[n] * table[selectors[k // 32, n], codes[k, n]]``.

    Attributes:
        codes: uint8 [K, N], each below 2**bits.
        selectors: uint8 [ceil(K / 32), N], table number of each group of 32 consecutive k.
        table: int8 [T, 2**bits], levels in [-127, 127]; T * 2**bits <= 256.
        scales: float32 [N]; 0 for a column of zeros.
        bits: width of a code, 2 to 8.
    """

    codes: NDArray[np.uint8]
    selectors: NDArray[np.uint8]
    table: NDArray[np.int8]
    scales: Float
    bits: int

    def integers(self) -> NDArray[np.int8]:
        """The integer weights, int8 [K, N]."""
        levels = np.empty(self.codes.shape, dtype=np.int8)
        flat = self.table.ravel()
        for block in column_blocks(*self.codes.shape):
            base = np.repeat(self.selectors[:, block].astype(np.intp) << self.bits, GROUP, axis=0)
            levels[:, block] = flat[base[: len(levels)] + self.codes[:, block]]
        return levels

    def dequantize(self) -> Float:
        """The weights that the codes stand for, float32 [K, N]."""
        return self.integers() * self.scales

    @property
    def bits_per_weight(self) -> float:
        """Packed bits per weight: codes, selectors, table and scales, with padding (K to 4, N to 16)."""
        rows, columns = self.codes.shape
        return 8 * packed_bytes(rows, columns, self.bits, len(self.table)) / self.codes.size


def quantize_matrix(
    weight: Float,
    bits: int,
    method: Method,
    *,
    second_moment: NDArray[np.float64] | None = None,
    rounding: Rounding = "nearest",
    original: Float | None = None,
) -> QuantizedMatrix:
    """Quantizes a weight matrix to codes of 2 to 8 bits.

    Args:
        weight: float32 [K, N], finite; column n makes output n.
        bits: code width.
        method: `rtn`, one scale a column; `shift`, also a power of two a group of 32 rows (ShiftQuant, arXiv
            2411.10948); `shift-lut`, quarter powers of two and learnt levels, up to 6 bits.
        second_moment: float64 [K, K] moments X'X of the inputs, or [P, K, K] where the columns fall into P equal
            runs with inputs of their own (a grouped convolution). Weighs the errors; needed by `gptq`.
        rounding: `nearest`, or `gptq`: sequential with error feedback (arXiv 2210.17323).
        original: float32 [K, N], where `weight` is a refit of it; `gptq` then takes no level further away than the
            one beside the level nearest to the original. None for no such limit.

    Raises:
        ValueError: a weight that is not finite, an option out of range, or moments of another shape.
    """
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    moment = _check(weight, bits, method, second_moment, rounding)
    importance = None if moment is None else _importance(moment)
    spread = None if importance is None else _per_column(importance, weight.shape[1])
    table = _tables(weight, bits, method, spread)
    chosen = _select(weight, spread, bits, method, table)
    if rounding == "gptq" and moment is not None:
        codes, selectors, scales = round_columns(weight, moment, table, chosen.scales, original=original)
        return QuantizedMatrix(codes, selectors, table, scales, bits)
    return QuantizedMatrix(_nearest_codes(weight, table, chosen), chosen.selectors, table, chosen.scales, bits)


def _check(
    weight: Float, bits: int, method: str, moment: NDArray[np.float64] | None, rounding: str
) -> NDArray[np.float64] | None:
    """Refuses what cannot be quantized; returns the moments as [P, K, K]."""
    if weight.ndim != 2 or not weight.size:
        raise ValueError(f"a weight matrix has two dimensions and at least one element, not shape {weight.shape}")
    if method not in ("rtn", "shift", "shift-lut"):
        raise ValueError(f"method is rtn, shift or shift-lut, not {method!r}")
    if rounding not in ("nearest", "gptq"):
        raise ValueError(f"rounding is nearest or gptq, not {rounding!r}")
    if not 2 <= bits <= 8:
        raise ValueError(f"weights take 2 to 8 bits, not {bits}")
    if method == "shift-lut" and bits not in LUT_TABLES:
        raise ValueError(f"shift-lut takes 2 to 6 bits, not {bits}; use method shift, which loses nothing there")
    if not np.isfinite(weight).all():
        raise ValueError("the weights hold NaN or infinite values")
    if rounding == "gptq" and moment is None:
        raise ValueError("rounding gptq needs the second moment of the inputs; without calibration use nearest")
    if moment is None:
        return None
    rows, columns = weight.shape
    stacked = moment if moment.ndim == 3 else moment[None]
    if stacked.shape[1:] != (rows, rows) or columns % len(stacked):
        raise ValueError(f"moments of shape {moment.shape} do not fit weights of shape {weight.shape}")
    if not np.isfinite(stacked).all():
        raise ValueError("the second moments hold NaN or infinite values")
    return stacked


def _importance(moment: NDArray[np.float64]) -> Float:
    """Weights float32 [P, K] of the squared errors: the diagonal of the moments, at least 1 % of its mean."""
    diagonal = np.diagonal(moment, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1, keepdims=True)
    unit = np.where(mean > 0, mean, 1)
    return np.maximum(diagonal / unit, 0.01).astype(np.float32)


def _per_column(importance: Float, columns: int) -> Float:
    """Importance [P, K] as a factor for [K, N] weights: [K, 1] where all columns share it."""
    spread = np.ascontiguousarray(importance.T)
    return spread if len(importance) == 1 else np.repeat(spread, columns // len(importance), axis=1)


def _part(importance: Float | None, block: slice | NDArray[np.intp]) -> Float | None:
    """The importance of some columns."""
    return importance if importance is None or importance.shape[1] == 1 else importance[:, block]


def _normalized(weight: Float) -> tuple[Float, Float]:
    """Columns divided by their largest magnitude, and that magnitude (1 for a column of zeros)."""
    largest = np.abs(weight).max(axis=0)
    divisor: Float = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    return np.divide(weight, divisor, dtype=np.float32), divisor


def _clips(bits: int) -> Float:
    """Starting scales relative to the one that clips nothing; narrow codes clip more."""
    if bits >= 7:
        return np.array([1, 0.95, 0.9], dtype=np.float32)
    return np.exp2(-np.arange(0, 13 if bits <= 3 else 9) / 8).astype(np.float32)


def _tables(weight: Float, bits: int, method: Method, importance: Float | None) -> NDArray[np.int8]:
    """The tables of the method, learnt from evenly spaced columns for `shift-lut`."""
    if method == "rtn":
        return uniform_levels(bits)[None]
    if method == "shift":
        return shift_tables(bits)
    picked, counts = _learning_columns(weight)
    normalized, divisor = _normalized(weight[:, picked])
    counts *= (divisor.astype(np.float64) / float(divisor.max())) ** 2
    return learn_lut_tables(Sample(normalized, _part(importance, picked), counts), bits, _clips(bits))


def _learning_columns(weight: Float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Columns from which tables are learnt, and how many columns each stands for.

    Evenly spaced ones, and the few with the strongest outliers, which can hold most of the error.
    """
    rows, columns = weight.shape
    count = max(16, _LEARN_ELEMENTS // rows)
    if columns <= count:
        return np.arange(columns), np.ones(columns)
    peak = np.abs(weight).max(axis=0) / np.maximum(np.sqrt(np.einsum("kn,kn->n", weight, weight)), 1e-30)
    extreme = np.argsort(-peak, kind="stable")[:_EXTREME_COLUMNS]
    even = np.setdiff1d(np.linspace(0, columns - 1, count - len(extreme)).astype(np.intp), extreme)
    stands_for = np.full(len(even), (columns - len(extreme)) / len(even))
    return np.concatenate([extreme, even]), np.concatenate([np.ones(len(extreme)), stands_for])


def _select(weight: Float, importance: Float | None, bits: int, method: Method, table: NDArray[np.int8]) -> Selection:
    """Column scales and table numbers of the whole matrix, a block of columns at a time."""
    lookup = LevelLookup.of(table)
    plain = LevelLookup.of(uniform_levels(bits)[None])
    rows, columns = weight.shape
    scales = np.empty(columns, dtype=np.float32)
    error = np.empty(columns, dtype=np.float32)
    selectors = np.empty((-(-rows // GROUP), columns), dtype=np.uint8)
    for block in column_blocks(rows, columns):
        normalized, divisor = _normalized(weight[:, block])
        weights = _part(importance, block)
        starts = _starts(len(divisor), bits, int(table.max()))
        if method == "shift" and len(table) > 1:
            # The rtn result, all groups at the largest shift, is one more start: shift is then never worse than rtn.
            rtn = search(normalized, weights, plain, _starts(len(divisor), bits, 2 ** (bits - 1) - 1), refinements=2)
            starts.append(rtn.scales / np.float32(2 ** (len(table) - 1)))
        found = search(normalized, weights, lookup, starts, refinements=3)
        scales[block] = np.minimum(found.scales.astype(np.float64) * divisor, _FLOAT_MAX / int(table.max()))
        error[block], selectors[:, block] = found.error, found.selectors
    scales[~weight.any(axis=0)] = 0
    return Selection(scales, selectors, error)


def _starts(columns: int, bits: int, top: int) -> list[Float]:
    """Candidate scales of normalized columns for tables whose largest level is `top`."""
    return [np.full(columns, clip / top, dtype=np.float32) for clip in _clips(bits)]


def _nearest_codes(weight: Float, table: NDArray[np.int8], chosen: Selection) -> NDArray[np.uint8]:
    """Codes uint8 [K, N] of the nearest levels."""
    lookup = LevelLookup.of(table)
    codes = np.empty(weight.shape, dtype=np.uint8)
    for block in column_blocks(*weight.shape):
        scales = chosen.scales[block]
        scaled: Float = np.divide(weight[:, block], np.where(scales > 0, scales, 1), dtype=np.float32)
        codes[:, block], _ = lookup.nearest(cells_of(scaled), chosen.selectors[:, block])
    return codes
