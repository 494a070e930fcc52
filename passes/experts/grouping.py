# SPDX-License-Identifier: Apache-2.0
"""Which experts of a layer become one: groups of experts that are alike, by points, similarities or chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Groups = tuple[tuple[int, ...], ...]
"""The members of each group, ascending; groups in the order of their first members."""

_STARTS = 10  # of K-means; the best one is taken
_STEPS = 100


def points_of(gram: Matrix) -> Matrix:
    """Points whose inner products are the Gram matrix, float64 [E, E]: distances without the vectors themselves."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    points: Matrix = vectors * np.sqrt(np.maximum(values, 0))
    return points


def by_k_means(points: Matrix, count: int, seed: int) -> Groups:
    """Groups of least squared distance to their means, found by Lloyd's steps from K-means++ starts.

    On the points of expert outputs of length one it is the clustering of Sub-MoE (arXiv 2506.23266, section 3.2).

    Args:
        points: float64 [E, D].
        count: of groups, 1 to E; none is empty.
        seed: of the starts.
    """
    random = np.random.default_rng(seed)
    found = [_lloyd(points, _spread(points, count, random)) for _ in range(_STARTS)]
    _, labels = min(found, key=lambda one: one[0])
    return _groups(labels)


def by_linkage(points: Matrix, count: int) -> Groups:
    """Agglomerative groups: always the two with the least mean distance between their members become one.

    On mean expert outputs it is HC-SMoE (arXiv 2410.08589, section 3.2) with average linkage.
    """
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    groups = [[expert] for expert in range(len(points))]
    while len(groups) > count:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        first, second = min(pairs, key=lambda pair: distances[np.ix_(groups[pair[0]], groups[pair[1]])].mean())
        groups[first] += groups.pop(second)
    return _ordered(groups)


def by_dominance(similarity: Matrix, usage: NDArray[np.float64], count: int) -> Groups:
    """The most used experts each gather those most similar to them (M-SMoE, arXiv 2310.01334, section 3.2).

    Args:
        similarity: float64 [E, E], larger is more alike.
        usage: float64 [E], how often each expert is chosen.
        count: of groups.
    """
    dominant = np.argsort(-usage, kind="stable")[:count]
    labels = np.argmax(similarity[:, dominant], axis=1)
    labels[dominant] = np.arange(count)
    return _groups(labels)


def at_random(experts: int, count: int, seed: int) -> Groups:
    """Groups of nearly equal size by chance."""
    order = np.random.default_rng(seed).permutation(experts)
    return _ordered(part.tolist() for part in np.array_split(order, count))


def spread_within(points: Matrix, groups: Groups) -> float:
    """Sum of squared distances of all points to the means of their groups."""
    return float(sum(np.square(points[list(one)] - points[list(one)].mean(axis=0)).sum() for one in groups))


def _groups(labels: NDArray[np.intp]) -> Groups:
    return _ordered(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))


def _ordered(groups: Iterable[Sequence[int]]) -> Groups:
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _spread(points: Matrix, count: int, random: np.random.Generator) -> Matrix:
    """Starting means of K-means++: each next one by chance, in proportion to its squared distance from the others."""
    chosen = [int(random.integers(len(points)))]
    while len(chosen) < count:
        distance = np.square(points[:, None] - points[chosen][None]).sum(axis=2).min(axis=1)
        distance[chosen] = 0
        left = np.setdiff1d(np.arange(len(points)), chosen)
        odds = distance[left] / distance[left].sum() if distance[left].sum() > 0 else None
        chosen.append(int(random.choice(left, p=odds)))
    return points[chosen]


def _lloyd(points: Matrix, means: Matrix) -> tuple[float, NDArray[np.intp]]:
    """K-means from given means: squared distance and the label of each point; no label is without a point."""
    labels = np.full(len(points), -1, dtype=np.intp)
    for _ in range(_STEPS):
        squares = np.square(points[:, None] - means[None]).sum(axis=2)
        previous, labels = labels, np.argmin(squares, axis=1)
        for empty in np.setdiff1d(np.arange(len(means)), labels):
            alone = np.bincount(labels, minlength=len(means))[labels] == 1
            labels[np.argmax(np.where(alone, -1.0, squares[np.arange(len(points)), labels]))] = empty
        if np.array_equal(labels, previous):
            break
        means = np.stack([points[labels == label].mean(axis=0) for label in range(len(means))])
    return spread_within(points, _groups(labels)), labels
