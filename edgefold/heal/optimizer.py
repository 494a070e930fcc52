# SPDX-License-Identifier: Apache-2.0
"""The optimizers of healing, and how large a step each tensor takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgefold.passes.heal import SIZE_OF_ZEROS, Heal


def make_optimizer(
    weights: Mapping[str, Tensor], least_steps: Mapping[str, float], options: Heal, rate: float
) -> torch.optim.Optimizer:
    """AdamW with steps relative to the size of each tensor (Shazeer and Stern 2018, section 8); SGD with absolute ones.

    Adam moves every weight by about the learning rate. Relative to its tensor, one rate suits folded convolutions,
    transformers and the small scales of quantized weights.

    Args:
        weights: what is trained, by name.
        least_steps: for some of them, the smallest magnitude that a relative step is taken of.
        options: of the training.
        rate: learning rate at its highest.

    Returns:
        An optimizer whose groups have a ``scale`` that the learning rate of each step is multiplied by.
    """
    if options.optimizer == "adamw":
        groups = [
            {"params": [weight], "scale": max(_root_mean_square(weight), least_steps.get(name, 0.0)) or SIZE_OF_ZEROS}
            for name, weight in weights.items()
        ]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=options.weight_decay, fused=True)
    return torch.optim.SGD(
        [{"params": list(weights.values()), "scale": 1.0}],
        lr=rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=options.weight_decay,
    )


def _root_mean_square(weight: Tensor) -> float:
    return float(weight.detach().square().mean().sqrt())
