# SPDX-License-Identifier: Apache-2.0
"""Quantization: values that pass through keep their axes; a model whose weights are integers already is refused."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

QUANTIZED = "quantized already; prune the float model, then quantize"
INTEGER_OPERATORS = ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul")
"""Operators on integers, which have no rule but deserve advice."""


def linear(site: Site) -> Sequence[Axes]:
    """QuantizeLinear and DequantizeLinear: one scale for all, for each index of an axis, or for blocks of them."""
    value = site.node.inputs[0]
    x = site.axes(0)
    if value is not None and value.is_initializer() and len(x) > 1:
        raise OpaqueError(QUANTIZED)
    if site.integer("block_size", 0):
        raise OpaqueError("it scales blocks")
    axis = site.integer("axis", 1)
    for index in (1, 2):
        scale = site.optional(index) or ()
        if len(scale) == 1 and len(scale[0]) > 1:
            site.labels.union(scale[0], x[axis])
    return [x]


QUANTIZATION: dict[str, Rule] = {
    "QuantizeLinear": linear,
    "DequantizeLinear": linear,
}
