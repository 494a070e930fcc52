# SPDX-License-Identifier: Apache-2.0
"""Streams and their waists: the nodes that everything between the first layer and the last must pass.

A *seed* is where a network begins: a float input of the graph; a node that applies stored weights to something that no
such node has seen (a patch convolution, an embedding); or an addition of what a layer made to a learnt table (the
queries of a detector's decoder, whose first self-attention is a constant). The *stream* is what one seed reaches
through contents (see `dataflow`). Masks, position tables and the memory of a cross attention come from elsewhere, so
they open no way around a layer.

In the stream, the immediate dominator of a node is the last node that every path to it shares. Dominators form a tree;
a path in that tree is a *chain* of waists. A residual addition is such a waist, and so is whatever follows it until the
next layer branches off. The tree is split into chains, the deepest first, so that the trunk of the network is one
chain, and what lies beside it (towers, heads, stages under a long skip connection) is found as well.

Dominators: K. D. Cooper, T. J. Harvey and K. Kennedy, "A Simple, Fast Dominance Algorithm" (2001); on a graph without
cycles one sweep in topological order is enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import addends, has_matrix, passed_on
from edgefold.passes.depth.stored import Stored


class Stream:
    """What one seed reaches.

    Args:
        flow: of the graph.
        seed: the place where the stream begins.

    Attributes:
        flow: the same.
        sources: place -> the places of the stream that it reads content from, in topological order; the seed is first.
    """

    def __init__(self, flow: Dataflow, seed: int) -> None:
        self.flow = flow
        self.sources: dict[int, list[int]] = {seed: []}
        for place in flow.nodes[max(seed + 1 - flow.nodes.start, 0) :]:
            found = [source for source in flow.sources[place] if source in self.sources]
            if found:
                self.sources[place] = found

    def chains(self) -> Iterator[list[int]]:
        """The chains of waists, deepest first; each begins with the place on an earlier chain that it hangs from."""
        dominator, depth = self._dominators()
        seed = next(iter(self.sources))
        claimed = {seed}
        for place in sorted(self.sources, key=lambda one: (-depth[one], one)):
            chain = [place]
            while chain[-1] not in claimed:
                claimed.add(chain[-1])
                chain.append(dominator[chain[-1]])
            if len(chain) > 1:
                yield chain[::-1]

    def between(self, first: int, last: int) -> list[int]:
        """The places on the paths from one to one that it dominates, without the first, in topological order."""
        found, pending = {first, last}, [last]
        while pending:
            fresh = [source for source in self.sources[pending.pop()] if source not in found]
            found.update(fresh)
            pending.extend(fresh)
        return sorted(found - {first})

    def _dominators(self) -> tuple[dict[int, int], dict[int, int]]:
        """Every place's immediate dominator (the seed's is itself), and the length of the longest path to it."""
        dominator: dict[int, int] = {}
        depth: dict[int, int] = {}
        for place, sources in self.sources.items():
            depth[place] = 1 + max((depth[source] for source in sources), default=0)
            meeting = sources[0] if sources else place
            for source in sources[1:]:
                other = source
                while meeting != other:
                    if meeting > other:
                        meeting = dominator[meeting]
                    else:
                        other = dominator[other]
            dominator[place] = meeting
        return dominator, depth


def streams(flow: Dataflow) -> list[Stream]:
    """The streams of a graph's seeds.

    A node in the trunk of an input's stream is no seed of its own: all of its waists are waists of that stream.
    """
    inputs = (flow.made[place][0] for place in flow.inputs)
    found = [
        Stream(flow, flow.place[value]) for value in inputs if value.dtype is None or value.dtype.is_floating_point()
    ]
    trunks = {place for stream in found for place in next(stream.chains(), [])}
    seeds = dict.fromkeys(itertools.chain(_first_layers(flow), _learnt_beginnings(flow)))
    return [*found, *(Stream(flow, place) for place in seeds if place not in trunks)]


def _first_layers(flow: Dataflow) -> Iterator[int]:
    """The nodes with a weight matrix that read content which no other such node has made."""
    seeded: set[int] = set()
    for place in flow.nodes:
        if any(source in seeded for source in flow.sources[place]):
            seeded.add(place)
        elif flow.sources[place] and has_matrix(flow.node(place), flow):
            seeded.add(place)
            yield place


def _learnt_beginnings(flow: Dataflow) -> Iterator[int]:
    """The additions of what a layer made of content to a table that holds no content."""
    for place in flow.nodes:
        node = flow.node(place)
        if node.op_type == "Add" and len(flow.sources[place]) == 1:
            content, other = sorted(node.inputs, key=lambda value: value not in flow.content)
            if content and other and _made_by_a_layer(content, flow) and _holds_a_table(other, flow):
                yield place


def _made_by_a_layer(value: ir.Value, flow: Dataflow) -> bool:
    """Whether a weight matrix gives the value, but for a bias and its layout."""
    node = value.producer()
    while (
        node is not None and not has_matrix(node, flow) and not any(_holds_a_table(one, flow) for one in addends(node))
    ):
        passed = passed_on(node, flow)
        node = passed[0].producer() if len(passed) == 1 else None
    return node is not None and has_matrix(node, flow)


def _holds_a_table(value: ir.Value, flow: Dataflow) -> bool:
    """Whether stored numbers of two dimensions or more have a part in a value that holds no content."""
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        if current in flow.content:
            continue
        if Stored.of(current).is_matrix:
            return True
        producer = current.producer()
        fresh = [one for one in (flow.reads[producer] if producer is not None else ()) if one not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return False
