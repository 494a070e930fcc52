# SPDX-License-Identifier: Apache-2.0
"""Feed-forward bodies that one choice routes tokens through: the experts of a layer, by the structure of the graph."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.experts.recognition.bodies import Body
from edgefold.passes.pruning.groups import Trace

CHOICES = ("TopK", "ArgMax")


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedBodies:
    """Bodies that one choice routes tokens through.

    Attributes:
        name: for reports and new nodes.
        choice: the TopK or ArgMax.
        bodies: of the experts, in the order of the graph; or one that stands for all.
        top: experts that a token goes to.
        columns: experts that the choice is between.
        root: where the tokens enter.
    """

    name: str
    choice: ir.Node
    bodies: tuple[Body, ...]
    top: int
    columns: int
    root: ir.Value

    @property
    def count(self) -> int:
        """How many experts the bodies stand for."""
        return self.bodies[0].count or len(self.bodies)

    @property
    def form(self) -> str:
        """How the experts stand in the graph."""
        body = self.bodies[0]
        if body.count is None:
            return "loop over routed tokens" if body.picks else "loop over all tokens"
        if any(linear.factor.matrix.routes for linear in body.inputs):
            return "gathered weights"
        return "einsum" if body.inputs[0].factor.node.op_type == "Einsum" else "batched product"


def routed_bodies(graph: ir.Graph, bodies: Iterable[Body], trace: Trace) -> list[RoutedBodies]:
    """Bodies by the choice that routes tokens through them."""
    order = {node: number for number, node in enumerate(graph)}
    groups: dict[tuple[ir.Node, ir.Value], list[Body]] = {}
    for body in bodies:
        choice = _choice(body, order)
        if choice is not None:
            groups.setdefault((choice, body.sources[0]), []).append(body)
    found = (
        _routed(choice, bodies, trace, f"moe.{number}") for number, ((choice, _), bodies) in enumerate(groups.items())
    )
    return [one for one in found if one is not None]


def _choice(body: Body, order: dict[ir.Node, int]) -> ir.Node | None:
    """The last choice that what routes a body depends on, other than by the tokens themselves."""
    seen = set(body.sources)
    pending = list(body.routes)
    found: list[ir.Node] = []
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or node is None or node.op_type == "Shape":
            continue
        seen.add(value)
        if node.op_type in CHOICES:
            found.append(node)
        else:
            pending += [one for one in node.inputs if one is not None]
    return max(found, key=order.__getitem__, default=None)


def _routed(choice: ir.Node, bodies: list[Body], trace: Trace, default: str) -> RoutedBodies | None:
    """None where the choice is not between a fixed number of experts, but among tokens or boxes."""
    stacked = [body for body in bodies if body.count is not None]
    if not stacked and len(bodies) == 1:
        return None
    scores, numbers = choice.inputs[0], choice.outputs[-1]
    assert scores is not None
    size, chosen = trace.shapes.get(str(scores.name)), trace.shapes.get(str(numbers.name))
    if size is None or chosen is None or bodies[0].sources[0].name not in trace.shapes:
        return None
    axis = choice.attributes.get_int("axis", -1 if choice.op_type == "TopK" else 0)
    if axis not in (-1, len(size) - 1) or (str(scores.name), len(size) - 1) in trace.dynamic:
        return None
    top = chosen[-1] if choice.op_type == "TopK" else 1
    name = _common_name(bodies) or default
    return RoutedBodies(name, choice, tuple(stacked[:1] or bodies), top, size[-1], bodies[0].sources[0])


def _common_name(bodies: Sequence[Body]) -> str:
    """The common part of the names of the bodies' products, or of their weights."""
    nodes = [node for body in bodies for node in body.nodes]
    weights = [value for node in nodes for value in node.inputs if value is not None and value.is_initializer()]
    for names, separator in (([node_label(node) for node in nodes], "/"), ([str(one.name) for one in weights], ".")):
        columns = zip(*(name.split(separator) for name in names), strict=False)
        shared = [first for first, *rest in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
        if any(shared) and len(names) > 1:
            return separator.join(shared).removesuffix(f"{separator}experts")
    return ""
