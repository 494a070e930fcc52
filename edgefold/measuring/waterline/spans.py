# SPDX-License-Identifier: Apache-2.0
"""To which residual block the nodes that ran belong, also where a fused node computes layers of one, or of several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefold.errors import ModelError
from edgefold.measuring.layered import WEIGHTED, Layered, layered
from edgefold.measuring.shapes import inferred_skeleton, known_shapes
from edgefold.measuring.waterline.node_times import RunNode, element_bytes

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.passes.depth.blocks import Block

Numbers = frozenset[int | None]
"""Blocks of a node's layers; None: some are in no block."""


@dataclass(frozen=True)
class Span:
    """A block; or several, one after the other, that cannot be told apart because a node computes layers of more.

    Attributes:
        first, last: their numbers, as ``inspect`` counts blocks.
        border: bytes of the values that enter the first and leave the last; None where their sizes are unknown.
        alone: whether no node of it computes layers outside of it too.
    """

    first: int
    last: int
    border: int | None
    alone: bool


OUTSIDE = Span(-1, -1, None, True)
"""Of nodes that are known to be in no block."""


def find_spans(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], ran: Sequence[RunNode]) -> list[Span | None]:
    """The span of each node that ran; None outside of blocks.

    Args:
        model: that ran.
        shapes: of its inputs.
        ran: its nodes, in the order in which they ran.
    """
    from edgefold.passes.depth.blocks import find_stacks

    found = layered(model)
    blocks = [block for stack in find_stacks(found.model) for block in stack.blocks]
    if not blocks:
        return [None] * len(ran)
    names = _names(found, blocks)
    numbers = [_known(one, names) for one in ran]
    spans = list(_spans(blocks, numbers, _sizes(model, shapes, ran)))
    by_number = {number: span for span in spans for number in range(span.first, span.last + 1)}
    # Numbers of a node are all of one span, or None.
    known = [next((by_number[one] for one in its if one is not None), OUTSIDE if its else None) for its in numbers]
    return [None if span is OUTSIDE else span for span in _filled(known)]


def _names(found: Layered, blocks: Sequence[Block]) -> dict[str, Numbers]:
    """The blocks of every node of the model, by its name and by those of its outputs.

    Where layers with weights are in a node, they say where it belongs: an activation or a sum may lie just beyond.
    """
    number = {node: at for at, block in enumerate(blocks) for node in block.nodes}
    layers: dict[ir.Node, list[ir.Node]] = defaultdict(list)
    for layer, owner in found.owners.items():
        layers[owner].append(layer)
    names: dict[str, Numbers] = {}
    for owner, its in layers.items():
        weighted = [layer for layer in its if layer.op_type in WEIGHTED] or its
        numbers = frozenset(number.get(layer) for layer in weighted)
        names.update(
            {name: numbers for name in (owner.name, *(value.name for value in owner.outputs)) if name is not None}
        )
    return names


def _known(one: RunNode, names: Mapping[str, Numbers]) -> Numbers:
    """ONNX Runtime names a fused node after one of those it is made of, or after its output, or anew: empty."""
    given = (one.name, one.name.removesuffix("_nchwc"), *one.node.output)
    found = [names[name] for name in given if name in names]
    return next((numbers for numbers in found if numbers != {None}), found[0] if found else frozenset())


def _filled(found: list[Span | None]) -> list[Span | None]:
    """A node of a new name, which is None here, between two of one span is of that span too."""
    for place in range(1, len(found)):
        if found[place] is None:
            after = next((one for one in found[place:] if one is not None), None)
            found[place] = after if found[place - 1] == after else None
    return found


def _spans(blocks: Sequence[Block], ran: Sequence[Numbers], sizes: Mapping[str, int]) -> Iterator[Span]:
    """The spans that the blocks fall into, in order."""
    shared = [{one for one in numbers if one is not None} for numbers in ran]
    partly = {min(its) for its, numbers in zip(shared, ran, strict=True) if its and None in numbers}
    first = 0
    for number, block in enumerate(blocks):
        if any(its and min(its) <= number < max(its) for its in shared):
            continue
        ends = (sizes.get(str(blocks[first].start.name)), sizes.get(str(block.end.name)))
        border = None if ends[0] is None or ends[1] is None else ends[0] + ends[1]
        yield Span(first, number, border, not any(first <= one <= number for one in partly))
        first = number + 1


def _sizes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], ran: Sequence[RunNode]) -> dict[str, int]:
    """Bytes of the values whose types can be inferred, and whose shapes can or were seen in the run."""
    try:
        graph = inferred_skeleton(model, shapes).graph
    except ModelError:
        return {}
    seen = {name: shape for one in ran for name, shape in zip(filter(None, one.node.output), one.outputs, strict=False)}
    known = seen | known_shapes(graph)
    types = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.value_info, *graph.output)}
    return {name: element_bytes(known[name], kind) for name, kind in types.items() if name in known}
