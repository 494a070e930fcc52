# SPDX-License-Identifier: Apache-2.0
"""The linear assignment problem: which column goes to which row so that the profits add up to the most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_assignment(profit: NDArray[np.floating]) -> NDArray[np.intp]:
    """The permutation p with the greatest sum of profit[i, p[i]].

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987, section 2): each row is added by the cheapest
    path of reassignments, found as by Dijkstra on costs that dual variables keep non-negative. O(n^3) in the worst
    case, with steps over whole rows.

    Args:
        profit: [n, n], finite.

    Returns:
        intp [n].

    Raises:
        ValueError: a matrix that is not square or not finite.
    """
    if profit.ndim != 2 or profit.shape[0] != profit.shape[1] or not np.isfinite(profit).all():
        raise ValueError(f"profits are a finite square matrix, not this one of shape {profit.shape}")
    cost = -profit.astype(np.float64)
    size = len(cost)
    row_dual, column_dual = np.zeros(size), np.zeros(size)
    row_of = np.full(size, -1, dtype=np.intp)
    for row in range(size):
        _augment(cost, row, row_dual, column_dual, row_of)
    return np.argsort(row_of)


def _augment(
    cost: NDArray[np.float64],
    start: int,
    row_dual: NDArray[np.float64],
    column_dual: NDArray[np.float64],
    row_of: NDArray[np.intp],
) -> None:
    """Gives the row `start` a column, moving other rows along the shortest path to a free one."""
    size = len(cost)
    distance = np.full(size, np.inf)
    before = np.full(size, -1, dtype=np.intp)  # the row from which a column is reached
    open_columns = np.ones(size, dtype=bool)
    row, reached, visited = start, 0.0, [start]
    while True:
        through = reached + cost[row] - row_dual[row] - column_dual
        nearer = open_columns & (through < distance)
        distance[nearer], before[nearer] = through[nearer], row
        column = int(np.argmin(np.where(open_columns, distance, np.inf)))
        reached = float(distance[column])
        open_columns[column] = False
        if row_of[column] < 0:
            break
        row = int(row_of[column])
        visited.append(row)
    closed = ~open_columns
    held = {int(row_of[one]): int(one) for one in np.flatnonzero(closed) if row_of[one] >= 0}
    for one in visited:
        row_dual[one] += reached - (0.0 if one == start else float(distance[held[one]]))
    column_dual[closed] -= reached - distance[closed]
    while True:
        row = int(before[column])
        row_of[column] = row
        if row == start:
            return
        column = held[row]
