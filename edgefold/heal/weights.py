# SPDX-License-Identifier: Apache-2.0
"""Which stored tensors of a graph are weights, that is, are trained; all others are constants.

ONNX does not say. A float tensor is a weight where an operator takes it as its parameter (the kernel of a Conv, the
scale of a normalization), or where it takes part in arithmetic, has more than one element, and is no mask. Running
statistics of a batch normalization, shapes, bounds, and scalars such as epsilons and the root of a head's size are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.heal.operators.node import held_by_constant

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_VIEWS = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_LARGEST_WEIGHT = 1e30  # beyond it an additive mask: the lowest float, or minus infinity
_MASKED = -1e3  # and at most this, beside zeros and nothing else: -1e4 or -1e9, as exporters write it too

_PARAMETERS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "BatchNormalization"): (1, 2),
    ("", "Conv"): (1, 2),
    ("", "ConvTranspose"): (1, 2),
    ("", "DequantizeLinear"): (1,),
    ("", "GRU"): (1, 2, 3),
    ("", "Gemm"): (0, 1, 2),
    ("", "GroupNormalization"): (1, 2),
    ("", "InstanceNormalization"): (1, 2),
    ("", "LSTM"): (1, 2, 3, 7),
    ("", "LayerNormalization"): (1, 2),
    ("", "MatMul"): (0, 1),
    ("", "PRelu"): (1,),
    ("", "QuantizeLinear"): (1,),
    ("", "RMSNormalization"): (1,),
    ("", "RNN"): (1, 2, 3),
    ("ai.edgefold", "FloatConv"): (4, 5),
    ("ai.edgefold", "ShiftConv"): (4, 5, 6),
    ("ai.edgefold", "ShiftGather"): (4,),
    ("ai.edgefold", "ShiftMatMul"): (4, 5, 6),
}

_CONSTANTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "BatchNormalization"): (3, 4),
    ("", "Clip"): (1, 2),
    ("", "Dropout"): (1,),
    ("", "GRU"): (5,),
    ("", "LSTM"): (5, 6),
    ("", "OneHot"): (1, 2),
    ("", "Pad"): (2,),
    ("", "Pow"): (1,),
    ("", "RNN"): (5,),
    ("", "Range"): (0, 1, 2),
    ("", "Resize"): (1, 2),
    ("", "Upsample"): (1,),
}


def stored_floats(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Float initializers, and float outputs of Constant nodes, of the main graph and its subgraphs."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _FLOATS:
                yield value, value.const_value
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                tensor = held_by_constant(node)
                if tensor is not None and tensor.dtype in _FLOATS:
                    yield node.outputs[0], tensor


def weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The trainable tensors of a model by name, in the order of the graph.

    Args:
        model: with its function calls in place: the operators of `ai.edgefold` are known here by name.
    """
    return {str(value.name): tensor for value, tensor in stored_floats(model) if _is_weight(value, tensor)}


def _is_weight(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    uses = list(_uses(value))
    if any(position in _PARAMETERS.get(_operator(node), ()) for node, position in uses):
        # An activation scale of 0 is how ai.edgefold says that scales are computed from the data.
        return not (tensor.size == 1 and _operator(uses[0][0])[0] == "ai.edgefold" and not tensor.numpy().any())
    trained = [use for use in uses if use[1] not in _CONSTANTS.get(_operator(use[0]), ())]
    return bool(trained) and tensor.size > 1 and not _is_mask(tensor.numpy())


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Every (node, operand) that reads a value, directly or through nodes that only reshape it."""
    for use in value.uses():
        if use.idx == 0 and use.node.op_type in _VIEWS and use.node.domain in ("", "ai.onnx"):
            yield from _uses(use.node.outputs[0])
        else:
            yield use.node, use.idx


def _operator(node: ir.Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def _is_mask(array: np.ndarray[Any, np.dtype[Any]]) -> bool:
    array = array.astype(np.float64)
    if not np.all(np.abs(array) < _LARGEST_WEIGHT):  # NaN too
        return True
    low, high = array.min(), array.max()
    additive = low <= _MASKED and high == 0 and bool(np.isin(array, (low, 0)).all())
    return additive or bool(np.isin(array, (0, 1)).all() and low != high)
