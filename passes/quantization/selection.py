# SPDX-License-Identifier: Apache-2.0
"""Choose, for given level tables, the column scales and the table of every group of a weight matrix.

A weight matrix W [K, N] is approximated by ``scale[n] * table[selector[k // 32, n], code]``. For a given column scale
the best table of a group is the one with the least squared error, and for given tables the best scale is a closed-form
least squares; the search starts from a grid of clipping ratios and alternates the two, never accepting a worse column.

Table entries are integers, so every rounding threshold is a multiple of one half: a lookup over half-integer cells
(`LevelLookup`) finds the nearest code exactly, in one gather, for any table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP = 32
"""Rows (consecutive k) that share one table number in a column; fixed by the packed layout."""

_CELLS = 512  # half-integer cells over [-128, 128)
_BLOCK_ELEMENTS = 1 << 16  # elements of one column block: its temporaries stay in the second-level cache

Float = NDArray[np.float32]
Codes = NDArray[np.uint8]
Cells = NDArray[np.intp]


@dataclass(frozen=True)
class LevelLookup:
    """Nearest code and nearest level of every table, for every half-integer cell.

    Attributes:
        codes: uint8 [T, 512], nearest code of the cell.
        values: float32 [T, 512], the level of that code.
        below, above: intp [T, 512], the cells of the levels next to that one; its own at an end of the table.
    """

    codes: Codes
    values: Float
    below: Cells
    above: Cells

    @classmethod
    def of(cls, table: NDArray[np.int8]) -> LevelLookup:
        """Builds the lookup of a table int8 [T, L]; of equal levels the first code is taken."""
        centers = np.arange(_CELLS, dtype=np.float32) / 2 - 127.75
        distance = np.abs(table.astype(np.float32)[:, None, :] - centers[None, :, None])
        codes = distance.argmin(axis=2)
        values = np.take_along_axis(table.astype(np.float32), codes, axis=1)
        below, above = np.empty(codes.shape, np.intp), np.empty(codes.shape, np.intp)
        for number, row in enumerate(table):
            levels = np.unique(row).astype(np.float32)
            rank = np.searchsorted(levels, values[number])
            below[number] = cells_of(levels[np.maximum(rank - 1, 0)])
            above[number] = cells_of(levels[np.minimum(rank + 1, len(levels) - 1)])
        return cls(codes.astype(np.uint8), values, below, above)

    def nearest(self, cells: Cells, selectors: NDArray[np.uint8]) -> tuple[Codes, Float]:
        """Codes and levels of `cells` [K, N] with one table number a row group, `selectors` [G, N]."""
        index = _index(cells, selectors)
        return self.codes.ravel()[index], self.values.ravel()[index]

    def within_one_level(self, cells: Cells, home: Cells, selectors: NDArray[np.uint8]) -> Cells:
        """The cells [K, N], moved so that their nearest level is that of `home` [K, N] or one beside it."""
        index = _index(home, selectors)
        return np.clip(cells, self.below.ravel()[index], self.above.ravel()[index])


def _index(cells: Cells, selectors: NDArray[np.uint8]) -> Cells:
    """Positions [K, N] in the flattened rows of a lookup."""
    index: Cells = np.repeat(selectors.astype(np.intp) * _CELLS, GROUP, axis=0)[: len(cells)]
    index += cells
    return index


def cells_of(scaled: Float) -> Cells:
    """The half-integer cell of every scaled weight (weight / scale); beyond +-128 the outermost cell."""
    doubled = scaled * np.float32(2)
    doubled += np.float32(_CELLS // 2)
    np.clip(doubled, 0, _CELLS - 1, out=doubled)
    cells: Cells = doubled.astype(np.intp)
    return cells


def column_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of columns whose blocks of `rows` rows stay small enough for the cache."""
    width = max(16, _BLOCK_ELEMENTS // max(1, rows))
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def group_sums(values: Float) -> Float:
    """Sums [G, N] of `values` [K, N] over groups of 32 rows; the last group may be short."""
    rows = len(values)
    if rows % GROUP == 0:
        whole: Float = values.reshape(rows // GROUP, GROUP, -1).sum(axis=1, dtype=np.float32)
        return whole
    sums: Float = np.add.reduceat(values, np.arange(0, rows, GROUP), axis=0)
    return sums


@dataclass(frozen=True)
class Selection:
    """Scales float32 [N], table numbers uint8 [G, N] and weighted squared error float32 [N] of a block of columns."""

    scales: Float
    selectors: NDArray[np.uint8]
    error: Float

    def better_of(self, other: Selection) -> Selection:
        """Column by column the one with the lower error; this one where they tie."""
        take = other.error < self.error
        return Selection(
            np.where(take, other.scales, self.scales),
            np.where(take, other.selectors, self.selectors),
            np.where(take, other.error, self.error),
        )


def choose_tables(weight: Float, importance: Float | None, lookup: LevelLookup, scales: Float) -> Selection:
    """Best table of every group for given column scales.

    Args:
        weight: float32 [K, N].
        importance: float32, broadcastable to [K, N], weight of each squared error; None for ones.
        lookup: of the tables to choose from.
        scales: float32 [N], positive.
    """
    scaled = weight / scales
    cells = cells_of(scaled)
    best = np.empty(0, dtype=np.float32)
    selectors = np.empty(0, dtype=np.uint8)
    for number, values in enumerate(lookup.values):
        residual = values[cells]
        residual -= scaled
        residual *= residual
        if importance is not None:
            residual *= importance
        error = group_sums(residual)
        if number == 0:
            best, selectors = error, np.zeros(error.shape, dtype=np.uint8)
        else:
            closer = error < best
            selectors[closer] = number
            np.minimum(best, error, out=best)
    return Selection(scales, selectors, best.sum(axis=0) * scales * scales)


def refit_scales(weight: Float, importance: Float | None, lookup: LevelLookup, chosen: Selection) -> Float:
    """Least-squares column scales for the codes that `chosen` implies; the old scale where it has no solution."""
    _, levels = lookup.nearest(cells_of(weight / chosen.scales), chosen.selectors)
    weighted = levels if importance is None else levels * importance
    numerator = np.einsum("kn,kn->n", weighted, weight)
    denominator = np.einsum("kn,kn->n", weighted, levels)
    usable = (denominator > 0) & (numerator > 0)
    return np.where(usable, numerator / np.where(usable, denominator, 1), chosen.scales).astype(np.float32)


def search(
    weight: Float, importance: Float | None, lookup: LevelLookup, starts: list[Float], refinements: int
) -> Selection:
    """Best selection over several starting scales, then refined by alternating least squares.

    Args:
        weight: float32 [K, N].
        importance: as in `choose_tables`.
        lookup: of the tables to choose from.
        starts: candidate column scales, each float32 [N], positive.
        refinements: rounds of refit and choice; a column never gets worse.
    """
    best = choose_tables(weight, importance, lookup, starts[0])
    for scales in starts[1:]:
        best = best.better_of(choose_tables(weight, importance, lookup, scales))
    for _ in range(refinements):
        best = best.better_of(choose_tables(weight, importance, lookup, refit_scales(weight, importance, lookup, best)))
    return best
