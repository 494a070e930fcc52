# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a graph hand to each other: contents of inputs, constants, or only sizes.

Exporters surround a network with arithmetic on shapes, masks and tables. None of it is the signal that the layers
refine, and all of it connects far places of the graph. So every value is of one of three kinds:

* *constant*: computable before the model runs;
* *content*: depends on what a graph input holds, and has a part in what an output holds;
* *size*: depends only on how large the inputs are, or serves only to measure that; nothing flows through Shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from edgefold.passes._subgraphs import reads_of_own_graph
from edgefold.passes.depth.stored import Stored

_SIZE_ONLY = frozenset(("Shape", "Size", "NonZero", "ConstantOfShape"))
_RANDOM = ("Random", "Multinomial", "Bernoulli")
_FUSED_EMBEDDINGS = frozenset(("EmbedLayerNormalization", "QEmbedLayerNormalization"))
_MASK_INDEX = 1  # the output of a fused embedding that reaches every attention, and is no content


class Dataflow:
    """The places of a main graph where values are made, and the kind of every value.

    Places are numbered: the graph's inputs, then its nodes in an order in which they can run (ONNX Runtime's own
    optimizer writes files in another). What the bodies of If, Loop and Scan read counts as read by their node.

    Attributes:
        graph: the graph, which is not changed.
        made: place -> the values that are made there.
        place: value -> where it is made; initializers are nowhere.
        constants: values that do not depend on the graph's inputs.
        content: values on a way from what the inputs hold to what the outputs hold.
        sources: place -> the places that it reads content from; () where it makes none.
        reads: node -> the values of the main graph that it needs, each once.
        readers: value -> the nodes that read it, each once.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        inputs = [value for value in graph.inputs if not value.is_initializer()]
        self.reads = {node: _reads(node) for node in graph}
        self._nodes = _sorted(self.reads)
        self._first_node = len(inputs)
        self.made: list[Sequence[ir.Value]] = [*((value,) for value in inputs), *(node.outputs for node in self._nodes)]
        self.place = {value: place for place, values in enumerate(self.made) for value in values}
        self.constants: set[ir.Value] = set(graph.initializers.values())
        self.content: set[ir.Value] = set(inputs)
        self._stored: dict[ir.Value, Stored] = {}
        self.sources: list[Sequence[int]] = [() for _ in inputs]
        self.readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        for node in self._nodes:
            self._add(node)
        self._drop_dead_ends()

    def node(self, place: int) -> ir.Node:
        """The node at a place that is not an input's."""
        return self._nodes[place - self._first_node]

    @property
    def inputs(self) -> range:
        """The places of the graph's inputs."""
        return range(self._first_node)

    @property
    def nodes(self) -> range:
        """The places of the nodes."""
        return range(self._first_node, len(self.made))

    def constants_of(self, node: ir.Node) -> Iterator[ir.Value]:
        """The constants among a node's inputs."""
        return (value for value in node.inputs if value is not None and value in self.constants)

    def makes_content(self, node: ir.Node) -> bool:
        """Whether contents flow through the node."""
        return bool(self.sources[self.place[node.outputs[0]]])

    def stored_behind(self, value: ir.Value) -> Iterator[Stored]:
        """What a constant is computed from, in order of use."""
        pending, seen = [value], {value}
        while pending:
            current = pending.pop()
            producer = current.producer()
            if producer is None or producer.op_type == "Constant":
                yield self._stored_at(current)
                continue
            fresh = [one for one in self.reads[producer] if one not in seen]
            seen.update(fresh)
            pending.extend(reversed(fresh))

    def _stored_at(self, value: ir.Value) -> Stored:
        if value not in self._stored:
            self._stored[value] = Stored.of(value)
        return self._stored[value]

    def _add(self, node: ir.Node) -> None:
        needed = self.reads[node]
        for value in needed:
            self.readers[value].append(node)
        sources = [self.place[value] for value in needed if value in self.content]
        if node.op_type in _SIZE_ONLY:
            sources = []
        elif not sources and not node.op_type.startswith(_RANDOM) and all(one in self.constants for one in needed):
            self.constants.update(node.outputs)
        self.sources.append(sources)
        if sources:
            masked = node.op_type in _FUSED_EMBEDDINGS
            self.content.update(v for at, v in enumerate(node.outputs) if not (masked and at == _MASK_INDEX))

    def _drop_dead_ends(self) -> None:
        """What nobody wants but for its size is no content, however it was computed."""
        for place in reversed(self.nodes):
            values = self.made[place]
            readers = (reader for value in values for reader in self.readers.get(value, ()))
            if not any(value.is_graph_output() for value in values) and not any(map(self.makes_content, readers)):
                self.sources[place] = ()
                self.content.difference_update(values)


def _reads(node: ir.Node) -> list[ir.Value]:
    """The values of the main graph that a node needs, each once."""
    return list(dict.fromkeys(reads_of_own_graph(node)))


def _sorted(reads: Mapping[ir.Node, Sequence[ir.Value]]) -> list[ir.Node]:
    """The nodes so that each comes after what it reads, otherwise in the order in which they are given."""
    done: set[ir.Node] = set()
    order: list[ir.Node] = []
    for root in reads:
        pending = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                order.append(node)
            elif node not in done:
                done.add(node)
                pending.append((node, True))
                producers = (value.producer() for value in reads[node])
                pending.extend((one, False) for one in producers if one is not None and one not in done)
    return order
