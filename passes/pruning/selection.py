# SPDX-License-Identifier: Apache-2.0
"""Which units go: the least important first, group by group within its limits, until the budget is met.

All rankings are one sorted list of units; what differs is how far scores are comparable. Removing a longer prefix of
the list never costs more, so that the shortest prefix that meets the budget is found by bisection, with the exact
count of what stays at each of its some fifteen steps.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.budget import Budget
from edgefold.passes.pruning.groups import Group, IntArray, Pruned

Scores = Mapping[str, NDArray[np.float64]]
Ranking = Literal["global", "isomorphic", "uniform"]

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many units a group must keep.

    Attributes:
        floor: share of its units; one stays in any case.
        multiple: of channels (not units) to which the kept count is rounded up, so that kernels run at full width.
    """

    floor: float = 0.1
    multiple: int = 1

    def removed(self, group: Group, wanted: int) -> int:
        """How many units may go where `wanted` should: the count kept is a multiple, above the floor."""
        step = self.multiple // math.gcd(self.multiple, group.width)
        kept = max(group.size - wanted, math.ceil(self.floor * group.size - 1e-9), 1)
        return max(0, group.size - -(-kept // step) * step)


@dataclasses.dataclass(frozen=True)
class Selection:
    """The outcome.

    Attributes:
        pruned: units to remove; groups that lose none are left out.
        met: whether the budget is met; if not, everything that the limits allow is removed.
    """

    pruned: Pruned
    met: bool


def select(
    groups: Sequence[Group],
    scores: Scores,
    budget: Budget,
    limits: Mapping[str, Limits],
    classes: Sequence[Hashable] | None = None,
) -> Selection:
    """The units to remove so that the budget is met by the least important ones.

    Args:
        groups: that may lose units.
        scores: importance of every unit of each, float64 [size]; of equal ones the earlier goes first.
        budget: what may stay.
        limits: of each group by its name.
        classes: one a group (see `classes_of`): scores compare within a class, and every class loses the same share;
            None: all scores compare.
    """
    owner, unit = _sorted_units(groups, scores, classes)
    orders = [unit[owner == number] for number in range(len(groups))]

    def prefix(length: int) -> Pruned:
        counts = np.bincount(owner[:length], minlength=len(groups))
        removed = [limits[group.name].removed(group, int(count)) for group, count in zip(groups, counts, strict=True)]
        chosen = zip(groups, orders, removed, strict=True)
        return {group.name: np.sort(order[:count]) for group, order, count in chosen if count}

    length = bisect.bisect_left(range(len(owner)), True, key=lambda length: budget.met(prefix(length)))
    pruned = prefix(length)
    return Selection(pruned, budget.met(pruned))


def per_saving(groups: Sequence[Group], scores: Scores, budget: Budget) -> Scores:
    """Scores divided by the share of the budget's cost that a unit of the group saves in the whole model.

    An attention head costs a hundred times what a neuron does; by this ratio the two compare.
    """
    one = np.zeros(1, dtype=np.intp)
    savings = {group.name: max(budget.saving({group.name: one}), _TINY) for group in groups}
    return {name: scores[name] / saving for name, saving in savings.items()}


def classes_of(groups: Sequence[Group], ranking: Ranking, op_types: Mapping[str, str]) -> Sequence[Hashable] | None:
    """Among which groups scores may be compared.

    Args:
        groups: in order.
        ranking: `global`: among all; `isomorphic`: among those of the same structure, the multiset of (operator, axis,
            role) of their slices (Isomorphic Pruning, 2407.04616); `uniform`: among the units of one group only.
        op_types: of every node by name.
    """
    if ranking == "global":
        return None
    if ranking == "uniform":
        return [group.name for group in groups]
    places = ((((op_types[one.node], one.axis, one.role) for one in group.slices)) for group in groups)
    return [frozenset(Counter(place).items()) for place in places]


def _sorted_units(
    groups: Sequence[Group], scores: Scores, classes: Sequence[Hashable] | None
) -> tuple[IntArray, IntArray]:
    """The number of the group and of the unit within it, for all units; the first goes first."""
    none = np.zeros(0, dtype=np.intp)
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    unit = np.concatenate([none, *(np.arange(group.size) for group in groups)])
    key = np.concatenate([none, *(scores[group.name] for group in groups)])
    if classes is not None:
        key = _quantiles(key, owner, unit, classes)
    order = np.lexsort((unit, owner, key))
    return owner[order].astype(np.intp), unit[order].astype(np.intp)


def _quantiles(
    key: NDArray[np.float64], owner: IntArray, unit: IntArray, classes: Sequence[Hashable]
) -> NDArray[np.float64]:
    """The share of its class that each unit is not above of."""
    numbers = {one: number for number, one in enumerate(dict.fromkeys(classes))}
    member = np.array([numbers[classes[group]] for group in owner], dtype=np.intp)
    quantile = np.empty(len(key))
    for number in range(len(numbers)):
        own = np.flatnonzero(member == number)
        ranked = own[np.lexsort((unit[own], owner[own], key[own]))]
        quantile[ranked] = (np.arange(len(ranked)) + 1) / len(ranked)
    return quantile
