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
            addend = _channel_constant(node, layer.outputs[0], _axes_behind(layer))
            if addend is not None:
                return layer, addend
    return None


def constants_behind(layer: ir.Node) -> tuple[tuple[ir.Node, ...], Affine] | None:
    """A layer with the products and additions of constants behind it, and what they do to each channel.

    The tensor may be transposed on the way. A linear layer's bias is written as an addition anyway, so that there must
    be a product behind it.
    """
    channels = _channels(layer)
    if channels is None:
        return None
    chain: list[ir.Node] = [layer]
    affine = Affine(np.ones(channels), np.zeros(channels))
    found: tuple[tuple[ir.Node, ...], Affine] | None = None
    behind = _axes_behind(layer)
    while (node := sole_reader(chain[-1])) is not None:
        if node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", ())
            if len(order) <= behind:
                break
            behind = len(order) - 1 - list(order).index(len(order) - 1 - behind)
            chain.append(node)
            continue
        constant = _channel_constant(node, chain[-1].outputs[0], behind) if node.op_type in ("Mul", "Add") else None
        if constant is None or len(constant) != channels:
            break
        chain.append(node)
        if node.op_type == "Mul":
            affine = Affine(affine.scale * constant, affine.offset * constant)
        else:
            affine = Affine(affine.scale, affine.offset + constant)
        if "Conv" in layer.op_type or any(one.op_type == "Mul" for one in chain):
            found = tuple(chain), affine
    return found


def _channels(layer: ir.Node) -> int | None:
    """How many channels a layer with constant weights gives."""
    weight = trace_constant(layer.inputs[1]) if is_layer(layer) else None
    if weight is None:
        return None
    if layer.op_type == "Conv":
        return int(weight.shape[0])
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * layer.attributes.get_int("group", 1)
    if len(weight.shape) != 2:
        return None
    return int(weight.shape[0 if layer.attributes.get_int("transB", 0) else 1])


def _axes_behind(layer: ir.Node) -> int:
    """Axes of a layer's output behind that of the channels."""
    weight = trace_constant(layer.inputs[1])
    return 0 if weight is None or "Conv" not in layer.op_type else max(len(weight.shape) - 2, 0)


def sole_reader(node: ir.Node) -> ir.Node | None:
    """The node that alone reads what a node gives, in the same graph."""
    value = node.outputs[0]
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output() and uses[0].node.graph is node.graph
    return uses[0].node if alone else None


def _channel_constant(node: ir.Node, value: ir.Value, behind: int) -> Array | None:
    """The other operand of a node that reads the value, if it is a constant for each channel.

    Args:
        node: of two operands.
        value: one of them.
        behind: axes of the value behind that of the channels.
    """
    others = [other for other in node.inputs if other is not value]
    constant = small_constant(others[0]) if len(others) == 1 else None
    most = behind + 2 if value.shape is None else value.shape.rank()  # else the product has more axes
    if constant is None or constant.ndim > most:
        return None
    across = (1, *constant.shape)[-(behind + 1) :]
    if constant.ndim > behind and constant.size == across[0]:
        return np.asarray(constant, np.float64).reshape(-1)
    return None
