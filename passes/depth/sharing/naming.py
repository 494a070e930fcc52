# SPDX-License-Identifier: Apache-2.0
"""Which matrices of the blocks names and globs mean: queries and keys only, or what else the user calls by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.passes._constants import readers
from edgefold.passes._weighted_nodes import WeightedNode, node_label, weighted_node
from edgefold.passes.depth.blocks import Part, Stack

Row = tuple[ir.Value, ...]
"""The matrices at one place, one a block."""

_LISTED = 6


def named(rows: Iterable[Row], globs: Sequence[str]) -> list[Row]:
    """Those of which some block's matrix, or a node that reads it, is called so; all where no glob is given."""
    return [row for row in rows if not globs or any(_means(glob, row) for glob in globs)]


def require_named(stacks: Sequence[Stack], rows: Sequence[Row], globs: Sequence[str]) -> None:
    """Checks that every glob means something.

    Raises:
        UsageError: one does not; lists what there is, or says that queries, keys and values are one matrix.
    """
    for glob in globs:
        if not any(_means(glob, row) for row in rows):
            why = "no matrix of the blocks, and no node that reads one, is called so"
            raise UsageError(f"share-weights: weights: {glob}: {why}; {_way_out(stacks, rows)}")


def _way_out(stacks: Sequence[Stack], rows: Sequence[Row]) -> str:
    halves = (half for stack in stacks for half in stack.blocks[0].halves)
    fused = next((site.label for half in halves for site in fused_projections(half)), None)
    if fused is not None:
        return f"several of queries, keys and values are the one matrix of {fused}, which can be shared whole"
    listed = ", ".join(list(_names(row[0]))[-1] for row in rows[:_LISTED])
    return f"there are {listed}" + (" ..." if len(rows) > _LISTED else "")


def fused_projections(half: Part) -> Iterator[WeightedNode]:
    """The layers from which both factors of a product of activations come: queries and keys, say, in one matrix."""
    if half.kind != "attention":
        return
    inside = set(half.nodes)
    for node in half.nodes:
        if node.op_type in ("MatMul", "Einsum") and not isinstance(weighted_node(node), WeightedNode):
            first, second = (_projections(value, inside) for value in node.inputs[:2])
            yield from (site for key, site in first.items() if key in second)


def _projections(value: ir.Value | None, inside: set[ir.Node]) -> dict[ir.Node, WeightedNode]:
    """The nearest layers with weights that a value comes from."""
    found: dict[ir.Node, WeightedNode] = {}
    waiting, seen = [value], set[ir.Node]()
    while waiting:
        one = waiting.pop()
        node = None if one is None else one.producer()
        if node is None or node not in inside or node in seen:
            continue
        seen.add(node)
        site = weighted_node(node)
        if isinstance(site, WeightedNode):
            found[node] = site
        else:
            waiting += node.inputs
    return found


def _means(glob: str, row: Row) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for value in row for name in _names(value))


def _names(value: ir.Value) -> Iterator[str]:
    yield str(value.name)
    yield from (node_label(node) for node, _ in readers(value))
