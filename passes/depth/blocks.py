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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import TRANSPARENT
from edgefold.passes.depth.parts import Cutter, Part
from edgefold.passes.depth.repeats import Repeat, repeats
from edgefold.passes.depth.signatures import Signatures
from edgefold.passes.depth.steps import Step, step
from edgefold.passes.depth.stream import Stream, streams

__all__ = ["Block", "Part", "Stack", "find_stacks"]


@dataclass(frozen=True)
class Block(Part):
    """A part that a stack repeats.

    Attributes:
        halves: the residual branches that it is made of, in order; () where it has but one.
    """

    halves: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Stack:
    """A longest run of blocks that differ only in their weights.

    Attributes:
        blocks: in order; each starts with the value that the one before ends with.
        name: as a person would say it.
    """

    blocks: tuple[Block, ...]
    name: str


def find_stacks(model: ir.Model) -> tuple[Stack, ...]:
    """Finds the stacks of the main graph, in the order in which they run; the model is not changed."""
    flow = Dataflow(model.graph)
    found = streams(flow)
    cutter = Cutter(flow, {place for stream in found for place in stream.sources})
    signatures = Signatures(flow)
    runs = [run for stream in found for chain in stream.chains() for run in _runs(stream, chain, signatures)]
    return tuple(_stack(run, signatures, cutter) for run in _disjoint(runs))


@dataclass(frozen=True)
class _Run:
    """A repeat on a chain of a stream."""

    stream: Stream
    chain: tuple[int, ...]
    steps: tuple[Step, ...]
    repeat: Repeat

    def between(self, first: int, last: int) -> list[int]:
        """The nodes of some steps, in topological order."""
        return self.stream.between(self.chain[first], self.chain[last])


def _runs(stream: Stream, chain: Sequence[int], signatures: Signatures) -> Iterator[_Run]:
    flow = stream.flow
    waists = [place for at, place in enumerate(chain) if at == 0 or flow.nodes[place].op_type not in TRANSPARENT]
    steps = tuple(step(stream, first, last, signatures) for first, last in itertools.pairwise(waists))
    for repeat in repeats(steps):
        yield _Run(stream, tuple(waists), steps, repeat)


def _disjoint(runs: Sequence[_Run]) -> list[_Run]:
    """The largest runs that share no node, in the order of the graph."""
    sized = [(frozenset(run.between(run.repeat.start, run.repeat.end)), run) for run in runs]
    taken: set[int] = set()
    kept = []
    for nodes, run in sorted(sized, key=lambda one: (-len(one[0]), min(one[0]))):
        if not nodes & taken:
            taken |= nodes
            kept.append((min(nodes), run))
    return [run for _, run in sorted(kept, key=lambda one: one[0])]


def _stack(run: _Run, signatures: Signatures, cutter: Cutter) -> Stack:
    starts = range(run.repeat.start, run.repeat.end, run.repeat.period)
    blocks = tuple(_block(run, start, start + run.repeat.period, signatures, cutter) for start in starts)
    return Stack(blocks, _name(blocks))


def _block(run: _Run, first: int, last: int, signatures: Signatures, cutter: Cutter) -> Block:
    """The steps from one to another as a block with its halves."""
    cuts = [at for at in range(first, last) if run.steps[at].branches]
    pieces = list(itertools.pairwise([*cuts, last]))
    halves = [_part(run, begin, end, signatures, cutter) for begin, end in pieces]
    whole = _part(run, first, last, signatures, cutter)
    fields = {**vars(whole), "kind": "block"}
    return Block(**fields, halves=tuple(halves) if len(halves) > 1 else ())


def _part(run: _Run, first: int, last: int, signatures: Signatures, cutter: Cutter) -> Part:
    parameters: list[ir.Value] = []
    for at in range(first, last):
        parameters += signatures.parameters(run.chain[at], run.between(at, at + 1))
    return cutter.part(run.chain[first], run.between(first, last), parameters)


def _name(blocks: Sequence[Block]) -> str:
    kinds = [half.kind for half in blocks[0].halves]
    sort = "transformer" if "attention" in kinds else "residual"
    return f"{len(blocks)} {sort} blocks"
