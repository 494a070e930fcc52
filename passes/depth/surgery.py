# SPDX-License-Identifier: Apache-2.0
"""Cutting parts out of a graph: what read the end of a part reads its start, and what is dead then goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from edgefold.passes._subgraphs import bodies, reads
from edgefold.passes.base import PreconditionError
from edgefold.passes.depth.blocks import Part


def cut_out(model: ir.Model, *parts: Part) -> list[ir.Node]:
    """Removes parts in place. Values that stay keep their names, and so do graph outputs.

    Parts that follow one another go in one call: the start of the second is the end of the first, which is gone after.

    Args:
        model: its main graph holds the parts; initializers that only they read go too.
        parts: none inside another.

    Returns:
        The nodes that went.

    Raises:
        PreconditionError: a part has an obstacle.
    """
    graph = model.graph
    for part in parts:
        if part.obstacle is not None:
            raise PreconditionError(str(part.end.name), part.obstacle)
    start_of = {part.end: part.start for part in parts}
    dead = [part.end.producer() for part in parts]
    for part in parts:
        _redirect(graph, part.end, followed(part.start, start_of))
    return _sweep(graph, [node for node in dead if node is not None])


def followed(value: ir.Value, onward: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """Where a value leads along a run of parts, from each one's end to the other."""
    while value in onward:
        value = onward[value]
    return value


def removed_runs(parts: Iterable[Part]) -> dict[str, str]:
    """For each run of parts without one that stays between, the name of the value before it and of that behind it."""
    end_of = {part.start: part.end for part in parts}
    ends = set(end_of.values())
    runs = {}
    for start, end in end_of.items():
        if start not in ends:
            runs[str(start.name)] = str(followed(end, end_of).name)
    return runs


def _redirect(graph: ir.Graph, end: ir.Value, start: ir.Value) -> None:
    """Lets all readers of `end` read `start`; where it is a graph output, a copy of `start` takes its name."""
    if end.is_graph_output():
        producer = end.producer()
        assert producer is not None, "a node of the part makes its end"
        copy = ir.node("Identity", [start], name=f"{end.name}:identity")
        result = copy.outputs[0]
        result.shape, result.type = end.shape, end.type
        result.name, end.name = end.name, f"{end.name}:removed"
        graph.insert_after(producer, copy)
        for position, output in enumerate(graph.outputs):
            if output is end:
                graph.outputs[position] = result
    end.replace_all_uses_with(start)


def _sweep(graph: ir.Graph, candidates: Iterable[ir.Node]) -> list[ir.Node]:
    """Removes the given nodes where nothing reads them, then what only they read; nothing that was dead before."""
    waiting = list(candidates)
    gone: list[ir.Node] = []
    while waiting:
        node = waiting.pop()
        if node.graph is not graph or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        read = set(reads(node))
        _release(node)
        graph.remove(node, safe=True)
        gone.append(node)
        for value in read:
            producer = value.producer()
            if producer is not None:
                waiting.append(producer)
            elif value.name in graph.initializers and not value.uses() and not value.is_graph_output():
                _drop(graph, value)
    return gone


def _drop(graph: ir.Graph, initializer: ir.Value) -> None:
    graph.initializers.pop(str(initializer.name))
    if initializer.is_graph_input():  # IR 3 lists initializers among the inputs
        graph.inputs.remove(initializer)


def _release(node: ir.Node) -> None:
    """Ends what the nodes in the bodies of a node read from outside."""
    for body in bodies(node):
        for inner in body:
            _release(inner)
            for position in range(len(inner.inputs)):
                inner.replace_input_with(position, None)
