# SPDX-License-Identifier: Apache-2.0
"""Which layers are a network's first and last, where coarse weights harm more than in the middle, and its routers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._subgraphs import bodies, given_back, handed_on, inside_out, sources

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
    """Finds the first and the last layers and the routers of a graph in topological order, and of its bodies."""
    flow = _Flow(graph)
    layers = [node for node in flow.nodes if is_layer(node)]
    first = {node for node in layers if not flow.follows(node)}
    last = {node for node in layers if flow.ends_alone(node)}
    routers = {router for node in flow.nodes if (router := flow.router(node)) is not None}
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


class _Flow:
    """How activations go through a graph and its bodies.

    Attributes:
        nodes: of all of them, in order.
        after_layer: what depends on a layer.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self.nodes = list(inside_out(graph))
        self._outside = sources(graph)
        self._given: dict[ir.Value, list[ir.Value]] = {}
        for node in self.nodes:
            for inner, outer in given_back(node):
                self._given.setdefault(inner, []).append(outer)
        self._activations = {value for value in graph.inputs if not value.is_initializer()} | set(self._outside)
        self.after_layer: set[ir.Value] = set()
        before = -1
        while before != len(self.after_layer):  # what an iteration hands on, the next one reads
            before = len(self.after_layer)
            for node in self.nodes:
                self._pass(node)

    def _pass(self, node: ir.Node) -> None:
        if is_layer(node) or self.follows(node):
            self.after_layer.update(node.outputs)
        passed_on = (*given_back(node), *handed_on(node))
        self.after_layer.update(after for before, after in passed_on if before in self.after_layer)
        read = any(value in self._activations for value in node.inputs)
        if (read or bodies(node)) and node.op_type not in _SHAPE_OPERATORS:  # a body may read those around it
            self._activations.update(node.outputs)

    def follows(self, node: ir.Node) -> bool:
        """Whether a node reads what depends on a layer."""
        read = [value for value in node.inputs if value is not None]
        return any(one in self.after_layer for value in read for one in (value, self._outside.get(value, value)))

    def _becomes(self, values: Iterable[ir.Value]) -> Iterator[ir.Value]:
        """The values, and what nodes around give them on as."""
        for value in values:
            yield value
            yield from self._becomes(self._given.get(value, ()))

    def ends_alone(self, layer: ir.Node) -> bool:
        """Whether a layer's output reaches a graph output through operators that read no other activation."""
        mine: set[ir.Value] = set()
        pending = [layer]
        seen: set[ir.Node] = set()
        joins: list[ir.Node] = []
        while pending:
            node = pending.pop()
            if node in seen or node.op_type in _SHAPE_OPERATORS:
                continue
            if node is not layer and (is_layer(node) or bodies(node)):
                return False
            seen.add(node)
            if node is not layer and node.op_type != "Concat":
                joins.append(node)
            outputs = list(self._becomes(node.outputs))
            mine.update(outputs)
            pending.extend(use.node for value in outputs for use in value.uses())
        # Judged at the end: softmax written out divides two values that both come from the layer.
        read = (value for node in joins for value in node.inputs if value is not None)
        alone = all(value in mine or value not in self._activations for value in read)
        return alone and any(value in mine for value in self._graph.outputs)

    def router(self, choice: ir.Node) -> ir.Node | None:
        """The one layer by which a node chooses what later layers see; None where it does not, or by others too."""
        operand = _CHOICES.get(choice.op_type)
        if operand is None or not (choice.op_type in _OF_ALL_EXPERTS or self._is_followed(choice)):
            return None
        found: set[ir.Node] = set()
        seen: set[ir.Value] = set()
        pending = [choice.inputs[operand]]
        while pending:
            value = pending.pop()
            if value is None or value in seen or value not in self._activations:
                continue
            seen.add(value)
            node = value.producer()
            if value in self._outside:
                pending.append(self._outside[value])
            elif node is None:
                return None  # a graph input
            elif is_layer(node):
                found.add(node)
            else:
                pending.extend((*node.inputs, *(inner for inner, outer in given_back(node) if outer is value)))
        return found.pop() if len(found) == 1 else None

    def _is_followed(self, node: ir.Node) -> bool:
        """Whether a layer depends on what a node gives."""
        seen: set[ir.Node] = set()
        pending = [node]
        while pending:
            outputs = self._becomes(pending.pop().outputs)
            readers = {use.node for value in outputs for use in value.uses()} - seen
            if any(is_layer(reader) or reader.op_type in _OF_ALL_EXPERTS for reader in readers):
                return True
            seen |= readers
            pending.extend(readers)
        return False


def _holds_weights(dtype: ir.DataType, op_type: str) -> bool:
    return dtype.is_floating_point() or op_type.startswith("QLinear") or op_type.endswith("Integer")
