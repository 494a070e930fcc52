# SPDX-License-Identifier: Apache-2.0
"""The level tables of the weight methods: `rtn`, `shift` (ShiftQuant) and the learnt tables of `shift-lut`.

A table row holds the levels of one selector, ascending, as int8 in [-127, 127]; a code is an index into the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._selection import (
    Float,
    LevelLookup,
    Selection,
    choose_tables,
    refit_scales,
    search,
)

Table = NDArray[np.int8]

LEVEL_MAX = 127

LUT_TABLES = {2: 8, 3: 8, 4: 8, 5: 4, 6: 2}
"""Number of `shift-lut` tables by code width: the 128 bytes of two 512-bit registers (less for 2 and 3 bits)."""

_LUT_STEP = {2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25}  # octaves between neighbouring tables
_LEARNING_ROUNDS = 5
_LLOYD_STEPS = 8
_BINS, _BIN_RANGE = 3072, 1.5  # histogram of normalized magnitudes; above 1 are the clipped ones


def uniform_levels(bits: int) -> Table:
    """Signed integer levels -qmax..qmax, qmax = 2**(bits-1) - 1, as int8 [2**bits]; the spare code repeats -qmax."""
    qmax = 2 ** (bits - 1) - 1
    return np.maximum(np.arange(-qmax - 1, qmax + 1), -qmax).astype(np.int8)


def shift_tables(bits: int) -> Table:
    """Uniform levels shifted by 0..8-bits, int8 [9 - bits, 2**bits]: group scales that differ by powers of two."""
    levels = uniform_levels(bits).astype(np.int16)
    return np.stack([levels << shift for shift in range(9 - bits)]).astype(np.int8)


def lut_tables(magnitudes: NDArray[np.float64], bits: int) -> Table:
    """Tables of one symmetric zero-free codebook at scales that fall by a fraction of an octave.

    Args:
        magnitudes: float64 [2**(bits-1)], ascending, in (0, 1], the largest 1.
        bits: code width, 2 to 6.

    Returns:
        int8 [LUT_TABLES[bits], 2**bits]; row t is the codebook times 127 * 2**(-t * step).
    """
    scales = LEVEL_MAX * 2.0 ** (-_LUT_STEP[bits] * np.arange(LUT_TABLES[bits]))
    positive = np.maximum(np.rint(scales[:, None] * magnitudes), 1)
    return np.concatenate([-positive[:, ::-1], positive], axis=1).astype(np.int8)


@dataclass(frozen=True)
class Sample:
    """Columns from which a codebook is learnt.

    Attributes:
        weight: float32 [K, n], each column divided by its largest magnitude.
        importance: float32 broadcastable to [K, n], or None for ones.
        column_error: float64 [n], what a squared error of the normalized column counts in the matrix.
    """

    weight: Float
    importance: Float | None
    column_error: NDArray[np.float64]


def learn_lut_tables(sample: Sample, bits: int, clips: NDArray[np.float32]) -> Table:
    """Learns the `shift-lut` codebook by alternating scales and tables, then levels (Lloyd 1982, on a histogram).

    Args:
        sample: normalized columns.
        bits: code width, 2 to 6.
        clips: float32 [C], starting column scales relative to the column's largest magnitude.

    Returns:
        The tables (see `lut_tables`) with the least error among all rounds.
    """
    count = 2 ** (bits - 1)
    table = lut_tables((np.arange(count) + 0.5) / (count - 0.5), bits)
    best_table, best_error, chosen = table, np.inf, None
    for _ in range(_LEARNING_ROUNDS):
        lookup = LevelLookup.of(table)
        chosen = _choose(sample, lookup, clips, chosen)
        error = float((chosen.error * sample.column_error).sum())
        if error < best_error:
            best_table, best_error = table, error
        magnitudes = np.abs(table[0, count:].astype(np.float64)) / LEVEL_MAX
        table = lut_tables(_lloyd(*_histogram(sample, chosen, bits), magnitudes), bits)
    return best_table


def _choose(sample: Sample, lookup: LevelLookup, clips: Float, previous: Selection | None) -> Selection:
    """Scales and tables of the sample: a full search first, later one alternation from the previous scales."""
    if previous is None:
        starts = [np.full(sample.weight.shape[1], clip / LEVEL_MAX, dtype=np.float32) for clip in clips]
        return search(sample.weight, sample.importance, lookup, starts, refinements=1)
    chosen = choose_tables(sample.weight, sample.importance, lookup, previous.scales)
    scales = refit_scales(sample.weight, sample.importance, lookup, chosen)
    return chosen.better_of(choose_tables(sample.weight, sample.importance, lookup, scales))


def _histogram(sample: Sample, chosen: Selection, bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bin centres and weighted counts of the magnitudes relative to the top level of their group's table."""
    rows = len(sample.weight)
    unit = chosen.scales * LEVEL_MAX * np.exp2(-_LUT_STEP[bits] * chosen.selectors)  # [G, n]
    unit = np.repeat(unit, 32, axis=0)[:rows]
    bins = np.minimum(np.abs(sample.weight) / unit * (_BINS / _BIN_RANGE), _BINS - 1).astype(np.intp)
    weights = unit.astype(np.float64) ** 2 * sample.column_error
    if sample.importance is not None:
        weights *= sample.importance
    counts = np.bincount(bins.ravel(), weights=weights.ravel(), minlength=_BINS)
    return (np.arange(_BINS) + 0.5) * (_BIN_RANGE / _BINS), counts


def _lloyd(
    centres: NDArray[np.float64], counts: NDArray[np.float64], magnitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lloyd's iteration on a weighted histogram; an empty cell keeps its level; the result is scaled to a top of 1."""
    moments = centres * counts
    for _ in range(_LLOYD_STEPS):
        cell = np.searchsorted((magnitudes[1:] + magnitudes[:-1]) / 2, centres)
        mass = np.bincount(cell, weights=counts, minlength=len(magnitudes))
        first = np.bincount(cell, weights=moments, minlength=len(magnitudes))
        magnitudes = np.where(mass > 0, first / np.where(mass > 0, mass, 1), magnitudes)
    return np.maximum.accumulate(magnitudes) / magnitudes.max()
