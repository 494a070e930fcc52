# SPDX-License-Identifier: Apache-2.0
"""What operators and stored values are to a residual stream: what mixes it, what adds to it, what only passes it on."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow

TRANSPARENT = frozenset(("Identity", "Dropout", "Reshape", "Flatten"))
"""Operators that move nothing but the shape: exporters and slimmers add, join and drop them at will."""

_PER_ELEMENT = frozenset((
    "Add", "Sub", "Mul", "Div", "Pow", "Where", "Min", "Max", "Sum", "PRelu", "Concat", "Equal", "Less", "Greater",
    "LayerNormalization", "RMSNormalization", "L1LayerNormalization", "QuantizeLinear", "DequantizeLinear",
    "QLinearAdd", "QLinearMul",
))  # fmt: skip
_SUMMING = frozenset(("Add", "Sum", "QLinearAdd"))
_MOVING = frozenset((
    "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "QuantizeLinear",
    "DequantizeLinear",
))  # fmt: skip
_ADDENDS = {
    "Add": (0, 1),
    "SkipLayerNormalization": (0, 1),
    "SkipSimplifiedLayerNormalization": (0, 1),
    "QLinearAdd": (0, 3),
    "Gemm": (2,),
    "FusedConv": (3,),
    "Conv": (3,),  # in the blocked layout of ONNX Runtime
}


def has_matrix(node: ir.Node, flow: Dataflow) -> bool:
    """Whether the node mixes what it reads by stored weights: a projection, a convolution, a table."""
    constants = () if node.op_type in _PER_ELEMENT else flow.constants_of(node)
    return any(stored.is_matrix for value in constants for stored in flow.stored_behind(value))


def has_parameters(node: ir.Node, flow: Dataflow) -> bool:
    """Whether the node reads more than a stored number."""
    stored = (one for value in flow.constants_of(node) for one in flow.stored_behind(value))
    return any(one.is_parameter and math.prod(one.shape) > 1 for one in stored)


def addends(node: ir.Node) -> list[ir.Value]:
    """The inputs that the node adds to its result unchanged."""
    places = range(len(node.inputs)) if node.op_type == "Sum" else _ADDENDS.get(node.op_type, ())
    return [value for at, value in enumerate(node.inputs) if at in places and value is not None]


def passed_on(node: ir.Node, flow: Dataflow) -> list[ir.Value]:
    """The contents that leave a node unchanged but for their layout, a sum or a constant factor."""
    contents = [value for value in node.inputs if value is not None and value in flow.content]
    if node.op_type in _SUMMING:
        return contents
    scaled = node.op_type in ("Mul", "Div") and sum(value in flow.constants for value in node.inputs) == 1
    return contents[:1] if scaled or node.op_type in _MOVING else []
