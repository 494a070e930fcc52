# SPDX-License-Identifier: Apache-2.0
"""Batch normalization by the mean absolute deviation instead of the standard deviation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

GAUSSIAN_RATIO = math.sqrt(math.pi / 2)
"""Standard deviation over mean absolute deviation of a Gaussian."""


def l1_normalized(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each channel of a batch, centred and divided by c d + eps, with d its mean absolute deviation.

    c = sqrt(pi / 2), so that a Gaussian comes out as L2 normalization would leave it (arXiv 1802.09769).

    Args:
        x: float [B, C, ...].
        eps: keeps a constant channel finite.

    Returns:
        The normalized batch, and means and c d of the channels [C], which carry no gradient.
    """
    result: tuple[Tensor, Tensor, Tensor] = _L1Normalization.apply(x, eps)
    return result


class _L1Normalization(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """dL/dx = (g - mean(g) - c (s - mean(s)) mean(g xh)) / (c d + eps), s = sign(x - mean(x)).

    The L2 form has xh in the place of c s: an outlier's pull is bounded here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        others = [0, *range(2, x.dim())]
        mean = x.mean(others, keepdim=True)
        centred = x - mean
        deviation = GAUSSIAN_RATIO * centred.abs().mean(others, keepdim=True)
        divisor = deviation + eps
        normalized = centred.div_(divisor)
        ctx.save_for_backward(normalized, divisor)
        ctx.others = others
        flat_mean, flat_deviation = mean.flatten(), deviation.flatten()
        ctx.mark_non_differentiable(flat_mean, flat_deviation)
        return normalized, flat_mean, flat_deviation

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        normalized, divisor = ctx.saved_tensors
        gradient, others = gradients[0], ctx.others
        signs = normalized.sign()
        along = GAUSSIAN_RATIO * (gradient * normalized).mean(others, keepdim=True)
        offset = gradient.mean(others, keepdim=True) - along * signs.mean(others, keepdim=True)
        return (gradient - offset).addcmul_(signs, along, value=-1).div_(divisor), None


class L1BatchNorm2d(nn.Module):  # type: ignore[misc]  # torch has no types here
    """L1 batch normalization of images (arXiv 2411.10948, section 4; 1802.09769), with running statistics.

    Args:
        channels: of the input, [B, channels, H, W].
        eps: added to the deviation.
        momentum: share of a new batch in the running statistics.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_deviation", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            multiplier, offset = self.affine()
            return x * multiplier[:, None, None] + offset[:, None, None]
        normalized, mean, deviation = l1_normalized(x, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_deviation.lerp_(deviation, self.momentum)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]

    def affine(self) -> tuple[Tensor, Tensor]:
        """What the layer is once trained: factor and addend of each channel, [C] each."""
        multiplier = self.weight / (self.running_deviation + self.eps)
        return multiplier, self.bias - self.running_mean * multiplier
