# SPDX-License-Identifier: Apache-2.0
"""What may be taken out of a model: its blocks or their halves, numbered as the user knows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.passes._subgraphs import bodies
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.depth.blocks import Block, Part, Stack

Parts = Literal["blocks", "halves", "any"]
Move = frozenset[int]
"""Candidates, by position, that go in one step."""


@dataclass(frozen=True)
class Candidate:
    """A block or a half of one.

    Attributes:
        name: as a person would say it.
        block: its number in the order of the model, from 0, over all stacks.
        part: where it is.
        size: 1 for a block, its share of the halves' number for a half (T5's decoder blocks have three).
        weights: elements of its parameters.
        macs: multiply-accumulates of its nodes for one sample; 0 where they are not known.
    """

    name: str
    block: int
    part: Part
    size: Fraction
    weights: int
    macs: int


def candidates(
    stacks: Sequence[Stack],
    parts: Parts,
    macs: Mapping[str, int],
    *,
    keep: Collection[int],
    excludes: Callable[[str], bool],
) -> tuple[list[Candidate], list[Skip]]:
    """What may go, in the order of the model, and a Skip for each block or half that has to stay.

    Args:
        stacks: of the model.
        parts: whole blocks, or halves where a block has two that follow one another from its start to its end.
        macs: multiply-accumulates by node.
        keep: numbers of blocks that stay.
        excludes: whether the user asked to leave the node of that name alone.
    """
    found: list[Candidate] = []
    skips: list[Skip] = []
    for number, block in enumerate(block for stack in stacks for block in stack.blocks):
        pieces = block.halves if parts != "blocks" and _divided(block) else (block,)
        for name, piece in zip(_names_of(number, pieces), pieces, strict=True):
            work = sum(macs.get(node, 0) for node in _nodes(piece))
            one = Candidate(name, number, piece, Fraction(1, len(pieces)), _weights(piece), work)
            skip = _why_it_stays(one, keep, excludes)
            if skip is None:
                found.append(one)
            else:
                skips.append(skip)
    return found, skips


def check_numbers(place: str, numbers: Iterable[int], stacks: Sequence[Stack]) -> None:
    """Nothing, where the model has blocks of these numbers.

    Args:
        place: the pass and the option that name them, for the message.
        numbers: as the user counts blocks.
        stacks: of the model.

    Raises:
        UsageError: there is no block of some number.
    """
    blocks = sum(len(stack.blocks) for stack in stacks)
    for number in numbers:
        if number >= blocks:
            raise UsageError(f"{place}: there is no block {number}; the model's blocks are 0 to {blocks - 1}")


def moves(found: Sequence[Candidate], parts: Parts) -> list[Move]:
    """The steps that a search may take: each candidate alone and, for `any`, the halves of one block together."""
    single = [frozenset((position,)) for position in range(len(found))]
    if parts != "any":
        return single
    blocks = dict.fromkeys(one.block for one in found)
    together = [frozenset(i for i, one in enumerate(found) if one.block == block) for block in blocks]
    return [*single, *(move for move in together if len(move) > 1)]


def _divided(block: Block) -> bool:
    """Whether its halves follow one another from its start to its end, and can be cut out one by one."""
    if not block.halves or any(half.obstacle for half in block.halves):
        return False
    ends = [block.start, *(half.end for half in block.halves)]
    return ends[-1] is block.end and all(half.start is end for half, end in zip(block.halves, ends, strict=False))


def _names_of(number: int, pieces: Sequence[Part]) -> list[str]:
    """Names that tell the pieces of a block apart."""
    if len(pieces) == 1:
        return [f"block {number}"]
    kinds = [piece.kind for piece in pieces]
    orders = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
    return [
        f"{kind} of block {number}" if kinds.count(kind) == 1 else f"{kind} {order} of block {number}"
        for kind, order in zip(kinds, orders, strict=True)
    ]


def _why_it_stays(one: Candidate, keep: Collection[int], excludes: Callable[[str], bool]) -> Skip | None:
    if one.part.obstacle is not None:
        return Skip(one.name, SkipReason.INSEPARABLE, one.part.obstacle)
    if one.block in keep:
        return Skip(one.name, SkipReason.EXCLUDED, "keep names it")
    excluded = next((name for name in _nodes(one.part) if excludes(name)), None)
    return Skip(one.name, SkipReason.EXCLUDED, f"it holds {excluded}") if excluded else None


def _weights(part: Part) -> int:
    tensors = [ir.convenience.get_const_tensor(value) for value in dict.fromkeys(part.parameters)]
    return sum(math.prod(int(size) for size in tensor.shape.numpy()) for tensor in tensors if tensor is not None)


def _nodes(part: Part) -> Iterable[str]:
    """The names of the nodes of a part, and of those in their bodies."""
    waiting = list(part.nodes)
    while waiting:
        node = waiting.pop()
        yield node_label(node)
        waiting += [inner for body in bodies(node) for inner in body]
