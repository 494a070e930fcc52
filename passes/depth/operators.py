# SPDX-License-Identifier: Apache-2.0
"""What operators are to a residual stream: those that hold a matrix, that add, that only pass on, that attend."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow

_MATRIX_CODES = 64  # one-dimensional integers from here on are packed weights rather than scales or zero points
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
}
TRANSPARENT = frozenset(("Identity", "Dropout", "Reshape", "Flatten"))
"""Operators that move nothing but the shape: exporters and slimmers add, join and drop them at will."""


def has_matrix(node: ir.Node, flow: Dataflow) -> bool:
    """Whether the node mixes what it reads by stored weights: a projection, a convolution, a table."""
    return node.op_type not in _PER_ELEMENT and any(
        is_matrix(stored)
        for value in node.inputs
        if value is not None and value in flow.constants
        for stored in flow.stored_behind(value)
    )


def is_parameter(stored: ir.Value) -> bool:
    """Whether a stored value holds weights, float or quantized, rather than axes, sizes and indices."""
    dtype = _dtype(stored)
    return dtype is not None and (dtype.is_floating_point() or dtype.bitwidth <= 8) and dtype != ir.DataType.BOOL


def is_matrix(stored: ir.Value) -> bool:
    """Whether a stored value is a parameter of two dimensions or more, or packed codes."""
    if not is_parameter(stored):
        return False
    shape = stored_shape(stored)
    dtype = _dtype(stored)
    packed = dtype is not None and not dtype.is_floating_point() and math.prod(shape) >= _MATRIX_CODES
    return packed or sum(size > 1 for size in shape) >= 2


def stored_shape(stored: ir.Value) -> tuple[int, ...]:
    """The shape of an initializer or of a Constant's output."""
    tensor = ir.convenience.get_const_tensor(stored)
    return () if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def _dtype(stored: ir.Value) -> ir.DataType | None:
    tensor = ir.convenience.get_const_tensor(stored)
    return None if tensor is None else ir.DataType(tensor.dtype)


def addends(node: ir.Node) -> tuple[int, ...]:
    """The positions of the inputs that the node adds to its result unchanged."""
    if node.op_type == "Sum":
        return tuple(range(len(node.inputs)))
    return _ADDENDS.get(node.op_type, ())


def passed_on(node: ir.Node, flow: Dataflow) -> list[ir.Value]:
    """The contents that leave a node unchanged but for their layout, a sum or a constant factor."""
    contents = [value for value in node.inputs if value is not None and value in flow.content]
    if node.op_type in _SUMMING:
        return contents
    scaled = node.op_type in ("Mul", "Div") and sum(value in flow.constants for value in node.inputs) == 1
    return contents[:1] if scaled or node.op_type in _MOVING else []
