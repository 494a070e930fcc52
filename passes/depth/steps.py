# SPDX-License-Identifier: Apache-2.0
"""The way from one waist of a stream to the next: a residual branch, a layer without one, or neither."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.kinds import kind_of
from edgefold.passes.depth.operators import TRANSPARENT, addends, has_matrix, has_parameters, passed_on
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


def steps(stream: Stream, waists: Sequence[int], signatures: Signatures) -> list[Step]:
    """The steps of a chain; none where it has no two residual branches, so that nothing can repeat."""
    flow = stream.flow
    spans = [(first, stream.between(first, last)) for first, last in itertools.pairwise(waists)]
    nodes = [[flow.node(place) for place in inside] for _, inside in spans]
    branches = [_is_branch(first, inside, flow) for (first, _), inside in zip(spans, nodes, strict=True)]
    if sum(branches) < 2:
        return []
    return [
        Step(
            signature=signatures.of(first, inside),
            branches=branch,
            breaks=not branch and any(has_matrix(node, flow) for node in made),
            rank=int(branch and kind_of(made, flow) != "attention"),
        )
        for (first, inside), made, branch in zip(spans, nodes, branches, strict=True)
    ]


def _is_branch(first: int, nodes: Sequence[ir.Node], flow: Dataflow) -> bool:
    """Whether the last node, but for reshapes, adds what came in to something that parameters had a part in."""
    until = max((at + 1 for at, node in enumerate(nodes) if node.op_type not in TRANSPARENT), default=1)
    return _is_unchanged(first, nodes[:until], flow) and any(has_parameters(node, flow) for node in nodes[: until - 1])


def _is_unchanged(first: int, nodes: Sequence[ir.Node], flow: Dataflow) -> bool:
    """Whether what was made at the first place is added at the last as it was, up to layout and constant factors."""
    within = set(nodes)
    pending = addends(nodes[-1])
    while pending:
        value = pending.pop()
        if flow.place.get(value) == first:
            return True
        producer = value.producer()
        if producer is not None and producer in within:
            pending.extend(passed_on(producer, flow))
    return False
