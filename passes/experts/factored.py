# SPDX-License-Identifier: Apache-2.0
"""Experts whose matrices are products of two thin ones: the last factor is solved anew like any last matrix."""

from __future__ import annotations

import dataclasses

from edgefold.passes._constants import trace_constant
from edgefold.passes._refittable import store
from edgefold.passes.experts.dispatch import Array, Expert, Product
from edgefold.passes.experts.dispatched import DispatchedExpert, DispatchedLayer
from edgefold.passes.experts.evidence import Evidence
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.experts.refit import joint


@dataclasses.dataclass(frozen=True, eq=False)
class Factored(FeedForward):
    """An expert whose hidden units pass a thin matrix before the last one.

    Attributes:
        thin: [f, r]; None where the last matrix is whole.
    """

    thin: Array | None = None

    def hidden(self, x: Array) -> Array:
        """What the last matrix is multiplied with, [rows, r or f]."""
        units = super().hidden(x)
        return units if self.thin is None else units @ self.thin


def refit_last(layer: DispatchedLayer, evidence: Evidence) -> None:
    """Solves for the last factors of all experts of a layer together, in place."""
    experts = [_function(expert, layer) for expert in layer.experts]
    fitted = joint(experts, evidence.gates, evidence.x, evidence.wanted)
    for expert, found in zip(layer.experts, fitted, strict=True):
        store(expert.down.sites()[-1].weight.root, found.weights.down.weight)
        if expert.down.bias is not None and found.weights.down.bias is not None:
            bias = next(one for one in map(trace_constant, expert.down.bias.inputs) if one is not None)
            store(bias.root, found.weights.down.bias)


def _function(expert: DispatchedExpert, layer: DispatchedLayer) -> Factored:
    *thin, last = (site.weight.array() for site in expert.down.sites())
    inputs = tuple(product.value() for product in expert.inputs)
    down = Product(last, expert.down.value().bias)
    return Factored(Expert(inputs, down), layer.activation, thin[0] if thin else None)
