# SPDX-License-Identifier: Apache-2.0
"""Ranks for several matrices within one budget: where another unit of cost lowers the error most."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEPS = 100  # halvings of the price; by then it is exact to the last bit


@dataclasses.dataclass(frozen=True)
class Choices:
    """What one matrix may cost.

    Attributes:
        whole: cost as it is; its error is 0.
        step: cost of one more rank.
        errors: at rank 0, 1, ...; not increasing.
    """

    whole: float
    step: float
    errors: NDArray[np.float64]

    @property
    def most(self) -> int:
        """The highest rank that costs less than the whole matrix."""
        return min(len(self.errors) - 1, int(np.ceil(self.whole / self.step)) - 1)

    def cost(self, rank: int | None) -> float:
        """Cost at a rank; None is the whole matrix."""
        return self.whole if rank is None else rank * self.step

    def at_price(self, price: float) -> int | None:
        """The rank, at least 1, with the least error + price * cost; None where the whole matrix is better."""
        if self.most < 1:
            return None
        ranks = np.arange(1, self.most + 1)
        totals = self.errors[1 : self.most + 1] + price * self.step * ranks
        best = int(np.argmin(totals))
        return None if price * self.whole <= totals[best] else best + 1

    def at_share(self, share: float) -> int | None:
        """The highest rank, at least 1, that costs no more than this share of the whole; None where there is none."""
        if share >= 1 or self.most < 1:
            return None
        return min(self.most, max(1, int(share * self.whole / self.step)))


def by_error(choices: Sequence[Choices], budget: float) -> list[int | None]:
    """The ranks with the least sum of errors whose costs stay within the budget.

    The same price for a unit of cost is put on every matrix and raised until the budget holds: no other ranks of the
    same cost then have a smaller sum of errors.

    Args:
        choices: of each matrix.
        budget: of all costs together; where rank 1 everywhere is more, that is the answer.
    """
    least = [1 if one.most >= 1 else None for one in choices]
    if sum(one.cost(rank) for one, rank in zip(choices, least, strict=True)) >= budget:
        return least
    low, high = 0.0, 1.0
    while _cost(choices, high) > budget:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _cost(choices, middle) <= budget else (middle, high)
    return [one.at_price(high) for one in choices]


def uniform(choices: Sequence[Choices], budget: float) -> list[int | None]:
    """The same share of its cost for every matrix that can shrink, so that all together stay within the budget."""
    fixed = sum(one.whole for one in choices if one.most < 1)
    rest = sum(one.whole for one in choices if one.most >= 1)
    return [one.at_share((budget - fixed) / rest if rest else 1.0) for one in choices]


def _cost(choices: Sequence[Choices], price: float) -> float:
    return sum(one.cost(one.at_price(price)) for one in choices)
