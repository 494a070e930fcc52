# SPDX-License-Identifier: Apache-2.0
"""The repeated residual blocks of a model as a person thinks of them: how many, how heavy, from where to where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefold.measuring.text_table import count_text

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.passes.depth.blocks import Part, Stack


@dataclass(frozen=True)
class PartRow:
    """A block, or a half of one.

    Attributes:
        kind: block, attention, feed-forward, convolution or other.
        start, end: the values that enter and leave.
        nodes: how many.
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
        """The stack in a line, and a line for each block that cannot be cut out."""
        first, last = self.blocks[0], self.blocks[-1]
        halves = " and ".join(f"{half.kind} of {count_text(half.weights)}" for half in first.halves)
        lines = [
            f"{self.name} of {count_text(first.weights)} weights, numbers {first.number} to {last.number}, "
            f"values {first.start} to {last.end}{f'; each {halves}' if halves else ''}"
        ]
        held = [f"  block {row.number} cannot be cut out: {row.obstacle}" for row in self.blocks if row.obstacle]
        return "\n".join(lines + held)


def list_blocks(model: ir.Model) -> tuple[StackRow, ...]:
    """The stacks of a model, in the order in which they run."""
    from edgefold.passes.depth.blocks import find_stacks

    rows: list[StackRow] = []
    for stack in find_stacks(model):
        before = sum(len(row.blocks) for row in rows)
        rows.append(_row(stack, before))
    return tuple(rows)


def blocks_text(stacks: Sequence[StackRow]) -> list[str]:
    """What a page about the model says of its blocks."""
    if not stacks:
        return ["No residual blocks repeat."]
    return [stack.to_text() for stack in stacks]


def _row(stack: Stack, before: int) -> StackRow:
    blocks = (
        BlockRow(**vars(_part(block)), number=number, halves=tuple(map(_part, block.halves)))
        for number, block in enumerate(stack.blocks, before)
    )
    return StackRow(stack.name, tuple(blocks))


def _part(part: Part) -> PartRow:
    from edgefold.passes.depth.stored import Stored

    weights = sum(math.prod(Stored.of(value).shape) for value in dict.fromkeys(part.parameters))
    start, end = str(part.start.name), str(part.end.name)
    return PartRow(part.kind, start, end, len(part.nodes), weights, part.obstacle)
