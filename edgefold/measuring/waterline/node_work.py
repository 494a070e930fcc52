# SPDX-License-Identifier: Apache-2.0
"""Operations of a node as ONNX Runtime ran it, and the type of its factors."""

from __future__ import annotations

import math

import onnx

from edgefold.measuring.waterline.ceilings import Number
from edgefold.measuring.waterline.node_times import RunNode, Shape

_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operator -> position of the weight [out, in / groups, ...]."""
_INTEGER = frozenset((
    *("ConvInteger", "QLinearConv", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul"),
    "DynamicQuantizeMatMul",
))  # fmt: skip
_PRODUCTS = frozenset(("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulNBits", *_INTEGER)) - {
    "ConvInteger",
    "QLinearConv",
}
_PACKED = frozenset(("ShiftMatMul", "ShiftConv", "FusedConvBlock"))


def operations(one: RunNode) -> int:
    """Two for each multiply-accumulate of matrix products and convolutions; 0 for all other nodes."""
    kind = one.node.op_type
    if not one.outputs or not one.inputs or not one.inputs[0]:
        return 0
    if kind in _PACKED:
        return 2 * math.prod(one.outputs[0]) * _integer(one.node, "k", 0)
    if kind in _CONVOLUTIONS:
        weight = _weight(one, _CONVOLUTIONS[kind])
        return 2 * math.prod(one.outputs[0]) * math.prod(weight[1:]) if weight else 0
    if kind in _PRODUCTS:
        return 2 * math.prod(one.outputs[0]) * _depth(one)
    return 0


def number(one: RunNode) -> Number:
    """The type of the factors that a node multiplies."""
    node = one.node
    if node.op_type in _INTEGER:
        return "integer"
    if node.op_type == "MatMulNBits":
        return "integer" if _integer(node, "accuracy_level", 0) == 4 else "float"
    if node.op_type in _PACKED:
        return "integer" if _integer(node, "activation_high", 0) > 0 else "float"
    return "float"


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
