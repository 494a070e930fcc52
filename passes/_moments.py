# SPDX-License-Identifier: Apache-2.0
"""Second moments of a layer's inputs (and, with its targets, cross moments), accumulated in float64 as data stream by.

Moments come in runs: one run for a MatMul, one for each group of a convolution, one for each stacked expert.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_CHUNK_ELEMENTS = 1 << 22  # rows are multiplied in chunks: a float64 copy of at most 32 MB


@dataclass
class Moments:
    """Sums over rows x [K] of the inputs and y [N] of the targets, for P runs.

    Attributes:
        xtx: float64 [P, K, K], sum of x x'.
        sums: float64 [P, K], sum of x.
        xty: float64 [P, K, N], sum of x y'; N = 0 without targets.
        target_sums: float64 [P, N], sum of y.
        target_squares: float64 [P, N], sum of y^2.
        count: rows in each run.
    """

    xtx: Array
    sums: Array
    xty: Array
    target_sums: Array
    target_squares: Array
    count: int = field(default=0)

    @classmethod
    def zeros(cls, runs: int, inputs: int, targets: int = 0) -> Moments:
        """Empty moments of P = `runs`, K = `inputs`, N = `targets` a run."""
        return cls(
            np.zeros((runs, inputs, inputs)),
            np.zeros((runs, inputs)),
            np.zeros((runs, inputs, targets)),
            np.zeros((runs, targets)),
            np.zeros((runs, targets)),
        )

    def add(self, x: NDArray[np.floating], y: NDArray[np.floating] | None = None) -> None:
        """Adds rows.

        Args:
            x: [P, rows, K].
            y: [P, rows, N]; needed exactly when these moments have targets.

        Raises:
            ValueError: shapes that do not fit, or values that are not finite.
        """
        runs, inputs = self.sums.shape
        targets = self.xty.shape[2]
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (runs, inputs):
            raise ValueError(f"inputs of shape {x.shape} do not fit moments of {runs} runs of {inputs} inputs")
        if (y is None) != (targets == 0) or (y is not None and y.shape != (runs, x.shape[1], targets)):
            raise ValueError(f"targets do not fit moments of {targets} targets")
        step = max(1, _CHUNK_ELEMENTS // max(1, runs * (inputs + targets)))
        for start in range(0, x.shape[1], step):
            part = slice(start, start + step)
            self._add_chunk(x[:, part].astype(np.float64), None if y is None else y[:, part].astype(np.float64))
        self.count += x.shape[1]

    def _add_chunk(self, x: Array, y: Array | None) -> None:
        if not np.isfinite(x).all() or (y is not None and not np.isfinite(y).all()):
            raise ValueError("calibration gave NaN or infinite activations")
        for run, rows in enumerate(x):  # a product of a matrix with its own transpose is one symmetric BLAS call
            self.xtx[run] += rows.T @ rows
        self.sums += x.sum(axis=1)
        if y is not None:
            self.xty += np.swapaxes(x, 1, 2) @ y
            self.target_sums += y.sum(axis=1)
            self.target_squares += np.square(y).sum(axis=1)

    def __add__(self, other: Moments) -> Moments:
        """Moments over the rows of both."""
        return Moments(
            self.xtx + other.xtx,
            self.sums + other.sums,
            self.xty + other.xty,
            self.target_sums + other.target_sums,
            self.target_squares + other.target_squares,
            self.count + other.count,
        )

    def mean(self) -> Array:
        """Mean of x, float64 [P, K]."""
        return self.sums / max(self.count, 1)

    def covariance(self, centre: Array) -> Array:
        """Mean of (x - centre) (x - centre)', float64 [P, K, K], with centre [P, K]."""
        cross = self.mean()[:, :, None] * centre[:, None, :]
        square: Array = self.xtx / max(self.count, 1) - cross - np.swapaxes(cross, 1, 2)
        return square + centre[:, :, None] * centre[:, None, :]

    def with_bias(self) -> Moments:
        """These moments with a constant-one input appended, whose weight is the bias: K grows by one."""
        runs, inputs = self.sums.shape
        xtx = np.empty((runs, inputs + 1, inputs + 1))
        xtx[:, :inputs, :inputs] = self.xtx
        xtx[:, :inputs, inputs] = xtx[:, inputs, :inputs] = self.sums
        xtx[:, inputs, inputs] = self.count
        sums = np.concatenate([self.sums, np.full((runs, 1), float(self.count))], axis=1)
        xty = np.concatenate([self.xty, self.target_sums[:, None]], axis=1)
        return Moments(xtx, sums, xty, self.target_sums, self.target_squares, self.count)

    def keep(self, kept: NDArray[np.intp]) -> Moments:
        """These moments of some inputs only, in the order given."""
        return Moments(
            self.xtx[:, kept[:, None], kept],
            self.sums[:, kept],
            self.xty[:, kept],
            self.target_sums,
            self.target_squares,
            self.count,
        )

    def targets(self, part: slice) -> Moments:
        """These moments with some of the targets only."""
        return Moments(
            self.xtx,
            self.sums,
            self.xty[:, :, part],
            self.target_sums[:, part],
            self.target_squares[:, part],
            self.count,
        )

    def error(self, weight: Array) -> Array:
        """Squared error sum |x W - y|^2 of weights [P, K, N] for each run and target, float64 [P, N]."""
        quadratic = np.einsum("pkn,pkn->pn", weight, self.xtx @ weight)
        cross = np.einsum("pkn,pkn->pn", weight, self.xty)
        error: Array = np.maximum(quadratic - 2 * cross + self.target_squares, 0)
        return error
