# SPDX-License-Identifier: Apache-2.0
"""What calibration knows of one layer: moments of the inputs it will get and of the outputs it should give."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from edgefold.passes._halves import Halves
from edgefold.passes._moments import Moments
from edgefold.passes._weighted_nodes import Float, WeightedNode

Double = npt.NDArray[np.float64]

_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Moments of one layer of P runs (one, or the groups of a convolution).

    Attributes:
        weight, bias: of the original, float64 [P, K, N / P] and [P, N / P].
        halves: moments of its coded inputs with its targets.
    """

    weight: Double
    bias: Double
    halves: Halves

    @classmethod
    def of(cls, site: WeightedNode, halves: Halves) -> Evidence:
        """The evidence of a node with these moments."""
        runs = len(halves.even.sums)
        bias = np.zeros(site.n) if site.bias is None else np.broadcast_to(site.bias, site.n).astype(np.float64)
        return cls(by_run(site.matrix(), runs), bias.reshape(runs, -1), halves)

    @property
    def runs(self) -> int:
        return len(self.weight)

    @property
    def moments(self) -> Moments:
        return self.halves.whole

    def centred(self) -> tuple[Double, Double]:
        """X'X [P, K, K] and X'Y [P, K, N / P] about the means."""
        whole = self.moments
        mean = whole.mean()
        second = whole.xtx - whole.sums[:, :, None] * mean[:, None, :]
        cross = whole.xty - mean[:, :, None] * whole.target_sums[:, None, :]
        return second, cross

    def damping(self) -> float | None:
        """The ridge of the refit by which each half of the batches is predicted best; None if there is one half."""
        if not self.halves.even.count or not self.halves.odd.count:
            return None
        return self.halves.best_damping(np.concatenate([self.weight, self.bias[:, None]], axis=1))

    def correction(self, rounded: Double) -> Float:
        """What makes the bias take the mean error of the rounded weights [P, K, N / P]: float32 [N]."""
        whole = self.moments
        mean_output = np.einsum("pk,pkn->pn", whole.mean(), rounded)
        shift = whole.target_sums / max(whole.count, 1) - mean_output - self.bias
        correction: Float = shift.reshape(-1).astype(np.float32)
        return correction

    def error(self, rounded: Double) -> float:
        """The squared error of the output with corrected bias, over its variance."""
        second, cross = self.centred()
        whole = self.moments
        variance = float((whole.target_squares - whole.target_sums**2 / max(whole.count, 1)).sum())
        quadratic = np.einsum("pkn,pkn->", rounded, second @ rounded - 2 * cross)
        return max(float(quadratic) + variance, 0.0) / max(variance, _TINY)


def by_run(matrix: Float, runs: int) -> Double:
    """A matrix [K, N] as float64 [P, K, N / P]: its columns fall into equal runs."""
    return np.moveaxis(matrix.astype(np.float64).reshape(len(matrix), runs, -1), 1, 0)


def joined(weights: Double) -> Float:
    """Weights [P, K, N / P] as one matrix, float32 [K, N]."""
    return np.ascontiguousarray(np.moveaxis(weights, 0, 1).reshape(weights.shape[1], -1), dtype=np.float32)
