# SPDX-License-Identifier: Apache-2.0
"""Optimal Brain Surgeon for groups: what each unit's removal costs its readers after they have been refitted.

For a reader with weights W and the covariance C of its inputs, removing the rows P costs tr(W_P' ([C^-1]_PP)^-1 W_P),
divided here by its output's variance tr(W' C W) so that layers compare. C is centred, because the refitted bias takes
up the mean. After each round of removals C^-1 and W are brought up to date (Optimal Brain Compression, 2208.11580), so
that of two units that say the same only the first is cheap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._least_squares import DAMPING, damped, damped_inverse, downdate, removal_errors
from edgefold.passes._moments import Moments
from edgefold.passes.pruning.groups import IntArray

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

ROUNDS = 16
"""Removals between which scores are brought up to date; more changes the choice little."""

_TINY = 1e-30


@dataclasses.dataclass
class Surgeon:
    """One run of a reader, as units go.

    Attributes:
        weight: float64 [K, N] of the inputs that are left.
        inverse: float64 [K, K], their inverse covariance.
        units: int [K], the unit that each input belongs to; -1 for none.
        scale: of the squared error: one over the variance of the layer's output, times its gain.
    """

    weight: Matrix
    inverse: Matrix
    units: IntArray
    scale: float

    def errors(self, units: IntArray) -> Vector:
        """Relative error of removing each of the units, given those already gone, float64 [len(units)]."""
        order = np.argsort(self.units, kind="stable")
        starts = np.searchsorted(self.units, units, sorter=order)
        ends = np.searchsorted(self.units, units, side="right", sorter=order)
        blocks = [order[start:end] for start, end in zip(starts, ends, strict=True)]
        return np.asarray(self.scale * np.maximum(removal_errors(self.weight, self.inverse, blocks), 0))

    def remove(self, units: IntArray) -> None:
        """Removes units, refits the rest."""
        gone = np.flatnonzero(np.isin(self.units, units))
        kept = np.setdiff1d(np.arange(len(self.units)), gone)
        carried = np.linalg.solve(self.inverse[np.ix_(gone, gone)], self.weight[gone])
        self.weight = self.weight[kept] - self.inverse[np.ix_(kept, gone)] @ carried
        self.inverse = downdate(self.inverse, gone)
        self.units = self.units[kept]


@dataclasses.dataclass(frozen=True)
class White:
    """A reader judged as if its inputs were white: nothing makes up for a unit, and none depends on another.

    Attributes:
        shares: float64 [size], relative error of removing each unit.
    """

    shares: Vector

    def errors(self, units: IntArray) -> Vector:
        """As of a `Surgeon`."""
        return self.shares[units]

    def remove(self, units: IntArray) -> None:
        """Changes nothing."""


def surgeons(
    weight: Matrix, moments: Moments, units: IntArray, gain: float = 1.0, damping: float = DAMPING
) -> list[Surgeon]:
    """A reader of a group, one surgeon a run.

    Args:
        weight: float64 [P, K, N].
        moments: of its inputs, P runs.
        units: int [K].
        gain: by which relative errors of this reader count.
        damping: ridge on the covariance as a fraction of its mean diagonal. It stands for the variance that inputs
            have although these few samples do not show it.
    """
    covariance = damped(moments.covariance(moments.mean()), damping)
    inverse = damped_inverse(covariance, 0)
    variance = float(np.einsum("pkn,pkl,pln->", weight, covariance, weight, optimize=True))
    scale = gain / max(variance, _TINY)
    return [Surgeon(run, inverse[number], units, scale) for number, run in enumerate(weight)]


def removal_scores(readers: Sequence[Surgeon | White], size: int, most: int, rounds: int = ROUNDS) -> Vector:
    """What each unit adds to its readers' relative errors when units go in the cheapest order.

    Errors of several readers add in amplitude, not in power: they come from the loss of the same unit. A channel of a
    residual stream, which every block reads, thus costs more than as many channels inside of blocks.

    Args:
        readers: of one group; they are used up.
        size: number of units.
        most: how many may go; the others are ranked behind them by their last score.
        rounds: after how many shares of `most` scores are brought up to date; 1 is the score of each unit alone.

    Returns:
        float64 [size], never smaller for a unit that goes later.
    """
    scores = np.zeros(size)
    left = np.arange(size)
    level = 0.0
    for share in np.array_split(np.arange(most), max(1, min(rounds, most))):
        errors = np.square(np.sum([np.sqrt(reader.errors(left)) for reader in readers], axis=0))
        scores[left] = errors = np.maximum(errors, level)
        order = np.argsort(errors, kind="stable")
        gone = left[order[: len(share)]]
        if len(gone) in (0, len(left)):
            break
        level = float(scores[gone].max())
        left = np.setdiff1d(left, gone)
        for reader in readers:
            reader.remove(gone)
    scores[left] = np.maximum(scores[left], level)
    return scores
