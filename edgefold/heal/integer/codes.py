# SPDX-License-Identifier: Apache-2.0
"""Inputs and weights as integers of few bits, rounded to nearest, with a straight-through gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgefold.heal.operators.learned_step import activation_codes

_CLIPS = [2.0 ** (-eighths / 8) for eighths in range(25)]
_SAMPLE = 1 << 16
_SMALLEST = 1e-8


class InputCodes(nn.Module):  # type: ignore[misc]  # torch has no types here
    """Inputs of a layer as integers with one learnt scale (LSQ, arXiv 1902.08153; its factor of section 2.2 for SGD).

    The scale starts where the squared error of the first batch is least.

    Args:
        bits: width of a code, 2 to 8.
        unsigned: codes from 0 to 2**bits - 1, for what comes out of a ReLU; else symmetric about 0.
    """

    def __init__(self, bits: int, unsigned: bool) -> None:
        super().__init__()
        self.low = 0 if unsigned else 1 - 2 ** (bits - 1)
        self.high = 2**bits - 1 if unsigned else 2 ** (bits - 1) - 1
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the codes, float32 of the shape of x, and their scale, whose whole gradient the codes carry.

        That of the sums' factor would be no better than the noise of the rounded gradients: the two almost cancel.
        """
        if not self.started:
            self._start(x.detach())
        damping = (x[0].numel() * self.high) ** -0.5
        step = self.step * damping + (self.step * (1 - damping)).detach()
        step = step.clamp_min(_SMALLEST)
        return activation_codes(x, step, None, self.low, self.high), step.detach()

    def _start(self, x: Tensor) -> None:
        values = x.flatten()[:: max(1, x.numel() // _SAMPLE)]
        widest = values.abs().max().clamp_min(_SMALLEST) / self.high
        steps = [widest * clip for clip in _CLIPS]
        errors = [((values / s).clamp(self.low, self.high).round() * s - values).square().sum() for s in steps]
        self.step.data.copy_(steps[int(torch.stack(errors).argmin())])
        self.started.fill_(True)


def weight_codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A layer's weights as integers, with one scale for each output.

    Args:
        weight: float32 [N, ...].
        bits: width of a code.

    Returns:
        The codes, float32 of the same shape, and the scales, float32 [N]: the largest magnitude of each output, so
        that nothing is clipped and every weight has a gradient. The scales have none.
    """
    largest = 2 ** (bits - 1) - 1
    scales = weight.detach().flatten(1).abs().amax(1).clamp_min(_SMALLEST) / largest
    codes: Tensor = _Rounded.apply(weight / scales.reshape(-1, *[1] * (weight.dim() - 1)))
    return codes, scales


class _Rounded(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        return gradients[0]
