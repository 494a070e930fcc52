# SPDX-License-Identifier: Apache-2.0
"""Where in a graph equal residual blocks follow each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import TRANSPARENT
from edgefold.passes.depth.repeats import Repeat, repeats
from edgefold.passes.depth.signatures import Signatures
from edgefold.passes.depth.steps import Step, steps
from edgefold.passes.depth.stream import Stream, streams


@dataclasses.dataclass(frozen=True)
class Run:
    """A repeat on a chain of a stream.

    Attributes:
        stream: that it is in.
        waists: the places between the steps of the chain, one more than there are steps.
        steps: of the chain.
        repeat: the steps that are the blocks.
    """

    stream: Stream
    waists: tuple[int, ...]
    steps: tuple[Step, ...]
    repeat: Repeat

    def between(self, first: int, last: int) -> list[int]:
        """The places of some steps, in topological order."""
        return self.stream.between(self.waists[first], self.waists[last])


def runs(flow: Dataflow, signatures: Signatures) -> list[Run]:
    """The largest runs of a graph that share no node, in its order."""
    found = [run for stream in streams(flow) for chain in stream.chains() for run in _runs(stream, chain, signatures)]
    sized = [(frozenset(run.between(run.repeat.start, run.repeat.end)), run) for run in found]
    taken: set[int] = set()
    kept = {}
    for places, run in sorted(sized, key=lambda one: (-len(one[0]), min(one[0]))):
        if not places & taken:
            taken |= places
            kept[min(places)] = run
    return [run for _, run in sorted(kept.items())]


def _runs(stream: Stream, chain: Sequence[int], signatures: Signatures) -> Iterator[Run]:
    """The runs of one chain.

    What only changes the shape belongs to the step before it, unless it follows the last block alone (the way to the
    head), so that a block which computes in another shape begins and ends in the same.
    """
    closing, waists = [chain[0]], [chain[0]]
    for place in chain[1:]:
        if stream.flow.node(place).op_type in TRANSPARENT:
            waists[-1] = place
        else:
            closing.append(place)
            waists.append(place)
    found = tuple(steps(stream, waists, signatures))
    for repeat in repeats(found):
        inner = range(repeat.start + repeat.period, repeat.end, repeat.period)
        last = repeat.end
        if all(waists[at] == closing[at] for at in inner):
            yield Run(stream, (*waists[:last], closing[last], *waists[last + 1 :]), found, repeat)
        else:
            yield Run(stream, tuple(waists), found, repeat)
