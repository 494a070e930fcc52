# SPDX-License-Identifier: Apache-2.0
"""How important each unit of a group is: scores of its slices on parameters, aggregated, and normalized by group.

Structurally Prune Anything (2403.18955) lifts any criterion of single weights to groups in this way. What a criterion
says of one slice is in the files of the criteria: `weight_scores`, `gradient_scores`, `second_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import Group, IntArray, Slice

Vector = NDArray[np.float64]
SliceScore = Callable[[Slice, int], Vector | None]
"""From a slice and the size of its group to float64 [size], at least 0; None where the slice does not tell."""

Aggregate = Literal["sum", "mean", "max", "median", "prod", "first"]
Normalize = Literal["none", "mean", "sum", "max", "median", "gaussian"]

_TINY = 1e-30


def group_scores(
    groups: Sequence[Group], slice_score: SliceScore, aggregate: Aggregate = "sum", normalize: Normalize = "none"
) -> dict[str, Vector]:
    """Scores of every unit of the groups that have at least one telling slice.

    Args:
        groups: to be scored.
        slice_score: the criterion.
        aggregate: over the slices of a unit.
        normalize: by which statistic of its group's scores a score is divided, so that groups of many weights compare
            with groups of few; `gaussian` subtracts the mean and divides by the standard deviation.

    Returns:
        Group name -> float64 [size].
    """
    scores = {}
    for group in groups:
        told = [score for one in group.slices if (score := slice_score(one, group.size)) is not None]
        if told:
            scores[group.name] = combined(told, aggregate, normalize)
    return scores


def combined(told: Sequence[Vector], aggregate: Aggregate, normalize: Normalize) -> Vector:
    """The score of each unit of one group from those of its slices; see `group_scores`."""
    return normalized(_AGGREGATES[aggregate](np.stack(told)), normalize)


def normalized(scores: Vector, normalize: Normalize) -> Vector:
    """The scores of one group on a scale that other groups share; see `group_scores`."""
    if normalize == "none":
        return scores
    if normalize == "gaussian":
        centred: Vector = (scores - scores.mean()) / (scores.std() + _TINY)
        return centred
    scaled: Vector = scores / (_STATISTICS[normalize](scores) + _TINY)
    return scaled


def gather_units(values: Vector, units: IntArray, size: int) -> Vector:
    """Sums values of the indices of an axis by the unit that each belongs to.

    Args:
        values: float64 [length of the axis].
        units: int [length of the axis]; -1 for none.
        size: number of units.
    """
    owned = units >= 0
    return np.bincount(units[owned], weights=values[owned], minlength=size).astype(np.float64)


def along(elements: NDArray[np.floating], axis: int) -> Vector:
    """Sums over all axes of an array but one, float64."""
    others = tuple(other for other in range(elements.ndim) if other != axis)
    return np.asarray(elements.sum(axis=others, dtype=np.float64))


_AGGREGATES: dict[Aggregate, Callable[[NDArray[np.float64]], Vector]] = {
    "sum": lambda told: told.sum(axis=0),
    "mean": lambda told: told.mean(axis=0),
    "max": lambda told: told.max(axis=0),
    "median": lambda told: np.median(told, axis=0),
    "prod": lambda told: told.prod(axis=0),
    "first": lambda told: told[0],
}

_STATISTICS: dict[Normalize, Callable[[Vector], float]] = {
    "mean": lambda scores: float(scores.mean()),
    "sum": lambda scores: float(scores.sum()),
    "max": lambda scores: float(scores.max()),
    "median": lambda scores: float(np.median(scores)),
}
