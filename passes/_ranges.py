# SPDX-License-Identifier: Apache-2.0
"""The range of a tensor over the calibration data, and the static activation scale that loses least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BINS = 2048
_CANDIDATES = 128
_TINY = 1e-30  # magnitudes below it count as zero, so that a bin's width is a normal float
_SAMPLE = 1 << 20  # elements of one batch that enter the histogram; minimum and maximum see all


class Range:
    """Minimum, maximum and a streaming histogram of |x|, whose bins double in width when a larger value comes.

    Attributes:
        low: smallest value seen; +inf before any.
        high: largest value seen; -inf before any.
        counts: float64 [2048], elements by magnitude.
        top: magnitude at the upper end of the last bin.
    """

    def __init__(self) -> None:
        self.low, self.high, self.top = np.inf, -np.inf, 0.0
        self.counts: NDArray[np.float64] = np.zeros(_BINS)

    @property
    def seen(self) -> bool:
        """Whether any element was added: an expert may get no token at all."""
        return self.low <= self.high

    def add(self, values: NDArray[np.floating]) -> None:
        """Adds all elements of an array.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("calibration gave NaN or infinite activations")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.top > 0:
            flat = values.reshape(-1)
            sampled = np.abs(flat[:: -(-flat.size // _SAMPLE)], dtype=np.float32)
            bins = np.minimum(sampled / np.float32(self.top / _BINS), _BINS - 1).astype(np.intp)
            self.counts += np.bincount(bins, minlength=_BINS)
        else:
            self.counts[0] += values.size

    def percentile(self, share: float) -> float:
        """The magnitude below which this share (0 to 1) of the elements lies, to the width of a bin."""
        reached = np.cumsum(self.counts)
        if reached[-1] == 0:
            return 0.0
        index = int(np.searchsorted(reached, share * reached[-1]))
        return float((min(index, _BINS - 1) + 1) * self.top / _BINS)

    def scale(self, code_low: int, code_high: int) -> float:
        """The scale s that minimizes the squared error of s * clip(round(x / s), code_low, code_high).

        The histogram is of magnitudes, so codes are either symmetric or, for inputs that are never negative, unsigned.

        Args:
            code_low: -code_high, or 0 for unsigned codes.
            code_high: largest code.

        Returns:
            A positive scale; 1 where the tensor was always zero.

        Raises:
            ValueError: unsigned codes for a tensor with negative values.
        """
        if code_low == 0 and self.low < 0:
            raise ValueError(f"unsigned codes cannot hold values down to {self.low:g}")
        largest = max(-self.low, self.high)
        if not np.isfinite(largest) or self.top == 0:
            return 1.0
        centres = (np.arange(_BINS) + 0.5) * (self.top / _BINS)
        scales = largest / code_high * (np.arange(_CANDIDATES, 0, -1) / _CANDIDATES)
        steps = np.minimum(np.rint(centres / scales[:, None]), code_high) * scales[:, None]
        errors = np.square(centres - steps) @ self.counts
        # An element anywhere in its bin adds the bin's own variance to every candidate alike, so centres suffice.
        return float(scales[int(np.argmin(errors))])

    def byte_codes(self) -> tuple[int, int, float]:
        """Least and largest code of 8 bits and their scale: unsigned for what is never negative, as after a ReLU."""
        low, high = (0, 255) if self.low >= 0 else (-127, 127)
        return low, high, float(np.float32(self.scale(low, high)))

    def _widen(self, magnitude: float) -> None:
        """Doubles the bins until they hold `magnitude`."""
        if self.top == 0.0 and magnitude > _TINY:
            self.top = magnitude
        while 0 < self.top < magnitude:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2)])
            self.top *= 2
