# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of every node that multiplies matrices, from inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.measuring.attention_macs import attention_macs, is_attention
from edgefold.measuring.einsum_macs import einsum_macs
from edgefold.measuring.shapes import inferred_skeleton, known_shapes, node_graphs

Shape = tuple[int, ...]

MATMUL = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "FusedMatMul": (0, 1), "Gemm": (0, 1),
           "DynamicQuantizeMatMul": (0, 1), "MatMulIntegerToFloat": (0, 1), "QGemm": (0, 3)}  # fmt: skip
CONV = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "FusedConv": (0, 1), "ConvTranspose": (0, 1)}
"""Operator -> positions of the two factors among its inputs; `CONV` likewise, data and weight."""
RECURRENT = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"))
"""Operators that read data, weights and recurrent weights, in this order."""
_COUNTED = frozenset((*MATMUL, *CONV, *RECURRENT, "Einsum"))


@dataclass(frozen=True)
class NodeMacs:
    """One node's work.

    Attributes:
        node: the node's name, or that of its first output.
        operator: its type.
        macs: multiply-accumulates of one run; None where a shape is unknown.
        output: the output's shape, where it is known.
        counts: False in the branches of an If that have less work than another, of which only one runs.
    """

    node: str
    operator: str
    macs: int | None
    output: Shape | None
    counts: bool = True


def node_macs(model: ir.Model, shapes: Mapping[str, Shape]) -> list[NodeMacs]:
    """The work of every matrix-multiplying node, outer graphs first.

    The body of a loop counts once, and of the branches of an If the one with most work.

    Args:
        model: not changed.
        shapes: the inputs' shapes; those left out keep what the model declares.

    Raises:
        ModelError: the graph contradicts the shapes.
    """
    return _graph_macs(inferred_skeleton(model, shapes).graph, {})


def _multiplies(node: onnx.NodeProto) -> bool:
    """Whether its work is counted."""
    return node.op_type in _COUNTED or is_attention(node.domain, node.op_type)


def shaped_macs(node: onnx.NodeProto, inputs: Sequence[Shape | None]) -> int | None:
    """The work of an Einsum, or of attention in one node, from the shapes of its inputs; None where these do not say.

    Args:
        node: the node.
        inputs: by position; None for what is left out or unknown.
    """
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type != "Einsum":
        return attention_macs(node.domain, node.op_type, attributes, inputs)
    shapes = [shape for shape in inputs if shape is not None]
    return einsum_macs(attributes["equation"].decode(), shapes) if len(shapes) == len(node.input) else None


def _graph_macs(graph: onnx.GraphProto, around: Mapping[str, Shape]) -> list[NodeMacs]:
    known = {**around, **known_shapes(graph)}
    found: list[NodeMacs] = []
    inner: list[NodeMacs] = []
    for node in graph.node:
        if _multiplies(node):
            name, output = node.name or node.output[0], known.get(node.output[0])
            found.append(NodeMacs(name, node.op_type, _count(node, known), output))
        bodies = [_graph_macs(body, known) for body in node_graphs(node)]
        if node.op_type == "If":
            most = max(bodies, key=_known)
            bodies = [body if body is most else [replace(one, counts=False) for one in body] for body in bodies]
        inner += [one for body in bodies for one in body]
    return found + inner


def total_macs(work: Sequence[NodeMacs]) -> int | None:
    """The work of all nodes together; None where that of one that counts is unknown."""
    counted = [one for one in work if one.counts]
    return None if any(one.macs is None for one in counted) else _known(counted)


def _known(work: Sequence[NodeMacs]) -> int:
    return sum(one.macs or 0 for one in work if one.counts)


def macs_by_name(model: ir.Model, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """As `node_macs`, for the nodes whose work is known and counts; nothing where the graph contradicts the shapes."""
    try:
        return {one.node: one.macs for one in node_macs(model, shapes) if one.macs is not None and one.counts}
    except ModelError:
        return {}


def convolution_macs(operator: str, data: Shape, weight: Shape, output: Shape) -> int:
    """Every output is a sum over one filter; of a transposed convolution every input goes into all sums of one."""
    return math.prod(data if operator == "ConvTranspose" else output) * math.prod(weight[1:])


def recurrent_macs(data: Shape, weight: Shape, recurrence: Shape) -> int:
    """Every step and sequence multiplies by all input and all recurrent weights."""
    return data[0] * data[1] * (math.prod(weight) + math.prod(recurrence))


def _count(node: onnx.NodeProto, known: Mapping[str, Shape]) -> int | None:
    operator = node.op_type
    if operator == "Einsum" or is_attention(node.domain, operator):
        return shaped_macs(node, [known.get(name) for name in node.input])
    recurrent = operator in RECURRENT
    positions = (0, 1, 2) if recurrent else (MATMUL | CONV)[operator]
    names = [*(node.input[position] for position in positions), *([node.output[0]] if operator in CONV else [])]
    shapes = [known[name] for name in names if name in known]
    if len(shapes) < len(names):
        return None
    if recurrent:
        return recurrent_macs(*shapes)
    return convolution_macs(operator, *shapes) if operator in CONV else _matmul(node, *shapes)


def _matmul(node: onnx.NodeProto, left: Shape, right: Shape) -> int | None:
    """Rows x K x columns, for every matrix of the broadcast stack."""
    flags = {attribute.name: attribute.i for attribute in node.attribute}
    if flags.get("transA") and len(left) > 1:
        left = (*left[:-2], left[-1], left[-2])
    if flags.get("transB") and len(right) > 1:
        right = (*right[:-2], right[-1], right[-2])
    rows, columns = left[-2] if len(left) > 1 else 1, right[-1] if len(right) > 1 else 1
    stacks = (left[:-2], right[:-2])
    depth = max(len(stack) for stack in stacks)
    first, second = ((1,) * (depth - len(stack)) + stack for stack in stacks)
    return math.prod(max(a, b) for a, b in zip(first, second, strict=True)) * rows * left[-1] * columns
