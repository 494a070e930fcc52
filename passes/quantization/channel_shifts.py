# SPDX-License-Identifier: Apache-2.0
"""Which power of two the step of each input channel gets, judged by the error of the layer's output.

Channel k is coded in steps of ``scale * 2**shifts[k]`` (after ShiftQuant, arXiv 2411.10948, with the shift in the
operand). Ranges alone are not enough to choose by: clipping a few large values may cost less than coarse steps for all
others, and a channel that meets small weights may be coarse. With error covariance C over a sample of rows and weights
W, the output's error is ``trace(W' C W)``; its mean does not count, because the layer's bias takes it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.quantization.shift_nodes import Activation
from edgefold.passes.quantization.step_costs import (
    OCTAVES,
    PER_OCTAVE,
    Float,
    Form,
    StepCosts,
    error_of,
    stored,
    sum_of,
)

_TINY = 1e-30
_POWERS = (0.5, 0.75, 1.0)  # how far dynamic steps follow the spread of the channels
_FOLDS = 4
_JUDGED = 4  # dynamic candidates of which the full covariance is taken


def choose_static(rows: Float, gram: Float, bits: int, groups: int) -> Activation:
    """One scale for all rows, and shifts, whose output error is least on rows that did not choose them.

    With the covariance taken as diagonal, each channel has a best step of its own. A sample deceives about channels
    that are rarely active, though: it holds few of their large values, and steps that fit those clip the next ones. So
    cross-validation, with the full covariance, decides how far the steps of channels may differ, and whether they may
    clip what the sample has shown; of equals the fewest steps.

    Args:
        rows: float32 [R, C], inputs of the layer in the order of the calibration samples, so that folds are of
            different samples; codes are unsigned where none is negative.
        gram: float32 [C, C], sum of W W' over what the channel meets: positions of the kernel and outputs.
        bits: width of a code; shifts keep shifted codes within 8 bits.
        groups: at most so many different steps; 1 is one for all channels.
    """
    low, high = code_range(rows, bits)
    largest = float(np.abs(rows).max(initial=0))
    if largest == 0:
        return Activation(low, high, 1.0)
    groups = min(groups, 9 - bits) if len(rows) >= _FOLDS else 1
    finer = np.arange(PER_OCTAVE * (OCTAVES + groups - 1) + 1) / PER_OCTAVE
    plain = [Activation(low, high, float(step)) for step in largest / high * np.exp2(-finer)]
    weights = np.diagonal(gram).astype(np.float64)
    folds = np.array_split(rows, _FOLDS)
    costs = [StepCosts.of(fold, plain) for fold in folds]

    def held_out(form: Form) -> float:
        fits = (sum_of(costs[:fold] + costs[fold + 1 :]).fit(weights, form) for fold in range(_FOLDS))
        return sum(len(fold) * output_error(fold, gram, fit) for fold, fit in zip(folds, fits, strict=True))

    forms = [Form(0), *(Form(shift, clips) for shift in range(1, groups) for clips in (False, True))]
    return sum_of(costs).fit(weights, min(forms, key=held_out) if len(forms) > 1 else forms[0])


def choose_dynamic(rows: Float, gram: Float, bits: int, groups: int) -> Activation:
    """Shifts for codes whose scale is that of the largest value of each row; without shifts where none helps.

    The shifts follow a power of the channels' spread, as the scales of SmoothQuant (arXiv 2211.10438) do.

    Args:
        rows, gram, bits, groups: as in `choose_static`.
    """
    high = 2 ** (bits - 1) - 1
    plain = Activation(-high, high, 0.0)
    weights = np.diagonal(gram).astype(np.float64)
    coded = [
        Activation(-high, high, 0.0, shifts)
        for shifts in dict.fromkeys(_spread_shifts(rows, min(groups, 9 - bits) - 1))
    ]
    coded.sort(key=lambda activation: float(weights @ _variances(rows, activation)))
    return min([plain, *coded[:_JUDGED]], key=lambda activation: output_error(rows, gram, activation))


def code_range(rows: Float, bits: int) -> tuple[int, int]:
    """The lowest and the highest code: unsigned ones for what is never negative, such as after a ReLU."""
    if rows.min(initial=0) >= 0:
        return 0, 2**bits - 1
    high = 2 ** (bits - 1) - 1
    return -high, high


def output_error(rows: Float, gram: Float, activation: Activation) -> float:
    """The mean squared error of the layer's output about its mean, trace(W' C W)."""
    error = error_of(rows, activation)
    error -= error.mean(axis=0)
    return float(np.einsum("ij,ij->", error.T @ error, gram, dtype=np.float64)) / len(rows)


def _variances(rows: Float, activation: Activation) -> NDArray[np.float64]:
    variances: NDArray[np.float64] = error_of(rows, activation).var(axis=0, dtype=np.float64)
    return variances


def _spread_shifts(rows: Float, most: int) -> Iterator[tuple[int, ...]]:
    """Shifts that follow the logarithm of each channel's root mean square, in several strengths."""
    spread = np.log2(np.maximum(np.sqrt(np.square(rows).mean(axis=0, dtype=np.float64)), _TINY))
    spread -= np.median(spread)
    for power in _POWERS:
        for half_steps in range(2 * most + 1):
            yield stored(np.clip(np.rint(power * spread + half_steps / 2), 0, most).astype(np.int64))
