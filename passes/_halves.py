# SPDX-License-Identifier: Apache-2.0
"""Moments of every other batch apart from those of the rest: where the two halves differ, chance speaks.

Rows do not tell how much data there is: the positions of an image are nearly as many copies of one observation, and a
classifier of 1280 pooled features sees one row an image. What is fitted to so few fits them perfectly and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._least_squares import least_squares
from edgefold.passes._moments import Moments

_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MOST = 0.9  # shrinkage; by then the inputs count as white
_TINY = 1e-30


@dataclass(frozen=True)
class Halves:
    """Moments of one layer's inputs over the even and over the odd batches; `odd` is empty for a single batch."""

    even: Moments
    odd: Moments

    @cached_property
    def whole(self) -> Moments:
        """Moments over all batches."""
        return self.even + self.odd if self.odd.count else self.even

    def targets(self, part: slice) -> Halves:
        """These halves with some of the targets only."""
        return Halves(self.even.targets(part), self.odd.targets(part))

    def shrinkage_ridge(self) -> float:
        """The ridge, as a fraction of the mean variance, that gives the covariance its least expected error.

        It is that of Ledoit and Wolf (2004, Lemma 3.3), with the error of the covariance estimated from the halves, so
        that rows of one image need not be independent; 0 where there is one batch only.
        """
        if not self.odd.count:
            return 0.0
        mean = self.whole.mean()
        first, second = self.even.covariance(mean), self.odd.covariance(mean)
        weight = self.even.count / self.whole.count
        covariance = weight * first + (1 - weight) * second
        variance = np.einsum("pkk->p", covariance) / covariance.shape[-1]
        spread = np.square(covariance).sum() - covariance.shape[-1] * np.square(variance).sum()
        chance = weight * (1 - weight) * np.square(first - second).sum()
        share = min(float(chance / max(spread, _TINY)), _MOST)
        return share / (1 - share)

    def best_damping(self, prior: NDArray[np.float64], *, bias: bool = True) -> float:
        """The damping towards `prior` by which each half is predicted best from the other one.

        Args:
            prior: float64 [P, K + 1, N], the bias as the last row; [P, K, N] without one.
            bias: whether a constant-one input is appended.
        """
        if not self.odd.count or not self.even.count:
            return _DAMPINGS[0]
        even, odd = (self.even.with_bias(), self.odd.with_bias()) if bias else (self.even, self.odd)

        def error(damping: float) -> float:
            return sum(_error(*pair, prior, damping, bias) for pair in ((even, odd), (odd, even)))

        return min(_DAMPINGS, key=error)


def _error(fitted: Moments, judged: Moments, prior: NDArray[np.float64], damping: float, bias: bool) -> float:
    weights = least_squares(fitted.xtx, fitted.xty, damping=damping, prior=prior, bias_row=bias)
    return float(judged.error(weights).sum())
