# SPDX-License-Identifier: Apache-2.0
"""What follows a layer and only scales and shifts each of its channels, by constants."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant, trace_constant

Array = npt.NDArray[np.float64]
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Affine:
    """What a batch normalization does to each channel at inference: ``x * scale + offset``, float64 [C]."""

    scale: Array
    offset: Array


def is_layer(node: ir.Node) -> bool:
    """Whether a node multiplies by weights, whose outputs can be scaled through them."""
    return node.op_type in _LAYERS and node.domain in ("", "ai.onnx")


def added_bias(node: ir.Node | None) -> tuple[ir.Node, Array] | None:
    """The layer and the addend, one a channel, where the node adds a bias apart from its layer."""
    if node is None or node.op_type != "Add":
        return None
    for value in node.inputs:
        layer = value.producer() if value is not None else None
        if layer is not None and is_layer(layer) and layer.op_type != "Gemm":
            addend = _channel_constant(node, layer.outputs[0], layer)
            if addend is not None:
                return layer, addend
    return None


def _channel_constant(node: ir.Node, value: ir.Value, layer: ir.Node) -> Array | None:
    """The other operand of a node that reads the value, if it is a constant for each channel that the layer gives."""
    others = [other for other in node.inputs if other is not value]
    constant = small_constant(others[0]) if len(others) == 1 else None
    if constant is None:
        return None
    weight = trace_constant(layer.inputs[1])
    spatial = 0 if weight is None else max(len(weight.shape) - 2, 0)
    across = (1, *constant.shape)[-(spatial + 1) :]
    if constant.ndim > spatial and constant.size == across[0]:
        return np.asarray(constant, np.float64).reshape(-1)
    return None


def constants_behind(layer: ir.Node) -> tuple[tuple[ir.Node, ...], Affine] | None:
    """A convolution with the products and additions of constants behind it, and what they do to each channel."""
    weight = trace_constant(layer.inputs[1]) if is_layer(layer) and "Conv" in layer.op_type else None
    if weight is None:
        return None
    outputs = weight.shape[1] * layer.attributes.get_int("group", 1)
    channels = weight.shape[0] if layer.op_type == "Conv" else outputs
    chain: tuple[ir.Node, ...] = (layer,)
    affine = Affine(np.ones(channels), np.zeros(channels))
    while True:
        value = chain[-1].outputs[0]
        uses = list(value.uses())
        node = uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
        constant = _channel_constant(node, value, layer) if node and node.op_type in ("Mul", "Add") else None
        if node is None or constant is None or len(constant) != channels or node.graph is not layer.graph:
            return (chain, affine) if len(chain) > 1 else None
        chain = (*chain, node)
        if node.op_type == "Mul":
            affine = Affine(affine.scale * constant, affine.offset * constant)
        else:
            affine = Affine(affine.scale, affine.offset + constant)
