# SPDX-License-Identifier: Apache-2.0
"""How far a piece of a stream extends: its nodes on the way, and those beside it that work for nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow


def extent(flow: Dataflow, first: int, inside: Sequence[int], needs_size: bool = True) -> set[ir.Node]:
    """The nodes of a piece.

    Beside those that lead from the entering value to the leaving one: arithmetic on sizes and constants, a projection
    of another stream (the memory of a cross attention), whatever only nodes of the piece read.

    Args:
        flow: of the graph.
        first: where the entering value is made.
        inside: what `Stream.between` gives.
        needs_size: whether a node that reads only the size of a value counts as its reader.
    """
    nodes = {flow.node(place) for place in inside}
    entering = set(flow.made[first])
    pending = list(nodes)
    while pending:  # a node read by several of the piece is accepted when the last of them comes up
        for value in flow.reads[pending.pop()]:
            maker = value.producer()
            if maker is None or maker in nodes or value in entering:
                continue
            if not any(read_outside(flow, made, nodes, needs_size) for made in maker.outputs):
                nodes.add(maker)
                pending.append(maker)
    return nodes


def read_outside(flow: Dataflow, value: ir.Value, nodes: set[ir.Node], needs_size: bool = True) -> bool:
    """Whether anything but these nodes needs the value."""
    readers = (reader for reader in flow.readers.get(value, ()) if reader not in nodes)
    return value.is_graph_output() or any(needs_size or flow.makes_content(reader) for reader in readers)
