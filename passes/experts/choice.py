# SPDX-License-Identifier: Apache-2.0
"""Which experts become one, and which go: the criteria of the literature on the rows of one layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from edgefold.errors import UsageError
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.feed_forward import FeedForward, layer_output
from edgefold.passes.experts.grouping import Groups, at_random, by_dominance, by_k_means, by_linkage, points_of
from edgefold.passes.experts.layers import View
from edgefold.passes.experts.router import find_router
from edgefold.passes.experts.statistics import Matrix, logit_similarity, statistics

Grouping = Literal["outputs", "logits", "hierarchical", "weights", "random"]
Criterion = Literal["reap", "frequency", "naee", "random"]

MAX_SUBSETS = 1000
"""Sets of surviving experts that `naee` tries, each with one run of the router over all rows."""
_NAEE_ROWS = 4096


def grouped(grouping: Grouping, view: View, seed: int) -> Callable[[int], Groups]:
    """A function from a number of groups to the groups; the statistics behind it are taken once.

    Args:
        grouping: `outputs`: K-means on directions of outputs (Sub-MoE); `hierarchical`: linkage of mean outputs
            (HC-SMoE); `logits`, `weights`: the most used experts gather those with similar router logits (M-SMoE) or
            similar first matrices (MergeMoE); `random`.
        view: of the layer.
        seed: of chance.
    """
    if grouping == "random":
        return lambda count: at_random(len(view.experts), count, seed)
    seen = statistics(view.experts, view.before.x, view.before.gates)
    if grouping == "outputs":
        points = points_of(seen.similarity)
        return lambda count: by_k_means(points, count, seed)
    if grouping == "hierarchical":
        return lambda count: by_linkage(seen.mean_outputs, count)
    similarity = logit_similarity(_logits(view)) if grouping == "logits" else _nearness(view.experts)
    return lambda count: by_dominance(similarity, seen.usage, count)


def survivors(
    criterion: Criterion, view: View, gates_without: Callable[[tuple[int, ...]], Array], count: int, seed: int
) -> tuple[int, ...]:
    """The experts that stay, ascending.

    Args:
        criterion: `reap`: gate times length of the output (arXiv 2510.13999); `frequency` of being chosen; `naee`: of
            all sets the one with which the layer's output changes least (arXiv 2402.14800); `random`.
        view: of the layer.
        gates_without: from those that stay to the gates that the router then gives on the rows of the layer, [rows, E].
        count: of those that stay.
        seed: of chance.

    Raises:
        UsageError: `naee` would have to try too many sets.
    """
    if criterion == "naee":
        return _least_changed(view, gates_without, count)
    if criterion == "random":
        scores = np.random.default_rng(seed).random(len(view.experts))
    else:
        seen = statistics(view.experts, view.before.x, view.before.gates)
        scores = seen.usage if criterion == "frequency" else seen.saliency
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))


def _least_changed(view: View, gates_without: Callable[[tuple[int, ...]], Array], count: int) -> tuple[int, ...]:
    sets = math.comb(len(view.experts), count)
    if sets > MAX_SUBSETS:
        why = f"naee tries every set of {count} of {len(view.experts)} experts, {sets} of them; at most {MAX_SUBSETS}"
        raise UsageError(f"prune-experts: {why}. Take criterion reap")
    x, gates = view.evidence.x[:_NAEE_ROWS], view.evidence.gates[:_NAEE_ROWS]
    wanted = layer_output(view.experts, gates, x)

    def error(kept: tuple[int, ...]) -> float:
        got = layer_output(view.experts, gates_without(kept)[:_NAEE_ROWS], x)
        return float(np.square(got - wanted).sum(dtype=np.float64))

    return min(itertools.combinations(range(len(view.experts)), count), key=error)


def _logits(view: View) -> Array:
    """The router's logits; the gates, where no router is found."""
    router = find_router(view.layer.gates)
    return view.evidence.gates if router is None else view.observer.see(view.layer, router.logits)


def _nearness(experts: Sequence[FeedForward]) -> Matrix:
    """Minus the distances between the first matrices of the experts, float64 [E, E]."""
    flat = np.stack([np.concatenate([one.weight.ravel() for one in expert.weights.inputs]) for expert in experts])
    squares = np.square(flat).sum(axis=1, dtype=np.float64)
    return np.asarray(2 * (flat @ flat.T) - squares[:, None] - squares[None], np.float64)
