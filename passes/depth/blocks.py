# SPDX-License-Identifier: Apache-2.0
"""The repeated residual blocks of a graph, whatever wrote it: names play no part.

How they are found, step by step, each in its own module:

1. `dataflow`: tell contents from constants and from arithmetic on sizes.
2. `stream`: from every seed follow the contents; the dominators are the waists that everything passes.
3. The way from one waist to the next is a step. It *branches* where it ends with an addition that one way reaches
   unchanged and another through parameters: a residual branch. It *breaks* a run where it applies a weight matrix
   and is no branch.
4. `signatures`: equal steps get equal numbers.
5. `repeats`: blocks are what repeats in this word; a block of several branches (attention and feed-forward) has them
   as its halves.
6. `parts`: nodes, parameters in corresponding order, and what stands against cutting a part out.

The model is never changed. A stack is a longest run of two or more blocks of equal signature; a block that occurs only
once is not reported, and of stacks that overlap (blocks within blocks) the one with most nodes is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.parts import Cutter, Part
from edgefold.passes.depth.runs import Run, runs
from edgefold.passes.depth.signatures import Signatures

__all__ = ["Block", "Part", "Stack", "find_stacks"]

_SORTS = {"attention": "transformer", "convolution": "convolution", "feed-forward": "feed-forward"}


@dataclass(frozen=True)
class Block(Part):
    """A part that a stack repeats.

    Attributes:
        halves: the residual branches that it is made of, in order; () where it has but one.
    """

    halves: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Stack:
    """A longest run of blocks that differ only in their weights and the dilations of their convolutions.

    Attributes:
        blocks: in order; each starts with the value that the one before ends with.
        name: as a person would say it.
    """

    blocks: tuple[Block, ...]
    name: str


def find_stacks(model: ir.Model) -> tuple[Stack, ...]:
    """Finds the stacks of the main graph, in the order in which they run; the model is not changed."""
    flow = Dataflow(model.graph)
    cutter, signatures = Cutter(flow), Signatures(flow)
    return tuple(_stack(run, signatures, cutter) for run in runs(flow, signatures))


def _stack(run: Run, signatures: Signatures, cutter: Cutter) -> Stack:
    starts = range(run.repeat.start, run.repeat.end, run.repeat.period)
    blocks = tuple(_block(run, start, start + run.repeat.period, signatures, cutter) for start in starts)
    kinds = {part.kind for part in (blocks[0].halves or (_part(run, starts[0], starts[1], signatures, cutter),))}
    sort = next((word for kind, word in _SORTS.items() if kind in kinds), "residual")
    return Stack(blocks, f"{len(blocks)} {sort} blocks")


def _block(run: Run, first: int, last: int, signatures: Signatures, cutter: Cutter) -> Block:
    """The steps from one to another as a block with its halves."""
    cuts = [at for at in range(first, last) if run.steps[at].branches]
    halves = [_part(run, begin, end, signatures, cutter) for begin, end in itertools.pairwise([*cuts, last])]
    whole = _part(run, first, last, signatures, cutter)
    return Block(**{**vars(whole), "kind": "block"}, halves=tuple(halves) if len(halves) > 1 else ())


def _part(run: Run, first: int, last: int, signatures: Signatures, cutter: Cutter) -> Part:
    pieces = [(run.waists[at], run.between(at, at + 1)) for at in range(first, last)]
    parameters = [value for begin, inside in pieces for value in signatures.parameters(begin, inside)]
    return cutter.part(run.waists[first], run.between(first, last), parameters)
