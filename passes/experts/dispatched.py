# SPDX-License-Identifier: Apache-2.0
"""Reads the layers in dispatch form back from a graph, by their structure and never by names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import small_constant, trace_constant
from edgefold.passes._weighted_nodes import Float, WeightedNode, node_label, weighted_node
from edgefold.passes.experts.activation import Expression, Operand, is_affine, read_expression, swapped
from edgefold.passes.experts.dispatch import Array, Expert, Product, write_dispatch


@dataclasses.dataclass(frozen=True)
class DispatchedProduct:
    """One matrix product of an expert, as it stands in the graph.

    Attributes:
        nodes: the MatMul or ShiftMatMul nodes, in order: one, or two after `low-rank`.
        bias: the Add behind them, or None (a ShiftMatMul has taken it in).
        output: the value behind the bias.
    """

    nodes: tuple[ir.Node, ...]
    bias: ir.Node | None
    output: ir.Value

    @property
    def data(self) -> ir.Value:
        """What it multiplies."""
        value = self.nodes[0].inputs[0]
        assert value is not None
        return value

    @property
    def packed(self) -> bool:
        """Whether one of its nodes has integer weights."""
        return any(node.op_type == "ShiftMatMul" for node in self.nodes)

    def sites(self) -> tuple[WeightedNode, ...]:
        """Its nodes as calibration and least squares know them; nodes with integer weights are left out."""
        found = (weighted_node(node) for node in self.nodes)
        return tuple(one for one in found if isinstance(one, WeightedNode))

    def value(self) -> Product:
        """Its weights and bias; those of two nodes multiplied out.

        Raises:
            ValueError: the weights are packed.
        """
        if self.packed:
            raise ValueError(f"{node_label(self.nodes[0])}: its weights are integers")
        matrix: Array = self.sites()[0].weight.array()
        for site in self.sites()[1:]:
            matrix = matrix @ site.weight.array()
        return Product(matrix, None if self.bias is None else _row_of(self.bias))


@dataclasses.dataclass(frozen=True)
class DispatchedExpert:
    """One expert of a layer in dispatch form.

    Attributes:
        index: its column of the gates.
        column: that column, [T].
        rows: int64 [n], the tokens routed to it.
        tokens: [n, d], their values.
        inputs: gate and up, or only one.
        down: the last product.
        scatter: the ScatterND that adds it to the sum.
    """

    index: int
    column: ir.Value
    rows: ir.Value
    tokens: ir.Value
    inputs: tuple[DispatchedProduct, ...]
    down: DispatchedProduct
    scatter: ir.Node

    def value(self) -> Expert:
        """Its weights; see `DispatchedProduct.value`."""
        return Expert(tuple(one.value() for one in self.inputs), self.down.value())


@dataclasses.dataclass(frozen=True)
class DispatchedLayer:
    """A layer in dispatch form.

    Attributes:
        name: the common part of its nodes' names, for reports only.
        x: the tokens, [T, d].
        gates: [T, M].
        output: [T, d].
        experts: in the order in which they are added.
        activation: over each expert's `inputs`.
        nodes: of the layer, in order, from the zeros to the last sum.
    """

    name: str
    x: ir.Value
    gates: ir.Value
    output: ir.Value
    experts: tuple[DispatchedExpert, ...]
    activation: Expression
    nodes: tuple[ir.Node, ...]

    @property
    def stored(self) -> ir.DataType:
        """Type of its weights in the file."""
        return ir.DataType(self.experts[0].down.sites()[-1].weight.tensor.dtype)


def find_dispatched(model: ir.Model) -> tuple[DispatchedLayer, ...]:
    """The layers of the main graph that are in dispatch form, in the order of the graph."""
    starts = (node for node in model.graph if node.op_type == "ConstantOfShape" and _is_zero(node))
    return tuple(layer for layer in map(_layer, starts) if layer is not None)


def replace_dispatched(
    graph: ir.Graph, layer: DispatchedLayer, gates: ir.Value, experts: Sequence[Expert], *, x: ir.Value | None = None
) -> ir.Value:
    """Puts other experts, and gates for them, in the place of those that a layer has.

    Args:
        graph: that the layer is in.
        layer: it is gone afterwards, with the weights that only it reads.
        gates: [T, number of experts], computed in front of the layer's last node.
        experts: as many as the gates have columns.
        x: what they read, [T, any]; None for what those there read.

    Returns:
        The new output, which has the name of the old one.
    """
    stored = layer.stored
    weights = {value for node in layer.nodes for value in node.inputs if value is not None and value.is_initializer()}
    for value in weights:
        if all(use.node in layer.nodes for use in value.uses()) and not value.is_graph_output():
            graph.initializers.pop(str(value.name))
    tokens = layer.x if x is None else x
    for value in (tokens, gates):
        if value.shape is None:
            value.shape = ir.Shape([None, None])  # they are in dispatch form: nothing is to be run together
    name = layer.output.name
    for value in (output for node in layer.nodes for output in node.outputs):
        value.name = f"{value.name}:replaced"  # its name is free for the new layer
    after, activation = layer.nodes[-1], layer.activation
    output = write_dispatch(graph, layer.name, tokens, gates, experts, activation, stored=stored, after=after)
    layer.output.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(layer.nodes, safe=True)
    for value in (value for node in graph for value in node.outputs if value.name == name):
        value.name = output.name  # of more experts than before, one inside may have been given it
    output.name = name
    return output


def _layer(zeros: ir.Node) -> DispatchedLayer | None:
    """The layer whose sum starts from these zeros: every sum is read by the next one only."""
    experts: list[DispatchedExpert] = []
    activation: Expression | None = None
    total = zeros.outputs[0]
    while (node := _next_sum(total)) is not None:
        found = _expert(node)
        if found is None or (experts and found[1] != activation):
            break
        experts.append(found[0])
        activation, total = found[1], node.outputs[0]
    if not experts or activation is None:
        return None
    gates, x = experts[0].column.producer(), experts[0].tokens.producer()
    if gates is None or x is None or not _read_alike([one.column for one in experts], gates):
        return None
    if not _read_alike([one.tokens for one in experts], x) or x.inputs[0] is None or gates.inputs[0] is None:
        return None
    nodes = _nodes_between(total, {x.inputs[0], gates.inputs[0]})
    name = node_label(experts[0].scatter).partition("/experts.")[0]
    return DispatchedLayer(name, x.inputs[0], gates.inputs[0], total, tuple(experts), activation, nodes)


def _read_alike(values: Sequence[ir.Value], like: ir.Node) -> bool:
    """Whether the makers of all values look into what one of them looks into."""
    return all(_input(value.producer(), 0) is like.inputs[0] for value in values)


def _next_sum(total: ir.Value) -> ir.Node | None:
    uses = list(total.uses())
    if len(uses) != 1 or uses[0].idx != 0 or total.is_graph_output():
        return None
    node = uses[0].node
    return node if node.op_type == "ScatterND" and node.attributes.get_string("reduction", "") == "add" else None


def _expert(scatter: ir.Node) -> tuple[DispatchedExpert, Expression] | None:
    """The expert that a ScatterND adds, and its activation."""
    rows = _input(_made_by(scatter.inputs[1], "Unsqueeze"), 0)
    column = _input(_made_by(_input(_made_by(rows, "Reshape"), 0), "NonZero"), 0)
    share = _made_by(scatter.inputs[2], "Mul")
    lookup = _made_by(column, "Gather")
    index = small_constant(_input(lookup, 1))
    if share is None or rows is None or column is None or lookup is None or index is None or index.ndim > 0:
        return None
    if lookup.attributes.get_int("axis", 0) != 1:
        return None
    for position in (0, 1):
        weight = _made_by(_input(_made_by(share.inputs[1 - position], "Unsqueeze"), 0), "Gather")
        down = _product(share.inputs[position])
        if weight is not None and list(weight.inputs) == [column, rows] and down is not None:
            body = _body(down, rows)
            if body is None:
                return None
            tokens, inputs, activation = body
            return DispatchedExpert(int(index), column, rows, tokens, inputs, down, scatter), activation
    return None


def _body(down: DispatchedProduct, rows: ir.Value) -> tuple[ir.Value, tuple[DispatchedProduct, ...], Expression] | None:
    """The routed tokens, the products that read them, and what stands between these and `down`."""
    inputs: list[DispatchedProduct] = []
    tokens: list[ir.Value] = []

    def operand(value: ir.Value) -> Expression | None:
        product = _product(value)
        if product is None:
            return None
        lookup = _made_by(product.data, "Gather")
        if lookup is None or lookup.inputs[1] is not rows or lookup.attributes.get_int("axis", 0) != 0:
            return None
        known = [one.output for one in inputs]
        if product.output not in known:
            inputs.append(product)
            tokens.append(product.data)
        return Operand([one.output for one in inputs].index(product.output))

    activation = read_expression(down.data, operand)
    if activation is None or not 1 <= len(inputs) <= 2 or len(set(tokens)) != 1:
        return None
    if len(inputs) == 2 and is_affine(activation, 0) and not is_affine(activation, 1):
        inputs.reverse()
        activation = swapped(activation)
    return tokens[0], tuple(inputs), activation


def _product(value: ir.Value | None) -> DispatchedProduct | None:
    """The product that gives a value, with the one that it is factored into and the bias behind."""
    node = None if value is None else value.producer()
    bias = None
    if node is not None and node.op_type == "Add":
        bias = node
        left, right = node.inputs
        node = next((one.producer() for one in (left, right) if one is not None and _multiplies(one.producer())), None)
        if node is None or _row_of(bias) is None:
            return None
    if value is None or node is None or not _multiplies(node):
        return None
    nodes = [node]
    while (before := nodes[0].inputs[0]) is not None and _multiplies(before.producer()):
        first = before.producer()
        assert first is not None
        nodes.insert(0, first)
    return DispatchedProduct(tuple(nodes), bias, value)


def _multiplies(node: ir.Node | None) -> bool:
    """Whether a node multiplies by a stored matrix on the right."""
    if node is None:
        return False
    if node.domain == "ai.edgefold":
        return node.op_type == "ShiftMatMul"
    weight = trace_constant(node.inputs[1]) if node.op_type == "MatMul" else None
    return weight is not None and len(weight.shape) == 2


def _row_of(bias: ir.Node) -> Float | None:
    """The constant of an Add, as a row; None where it is none."""
    found = (small_constant(value) for value in bias.inputs)
    return next((one for one in found if one is not None and one.ndim == 1), None)


def _nodes_between(output: ir.Value, boundary: set[ir.Value]) -> tuple[ir.Node, ...]:
    """The nodes that compute a value from others, and nothing else, in the order of the graph."""
    found: set[ir.Node] = set()
    pending = [output]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is not None and value not in boundary and node not in found:
            found.add(node)
            pending += [one for one in node.inputs if one is not None]
    last = output.producer()
    assert last is not None
    while outside := {node for node in found - {last} if _readers(node) - found}:
        found -= outside
    assert isinstance(last.graph, ir.Graph)
    return tuple(node for node in last.graph if node in found)


def _readers(node: ir.Node) -> set[ir.Node]:
    return {use.node for output in node.outputs for use in output.uses()}


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator and node.domain in ("", "ai.onnx") else None


def _input(node: ir.Node | None, position: int) -> ir.Value | None:
    return node.inputs[position] if node is not None and len(node.inputs) > position else None


def _is_zero(node: ir.Node) -> bool:
    attribute = node.attributes.get("value")
    return attribute is None or not np.any(attribute.as_tensor().numpy())
