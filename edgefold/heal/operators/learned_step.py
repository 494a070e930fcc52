# SPDX-License-Identifier: Apache-2.0
"""Quantizers whose steps are learned, for nodes that compute in integers (LSQ, Esser et al., 1902.08153, section 2).

Both give the integers that the node multiplies, so that a training sees what the shipped kernels compute. The node
multiplies its sums by the scales afterwards, as constants: with y = scale * code, the whole gradient of a scale is
``dL/dy * (code - scaled value)`` inside the range and ``dL/dy * code`` outside it, and the quantizer gives all of it.
LSQ's factor on it (section 2.2) is left out: it balances the steps of SGD, and the optimizer here takes steps relative
to each tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgefold.passes.quantization.selection import GROUP, LevelLookup

_CELLS = 512  # as LevelLookup has them


def activation_codes(x: Tensor, scale: Tensor, shifts: Tensor | None, low: int, high: int) -> Tensor:
    """``clip(round_half_even(x / (scale * shifts)), low, high) * shifts``: integers as float32.

    Args:
        x: float32 activations, the batch in front.
        scale: one positive number, or one a row; 0 gives zeros.
        shifts: powers of two that broadcast over x, or None for ones.
        low: smallest code.
        high: largest code.
    """
    integers: Tensor = _ActivationCodes.apply(x, scale, shifts, low, high)
    return integers


class _ActivationCodes(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shifts: Tensor | None, low: int, high: int) -> Tensor:
        codes = (x / _step(scale, shifts)).round_().clamp_(low, high)
        integers = codes if shifts is None else codes * shifts
        ctx.save_for_backward(x, scale, shifts, integers)
        ctx.range = low, high
        return integers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shifts, integers = ctx.saved_tensors
        low, high = ctx.range
        # What is rounded into the range; in one pass over memory, which is what a quantizer costs.
        inside = torch.ops.aten.hardtanh_backward(gradient, x / _step(scale, shifts), low - 0.5, high + 0.5)
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = ((_dot(gradient, integers) - _dot(inside, x) / scale) / scale).reshape(scale.shape)
        return inside / _divisor(scale), of_scale, None, None, None


def _step(scale: Tensor, shifts: Tensor | None) -> Tensor:
    return _divisor(scale if shifts is None else scale * shifts)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.inf)


class Levels:
    """The integers that the weights of one packed matrix may become: a table for each group of 32 along K.

    Args:
        table: int8 [T, 2**bits].
        selectors: uint8 [ceil(K / 32), N].
        k: K.

    Attributes:
        largest: the largest magnitude of a level.
    """

    def __init__(self, table: NDArray[np.int8], selectors: NDArray[np.uint8], k: int) -> None:
        self.largest = int(np.abs(table.astype(np.int16)).max())
        lookup = LevelLookup.of(table)
        first = np.repeat(selectors.astype(np.int32) * _CELLS, GROUP, axis=0)[:k]
        self._tensors = tuple(map(torch.from_numpy, (first, lookup.values.ravel(), _within(table).ravel())))
        self._placed: dict[torch.device, tuple[Tensor, ...]] = {}

    def nearest(self, latent: Tensor, scales: Tensor, columns: Tensor | None = None) -> Tensor:
        """The level nearest to ``latent / scales``, as float32 [K, N].

        Args:
            latent: float32 [K, N].
            scales: float32 [N]; a column of scale 0 has no gradient.
            columns: int64 [R]: latent and scales are those of these columns only.
        """
        if latent.device not in self._placed:
            self._placed[latent.device] = tuple(tensor.to(latent.device) for tensor in self._tensors)
        first, levels, within = self._placed[latent.device]
        first = first if columns is None else first[:, columns]
        integers: Tensor = _NearestLevels.apply(latent, scales, first, levels, within)
        return integers


class _NearestLevels(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scales: Tensor, first: Tensor, levels: Tensor, within: Tensor) -> Tensor:
        scaled = latent / torch.where(scales > 0, scales, 1)
        # The arithmetic of `passes._selection.cells_of`, by which the codes are written back.
        cells = first + torch.clamp(scaled * 2 + _CELLS // 2, 0, _CELLS - 1).int()
        integers = levels[cells]
        ctx.save_for_backward(scaled, scales, integers, within[cells])
        return integers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scaled, scales, integers, within = ctx.saved_tensors
        by_scale = gradient / _divisor(scales)
        error = integers - torch.where(within, scaled, 0)
        of_scales = (by_scale * error).sum(dim=0)
        return torch.where(within, by_scale, 0), of_scales, None, None, None


def _within(table: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Whether a half-integer cell is no further beyond a table's last level than half the step to it: bool [T, 512]."""
    centres = np.arange(_CELLS) / 2 - 127.75
    rows = []
    for row in table.astype(np.float64):
        levels = np.unique(row)
        low, high = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
        rows.append((low < centres) & (centres < high))
    return np.stack(rows)
