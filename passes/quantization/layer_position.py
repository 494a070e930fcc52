# SPDX-License-Identifier: Apache-2.0
"""Which layers are a network's first and last, where coarse weights harm more than in the middle, and its routers."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgefold.passes._constants import trace_constant

# Operand that holds the weights, by operator; a node counts as a layer where that operand is a constant matrix.
_WEIGHT_OPERAND = {
    "MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0, "LSTM": 1, "GRU": 1, "RNN": 1,
    "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3,
}  # fmt: skip
_SHAPE_OPERATORS = ("Shape", "Size")
# Operand by which an operator chooses; MoE and QMoE apply what they have chosen themselves.
_CHOICES = {"TopK": 0, "ArgMax": 0, "MoE": 1, "QMoE": 1}
_OF_ALL_EXPERTS = ("Einsum", "MoE", "QMoE", "ShiftMoE")


@dataclasses.dataclass(frozen=True)
class LayerPositions:
    """The first and the last layers of a graph, and its routers, by node.

    Attributes:
        first: layers that read a graph input with no other layer before them.
        last: layers whose output becomes a graph output without passing a layer or meeting another activation
            on the way (concatenation with others does not count as meeting).
        routers: layers by whose outputs alone a TopK or ArgMax chooses what later layers see, as those in front of
            experts: a small error there is either none or a wrong choice.
    """

    first: frozenset[ir.Node]
    last: frozenset[ir.Node]
    routers: frozenset[ir.Node]


def layer_positions(graph: ir.Graph) -> LayerPositions:
    """Finds the first and the last layers and the routers of a graph in topological order."""
    activations: set[ir.Value] = {value for value in graph.inputs if not value.is_initializer()}
    after_layer: set[ir.Value] = set()
    layers: list[ir.Node] = []
    first: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value in activations]
        layer = is_layer(node)
        follows = any(value in after_layer for value in node.inputs)
        if layer:
            layers.append(node)
            if not follows:
                first.add(node)
        if layer or follows:
            after_layer.update(node.outputs)
        if (read or _captures(node)) and node.op_type not in _SHAPE_OPERATORS:
            activations.update(node.outputs)
    last = {node for node in layers if _ends_alone(node, activations)}
    routers = {router for node in graph if (router := _router(node, activations)) is not None}
    return LayerPositions(frozenset(first), frozenset(last), frozenset(routers))


def is_layer(node: ir.Node) -> bool:
    """Whether the node applies constant weights of two or more dimensions (one on either side for MatMul)."""
    operand = _WEIGHT_OPERAND.get(node.op_type)
    if operand is None or len(node.inputs) <= operand:
        return False
    operands = (0, 1) if node.op_type == "MatMul" else (operand,)
    for index in operands:
        value = node.inputs[index]
        constant = trace_constant(value)
        if constant is not None and len(constant.shape) >= 2 and _holds_weights(constant.dtype, node.op_type):
            return True
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear" and trace_constant(producer.inputs[0]):
            return True
    return False


def _router(choice: ir.Node, activations: set[ir.Value]) -> ir.Node | None:
    """The one layer by which a node chooses what later layers see; None where it does not, or by other things too."""
    operand = _CHOICES.get(choice.op_type)
    if operand is None or not (choice.op_type in _OF_ALL_EXPERTS or _is_followed(choice)):
        return None
    found: set[ir.Node] = set()
    seen: set[ir.Value] = set()
    pending = [choice.inputs[operand]]
    while pending:
        value = pending.pop()
        if value is None or value in seen or value not in activations:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            return None  # a graph input
        if is_layer(node):
            found.add(node)
        else:
            pending.extend(node.inputs)
    return found.pop() if len(found) == 1 else None


def _is_followed(node: ir.Node) -> bool:
    """Whether a layer depends on what a node gives."""
    seen: set[ir.Node] = set()
    pending = [node]
    while pending:
        readers = {use.node for value in pending.pop().outputs for use in value.uses()} - seen
        if any(is_layer(reader) or reader.op_type in _OF_ALL_EXPERTS for reader in readers):
            return True
        seen |= readers
        pending.extend(readers)
    return False


def _holds_weights(dtype: ir.DataType, op_type: str) -> bool:
    return dtype.is_floating_point() or op_type.startswith("QLinear") or op_type.endswith("Integer")


def _captures(node: ir.Node) -> bool:
    """Whether a node has a body, which may read activations of the graph around it."""
    return any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values())


def _ends_alone(layer: ir.Node, activations: set[ir.Value]) -> bool:
    """Whether a layer's output reaches a graph output through operators that read no other activation."""
    mine: set[ir.Value] = set(layer.outputs)
    pending = [use.node for value in layer.outputs for use in value.uses()]
    reached = any(value.is_graph_output() for value in layer.outputs)
    seen: set[ir.Node] = set()
    joins: list[ir.Node] = []
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_layer(node) or _captures(node):
            return False
        if node.op_type in _SHAPE_OPERATORS:
            continue
        if node.op_type != "Concat":
            joins.append(node)
        mine.update(node.outputs)
        reached = reached or any(value.is_graph_output() for value in node.outputs)
        pending.extend(use.node for value in node.outputs for use in value.uses())
    # Judged at the end: softmax written out divides two values that both come from the layer.
    alone = all(value is None or value in mine or value not in activations for node in joins for value in node.inputs)
    return reached and alone
