# SPDX-License-Identifier: Apache-2.0
"""The way from one waist of a stream to the next: a residual branch, a layer without one, or neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.kinds import kind_of
from edgefold.passes.depth.operators import addends, has_matrix, is_parameter, passed_on, stored_shape
from edgefold.passes.depth.signatures import Signatures
from edgefold.passes.depth.stream import Stream


@dataclass(frozen=True)
class Step:
    """From one waist to the next.

    Attributes:
        signature: equal where the steps do the same with other weights.
        branches: whether it is a residual branch and the addition of it, where a part of a block may begin.
        breaks: whether it mixes the stream without a way around, so that no block holds it.
        rank: among equally good beginnings of a block the branch of the lowest rank begins it.
    """

    signature: int
    branches: bool
    breaks: bool
    rank: int = 0


def step(stream: Stream, first: int, last: int, signatures: Signatures) -> Step:
    """The step from a waist to the next."""
    flow, inside = stream.flow, stream.between(first, last)
    nodes = [flow.nodes[place] for place in inside]
    branches = _is_unchanged(flow.nodes[first], nodes, flow) and _has_parameters(nodes[:-1], flow)
    breaks = not branches and any(has_matrix(node, flow) for node in nodes)
    rank = int(branches and kind_of(nodes, flow) != "attention")
    return Step(signatures.of(first, inside), branches, breaks, rank)


def _is_unchanged(first: ir.Node, nodes: Sequence[ir.Node], flow: Dataflow) -> bool:
    """Whether the last node adds, to what the others make, what the first made."""
    within = set(nodes)
    pending = [nodes[-1].inputs[place] for place in addends(nodes[-1]) if place < len(nodes[-1].inputs)]
    while pending:
        value = pending.pop()
        producer = None if value is None else value.producer()
        if producer is first:
            return True
        if producer is not None and producer in within:
            pending.extend(passed_on(producer, flow))
    return False


def _has_parameters(nodes: Sequence[ir.Node], flow: Dataflow) -> bool:
    """Whether any of the nodes reads more than a stored number."""
    constants = (value for node in nodes for value in node.inputs if value is not None and value in flow.constants)
    stored = (one for value in constants for one in flow.stored_behind(value))
    return any(is_parameter(one) and math.prod(stored_shape(one)) > 1 for one in stored)
