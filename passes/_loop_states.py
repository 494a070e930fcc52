# SPDX-License-Identifier: Apache-2.0
"""States that every iteration of a Loop hands on as it got them, as which Keras writes weights."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def drop_constant_states(model: ir.Model) -> None:
    """Lets bodies of Loops read from outside what does not change, in place of being given it; in place, exact."""
    for node in reversed(list(model.graph.all_nodes())):  # the innermost first
        if node.op_type == "Loop" and node.domain == "":
            _drop_constant_states(node, model.graph)


def _drop_constant_states(node: ir.Node, main: ir.Graph) -> None:
    """States that the body gives as it got them are read from outside instead; the rest makes up the Loop."""
    body = node.attributes["body"].as_graph()
    constant = [state for state in range(len(node.inputs) - 2) if _is_constant(node, body, state, main)]
    inside = [body.inputs[2 + state] for state in constant]
    for state in reversed(constant):
        _remove_unread(body.outputs.pop(1 + state).producer())
        body.inputs.pop(2 + state)
    for state, value in zip(constant, inside, strict=True):
        outside = node.inputs[2 + state]
        assert outside is not None
        value.replace_all_uses_with(outside)
        node.outputs[state].replace_all_uses_with(outside, replace_graph_outputs=True)
    if constant:
        inputs = [value for position, value in enumerate(node.inputs) if position - 2 not in constant]
        _replace(node, inputs, [value for state, value in enumerate(node.outputs) if state not in constant])


def _is_constant(node: ir.Node, body: ir.Graph, state: int, main: ir.Graph) -> bool:
    inside, given, outside = body.inputs[2 + state], body.outputs[1 + state], node.inputs[2 + state]
    if _source(given) is not inside or outside is None:
        return False
    if any(value is inside for value in body.outputs if value is not given):
        return False
    # A body may give what it got, but no value from further outside.
    handed_on = node.graph is not main and outside.is_graph_input() and outside.graph is node.graph
    return handed_on or not node.outputs[state].is_graph_output()


def _source(value: ir.Value) -> ir.Value:
    """The value that is handed on under this name."""
    producer = value.producer()
    if producer is None or producer.op_type != "Identity" or producer.domain != "" or producer.inputs[0] is None:
        return value
    return _source(producer.inputs[0])


def _remove_unread(node: ir.Node | None) -> None:
    """Takes an Identity away that nothing reads, and those before it."""
    while node is not None and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
        before = node.inputs[0]
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        node = None if before is None else before.producer()


def _replace(node: ir.Node, inputs: Sequence[ir.Value | None], outputs: Sequence[ir.Value]) -> None:
    """The node with some of its inputs and outputs only."""
    graph = node.graph
    assert graph is not None
    attributes = list(node.attributes.values())
    smaller = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(outputs), name=node.name)
    for new, old in zip(smaller.outputs, outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = None
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_before(node, smaller)
    graph.remove(node, safe=True)
