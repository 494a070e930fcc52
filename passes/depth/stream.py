# SPDX-License-Identifier: Apache-2.0
"""Streams and their waists: the nodes that everything between the first layer and the last must pass.

A *seed* is where a network begins: a node that applies stored weights to something that no such node has seen (a patch
convolution, an embedding). The *stream* is what one seed reaches through contents (see `dataflow`). Masks, position
tables and the memory of a cross attention come from elsewhere, so they open no way around a layer.

In the stream, the immediate dominator of a node is the last node that every path to it shares. Dominators form a tree;
a path in that tree is a *chain* of waists. A residual addition is such a waist, and so is whatever follows it until the
next layer branches off. The tree is split into chains, the deepest first, so that the trunk of the network is one
chain, and what lies beside it (towers, heads, stages under a long skip connection) is found as well.

Dominators: K. D. Cooper, T. J. Harvey and K. Kennedy, "A Simple, Fast Dominance Algorithm" (2001); on a graph without
cycles one sweep in topological order is enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import has_matrix


class Stream:
    """What one seed reaches.

    Args:
        flow: of the graph.
        seed: number of the node where the stream begins.

    Attributes:
        flow: the same.
        sources: node -> the nodes of the stream that it reads content of, by number, in topological order.
    """

    def __init__(self, flow: Dataflow, seed: int) -> None:
        self.flow = flow
        self.sources: dict[int, list[int]] = {seed: []}
        for place in range(seed + 1, len(flow.nodes)):
            found = [source for source in flow.content_sources[place] if source in self.sources]
            if found:
                self.sources[place] = found

    def chains(self) -> Iterator[list[int]]:
        """The chains of waists, deepest first; each begins with the node of an earlier chain that it hangs from."""
        dominator, depth = self._dominators()
        claimed: set[int] = set()
        for place in sorted(self.sources, key=lambda one: (-depth[one], one)):
            if place in claimed:
                continue
            chain = [place]
            while chain[-1] not in claimed and dominator[chain[-1]] != chain[-1]:
                claimed.add(chain[-1])
                chain.append(dominator[chain[-1]])
            claimed.add(chain[-1])
            yield chain[::-1]

    def between(self, first: int, last: int) -> list[int]:
        """The nodes on the paths from a node to one that it dominates, without the first, in topological order."""
        found, pending = {first, last}, [last]
        while pending:
            fresh = [source for source in self.sources[pending.pop()] if source not in found]
            found.update(fresh)
            pending.extend(fresh)
        return sorted(found - {first})

    def _dominators(self) -> tuple[dict[int, int], dict[int, int]]:
        """Every node's immediate dominator (the seed's is itself), and the length of the longest path to it."""
        dominator: dict[int, int] = {}
        depth: dict[int, int] = {}
        for place, sources in self.sources.items():
            depth[place] = 1 + max((depth[source] for source in sources), default=0)
            meeting = sources[0] if sources else place
            for source in sources[1:]:
                while meeting != source:
                    if meeting > source:
                        meeting = dominator[meeting]
                    else:
                        source = dominator[source]
            dominator[place] = meeting
        return dominator, depth


def streams(flow: Dataflow) -> list[Stream]:
    """The stream of every seed, in the order of the seeds."""
    seeded: set[ir.Node] = set()
    found = []
    for place, node in enumerate(flow.nodes):
        sources = flow.content_sources[place]
        if any(flow.nodes[source] in seeded for source in sources):
            seeded.add(node)
        elif flow.makes_content(node) and has_matrix(node, flow):
            seeded.add(node)
            found.append(Stream(flow, place))
    return found
