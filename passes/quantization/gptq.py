# SPDX-License-Identifier: Apache-2.0
"""Sequential rounding with error feedback (GPTQ, arXiv 2210.17323) for any level tables.

Rounding row k of W leaves an error; the rows that follow take over as much of it as the correlation of the inputs
allows, so that X W changes least. With H = X'X and U the upper Cholesky factor of its inverse, the error of row k
divided by U[k, k], times row k of U, is what the later rows lose. Rows are handled in groups of 32: the tables of a
group are chosen when it is reached, for the weights as they then are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._least_squares import triangular_inverse
from edgefold.passes.quantization.selection import GROUP, Codes, Float, LevelLookup, cells_of, choose_tables

DAMPING = 0.01  # of the mean diagonal


def inverse_factor(moment: NDArray[np.float64], damping: float = DAMPING) -> NDArray[np.float64]:
    """The upper factor U with U'U = (H + damping * mean(diag H) * I)^-1.

    Args:
        moment: float64 [K, K], symmetric and positive semidefinite; inputs that never fire (zero rows) are allowed.
        damping: fraction of the mean diagonal; multiplied by ten while the factorization fails.
    """
    size = len(moment)
    mean = float(np.trace(moment)) / size
    if mean <= 0:
        return np.eye(size)
    while True:
        damped = moment / mean + damping * np.eye(size)
        try:
            # With J the exchange matrix and L L' = J H J: H^-1 = (J L^-T J)(J L^-1 J), whose second factor is upper.
            lower = np.asarray(np.linalg.cholesky(damped[::-1, ::-1]), dtype=np.float64)
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        return triangular_inverse(lower)[::-1, ::-1]


def importance_of(factor: NDArray[np.float64]) -> Float:
    """What a squared error of each row costs after the later rows have made up for it: 1 / U[k, k]^2, mean 1."""
    cost = 1 / np.square(np.diagonal(factor))
    importance: Float = (cost / cost.mean()).astype(np.float32)
    return importance


def round_columns(
    weight: Float,
    moments: NDArray[np.float64],
    table: NDArray[np.int8],
    scales: Float,
    *,
    original: Float | None = None,
) -> tuple[Codes, Codes, Float]:
    """Rounds a matrix whose columns fall into equal runs with inputs of their own, then refits the column scales.

    Args:
        weight: float32 [K, N].
        moments: float64 [P, K, K], X'X of each run of N / P columns.
        table: int8 [T, L].
        scales: float32 [N]; 0 for a column of zeros.
        original: float32 [K, N], weights from which no code may be further away than one; None for no such limit.

    Returns:
        codes uint8 [K, N], selectors uint8 [ceil(K / 32), N] and scales float32 [N].
    """
    rows, columns = weight.shape
    lookup = LevelLookup.of(table)
    width = columns // len(moments)
    codes = np.empty((rows, columns), dtype=np.uint8)
    selectors = np.empty((-(-rows // GROUP), columns), dtype=np.uint8)
    refitted = np.zeros(columns, dtype=np.float32)
    for run, moment in enumerate(moments):
        part = slice(run * width, (run + 1) * width)
        usable = np.where(scales[part] > 0, scales[part], np.float32(1))
        limit = None if original is None else original[:, part]
        codes[:, part], selectors[:, part] = round_with_feedback(
            weight[:, part], inverse_factor(moment), lookup, usable, limit
        )
        base = np.repeat(selectors[:, part].astype(np.intp) * table.shape[1], GROUP, axis=0)[:rows]
        levels = table.ravel()[base + codes[:, part]].astype(np.float64)
        refitted[part] = _refit(weight[:, part], moment, levels, usable)
    refitted[scales == 0] = 0
    return codes, selectors, refitted


def _refit(weight: Float, moment: NDArray[np.float64], levels: NDArray[np.float64], scales: Float) -> Float:
    """Column scales that minimize the output error |X (W - s * levels)|^2; the old ones where X tells nothing."""
    seen = moment @ levels
    numerator = np.einsum("kn,kn->n", seen, weight)
    denominator = np.einsum("kn,kn->n", seen, levels)
    usable = (numerator > 0) & (denominator > 0)
    ratio = numerator / np.where(usable, denominator, 1)
    # A ratio far from one means moments too poor to judge by, such as one calibration sample.
    usable &= (ratio > 0.5 * scales) & (ratio < 2 * scales)
    refitted: Float = np.where(usable, ratio, scales).astype(np.float32)
    return refitted


def round_with_feedback(
    weight: Float, factor: NDArray[np.float64], lookup: LevelLookup, scales: Float, original: Float | None = None
) -> tuple[Codes, Codes]:
    """Rounds a weight matrix for fixed column scales.

    Args:
        weight: float32 [K, N].
        factor: float64 [K, K] of `inverse_factor`.
        lookup: of the tables.
        scales: float32 [N], positive.
        original: as in `round_columns`.

    Returns:
        codes uint8 [K, N] and selectors uint8 [ceil(K / 32), N].
    """
    rows, columns = weight.shape
    home = None if original is None else cells_of(original / scales)
    remaining = weight / scales  # in units of the column scale
    upper = factor.astype(np.float32)
    cost = importance_of(factor)[:, None]
    ones = np.ones(columns, dtype=np.float32)
    codes = np.empty((rows, columns), dtype=np.uint8)
    selectors = np.empty((-(-rows // GROUP), columns), dtype=np.uint8)
    for number, start in enumerate(range(0, rows, GROUP)):
        end = min(start + GROUP, rows)
        group = remaining[start:end]
        selectors[number] = choose_tables(group, cost[start:end], lookup, ones).selectors[0]
        errors = np.empty_like(group)
        for i, k in enumerate(range(start, end)):
            cells = cells_of(group[i : i + 1])
            if home is not None:
                cells = lookup.within_one_level(cells, home[k : k + 1], selectors[number : number + 1])
            codes[k : k + 1], level = lookup.nearest(cells, selectors[number : number + 1])
            errors[i] = (group[i] - level[0]) / upper[k, k]
            group[i + 1 :] -= upper[k, k + 1 : end, None] * errors[i]
        remaining[end:] -= upper[start:end, end:].T @ errors
    return codes, selectors
