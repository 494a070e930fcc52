# SPDX-License-Identifier: Apache-2.0
"""What lies between two waists, as a part that could be cut out, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.extent import extent, read_outside
from edgefold.passes.depth.kinds import kind_of


@dataclass(frozen=True)
class Part:
    """A block, or a half of it (attention, feed-forward): what a residual stream passes through.

    Attributes:
        start: the stream value that enters; for the first block of a stack the value before it.
        end: the stream value that leaves: pre-norm the Add's output, post-norm the normalization's, in a residual
            CNN the activation's after the Add.
        nodes: in graph order, with the arithmetic on constants and sizes that only they read.
        parameters: initializers (or outputs of Constant nodes) in canonical order of use: the k-th of one block of a
            stack corresponds to the k-th of any other. The same value may occur twice. Sizes correspond; where an
            exporter stored one of two weights turned (Gemm's transB), their shapes are each other's reverse.
        kind: "block", "attention", "feed-forward", "convolution" or "other".
        obstacle: why it cannot be cut out; None where readers of `end` may read `start` instead.
    """

    start: ir.Value
    end: ir.Value
    nodes: tuple[ir.Node, ...]
    parameters: tuple[ir.Value, ...]
    kind: str
    obstacle: str | None


class Cutter:
    """Makes parts of the pieces of a graph's streams."""

    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._order = {node: number for number, node in enumerate(flow.graph)}

    def part(self, first: int, inside: Sequence[int], parameters: Sequence[ir.Value]) -> Part:
        """The part from a waist to a later one.

        Args:
            first: where the value that enters is made.
            inside: what `Stream.between` gives; it ends with the node that makes the value that leaves.
            parameters: in canonical order.
        """
        flow, core = self._flow, [self._flow.node(place) for place in inside]
        nodes = extent(flow, first, inside)
        entering = (value for value in flow.made[first] if value in flow.content)
        starts = [value for value in entering if any(reader in nodes for reader in flow.readers.get(value, ()))]
        ends = [value for value in core[-1].outputs if read_outside(flow, value, nodes)] or [core[-1].outputs[0]]
        return Part(
            start=starts[0],
            end=ends[0],
            nodes=tuple(sorted(nodes, key=lambda node: self._order[node])),
            parameters=tuple(parameters),
            kind=kind_of(core, flow),
            obstacle=self._obstacle(starts, ends, nodes),
        )

    def _obstacle(self, starts: Sequence[ir.Value], ends: Sequence[ir.Value], nodes: set[ir.Node]) -> str | None:
        for values in (starts, ends):
            if len(values) > 1:
                return f"the stream is carried by several values: {', '.join(str(value.name) for value in values)}"
        start, end = starts[0], ends[0]
        for node in sorted(nodes, key=lambda one: self._order[one]):
            for value in node.outputs:
                if value is not end and read_outside(self._flow, value, nodes):
                    return self._escape(value, nodes)
        return unlike(start, end)

    def _escape(self, value: ir.Value, nodes: set[ir.Node]) -> str:
        if value.is_graph_output():
            return f"'{value.name}', made inside it, is an output of the model"
        reader = next(one for one in self._flow.readers[value] if one not in nodes)
        return f"'{value.name}', made inside it, is read outside by '{reader.name or reader.outputs[0].name}'"


def unlike(start: ir.Value, end: ir.Value) -> str | None:
    """In what two values differ, so that one cannot be read in place of the other; None where they do not."""
    if start.dtype is not None and end.dtype is not None and start.dtype != end.dtype:
        return f"'{start.name}' is {start.dtype} but '{end.name}' is {end.dtype}"
    if _differ(start.shape, end.shape):
        return f"'{start.name}' has shape {_text(start)} but '{end.name}' has {_text(end)}"
    return None


def _differ(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    if one is None or other is None:
        return False
    sizes = zip(one, other, strict=False)
    return len(one) != len(other) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)


def _text(value: ir.Value) -> str:
    return "?" if value.shape is None else f"[{', '.join(str(size) for size in value.shape)}]"
