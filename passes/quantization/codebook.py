# SPDX-License-Identifier: Apache-2.0
"""The level tables of the weight methods: `rtn`, `shift` (ShiftQuant) and the learnt tables of `shift-lut`.

A table row holds the levels of one selector, ascending, as int8 in [-127, 127]; a code is an index into the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.quantization.selection import GROUP, Float, LevelLookup, Selection, search

Table = NDArray[np.int8]
Counts = NDArray[np.float64]

LEVEL_MAX = 127

LUT_TABLES = {2: 8, 3: 8, 4: 8, 5: 4, 6: 2}
"""Number of `shift-lut` tables by code width: the 128 bytes of two 512-bit registers (less for 2 and 3 bits)."""

_OCTAVES: dict[int, tuple[Counts, ...]] = {
    8: (np.arange(8) / 4, np.arange(8) / 3, np.array([0, 1 / 4, 1 / 2, 3 / 4, 1, 5 / 4, 2, 3])),
    4: (np.arange(4) / 3, np.array([0, 3 / 8, 3 / 4, 2])),
    2: (np.arange(2) / 2, np.arange(2) / (2 / 3)),
}
"""Octaves below the first table at which learning starts, by number of tables; the later ones suit outliers."""

_ROUNDS = 3
_LLOYD_STEPS = 4
_BINS, _BIN_TOP = 2048, 192.0  # histogram of magnitudes in units of the column scale; above 127 are the clipped ones


def uniform_levels(bits: int) -> Table:
    """Signed integer levels -qmax..qmax, qmax = 2**(bits-1) - 1, as int8 [2**bits]; the spare code repeats -qmax."""
    qmax = 2 ** (bits - 1) - 1
    levels: Table = np.maximum(np.arange(-qmax - 1, qmax + 1), -qmax).astype(np.int8)
    return levels


def shift_tables(bits: int) -> Table:
    """Uniform levels shifted by 0..8-bits, int8 [9 - bits, 2**bits]: group scales that differ by powers of two."""
    levels = uniform_levels(bits).astype(np.int16)
    tables: Table = np.stack([levels << shift for shift in range(9 - bits)]).astype(np.int8)
    return tables


def graded_tables(bits: int, octaves: Counts) -> Table:
    """Symmetric zero-free levels, somewhat denser near zero, at scales of 2**-octaves: int8 [len(octaves), 2**bits]."""
    count = 2 ** (bits - 1)
    levels = ((np.arange(count) + 0.5) / (count - 0.5)) ** 1.3
    return _symmetric(LEVEL_MAX * 2.0 ** -octaves[:, None] * levels)


def _symmetric(magnitudes: NDArray[np.float64]) -> Table:
    """Tables int8 [T, 2m] of the rounded magnitudes [T, m] and their negatives, ascending and without a zero."""
    positive = np.clip(np.rint(magnitudes), 1, LEVEL_MAX)
    table: Table = np.concatenate([-positive[:, ::-1], positive], axis=1).astype(np.int8)
    return table


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


def learn_lut_tables(sample: Sample, bits: int, clips: Float) -> Table:
    """Learns the tables of `shift-lut`: alternates scales and table numbers with the levels of every table.

    Each table is a scalar quantizer of the groups that chose it, so its levels follow Lloyd's iteration (Lloyd 1982),
    run on a histogram. All of `_OCTAVES` are tried as starts.

    Args:
        sample: normalized columns.
        bits: code width, 2 to 6.
        clips: float32 [C], starting column scales relative to the column's largest magnitude.

    Returns:
        The tables with the least error among all starts and rounds, int8 [LUT_TABLES[bits], 2**bits].
    """
    best_table, best_error = uniform_levels(bits)[None], np.inf
    for octaves in _OCTAVES[LUT_TABLES[bits]]:
        table, chosen = graded_tables(bits, octaves), None
        for _ in range(_ROUNDS):
            chosen = _choose(sample, LevelLookup.of(table), clips, chosen)
            error = float((chosen.error * sample.column_error).sum())
            if error < best_error:
                best_table, best_error = table, error
            table = _refit_levels(table, *_histograms(sample, chosen, len(table)))
    return best_table


def _choose(sample: Sample, lookup: LevelLookup, clips: Float, previous: Selection | None) -> Selection:
    """Scales and tables of the sample: a full search first, later one alternation from the previous scales."""
    if previous is None:
        starts = [np.full(sample.weight.shape[1], clip / LEVEL_MAX, dtype=np.float32) for clip in clips]
        return search(sample.weight, sample.importance, lookup, starts, refinements=1)
    return search(sample.weight, sample.importance, lookup, [previous.scales], refinements=1)


def _histograms(sample: Sample, chosen: Selection, tables: int) -> tuple[Counts, Counts]:
    """Bin centres [B] and weighted counts [T, B] of the scaled magnitudes of the groups that chose each table."""
    bins = np.minimum(np.abs(sample.weight) / chosen.scales * (_BINS / _BIN_TOP), _BINS - 1).astype(np.intp)
    bins += np.repeat(chosen.selectors.astype(np.intp) * _BINS, GROUP, axis=0)[: len(bins)]
    weights = np.broadcast_to(chosen.scales.astype(np.float64) ** 2 * sample.column_error, bins.shape)
    if sample.importance is not None:
        weights = weights * sample.importance
    counts = np.bincount(bins.ravel(), weights=weights.ravel(), minlength=tables * _BINS)
    return np.linspace(0, _BIN_TOP, 2 * _BINS + 1)[1::2], counts.astype(np.float64).reshape(tables, _BINS)


def _refit_levels(table: Table, centres: Counts, counts: Counts) -> Table:
    """One table for each histogram, by Lloyd's iteration from the levels of `table`; an empty cell keeps its level."""
    half = table.shape[1] // 2
    levels = table[:, half:].astype(np.float64)
    for row, weights in zip(levels, counts, strict=True):
        for _ in range(_LLOYD_STEPS):
            cell = np.searchsorted((row[1:] + row[:-1]) / 2, centres)
            mass = np.bincount(cell, weights=weights, minlength=half)
            first = np.bincount(cell, weights=weights * centres, minlength=half)
            row[mass > 0] = first[mass > 0] / mass[mass > 0]
    return _symmetric(levels)
