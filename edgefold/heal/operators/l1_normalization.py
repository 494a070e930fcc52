# SPDX-License-Identifier: Apache-2.0
"""L1LayerNormalization in the integers that its kernels compute with, and with the gradient of the real L1 form.

With xh = (x - mean) / a, a = mean|x - mean| and g the gradient at xh, that of x is
``(g - mean(g) - (s - mean(s)) * mean(g * xh)) / a``, s the signs of x - mean: where the L2 form multiplies by xh,
outliers and all, this one multiplies by signs (Wu et al., L1-norm batch normalization, arXiv 1802.09769, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgefold.heal.operators.elementwise import round_straight_through
from edgefold.heal.operators.node import Binding, BoundNode, Kernel
from edgefold.ops.l1_normalization import LEVELS

_SMALLEST_ROW = 1e-30  # below it a row counts as zero
_CODE_FACTOR = 128.0


def l1_normalize(
    levels: Tensor, epsilon: Tensor, *, centred: bool, rounding: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Differences from the mean, and the reciprocal of their mean magnitude, over the last axis.

    Args:
        levels: [..., D], whole numbers where `rounding` is given.
        epsilon: the least magnitude, in units of `levels`; broadcast to [..., 1].
        centred: whether the mean is taken off.
        rounding: of the mean; None for the real form.

    Returns:
        [..., D], and [..., 1]; the reciprocal of 0 is 0.
    """
    columns = float(levels.shape[-1])
    # Sums of 15-bit integers leave the 24 bits of float32, and kernels round them once.
    mean = levels.double().sum(-1, keepdim=True).to(levels.dtype) / columns
    differences = levels - (mean if rounding is None else rounding(mean)) if centred else levels
    deviation = differences.abs().double().sum(-1, keepdim=True).to(levels.dtype)
    divisor = torch.maximum(deviation, columns * epsilon)
    present = divisor > 0
    return differences, torch.where(present, columns / torch.where(present, divisor, 1.0), 0.0)


def _l1_layer(node: BoundNode) -> Kernel:
    epsilon, centred = node.real("epsilon", 0.0), bool(node.integer("centred", 1))
    are_codes, high = bool(node.integer("x_codes", 0)), node.integer("activation_high", 0)

    def kernel(x: Tensor, gamma: Tensor, beta: Tensor, shifts: Tensor) -> Tensor:
        factor = torch.full_like(x[..., :1], _CODE_FACTOR, dtype=gamma.dtype) if are_codes else _factor(x)
        levels = round_straight_through(x.to(gamma.dtype) * factor)
        differences, scale = l1_normalize(levels, epsilon * factor, centred=centred, rounding=round_straight_through)
        y = differences * (scale * gamma) + beta
        if not high:
            return y
        return torch.clamp(round_straight_through(y), -high, high) * torch.exp2(shifts.to(y.dtype))

    return kernel


def _factor(x: Tensor) -> Tensor:
    """What makes 15-bit levels of a row. The quotient does not depend on it, so it has no gradient."""
    absmax = x.detach().abs().amax(dim=-1, keepdim=True)
    present = absmax > _SMALLEST_ROW
    return torch.where(present, LEVELS / torch.where(present, absmax, 1.0), 0.0)


OPERATORS: Mapping[str, Binding] = {"L1LayerNormalization": _l1_layer}
