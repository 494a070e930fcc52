# SPDX-License-Identifier: Apache-2.0
"""The bodies of If, Loop and Scan, what a node reads through them, and what goes in and out of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_CONTROL = ("If", "Loop", "Scan")


def named_bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs among a node's attributes, with the attributes' names."""
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from ((f"{name}_{number}", graph) for number, graph in enumerate(attribute.as_graphs()))


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs among a node's attributes."""
    return [graph for _, graph in named_bodies(node)]


def is_control(node: ir.Node) -> bool:
    """Whether ONNX itself says when a node's bodies run; those of other operators are the operator's own affair."""
    return node.op_type in _CONTROL and node.domain in ("", "ai.onnx")


def nodes_of(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph, and behind each If, Loop and Scan those of its bodies."""
    for node in list(graph):
        yield node
        for body in bodies(node) if is_control(node) else ():
            yield from nodes_of(body)


def inside_out(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph in order, and before each one those of its bodies: what a node gives comes of all before."""
    for node in list(graph):
        for body in bodies(node):
            yield from inside_out(body)
        yield node


def passed_in(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """What a Loop or Scan is given, each with the value that the first run of its body sees of it."""
    for body in bodies(node) if is_control(node) else ():
        yield from ((outer, inner) for outer, inner in zip(node.inputs, body.inputs, strict=False) if outer is not None)


def given_back(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """What bodies give, each with the output of the node that it becomes, or becomes a part of."""
    own = 1 if node.op_type == "Loop" else 0  # whether to go on is the Loop's own
    for body in bodies(node) if is_control(node) else ():
        yield from zip(body.outputs[own:], node.outputs, strict=False)


def handed_on(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """What an iteration of a Loop or Scan gives the next one, each with the value that this one sees of it."""
    if not is_control(node) or node.op_type == "If":
        return
    [body] = bodies(node)
    if node.op_type == "Loop":
        yield from zip(body.outputs[1:], body.inputs[2:], strict=False)
    else:
        states = len(body.inputs) - node.attributes.get_int("num_scan_inputs", len(body.inputs))
        yield from zip(body.outputs[:states], body.inputs[:states], strict=False)


def sources(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """For what Loops and Scans, also nested ones, give their bodies: the value that the first run sees there."""
    found: dict[ir.Value, ir.Value] = {}
    for node in nodes_of(graph):
        found.update((inner, found.get(outer, outer)) for outer, inner in passed_in(node))
    return found


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
