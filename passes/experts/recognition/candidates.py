# SPDX-License-Identifier: Apache-2.0
"""Values of a graph that may be the output, the gates or the logits of a layer whose experts are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from edgefold.passes.experts.recognition.bodies import Body
from edgefold.passes.experts.recognition.gates import Chosen, Dense, Gates
from edgefold.passes.experts.recognition.matrices import Weights
from edgefold.passes.experts.recognition.routed_bodies import RoutedBodies
from edgefold.passes.pruning.groups import Trace

_OUTPUTS_TRIED = 6  # a layer's sum is followed by a reshape and the residual addition


def joins(graph: ir.Graph, bodies: Sequence[Body]) -> Iterator[ir.Value]:
    """The values that all paths from the experts' outputs to the graph's run through, first ones first."""
    entering = {body.output for body in bodies}
    alive: dict[ir.Value, int] = {}
    found = 0
    for node in graph:
        read = [value for value in node.inputs if value in alive]
        for value in read:
            assert value is not None
            alive[value] -= 1
            if not alive[value]:
                del alive[value]
        made = node.outputs if read and node.op_type != "Shape" else [one for one in node.outputs if one in entering]
        alive.update(
            {one: len(one.uses()) + one.is_graph_output() for one in made if one.uses() or one.is_graph_output()}
        )
        entering.difference_update(made)
        if made and not entering and len(alive) == 1:
            yield next(iter(alive))
            found += 1
        if found == _OUTPUTS_TRIED:
            return


def gates_before(graph: ir.Graph, routed: RoutedBodies, trace: Trace, outputs: Sequence[ir.Value]) -> Iterator[Gates]:
    """What may be the gates, last ones first: values of their shape that come before the experts' outputs."""
    numbers = routed.choice.outputs[-1]
    rows = math.prod(trace.shapes[str(routed.root.name)][:-1])
    for value in _between(graph, routed, outputs):
        shape = trace.shapes.get(str(value.name), ())
        if math.prod(shape) == rows * routed.columns and shape[-1] == routed.columns:
            yield Dense(value)
        elif math.prod(shape) == rows * routed.top and (routed.top == 1 or shape[-1] == routed.top):
            yield Chosen(numbers, value, routed.top)


def _between(graph: ir.Graph, routed: RoutedBodies, outputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Float values that the tokens determine without the experts and that a join depends on, last ones first."""
    needed: set[ir.Node] = set()
    pending = [value.producer() for value in outputs]
    while pending:
        node = pending.pop()
        if node is not None and node not in needed:
            needed.add(node)
            pending += [one.producer() for one in node.inputs if one is not None and one is not routed.root]
    products = {node for body in routed.bodies for node in body.nodes}
    plain, mixed = {routed.root}, set[ir.Value]()
    found: list[ir.Value] = []
    for node in (node for node in graph if node in needed):
        read = {value for value in node.inputs if value is not None}
        if node in products or read & mixed:
            mixed.update(node.outputs)
        elif read & plain and node.op_type != "Shape":
            plain.update(node.outputs)
            found += [value for value in node.outputs if value is not routed.choice.outputs[-1]]
    return found[::-1]


def logits_of(routed: RoutedBodies, weights: Weights) -> ir.Value:
    """What the router's product gives; what is chosen from where there is none."""
    scores = routed.choice.inputs[0]
    assert scores is not None
    seen: dict[ir.Value, None] = {scores: None}
    pending = [scores]
    while pending:
        value = pending.pop(0)
        found = weights.linear(value)
        if found is not None and len(found.columns) == routed.columns:
            return value
        node = value.producer()
        read = [] if node is None else [one for one in node.inputs if one not in (None, routed.root, *seen)]
        seen.update(dict.fromkeys(one for one in read if one is not None))
        pending += [one for one in read if one is not None]
    return scores
