# SPDX-License-Identifier: Apache-2.0
"""Further widths of a matrix of 8-bit codes: what remains of the codes, and a column scale for each width.

Double Rounding (arXiv 2502.01199) with a shift for each group of 32 k, as in ShiftQuant: the file keeps the 8-bit codes
only, and the runtime rounds them when a session asks for fewer bits (runtime/ops/narrow.h). A width needs scales of its
own, for rounding and clipping shrink the codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefold.passes.quantization.codebook import uniform_levels
from edgefold.passes.quantization.codes import QuantizedMatrix
from edgefold.passes.quantization.selection import GROUP, Float, column_blocks


@dataclasses.dataclass(frozen=True)
class NarrowWidths:
    """The further widths of one matrix.

    Attributes:
        bits: the widths, each below 8.
        scales: float32 [len(bits), N], the column scales of each.
    """

    bits: tuple[int, ...] = ()
    scales: Float = dataclasses.field(default_factory=lambda: np.empty((0, 0), np.float32))

    def attributes(self) -> dict[str, Any]:
        """The attributes of a node that stores these widths; none where there are none."""
        return {"narrow_bits": list(self.bits), "narrow_scales": self.scales.ravel().tolist()} if self.bits else {}


ONE_WIDTH = NarrowWidths()


def narrow_widths(weight: Float, matrix: QuantizedMatrix, bits: Sequence[int]) -> NarrowWidths:
    """The least-squares scales of `weight` [K, N] for each width of its codes; none for codes of another kind."""
    if not bits or matrix.bits != 8 or not np.array_equal(matrix.table, uniform_levels(8)[None]):
        return ONE_WIDTH
    integers = matrix.integers()
    scales = np.empty((len(bits), weight.shape[1]), np.float32)
    for row, width in zip(scales, bits, strict=True):
        for block in column_blocks(*weight.shape):
            narrow = narrowed(integers[:, block], width).astype(np.float32)
            power = np.einsum("kn,kn->n", narrow, narrow)
            fitted = np.einsum("kn,kn->n", weight[:, block], narrow) / np.where(power > 0, power, 1)
            row[block] = np.where(power > 0, fitted, matrix.scales[block])
    return NarrowWidths(tuple(bits), scales)


def narrowed(integers: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.int8]:
    """The integers int8 [K, N] that remain of 8-bit ones at 2 to 7 bits, exactly as runtime/ops/narrow.h says."""
    rows, columns = integers.shape
    groups = -(-rows // GROUP)
    padded = np.zeros((groups * GROUP, columns), np.int32)
    padded[:rows] = integers
    grouped = padded.reshape(groups, GROUP, columns)
    best = np.zeros_like(grouped)
    least = np.full((groups, 1, columns), np.iinfo(np.int64).max)
    highest = 2 ** (bits - 1) - 1
    for shift in range(9 - bits):
        half = 1 << shift >> 1
        candidate = np.clip((grouped + half) >> shift, -highest, highest) << shift
        error = np.square(grouped - candidate).sum(axis=1, keepdims=True, dtype=np.int64)
        np.copyto(best, candidate, where=error < least)
        least = np.minimum(error, least)
    return best.reshape(-1, columns)[:rows].astype(np.int8)
