# SPDX-License-Identifier: Apache-2.0
"""How much of a model's depth is to go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, islice
from typing import Protocol

from edgefold.passes.depth.candidates import Candidate, Move

THIRD = 1 / 3
"""Of the blocks: what goes where no budget is given."""
MOST_CHOICES = 300
"""So many choices are measured one by one; where there are more, the search goes step by step."""

_MOST_LISTED = 1 << 16


class Budget(Protocol):
    """Says of a choice of candidates, by their positions, whether it may be made and whether it is enough."""

    @property
    def kept(self) -> float:
        """About the share of the candidates that stays."""

    def allows(self, gone: Collection[int]) -> bool: ...

    def met(self, gone: Collection[int]) -> bool: ...


@dataclass(frozen=True)
class ByCount:
    """So many blocks go; halves count as what they are of their block.

    Attributes:
        candidates: what there is.
        size: the number of blocks.
    """

    candidates: Sequence[Candidate]
    size: Fraction

    @property
    def kept(self) -> float:
        whole = self._size(range(len(self.candidates)))
        return float(1 - self.size / whole) if whole else 1.0

    def allows(self, gone: Collection[int]) -> bool:
        return self._size(gone) <= self.size

    def met(self, gone: Collection[int]) -> bool:
        return self._size(gone) >= self.size

    def _size(self, gone: Collection[int]) -> Fraction:
        return sum((self.candidates[i].size for i in gone), Fraction(0))


@dataclass(frozen=True)
class ByWork:
    """At least so many multiply-accumulates go."""

    candidates: Sequence[Candidate]
    macs: float

    @property
    def kept(self) -> float:
        return 1 - self.macs / max(1, sum(one.macs for one in self.candidates))

    def allows(self, gone: Collection[int]) -> bool:
        return True

    def met(self, gone: Collection[int]) -> bool:
        return sum(self.candidates[i].macs for i in gone) >= self.macs


@dataclass(frozen=True)
class ByError:
    """As much goes as the outputs can bear: never met, it only says where to stop.

    Attributes:
        error: of the outputs without some candidates.
        most: of it.
    """

    error: Callable[[Move], float]
    most: float
    kept: float = 0.5  # not known beforehand

    def allows(self, gone: Collection[int]) -> bool:
        return self.error(frozenset(gone)) <= self.most

    def met(self, gone: Collection[int]) -> bool:
        return False


def all_choices(budget: Budget, count: int) -> list[Move] | None:
    """Every choice that meets the budget with nothing to spare; None where there are too many to measure, or none."""
    listed = list(islice(_combinations(count), _MOST_LISTED))
    if len(listed) == _MOST_LISTED:
        return None
    found = list(islice((one for one in listed if _exact(budget, one)), MOST_CHOICES + 1))
    return found if 0 < len(found) <= MOST_CHOICES else None


def all_runs(budget: Budget, count: int) -> list[Move]:
    """Candidates that follow each other, as few as meet the budget, from every one on."""
    found: list[Move] = []
    for first in range(count):
        ends = (frozenset(range(first, end)) for end in range(first + 1, count + 1))
        enough = next(filter(budget.met, ends), None)
        if enough is not None and budget.allows(enough):
            found.append(enough)
    return found


def _combinations(count: int) -> Iterator[Move]:
    for size in range(count + 1):
        yield from map(frozenset, combinations(range(count), size))


def _exact(budget: Budget, gone: Move) -> bool:
    return budget.allows(gone) and budget.met(gone) and not any(budget.met(gone - {one}) for one in gone)
