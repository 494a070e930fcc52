# SPDX-License-Identifier: Apache-2.0
"""Which tensors have to share one vector of factors, and the constants between which it migrates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import SkipReason
from edgefold.passes.equalization.constants import BarrierError, Place, WorkingConstants
from edgefold.passes.equalization.relations import Located, Shapes, read, written

_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleClass:
    """Tensors that are divided by one vector of factors, and where those go.

    Attributes:
        label: name of the first layer that reads it.
        extents: of the axes of the channels; their product is the number of channels.
        inputs: the tensors that layers read.
        places: constants, each with the power of the factors that it is multiplied by.
        readers: those of the places that are weights of the layers that read the inputs.
        stopped: why the class cannot be migrated; then it is one tensor and the layers that read it.
    """

    label: str
    extents: tuple[int, ...]
    inputs: tuple[Located, ...]
    places: tuple[Place, ...]
    readers: tuple[Place, ...]
    stopped: BarrierError | None = None

    @property
    def channels(self) -> int:
        return math.prod(self.extents)


def scale_classes(
    graph: ir.Graph, shape_of: Shapes, constants: WorkingConstants, excluded: Sequence[ir.Node]
) -> Iterator[ScaleClass]:
    """The classes of all tensors that layers read, in the order of the graph, each once.

    Args:
        graph: sorted topologically.
        shape_of: extents of tensors.
        constants: which of them may be changed.
        excluded: nodes whose constants have to stay.
    """
    seen: set[ir.Value] = set()
    for node in graph:
        value = node.inputs[0] if node.op_type in _LAYERS and node.domain in ("", "ai.onnx") else None
        if value is None or value in seen or trace_constant(node.inputs[1]) is None:
            continue
        try:
            start = Located(value, (1,) if node.op_type == "Conv" else (len(shape_of(value)) - 1,))
            first = read(node, 0, start, shape_of)
            several = shape_of(value)[start.axes[0]] > 1
        except BarrierError as barrier:
            yield ScaleClass(node_label(node), (), (), (), (), barrier)
            continue
        if first.reads and several:
            found = _Growth(shape_of, constants, excluded).grow(start, node_label(node))
            seen.update(located.value for located in found.inputs)
            yield found


class _Growth:
    """One class, while it grows from a tensor over the nodes around it."""

    def __init__(self, shape_of: Shapes, constants: WorkingConstants, excluded: Sequence[ir.Node]) -> None:
        self._shape_of = shape_of
        self._constants = constants
        self._excluded = set(excluded)
        self._axes: dict[ir.Value, tuple[int, ...]] = {}
        self._places: dict[Place, None] = {}
        self._readers: list[Place] = []
        self._inputs: dict[ir.Value, Located] = {}

    def grow(self, start: Located, label: str) -> ScaleClass:
        extents = tuple(self._shape_of(start.value)[axis] for axis in start.axes)
        pending = [start]
        stopped: BarrierError | None = None
        while pending and stopped is None:
            try:
                pending += self._visit(pending.pop())
            except BarrierError as barrier:
                stopped = barrier
        if stopped is None:
            inputs = tuple(self._inputs.values())
            return ScaleClass(label, extents, inputs, tuple(self._places), tuple(self._readers))
        readers = tuple(self._readers_of(start))
        return ScaleClass(label, extents, (start,), readers, readers, stopped)

    def _visit(self, at: Located) -> list[Located]:
        """Takes in a tensor and all nodes that touch it; returns the tensors behind those.

        Raises:
            BarrierError: one of the nodes cannot go along.
        """
        value = at.value
        if value in self._axes:
            if self._axes[value] != at.axes:
                raise BarrierError(SkipReason.BARRIER, f"{value.name} holds the channels in two ways")
            return []
        self._axes[value] = at.axes
        producer = value.producer()
        if producer is None or value.is_graph_output():
            raise BarrierError(SkipReason.BARRIER, f"{value.name} is an input or output of the graph")
        source = written(producer, at, self._shape_of)
        self._take(source.places)
        carried = list(source.carried)
        for use in value.uses():
            if use.node.graph is not producer.graph:
                raise BarrierError(SkipReason.SUBGRAPH, f"{node_label(use.node)} reads {value.name}")
            step = read(use.node, use.idx, at, self._shape_of)
            self._take(step.places)
            if step.reads:
                self._readers.extend(step.places)
                self._inputs[value] = at
            carried += step.carried
        return carried

    def _take(self, places: Sequence[Place]) -> None:
        """Takes in constants.

        Raises:
            BarrierError: one of them has to stay.
        """
        for place in places:
            if place.node in self._excluded:
                raise BarrierError(SkipReason.EXCLUDED, node_label(place.node))
            self._constants.check(place)
            self._places[place] = None

    def _readers_of(self, at: Located) -> Iterator[Place]:
        """The layers that read one tensor, as far as their weights may be changed."""
        for use in at.value.uses():
            try:
                step = read(use.node, use.idx, at, self._shape_of)
                if step.reads and use.node not in self._excluded:
                    for place in step.places:
                        self._constants.check(place)
                    yield from step.places
            except BarrierError:
                continue
