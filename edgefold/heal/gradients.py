# SPDX-License-Identifier: Apache-2.0
"""Gradients of a loss with respect to a model's weights, and their product with the loss's Hessian.

Criteria of pruning need them: Taylor (Molchanov et al., 1906.10771) and SNIP (1810.02340) the gradient g, GraSP
(2002.07376) and CroP (2206.04510) the product Hg. The loss is that of the labels where there are labels. Without
them it cannot be a distance to the model's own outputs, whose gradient is zero at the model itself; it is then half the
squared norm of the outputs: how much the outputs move with a weight (memory aware synapses, 1711.09601, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgefold.errors import ModelError
from edgefold.heal.graph_module import GraphModule

if TYPE_CHECKING:
    from edgefold.scoring.task import Batch

Loss = Callable[[Mapping[str, Tensor], Tensor | None], Tensor]
"""From outputs by name and labels (None where there are none) to the mean loss of a batch's samples."""


def half_squared_norm(outputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
    """Half the squared norm of all float outputs of a sample, averaged over samples; needs no labels."""
    del labels
    norms = [output.square().sum() / max(len(output), 1) for output in outputs.values() if output.is_floating_point()]
    if not norms:
        raise ModelError(f"the outputs {', '.join(outputs)} are integers, which have no gradient")
    return torch.stack(norms).sum() / 2


def gradients(
    model: ir.Model,
    batches: Callable[[], Iterable[Batch]],
    loss: Loss = half_squared_norm,
    *,
    times_hessian: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """The gradient g of the mean loss over all samples, or Hg, its product with the mean loss's Hessian.

    Args:
        model: not changed.
        batches: makes a fresh iterator over the data; Hg goes through them twice.
        loss: of a batch.
        times_hessian: give Hg, by double backward; exact, for the g of all batches together.

    Returns:
        Initializer (or output of a Constant node) -> float32 array of its shape, for all that are weights (see
        `edgefold.heal.weights`); packed codes -> the gradient at the weights [K, N]
        that they stand for. What is absent is no weight; zeros mean that the loss does not depend on it.

    Raises:
        ModelError: an operator has no trainable form, no output is a float, or there are no data.
    """
    module = GraphModule(model)
    parameters = list(module.parameters())

    def gradient_of(value: Tensor, differentiable: bool = False) -> list[Tensor]:
        if not value.requires_grad:
            return [torch.zeros_like(parameter) for parameter in parameters]
        return list(torch.autograd.grad(value, parameters, create_graph=differentiable, materialize_grads=True))

    def averaged(of_batch: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        samples = 0
        for batch in batches():
            value = loss(*_evaluated(module, batch))
            for total, part in zip(sums, of_batch(value), strict=True):
                total += part.detach() * batch.count
            samples += batch.count
        if not samples:
            raise ModelError("there are no samples to take gradients on")
        return [total / samples for total in sums]

    found = averaged(gradient_of)
    if times_hessian:
        g = found

        def product(value: Tensor) -> list[Tensor]:
            slopes = gradient_of(value, differentiable=True)
            return gradient_of(torch.stack([(a * b).sum() for a, b in zip(slopes, g, strict=True)]).sum())

        found = averaged(product)
    names = [name for name, _ in module.named_parameters()]
    return {name: tensor.float().numpy() for name, tensor in zip(names, found, strict=True)}


def _evaluated(module: GraphModule, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
    """Outputs and labels of a batch's samples, padding dropped."""
    feeds = {name: torch.from_numpy(np.asarray(array, order="C")) for name, array in batch.feeds.items()}
    outputs: dict[str, Any] = module(feeds)
    cut = {
        name: output[: batch.count] if output.dim() and len(output) == batch.rows else output
        for name, output in outputs.items()
    }
    return cut, None if batch.labels is None else torch.from_numpy(np.ascontiguousarray(batch.labels))
