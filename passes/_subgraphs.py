# SPDX-License-Identifier: Apache-2.0
"""The bodies of If, Loop and Scan, and what a node reads through them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs among a node's attributes."""
    graphs = [attr.as_graph() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]
    lists = [attr.as_graphs() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPHS]
    return [*graphs, *(graph for several in lists for graph in several)]


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node needs: its inputs, and all that its bodies' nodes read and its bodies give."""
    yield from (value for value in node.inputs if value is not None)
    for body in bodies(node):
        yield from body_reads(body)


def body_reads(body: ir.Graph) -> Iterator[ir.Value]:
    """All that the nodes of a body read, from outside and from each other, and what the body gives."""
    yield from body.outputs
    for inner in body:
        yield from reads(inner)


def reads_of_own_graph(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a node, and what its bodies capture from the graph that the node is in."""
    return (value for value in reads(node) if value in node.inputs or value.graph is node.graph)


def give_by_nodes(model: ir.Model) -> None:
    """Puts an Identity where a body gives a stored tensor or what lies outside: ONNX wants a node of its own for each.

    What a body gives as it was given it stays.
    """
    for graph in model.graph.subgraphs():
        for position, value in enumerate(graph.outputs):
            producer = value.producer()
            stored = value.is_initializer() or (producer is not None and producer.op_type == "Constant")
            outside = value not in graph.inputs if producer is None else producer.graph is not graph
            if stored or outside:
                graph.append(node := ir.node("Identity", [value]))
                node.outputs[0].name, node.outputs[0].type = f"{value.name}_given", value.type
                graph.outputs[position] = node.outputs[0]
