# SPDX-License-Identifier: Apache-2.0
"""The order in which matrices are rounded, and what the layers that apply them should give.

A layer is rounded for the inputs that the layers before it, already rounded, really give it, and towards what the
original gives at that place (the asymmetric calibration of GPTAQ, arXiv 2504.02692). Where it is added to a tensor that
has changed too, as residual branches are, the sum is its target: it then makes up for what the other term has lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgefold.passes._layer_inputs import Targets
from edgefold.passes._subgraphs import inside_out, reads, sources
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.quantization.shared_weights import WeightGroup

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Matrices none of which waits for another.

    Attributes:
        groups: they.
        targets: of each node that multiplies by one of them.
    """

    groups: tuple[WeightGroup, ...]
    targets: Mapping[ir.Node, Targets]


def in_stages(graph: ir.Graph, groups: Sequence[WeightGroup], shapes: Shapes) -> list[Stage]:
    """Matrices from the inputs of the graph to its outputs, and within bodies where these stand; a shared one goes with
    the first node that applies it.

    Args:
        graph: before any of them is rounded.
        groups: all that will be.
        shapes: of tensors; a sum of a shape that is not known is no target.
    """
    group_of = {site.node: group for group in groups for site in group.sites}
    site_of = {site.node: site for group in groups for site in group.sites}
    latest: dict[ir.Value, int] = {}  # the number of the last group that a value depends on
    numbers: dict[int, int] = {}
    waits: dict[int, int] = {}
    targets: dict[ir.Node, Targets] = {}
    order: list[WeightGroup] = []
    outside = sources(graph)
    for node in inside_out(graph):
        after = max((latest.get(outside.get(value, value), 0) for value in reads(node)), default=0)
        site = site_of.get(node)
        if site is not None:
            group = group_of[node]
            if site.kind != "gather":
                targets[node], other = _target(site, latest, shapes)
                after = max(after, other)
            if id(group) not in numbers:
                order.append(group)
                numbers[id(group)], waits[id(group)] = len(order), after
            after = max(after, numbers[id(group)])
        latest.update((value, after) for value in node.outputs)
    return _stages(order, waits, targets)


def _stages(order: Sequence[WeightGroup], waits: Mapping[int, int], targets: Mapping[ir.Node, Targets]) -> list[Stage]:
    stages: list[list[WeightGroup]] = []
    first = 1  # number of the first group of the last stage
    for number, group in enumerate(order, start=1):
        if not stages or waits[id(group)] >= first:
            stages.append([])
            first = number
        stages[-1].append(group)
    return [
        Stage(tuple(stage), {s.node: targets[s.node] for group in stage for s in group.sites if s.node in targets})
        for stage in stages
    ]


def _target(site: WeightedNode, latest: Mapping[ir.Value, int], shapes: Shapes) -> tuple[Targets, int]:
    """What the node should give, and the number of the group that it has to wait for because of that."""
    output = site.output
    axis = 1 if site.geometry is not None else -2 if site.on_left else -1
    own = Targets(str(output.name), axis, site.geometry.group if site.geometry else 1)
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or uses[0].node.domain not in ("", "ai.onnx"):
        return own, 0
    total, other = uses[0].node.outputs[0], uses[0].node.inputs[1 - uses[0].idx]
    shape = shapes.get(str(output.name))
    if other is None or not latest.get(other) or shape is None or shapes.get(str(total.name)) != shape:
        return own, 0
    return dataclasses.replace(own, tensor=str(total.name), less=str(other.name)), latest[other]
