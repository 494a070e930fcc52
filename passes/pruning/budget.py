# SPDX-License-Identifier: Apache-2.0
"""What a model costs as a function of the units removed: multiply-accumulates, parameters, or time on a device.

Multiply-accumulates of a contraction and the elements of a parameter are both products of axis lengths, so that one
form, a sum of products, serves both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from edgefold.passes.pruning.groups import AxisKey, Dependencies, IntArray, Pruned, Trace

Kept = Mapping[AxisKey, IntArray]


class Cost(Protocol):
    """What is left of a model's cost when only some indices of its axes stay."""

    def __call__(self, kept: Kept) -> float: ...


@dataclasses.dataclass(frozen=True)
class SumOfProducts:
    """The sum over terms of the product of their axes' lengths.

    Attributes:
        terms: the axes of each; an axis may stand in several terms, and twice in one.
        lengths: of every axis of a term in the whole model.
    """

    terms: tuple[tuple[AxisKey, ...], ...]
    lengths: Mapping[AxisKey, int]

    def __call__(self, kept: Kept) -> float:
        changed = {axis: len(kept[axis]) for axis in self.lengths if axis in kept}
        return float(sum(math.prod(changed.get(axis, self.lengths[axis]) for axis in term) for term in self.terms))


def macs(dependencies: Dependencies, trace: Trace) -> SumOfProducts:
    """Multiply-accumulates of all contractions at the sizes of the traced run."""
    return _sum_of_products((one.axes for one in dependencies.contractions), trace)


def parameters(names: Iterable[str], ties: Sequence[Sequence[str]], trace: Trace) -> SumOfProducts:
    """Elements of the named parameters; those that are tied count once."""
    copies = {name for tie in ties for name in tie[1:]}
    terms = ([(name, axis) for axis in range(len(trace.shapes[name]))] for name in names if name not in copies)
    return _sum_of_products((tuple(term) for term in terms), trace)


def _sum_of_products(terms: Iterable[tuple[AxisKey, ...]], trace: Trace) -> SumOfProducts:
    listed = tuple(terms)
    return SumOfProducts(listed, {(name, axis): trace.shapes[name][axis] for term in listed for name, axis in term})


@dataclasses.dataclass(frozen=True)
class Goal:
    """One budget.

    Attributes:
        name: what is counted, as in the options: `flops`, `params` or `latency`.
        cost: counts it.
        share: of the whole model's cost that may stay.
        whole: the cost of the whole model.
    """

    name: str
    cost: Cost
    share: float
    whole: float

    @classmethod
    def of(cls, name: str, cost: Cost, share: float) -> Goal:
        """A goal whose whole is the cost with nothing removed."""
        return cls(name, cost, share, cost({}))

    def excess(self, kept: Kept) -> float:
        """Cost that stays, in units of what may stay: at most 1 when the goal is met."""
        return 0.0 if self.whole == 0 else self.cost(kept) / (self.share * self.whole)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Goals that must all be met.

    Attributes:
        goals: at least one.
        kept: of the dependencies: what stays on every axis.
    """

    goals: tuple[Goal, ...]
    kept: Callable[[Pruned], Kept]

    def met(self, pruned: Pruned) -> bool:
        """Whether every goal is met; without rounding, since costs are counted in whole numbers."""
        kept = self.kept(pruned)
        return all(goal.excess(kept) <= 1 for goal in self.goals)

    def saving(self, pruned: Pruned) -> float:
        """Share of the whole cost that goes; the mean over the goals."""
        kept = self.kept(pruned)
        shares = [1 - goal.cost(kept) / goal.whole for goal in self.goals if goal.whole]
        return sum(shares) / max(1, len(shares))
