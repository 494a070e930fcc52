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

from edgefold.passes.quantization.coded_inputs import round_to_codes
from edgefold.passes.quantization.shift_nodes import Activation

Float = NDArray[np.float32]
Shifts = NDArray[np.int64]

_PER_OCTAVE = 8  # candidate scales in one factor of two
_OCTAVES = 3  # below the scale that clips nothing
_TINY = 1e-30
_POWERS = (0.5, 0.75, 1.0)  # how far dynamic steps follow the spread of the channels
_JUDGED = 4  # dynamic candidates of which the full covariance is taken


def choose_static(rows: Float, gram: Float, bits: int, groups: int) -> Activation:
    """One scale for all rows, and shifts, whose output error on the sample is least.

    For every number of groups the shifts follow from the scale: with the covariance taken as diagonal, each channel has
    a best step of its own. The full covariance then decides between the numbers of groups; of equals the fewest.

    Args:
        rows: float32 [R, C], inputs of the layer; codes are unsigned where none is negative.
        gram: float32 [C, C], sum of W W' over what the channel meets: positions of the kernel and outputs.
        bits: width of a code; shifts keep shifted codes within 8 bits.
        groups: at most so many different steps; 1 is one for all channels.
    """
    low, high = code_range(rows, bits)
    largest = float(np.abs(rows).max(initial=0))
    if largest == 0:
        return Activation(low, high, 1.0)
    coarsest = largest / high
    groups = min(groups, 9 - bits)
    steps = coarsest * np.exp2(-np.arange(_PER_OCTAVE * (_OCTAVES + groups - 1) + 1) / _PER_OCTAVE)
    weights = np.diagonal(gram).astype(np.float64)
    errors = weights * np.stack([_variances(rows, Activation(low, high, float(step))) for step in steps])
    candidates = [_best_shifts(errors, steps, shifts) for shifts in range(groups)]
    coded = [Activation(low, high, scale, shifts) for scale, shifts in candidates]
    return min(coded, key=lambda activation: output_error(rows, gram, activation))


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
    error = _error(rows, activation)
    error -= error.mean(axis=0)
    return float(np.einsum("ij,ij->", error.T @ error, gram, dtype=np.float64)) / len(rows)


def _variances(rows: Float, activation: Activation) -> NDArray[np.float64]:
    variances: NDArray[np.float64] = _error(rows, activation).var(axis=0, dtype=np.float64)
    return variances


def _error(rows: Float, activation: Activation) -> Float:
    steps = np.exp2(np.array(activation.shifts or (0,), np.float32))
    return round_to_codes(rows, activation, steps) - rows


def _best_shifts(errors: NDArray[np.float64], steps: NDArray[np.float64], most: int) -> tuple[float, tuple[int, ...]]:
    """The scale whose channels have the least error together when each may be shifted by up to `most`.

    Args:
        errors: float64 [steps, C], of every channel at every step.
        steps: float64, descending by `_PER_OCTAVE` in an octave.
        most: the largest shift.
    """
    best = np.inf
    chosen: tuple[float, tuple[int, ...]] = (float(steps[0]), ())
    for first in range(_PER_OCTAVE * _OCTAVES + 1):
        choices = errors[first : first + _PER_OCTAVE * most + 1 : _PER_OCTAVE]
        finer = choices.argmin(axis=0)
        total = float(choices.min(axis=0).sum())
        if total < best:
            used = int(finer.max())
            scale = float(np.float32(steps[first + _PER_OCTAVE * used]))
            best, chosen = total, (scale, _stored(used - finer))
    return chosen


def _spread_shifts(rows: Float, most: int) -> Iterator[tuple[int, ...]]:
    """Shifts that follow the logarithm of each channel's root mean square, in several strengths."""
    spread = np.log2(np.maximum(np.sqrt(np.square(rows).mean(axis=0, dtype=np.float64)), _TINY))
    spread -= np.median(spread)
    for power in _POWERS:
        for half_steps in range(2 * most + 1):
            yield _stored(np.clip(np.rint(power * spread + half_steps / 2), 0, most).astype(np.int64))


def _stored(shifts: Shifts) -> tuple[int, ...]:
    """Shifts as a node has them; none where all are alike."""
    return tuple(int(shift) for shift in shifts) if shifts.any() else ()
