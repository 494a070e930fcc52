# SPDX-License-Identifier: Apache-2.0
"""The repeated residual blocks of a model as a person thinks of them: how many, how heavy, from where to where.

Those of a compressed model are the blocks of the layers that it computes (`edgefold.measuring.layered`): they keep
their numbers when nodes are fused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefold.measuring.layered import Layered, layered
from edgefold.measuring.packed_weights import EDGEFOLD
from edgefold.measuring.text_table import count_text

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.passes.depth.blocks import Block, Part, Stack

FUSED = "fused nodes hold its layers; change a model's depth before its blocks are fused"


@dataclass(frozen=True)
class PartRow:
    """A block, or a half of one.

    Attributes:
        kind: block, attention, feed-forward, convolution or other.
        start, end: the values that enter and leave.
        nodes: how many of the model's.
        weights: stored elements of the weights that it uses, each tensor once.
        obstacle: why it cannot be cut out; None where it can.
    """

    kind: str
    start: str
    end: str
    nodes: int
    weights: int
    obstacle: str | None


@dataclass(frozen=True)
class BlockRow(PartRow):
    """A block.

    Attributes:
        number: by which options name it: its place among all blocks of the model, from 0.
        halves: of which it is made; () where nothing divides it.
    """

    number: int
    halves: tuple[PartRow, ...]


@dataclass(frozen=True)
class StackRow:
    """Blocks that differ only in their weights, one after the other."""

    name: str
    blocks: tuple[BlockRow, ...]

    def to_text(self) -> str:
        """The stack in a line, and a line for each block that cannot be cut out, or for all where all are alike."""
        first, last = self.blocks[0], self.blocks[-1]
        halves = " and ".join(f"{half.kind} of {count_text(half.weights)}" for half in first.halves)
        lines = [
            f"{self.name} of {count_text(first.weights)} weights, numbers {first.number} to {last.number}, "
            f"values {first.start} to {last.end}{f'; each {halves}' if halves else ''}"
        ]
        if first.obstacle and all(row.obstacle == first.obstacle for row in self.blocks):
            return "\n".join([*lines, f"  none can be cut out: {first.obstacle}"])
        held = [f"  block {row.number} cannot be cut out: {row.obstacle}" for row in self.blocks if row.obstacle]
        return "\n".join(lines + held)


def list_blocks(model: ir.Model) -> tuple[StackRow, ...]:
    """The stacks of a model, in the order in which they run."""
    from edgefold.passes.depth.blocks import find_stacks

    found = layered(model)
    rows: list[StackRow] = []
    for stack in find_stacks(found.model):
        before = sum(len(row.blocks) for row in rows)
        rows.append(_row(stack, before, found))
    return tuple(rows)


def blocks_text(stacks: Sequence[StackRow]) -> list[str]:
    """What a page about the model says of its blocks."""
    if not stacks:
        return ["No residual blocks repeat."]
    return [stack.to_text() for stack in stacks]


def _row(stack: Stack, before: int, found: Layered) -> StackRow:
    return StackRow(stack.name, tuple(_block(block, at, found) for at, block in enumerate(stack.blocks, before)))


def _block(block: Block, number: int, found: Layered) -> BlockRow:
    # Passes look for blocks in the graph as it is, where an addition inside a node is none.
    owners = (found.owners[node] for node in block.nodes)
    fused = any(node.op_type.startswith("Fused") and node.domain == EDGEFOLD for node in owners)
    whole, *halves = (_part(part, found, FUSED if fused else part.obstacle) for part in (block, *block.halves))
    return BlockRow(**vars(whole), number=number, halves=tuple(halves))


def _part(part: Part, found: Layered, obstacle: str | None) -> PartRow:
    from edgefold.passes.depth.stored import Stored

    weights = sum(math.prod(Stored.of(value).shape) for value in dict.fromkeys(part.parameters))
    start, end = str(part.start.name), str(part.end.name)
    return PartRow(part.kind, start, end, len({found.owners[node] for node in part.nodes}), weights, obstacle)
