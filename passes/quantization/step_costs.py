# SPDX-License-Identifier: Apache-2.0
"""What each step costs each channel on a sample of rows, and the scale and shifts that cost least together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.quantization.coded_inputs import round_to_codes
from edgefold.passes.quantization.shift_nodes import Activation

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Shifts = NDArray[np.int64]

PER_OCTAVE = 8  # candidate steps in one factor of two
OCTAVES = 3  # below the step that clips nothing, for the coarsest channels


@dataclasses.dataclass(frozen=True)
class Form:
    """How much freedom the steps of channels have.

    Attributes:
        largest_shift: by so many octaves they may differ.
        clips: whether a channel with a step finer than the best single one may clip values that the sample has.
    """

    largest_shift: int
    clips: bool = True


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """Errors of the channels of some rows, each channel coded in each of several steps.

    Attributes:
        plain: the codes with each step, descending by `PER_OCTAVE` in an octave.
        errors, squares: float64 [steps, C], sums over the rows.
        peaks: float32 [C], the largest magnitudes.
        rows: their number.
    """

    plain: Sequence[Activation]
    errors: Double
    squares: Double
    peaks: Float
    rows: int

    @classmethod
    def of(cls, rows: Float, plain: Sequence[Activation]) -> StepCosts:
        """The costs of rows, float32 [R, C]."""
        found = [error_of(rows, one) for one in plain]
        errors = np.stack([one.sum(axis=0, dtype=np.float64) for one in found])
        squares = np.stack([np.einsum("ij,ij->j", one, one, dtype=np.float64) for one in found])
        return cls(plain, errors, squares, np.abs(rows).max(axis=0, initial=0), len(rows))

    def fit(self, weights: Double, form: Form) -> Activation:
        """The scale whose channels have the least error together, the shift of each chosen for itself.

        The mean of a channel's error does not count, because the layer's bias takes it.

        Args:
            weights: float64 [C], what a squared error of each channel costs.
            form: what is allowed.
        """
        costs = weights * (self.squares / self.rows - np.square(self.errors / self.rows))
        if not form.clips:
            finer = np.arange(len(costs)) > costs[: PER_OCTAVE * OCTAVES + 1].sum(axis=1).argmin()
            reach = np.array([one.scale * one.high for one in self.plain])
            costs = np.where(finer[:, None] & (reach[:, None] < self.peaks), np.inf, costs)
        best = np.inf
        chosen = self.plain[0]
        for first in range(PER_OCTAVE * OCTAVES + 1):
            choices = costs[first : first + PER_OCTAVE * form.largest_shift + 1 : PER_OCTAVE]
            finer_by = choices.argmin(axis=0)
            total = float(choices.min(axis=0).sum())
            if total < best:
                used = int(finer_by.max())
                best = total
                base = self.plain[first + PER_OCTAVE * used]
                chosen = dataclasses.replace(base, scale=float(np.float32(base.scale)), shifts=stored(used - finer_by))
        return chosen


def sum_of(parts: Sequence[StepCosts]) -> StepCosts:
    """The costs of all rows together."""
    return StepCosts(
        parts[0].plain,
        np.sum([one.errors for one in parts], axis=0),
        np.sum([one.squares for one in parts], axis=0),
        np.max([one.peaks for one in parts], axis=0),
        sum(one.rows for one in parts),
    )


def error_of(rows: Float, activation: Activation) -> Float:
    """What codes change: float32 [R, C]."""
    steps = np.exp2(np.array(activation.shifts or (0,), np.float32))
    return round_to_codes(rows, activation, steps) - rows


def stored(shifts: Shifts) -> tuple[int, ...]:
    """Shifts as a node has them; none where all are alike."""
    return tuple(int(shift) for shift in shifts) if shifts.any() else ()
