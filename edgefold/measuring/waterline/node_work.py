# SPDX-License-Identifier: Apache-2.0
"""Operations of a node as ONNX Runtime ran it, and the type of its factors."""

from __future__ import annotations

import math

import onnx

from edgefold.measuring.attention_macs import is_attention
from edgefold.measuring.macs import CONV, MATMUL, RECURRENT, convolution_macs, recurrent_macs, shaped_macs
from edgefold.measuring.unfused import ATTENTION
from edgefold.measuring.waterline.ceilings import Number
from edgefold.measuring.waterline.node_times import RunNode, Shape

_INTEGER = frozenset((
    *("ConvInteger", "QLinearConv", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul"),
    "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention",
))  # fmt: skip
_PRODUCTS = frozenset((*MATMUL, "FusedGemm", "MatMulNBits"))
_PROJECT_SCALES = 14  # input of FusedInvertedResidual
_PACKED = frozenset(("ShiftMatMul", "FusedLinear", "ShiftConv", "FusedConvBlock"))


def operations(one: RunNode) -> int:
    """Two for each multiply-accumulate of products, convolutions, recurrent layers, attention; 0 for all other nodes.

    And 0 for mixtures of experts: how many of these a token meets is in no shape.
    """
    kind = one.node.op_type
    if not one.outputs or not one.inputs or not one.inputs[0]:
        return 0
    if kind in _PACKED:
        return 2 * _elements(one, one.outputs[0], "y_packed") * _integer(one.node, "k", 0)
    if kind in ATTENTION:
        return _attention(one)
    if kind == "Einsum" or is_attention(one.node.domain, kind):
        return 2 * (shaped_macs(one.node, _by_position(one)) or 0)
    if kind == "FusedFeedForward":
        return _feed_forward(one)
    if kind == "FusedInvertedResidual":
        return _inverted_residual(one)
    if kind in CONV:
        weight = _weight(one, CONV[kind][1])
        return 2 * convolution_macs(kind, one.inputs[0], weight, one.outputs[0]) if weight else 0
    if kind in RECURRENT:
        weights = [_weight(one, position) for position in (1, 2)]
        return 2 * recurrent_macs(one.inputs[0], *weights) if all(weights) else 0
    if kind in _PRODUCTS:
        return 2 * math.prod(one.outputs[0]) * _depth(one)
    return 0


def number(one: RunNode) -> Number:
    """The type of the factors that a node multiplies."""
    node = one.node
    if node.op_type in _INTEGER | ATTENTION:
        return "integer"
    if node.op_type == "MatMulNBits":
        return "integer" if _integer(node, "accuracy_level", 0) == 4 else "float"
    if node.op_type == "FusedInvertedResidual":
        return "integer"
    if node.op_type == "FusedFeedForward":
        return "integer" if _integer(node, "up_activation_high", 0) > 0 else "float"
    if node.op_type in _PACKED:
        return "integer" if _integer(node, "activation_high", 0) > 0 else "float"
    return "float"


def _attention(one: RunNode) -> int:
    """Every query by every key, and every weight by a value; those of a causal mask count too."""
    keys = one.inputs[1][-2]
    return 2 * keys * (math.prod(one.inputs[0]) + math.prod(one.outputs[0]))


def _feed_forward(one: RunNode) -> int:
    """A product up to the hidden width for every row, and one down."""
    depth, hidden, width = _integer(one.node, "up_k", 0), _integer(one.node, "down_k", 0), one.outputs[0][-1]
    return 2 * math.prod(one.outputs[0][:-1]) * hidden * (depth + width)


def _inverted_residual(one: RunNode) -> int:
    """A product for every pixel read, then a depthwise convolution and a product for every pixel written."""
    wide, taps = _integer(one.node, "project_k", 0), _integer(one.node, "depthwise_k", 0)
    read, written = _elements(one, one.inputs[0], "x_packed"), _elements(one, one.outputs[0], "y_packed")
    scales = one.node.input[_PROJECT_SCALES]
    width = next(int(tensor.dims[0]) for tensor in one.weights if tensor.name == scales)
    return 2 * wide * (read + written // width * taps + written)


def _elements(one: RunNode, shape: Shape, packed: str) -> int:
    """Of a tensor; two for each byte of codes of four bits."""
    return math.prod(shape) * (1 + _integer(one.node, packed, 0))


def _by_position(one: RunNode) -> list[Shape | None]:
    """Shapes of a node's inputs, None for those left out; the profile has neither these nor weights that are packed."""
    stored = {tensor.name: tuple(tensor.dims) for tensor in one.weights}
    names = [name for name in one.node.input if name]
    if len(one.inputs) < len(names):
        names = [name for name in names if name not in stored]
    seen = stored | dict(zip(names, one.inputs, strict=False))
    return [seen.get(name) for name in one.node.input]


def _weight(one: RunNode, position: int) -> Shape:
    """The weight's shape; from the profile where it is computed at run time."""
    name = one.node.input[position] if len(one.node.input) > position else ""
    stored = next((tuple(tensor.dims) for tensor in one.weights if tensor.name == name), None)
    return stored or (one.inputs[position] if len(one.inputs) > position else ())


def _depth(one: RunNode) -> int:
    """The length of the sums of a product, from its first factor."""
    first = one.inputs[0]
    transposed = _integer(one.node, "transA", 0) and len(first) > 1
    return first[-2] if transposed else first[-1]


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
