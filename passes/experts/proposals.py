# SPDX-License-Identifier: Apache-2.0
"""What may be a mixture-of-experts layer, by the structure of the graph: its experts, its output, its gates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.experts.bodies import Body, find_bodies
from edgefold.passes.experts.gates import Chosen, Dense, Gates
from edgefold.passes.experts.matrices import MOVES, Weights
from edgefold.passes.pruning.groups import Trace

CHOICES = ("TopK", "ArgMax")
_OUTPUTS_TRIED = 6  # a layer's sum is followed by a reshape and the residual addition


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
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


def propose(graph: ir.Graph, trace: Trace) -> list[Proposal]:
    """Bodies by the choice that routes tokens through them."""
    order = {node: number for number, node in enumerate(graph)}
    groups: dict[tuple[ir.Node, ir.Value], list[Body]] = {}
    for body in find_bodies(graph, Weights(trace)):
        choice = _choice(body, order)
        if choice is not None:
            groups.setdefault((choice, body.sources[0]), []).append(body)
    found = (
        _proposal(choice, bodies, trace, f"moe.{number}") for number, ((choice, _), bodies) in enumerate(groups.items())
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


def _proposal(choice: ir.Node, bodies: list[Body], trace: Trace, default: str) -> Proposal | None:
    """None where the choice is not between a fixed number of experts, but among tokens or boxes."""
    scores, numbers = choice.inputs[0], choice.outputs[-1]
    assert scores is not None
    size, chosen = trace.shapes.get(str(scores.name)), trace.shapes.get(str(numbers.name))
    if size is None or chosen is None or bodies[0].sources[0].name not in trace.shapes:
        return None
    axis = choice.attributes.get_int("axis", -1 if choice.op_type == "TopK" else 0)
    if axis not in (-1, len(size) - 1) or (str(scores.name), len(size) - 1) in trace.dynamic:
        return None
    top = chosen[-1] if choice.op_type == "TopK" else 1
    stacked = [body for body in bodies if body.count is not None]
    name = _common_name(bodies) or default
    return Proposal(name, choice, tuple(stacked[:1] or bodies), top, size[-1], bodies[0].sources[0])


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


def joins(graph: ir.Graph, proposal: Proposal) -> Iterator[ir.Value]:
    """The values that all paths from the experts' outputs to the graph's run through, first ones first."""
    entering = {body.output for body in proposal.bodies}
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


def gates_before(graph: ir.Graph, proposal: Proposal, trace: Trace, outputs: Sequence[ir.Value]) -> Iterator[Gates]:
    """What may be the gates, last ones first: values of their shape that come before the experts' outputs."""
    numbers = proposal.choice.outputs[-1]
    rows = math.prod(trace.shapes[str(proposal.root.name)][:-1])
    for value in _between(graph, proposal, outputs):
        shape = trace.shapes.get(str(value.name), ())
        if math.prod(shape) == rows * proposal.columns and shape[-1] == proposal.columns:
            yield Dense(value)
        elif math.prod(shape) == rows * proposal.top and (proposal.top == 1 or shape[-1] == proposal.top):
            yield Chosen(numbers, value, proposal.top)


def _between(graph: ir.Graph, proposal: Proposal, outputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Float values that the tokens determine without the experts and that a join depends on, last ones first."""
    needed: set[ir.Node] = set()
    pending = [value.producer() for value in outputs]
    while pending:
        node = pending.pop()
        if node is not None and node not in needed:
            needed.add(node)
            pending += [one.producer() for one in node.inputs if one is not None and one is not proposal.root]
    products = {node for body in proposal.bodies for node in body.nodes}
    routed, mixed = {proposal.root}, set[ir.Value]()
    found: list[ir.Value] = []
    for node in (node for node in graph if node in needed):
        read = {value for value in node.inputs if value is not None}
        if node in products or read & mixed:
            mixed.update(node.outputs)
        elif read & routed and node.op_type != "Shape":
            routed.update(node.outputs)
            found += [value for value in node.outputs if value is not proposal.choice.outputs[-1]]
    return found[::-1]


def logits_of(choice: ir.Node, weights: Weights) -> ir.Value:
    """What the router's product gives; what is chosen from where it has none."""
    value = choice.inputs[0]
    while value is not None and weights.linear(value) is None:
        node = value.producer()
        if node is None or node.op_type not in (*MOVES, "Add", "Sigmoid", "Softmax"):
            break
        value = node.inputs[0]
    found = value if value is not None and weights.linear(value) is not None else choice.inputs[0]
    assert found is not None
    return found
