# SPDX-License-Identifier: Apache-2.0
"""The kind ``channel-last``: float images lie pixel by pixel where that saves transpositions.

Layers that work on pixels (LayerNormalization over channels, linear layers) stand between transpositions in a graph
of convolutions, as in ConvNeXt (arXiv 2201.03545, section 2.6). Quantized convolutions read and write either order.
So images that elementwise nodes connect are turned together, where that moves fewer bytes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.image_order import (
    TO_FIRST,
    TO_LAST,
    read_last,
    reads_either,
    turns,
    write_last,
    writes_either,
)
from edgefold.passes.fusion.shapes import Shapes, known_shape, run_shapes

KIND = "channel-last"
_ELEMENTWISE = ("Add", "Sub", "Mul", "Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Swish")


@dataclasses.dataclass(frozen=True)
class Images:
    """Channel-first float images that lie the same way.

    Attributes:
        values: connected by `joins`.
        joins: elementwise nodes between them.
        apart: convolutions that are to stay as they are.
    """

    values: tuple[ir.Value, ...]
    joins: frozenset[ir.Node]
    apart: frozenset[ir.Node]

    @property
    def label(self) -> str:
        first = self.values[0]
        node = first.producer()
        return node_label(node) if node else str(first.name)

    def saved(self) -> Iterator[ir.Value]:
        """The image of every transposition that is not needed where images lie channel-last."""
        for value in self.values:
            if turns(value.producer(), TO_FIRST):
                yield value
            yield from (value for use in value.uses() if self.turned(use.node))

    def added(self) -> Iterator[ir.Value]:
        """The image of every transposition that is needed then."""
        for value in self.values:
            if not self.made_either(value):
                yield value
            if value.is_graph_output() or any(self.only_first(use.node, use.idx) for use in value.uses()):
                yield value

    def made_either(self, value: ir.Value) -> bool:
        """Whether the value can be had channel-last without a transposition."""
        node = value.producer()
        return node in self.joins or turns(node, TO_FIRST) or self.written(node)

    def written(self, node: ir.Node | None) -> bool:
        return writes_either(node) and node not in self.apart

    def touch_convolutions(self) -> bool:
        """Whether a convolution reads or writes one of them in either order."""
        return any(
            self.written(value.producer()) or any(self.convolved(use.node, use.idx) for use in value.uses())
            for value in self.values
        )

    def turned(self, node: ir.Node) -> bool:
        return turns(node, TO_LAST) and not node.outputs[0].is_graph_output()

    def convolved(self, node: ir.Node, index: int) -> bool:
        return index == 0 and reads_either(node) and node not in self.apart

    def only_first(self, node: ir.Node, index: int) -> bool:
        """Whether a reader knows but one order."""
        return not (node in self.joins or self.turned(node) or self.convolved(node, index))


def turn_channel_last(model: ir.Model, context: Context, device: Device) -> Notes:
    """Turns the float images of the main graph where it pays, in place.

    Numerics: exact; every number is what it was, at another place.
    """
    graph = model.graph
    if not any(turns(node, TO_FIRST) or turns(node, TO_LAST) for node in graph):
        return Notes(stats={f"{KIND}.images": 0})
    graph.sort()
    shapes = run_shapes(model, context)
    apart = frozenset(node for node in graph if context.excludes(node_label(node)))
    writer = _Writer(graph)
    edits: list[Edit] = []
    skips: list[Skip] = []
    table: list[Mapping[str, Any]] = []
    for images in list(_connected(graph, shapes, apart)):
        if not images.touch_convolutions():
            continue
        decision = _decision(images, shapes, device)
        if decision is None:
            skips.append(Skip(images.label, SkipReason.DYNAMIC_SHAPE, "the size of an image is unknown"))
            continue
        table.append({"block": images.label, "kind": KIND} | dataclasses.asdict(decision))
        if decision.fuse:
            edits.append(writer.turn(images))
        else:
            skips.append(Skip(images.label, SkipReason.NOTHING_TO_GAIN, decision.why))
    return Notes(tuple(edits), tuple(skips), {f"{KIND}.images": len(edits)}, tuple(table))


def _connected(graph: ir.Graph, shapes: Shapes, apart: frozenset[ir.Node]) -> Iterator[Images]:
    """The images beside transpositions, each with all that elementwise nodes connect it with."""
    joins = frozenset(node for node in graph if node not in apart and _is_join(node, shapes))
    seen: set[ir.Value] = set()
    for node in graph:
        end = node.outputs[0] if turns(node, TO_FIRST) else node.inputs[0] if turns(node, TO_LAST) else None
        if end is None or end in seen:
            continue
        values: dict[ir.Value, None] = {}
        waiting = [end]
        while waiting:
            value = waiting.pop()
            if value in values:
                continue
            values[value] = None
            beside = joins & {value.producer(), *(use.node for use in value.uses())}
            waiting += [one for join in beside for one in (*join.inputs, *join.outputs) if one is not None]
        seen |= values.keys()
        yield Images(tuple(values), joins, apart)


def _is_join(node: ir.Node, shapes: Shapes) -> bool:
    """Whether a node gives each element from those at the same place, or, of one pixel or one channel, beside it."""
    if node.op_type not in _ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return False
    if any(value is None or trace_constant(value) for value in node.inputs):
        return False
    sizes = [known_shape(value, shapes) for value in (*node.inputs, *node.outputs) if value is not None]
    return all(one is not None and len(one) == 4 for one in sizes)


def _decision(images: Images, shapes: Shapes, device: Device) -> Decision | None:
    """Compares the transpositions of either order, which read and write a whole image.

    Where they cost the same, channel-last is written faster, and linear layers can take additions in.
    """

    def plan(turned: Iterator[ir.Value]) -> Plan | None:
        sizes = [known_shape(value, shapes) for value in turned]
        elements = [math.prod(int(str(size)) for size in one) for one in sizes if one is not None]
        moves = tuple(Move("transposed", 8 * count, 8 * count) for count in elements)
        return Plan(len(moves), moves) if len(elements) == len(sizes) else None

    first, last = plan(images.saved()), plan(images.added())
    if first is None or last is None:
        return None
    return decide(first, last, device)


class _Writer:
    """Turns images and what stands around them."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._store = InitializerStore(graph)

    def turn(self, images: Images) -> Edit:
        readers = {value: [(use.node, use.idx) for use in value.uses()] for value in images.values}
        last = {value: self._last(value, images) for value in images.values}
        gone = [node for value in images.values if turns(node := value.producer(), TO_FIRST)]
        for value, uses in readers.items():
            firsts = [use for use in uses if images.only_first(*use)]
            for node, index in uses:
                if images.turned(node):
                    ir.convenience.replace_all_uses_with([node.outputs[0]], [last[value]])
                    gone.append(node)
                elif (node, index) not in firsts:
                    node.replace_input_with(index, last[value])
                    if images.convolved(node, index):
                        read_last(node, self._store)
                        _mark(node)
            if last[value] is value:
                self._rename(value, firsts)
        unread = [node for node in gone if not _is_read(node.outputs[0])]
        self._graph.remove(unread, safe=True)
        return Edit(images.label, f"{len(images.values)} images channel-last, {len(unread)} transpositions less")

    def _last(self, value: ir.Value, images: Images) -> ir.Value:
        """The value channel-last: what is transposed, what its producer then writes, or a transposition of it."""
        node = value.producer()
        if turns(node, TO_FIRST):
            assert node.inputs[0] is not None
            return node.inputs[0]
        if not images.made_either(value):
            return self._transpose(value, TO_LAST, f"{value.name}.last")
        if node is not None and writes_either(node):
            write_last(node, self._store)
            _mark(node)
        return value

    def _rename(self, value: ir.Value, firsts: Collection[tuple[ir.Node, int]]) -> None:
        """A name belongs to one order: whoever still wants the old one reads a transposition of that name."""
        node, name, sizes = value.producer(), value.name, value.shape
        if node is not None:
            node.name = node_label(node)  # which may have been the name of the value
        value.name = f"{name}.last"
        value.shape = None if sizes is None else ir.Shape([sizes[axis] for axis in TO_LAST])
        if not firsts and not value.is_graph_output():
            return
        first = self._transpose(value, TO_FIRST, name)
        first.shape = sizes
        for node, index in firsts:
            node.replace_input_with(index, first)
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = first

    def _transpose(self, value: ir.Value, order: tuple[int, ...], name: str | None) -> ir.Value:
        output = ir.Value(name=name, type=value.type)
        attributes = ir.convenience.convert_attributes({"perm": list(order)})
        node = ir.Node("", "Transpose", [value], attributes, outputs=[output], name=f"{name}/transpose")
        _mark(node)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        return output


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())


def _mark(node: ir.Node) -> None:
    node.metadata_props.setdefault("edgefold.from", node_label(node))
    node.metadata_props["edgefold.pass"] = "fuse-blocks"
